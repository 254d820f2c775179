"""The gRPC shell around the ADS session: one stream at a time, reconnected with jittered back-off.

Owns:   the channel, the stream, back-off, what is known about the connection's health.
Not:    the protocol (session), what happens with accepted resources (`on_change`), who serves them (`served`).
Source: design section 2; control-plane.md 5, rule 26: a stream that ended after an answer is reopened at once, one that
        failed before backs off. Here a stream counts as good only when it also lived for a while: a server that answers
        and hangs up each time is not asked in a loop.
Invariants: at most one stream is open; a silent peer is noticed by keepalive pings within 30 s; every write is timed; a
        response is at most MAX_MESSAGE_BYTES (agent.identity.channels); what is acknowledged is served; the session's
        clock goes on without a stream; `run` ends only by cancellation; every failure is logged once per change of its
        reason.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from agent.xds.session import AdsSession, Outcome, Request
from mesh.clock import Clock
from mesh.errors import MeshError
from mesh.logs import get_logger
from mesh.resilience.backoff import Backoff

_log = get_logger(__name__)

BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 5.0
# A stream on which nothing is answered for so long is of no use: the server accepts but does not serve.
FIRST_ANSWER_S = 60.0
LIVED_S = 5.0  # a stream that was answered and lived so long was a good one
WRITE_S = 30.0
TICK_S = 0.5
_Stream = grpc.aio.StreamStreamCall[Any, Any]
Connect = Callable[[], grpc.aio.Channel]


@dataclass(slots=True)
class StreamHealth:
    """What /server_info and /ready show. Times: wall clock seconds, 0 = never."""

    connected: bool = False
    since: float = 0.0
    last_response: float = 0.0
    attempts: int = 0
    error: str = ""


class _Ended(Exception):
    """The stream is over, for a reason that is no RPC error."""


class AdsClient:
    """Runs the session over streams of channels that `connect` makes (each is closed with its stream)."""

    def __init__(
        self,
        session: AdsSession,
        connect: Connect,
        *,
        on_change: Callable[[], None],
        served: Callable[[], Awaitable[None]],
        clock: Clock,
        rng: Callable[[], float] = random.random,
        first_answer_s: float = FIRST_ANSWER_S,
    ) -> None:
        """`served` comes back when what `on_change` was last called for is served, or after a limit of its own."""
        self._session = session
        self._connect = connect
        self._on_change = on_change
        self._served = served
        self._clock = clock
        self._rng = rng
        self._first_answer_s = first_answer_s
        self._stream: _Stream | None = None
        self._wake = asyncio.Event()
        self._resume = True
        self._ticked = clock.monotonic()
        self.health = StreamHealth()

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        backoff = Backoff(BACKOFF_BASE_S, BACKOFF_MAX_S)
        while True:
            if await self._one_stream():
                backoff.reset()
            self._wake.clear()
            await self._pause(backoff.next_delay_s(self._rng))

    def reconnect(self) -> None:
        """Open a new stream soon (the certificates have changed); what is held stays."""
        self._wake.set()
        if self._stream is not None:
            self._stream.cancel()

    async def _pause(self, seconds: float) -> None:
        """Until `reconnect`, at most so long; TTLs end meanwhile."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0 and not self._wake.is_set():
            try:
                # Not wait_for: before Python 3.12 it forgets a cancellation that comes together with the event.
                async with asyncio.timeout(min(left, TICK_S)):
                    await self._wake.wait()
            except TimeoutError:
                self._tick()

    async def _one_stream(self) -> bool:
        """One stream from its opening to its end. Was it a good one?"""
        self.health.attempts += 1
        begun = self._clock.monotonic()
        try:
            opened = self._connect()
        except MeshError as error:  # a certificate's file is gone, perhaps for a moment
            self._ended(str(error))
            return False
        async with opened as channel:
            stream = self._stream = channel.stream_stream(
                self._session.method,
                request_serializer=None,
                response_deserializer=None,  # bytes that are no message must not look like the stream's end
            )(None)  # None: requests are written, not iterated
            try:
                await self._converse(stream, begun)
            except grpc.aio.AioRpcError as error:
                self._ended(_described(error))
            except (_Ended, asyncio.InvalidStateError) as error:  # the latter: it ended between a read and a write
                self._ended(str(error) or "the stream ended")
            except TimeoutError:
                self._ended(f"the server did not read for {WRITE_S:g} s")
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                self._ended("")  # `reconnect` cancelled the stream, not this task
            finally:
                self._stream = None
                stream.cancel()
                self._session.disconnected()
                answered, self.health.connected = self.health.connected, False
        return answered and self._clock.monotonic() - begun >= LIVED_S

    async def _converse(self, stream: _Stream, begun: float) -> None:
        """Ask, read and answer until the stream ends, which raises."""
        await self._write(stream, self._session.connected(begun, resume=self._resume))
        reading: asyncio.Future[Any] = asyncio.ensure_future(stream.read())
        try:
            while True:
                # Not a timeout around the read: a read that is cancelled ends the stream.
                await asyncio.wait({reading}, timeout=TICK_S)
                if reading.done():
                    data = reading.result()
                    if not isinstance(data, bytes):  # grpc.aio.EOF
                        raise _Ended("the server ended the stream")
                    reading = asyncio.ensure_future(stream.read())
                    await self._take(stream, data)
                elif not self.health.connected and self._clock.monotonic() - begun > self._first_answer_s:
                    self._give_up()
                await self._write(stream, self._tick())
        finally:
            reading.cancel()

    def _give_up(self) -> None:
        """Nothing was answered. A server may be silent when we told it versions, so the next stream tells none."""
        self._resume = not (self._resume and self._session.resumes)
        raise _Ended(f"no answer within {self._first_answer_s:g} s")

    def _tick(self) -> tuple[Request, ...]:
        now = self._clock.monotonic()
        if now - self._ticked < TICK_S:
            return ()
        self._ticked = now
        outcome = self._session.on_time(now)
        self._publish(outcome)
        return outcome.requests

    async def _take(self, stream: _Stream, data: bytes) -> None:
        try:
            outcome = self._session.received(data, self._clock.monotonic())
        except DecodeError as error:
            raise _Ended(f"found {len(data)} bytes that are no response") from error
        self._note_answer()
        for name, reason in outcome.refused.items():
            _log.warning("resource refused", type=outcome.type_url.rpartition(".")[2], name=name, reason=reason)
        # Before the ACK is written: who has waited for it must not meet a worker with an older configuration. Envoy's
        # ACK says only that its main thread has taken it; nothing may depend on more than that there.
        self._publish(outcome)
        if outcome.changed:
            await self._served()
        await self._write(stream, outcome.requests)

    def _publish(self, outcome: Outcome) -> None:
        if outcome.changed:
            self._on_change()

    def _note_answer(self) -> None:
        if not self.health.connected:
            self._resume = True
            self.health.connected, self.health.since, self.health.error = True, self._clock.wall(), ""
            _log.info("connected to the control plane", identifier=self._session.connected_to)
        self.health.last_response = self._clock.wall()

    async def _write(self, stream: _Stream, requests: Iterable[Request]) -> None:
        for request in requests:
            async with asyncio.timeout(WRITE_S):
                await stream.write(request.SerializeToString())

    def _ended(self, reason: str) -> None:
        if reason and reason != self.health.error:
            _log.warning("the stream to the control plane ended", reason=reason)
        self.health.error = reason


def _described(error: grpc.aio.AioRpcError) -> str:
    reason = f"{error.code().name}: {error.details() or ''}".rstrip(": ")
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or ""):
        return f"{reason}: a response is too large for this agent; the delta protocol sends changes only"
    return reason
