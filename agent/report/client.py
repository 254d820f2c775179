"""The Reports stream: instances with their health, ejections and circuit breakers, told to the control plane; client
status when asked.

Owns:   the stream, its sequence numbers, heartbeats, sending everything again after a reconnect.
Not:    what is told (`Source`), the messages' form (messages), the client status itself (agent.xds.status).
Source: proto/mesh/api/v1/report.proto.
Invariants: the first messages of every stream are Hello and the full sets; a set is sent again only when it changed;
        at most one set of each kind waits (the newest); something is sent at least every HEARTBEAT_S; a stream that
        acknowledges nothing for SILENCE_S is given up; of MAX_ASKED questions at once the oldest are left unanswered.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from agent.model.reports import EjectedHost, LocalInstance, ShownBreaker
from agent.report.messages import breaker_set, ejection_set, instance_set
from mesh.api.v1 import report_pb2, report_pb2_grpc
from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.resilience.backoff import Backoff

_log = get_logger(__name__)

HEARTBEAT_S = 5.0
SILENCE_S = 20.0
BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 5.0
MAX_ASKED = 16
MERGE_S = 0.05  # changes that come together are told together


class Source(Protocol):
    """What is told. `client_status`: a serialised ClientConfig."""

    def instances(self) -> tuple[LocalInstance, ...]: ...
    def ejections(self) -> tuple[EjectedHost, ...]: ...
    def breakers(self) -> tuple[ShownBreaker, ...]: ...
    def client_status(self, *, contents: bool) -> bytes: ...


class ReportClient:
    """Keeps one report stream open. Call `changed` whenever the source may say something else."""

    def __init__(
        self,
        hello: report_pb2.Hello,
        source: Source,
        connect: Callable[[], grpc.aio.Channel],
        *,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._hello = hello
        self._source = source
        self._connect = connect
        self._clock = clock
        self._rng = rng
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()  # something was acknowledged, or the stream has ended
        self._heard = 0.0
        self._sequence = 0  # the last one sent on this stream
        self._acknowledged_to = 0
        self._told: tuple[Any, Any, Any] = (
            None,
            None,
            (),
        )  # instances, ejections, breakers as last sent on this stream
        self._asked: deque[report_pb2.ClientStatusRequest] = deque(maxlen=MAX_ASKED)
        self.connected = False
        self.error = ""
        self._sets: dict[int, str] = {}  # sequence -> kind of the sets that are not acknowledged yet
        self._refused: dict[str, tuple[str, ...]] = {}  # kind -> problems of its last set

    @property
    def problems(self) -> tuple[str, ...]:
        """What the control plane refused of what it was told last."""
        return tuple(problem for refused in self._refused.values() for problem in refused)

    def changed(self) -> None:
        """Look at the source soon."""
        self._wake.set()

    async def settle(self, timeout_s: float) -> bool:
        """Wait until what the source says now is acknowledged; False when that took too long or there is no stream."""
        goal = self._present()
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                while self.connected and not (self._told == goal and self._acknowledged_to >= self._sequence):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return self.connected

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        backoff = Backoff(BACKOFF_BASE_S, BACKOFF_MAX_S)
        while True:
            if await self._one_stream():
                backoff.reset()
            _raise_if_cancelled()
            await asyncio.sleep(backoff.next_delay_s(self._rng))

    async def _one_stream(self) -> bool:
        """One stream to its end. Was anything acknowledged?"""
        self._heard = self._clock.monotonic()
        answered = False
        async with self._connect() as channel:
            stream: Any = report_pb2_grpc.ReportsStub(channel).Report(None)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._tell(stream))
                    async for reply in _replies(stream):
                        answered = True
                        self._acknowledged(reply)
                    raise _Ended("the server ended the stream")
            except* grpc.aio.AioRpcError as errors:
                self._ended(_described(errors.exceptions[0]))
            except* (_Ended, asyncio.InvalidStateError) as errors:
                self._ended(str(errors.exceptions[0]))
            finally:
                self.connected = False
                self._progress.set()
                stream.cancel()
        return answered

    async def _tell(self, stream: Any) -> None:
        self._sequence = self._acknowledged_to = 0
        self._told = (None, None, ())
        self._sets.clear()
        self._asked.clear()
        await self._send(stream, hello=self._hello)
        while True:
            self._wake.clear()
            if not (await self._tell_changes(stream) or await self._tell_status(stream)):
                await self._send(stream, heartbeat=report_pb2.Heartbeat())
            if self._clock.monotonic() - self._heard > SILENCE_S:
                raise _Ended(f"nothing was acknowledged for {SILENCE_S:g} s")
            await self._pause()

    async def _tell_changes(self, stream: Any) -> bool:
        """Send the sets that are not what was sent last. Was there one?"""
        before, self._told = self._told, self._present()
        instances, ejections, breakers = self._told
        if before[0] != instances:
            await self._send(stream, instances=instance_set(instances))
        if before[1] != ejections:
            await self._send(stream, ejections=ejection_set(ejections))
        if before[2] != breakers:  # none at all, as an older control plane expects, needs no word
            await self._send(stream, breakers=breaker_set(breakers))
        return before != self._told

    def _present(self) -> tuple[Any, Any, Any]:
        source = self._source
        return source.instances(), source.ejections(), source.breakers()

    async def _tell_status(self, stream: Any) -> bool:
        """Answer what was asked. Was there something?"""
        asked = list(self._asked)
        self._asked.clear()
        for question in asked:
            config = self._source.client_status(contents=not question.exclude_resource_contents)
            answer = report_pb2.ClientStatus(request_id=question.request_id, client_config=config)
            await self._send(stream, client_status=answer)
        return bool(asked)

    async def _send(self, stream: Any, **body: Any) -> None:
        self._sequence += 1
        (kind,) = body
        if kind in ("instances", "ejections", "breakers"):
            self._sets[self._sequence] = kind
        await stream.write(report_pb2.AgentReport(sequence=self._sequence, **body))

    async def _pause(self) -> None:
        """Until something changes, at most HEARTBEAT_S."""
        try:
            # Not wait_for: before Python 3.12 it forgets a cancellation that comes together with the event.
            async with asyncio.timeout(HEARTBEAT_S):
                await self._wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(MERGE_S)

    def _acknowledged(self, reply: report_pb2.ReportReply) -> None:
        self._heard = self._clock.monotonic()
        if reply.HasField("client_status_request"):
            self._asked.append(reply.client_status_request)
            self._wake.set()
        self._acknowledged_to = max(self._acknowledged_to, reply.acknowledged)
        self._progress.set()
        if not self.connected:
            self.connected, self.error = True, ""
        kind = self._sets.pop(reply.acknowledged, "")
        if kind:
            before, self._refused[kind] = self._refused.get(kind), tuple(reply.problems)
            for problem in self._refused[kind] if self._refused[kind] != before else ():
                _log.warning("part of a report was refused", reason=problem)

    def _ended(self, reason: str) -> None:
        if reason != self.error:
            _log.warning("the report stream ended", reason=reason)
        self.error = reason


class _Ended(Exception):
    """The stream is over, for a reason that is no RPC error."""


async def _replies(stream: Any) -> Any:
    while isinstance(reply := await stream.read(), report_pb2.ReportReply):
        yield reply


def _described(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details() or ''}".rstrip(": ")
    return str(error)


def _raise_if_cancelled() -> None:
    """A TaskGroup whose tasks fail while it is being cancelled raises their errors and forgets the cancellation."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
