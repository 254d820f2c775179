"""The data process.

    python -P -m agent.worker --fd N [--takeover-fd M] [--access-log FILE] [--log-level L] [--log-json]

Descriptor N is the worker's end of `agent.ipc.channel.pair()` (passed by `pass_fds`). The supervisor then sends:
  Welcome (first; its one descriptor is the shared memory of agent.ipc.shared), Identities, HostState, HashTables (one
  descriptor, the tables' memory), TokenMemory and CountMemory (one descriptor each), BreakerState (one descriptor with
  HALF_OPEN, its permits), BreakerGone, Cells, LimitAnswers, CheckAnswers, Put and Remove in any order, AddListener (one
  listening SO_REUSEPORT descriptor each; may come before or after the listener's Put, takes effect at the Commit that
  knows the listener), Commit.
The worker answers Ready (at once after Welcome), Committed per Commit (`problems` name what could not be used),
Pong per Ping, StatsDelta once a second, EjectRequest, BreakerNews, LimitQuestions, CheckQuestions, and Drained
before it exits after Drain.
--takeover-fd is a listening AF_UNIX socket: agent.ipc.takeover.TakeoverPoint on it answers the next supervisor, whose
channel then replaces the dead one (its Drain is obeyed, its Ping answered; its end does not stop the orphan's clock).
Access logs for /dev/stdout and /dev/stderr go to --access-log; SIGUSR1 reopens the files. SIGTERM = Drain(5).
Exit codes: 0 drained or supervisor gone for ORPHAN_S, 1 the channel spoke nonsense.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import Any

import uvloop

from agent.cluster.shared_counts import SharedCounts
from agent.filters.token_buckets import TokenCells
from agent.ipc import table_memory
from agent.ipc.channel import Channel, ChannelFull
from agent.ipc.messages import (
    AddListener,
    BreakerGone,
    BreakerState,
    Cells,
    CheckAnswers,
    Commit,
    Committed,
    CountMemory,
    Drain,
    Drained,
    EjectRequest,
    HashTables,
    HostState,
    Identities,
    LimitAnswers,
    Ping,
    Pong,
    Put,
    Ready,
    Remove,
    TokenMemory,
    ToSupervisor,
    Welcome,
)
from agent.ipc.shared import SharedCells
from agent.ipc.takeover import TakeoverPoint
from agent.listener.serving import Serving
from agent.listener.tables import NonsenseError
from agent.model import count_cells, token_cells
from agent.proxy.runtime import Runtime
from mesh import logs
from mesh.logs import get_logger
from mesh.tasks import spawn

_log = get_logger(__name__)

ORPHAN_S = 60.0
ORPHAN_DRAIN_S = 5.0  # the last part of ORPHAN_S
TERM_DRAIN_S = 5.0
TICK_S = 1.0
POLL_S = 0.02
IDLE_GRACE_S = 1.0  # so long a drained connection may still come with a request, and is told of the end in its answer
FLUSH_S = 1.0
MAX_UNREAD_BYTES = 4 * 1024 * 1024  # of ours: above it nothing is reported until the supervisor reads
GC_THRESHOLDS = (10_000, 20, 20)  # a round over 10,000 objects is a pause of some 3 ms
FREEZE_AFTER = 200  # built parts of the configuration


class Worker:
    """The process's life: its channel, its clock, its end. Make it inside a running loop."""

    def __init__(self, sock: socket, takeover: socket | None, log_path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._log_path = log_path
        self._serving: Serving | None = None
        self._draining = False
        self._lag_ms = 0.0
        self._tick_at = self._loop.time() + TICK_S
        self._built = FREEZE_AFTER  # the first configuration is frozen, whatever its size
        self._collected = False
        self._successors: list[Channel] = []
        self._channel = Channel(sock, self._on_message, self._on_closed)
        if takeover is not None:
            self._takeover = TakeoverPoint(
                takeover,
                listeners=self._descriptors,
                on_message=self._on_message,
                on_closed=self._on_successor_closed,
                on_successor=self._on_successor,
            )
        self._loop.call_at(self._tick_at, self._tick)

    def end(self, code: int) -> None:
        """The first call decides."""
        if not self.ended.done():
            self.ended.set_result(code)

    def reopen_logs(self) -> None:
        if self._serving is not None:
            self._serving.runtime.reopen_logs()

    def drain(self, timeout_s: float) -> None:
        """Accept no more, end what is open, then the process. The first call decides."""
        if not self._draining:
            self._draining = True
            spawn("drain", self._drain(timeout_s), on_failure=lambda _: self.end(0))

    # --- what the supervisor says -----------------------------------------------------------------------------

    def _on_message(self, message: Any, descriptors: list[int]) -> None:
        try:
            if not self._about_process(message, descriptors):
                self._about_config(message, descriptors)
        except NonsenseError as error:
            _log.error("the supervisor speaks nonsense", reason=str(error))
            self.end(1)
        except Exception as error:  # noqa: BLE001 - what is not applied would be missing: a fresh worker is told all
            _log.error("a message cannot be handled", message=type(message).__name__, exc_info=error)
            self.end(1)
        finally:
            for descriptor in descriptors:  # nobody has taken these
                os.close(descriptor)

    def _about_process(self, message: Any, descriptors: list[int]) -> bool:
        match message:
            case Ping(token=token):
                self._send(Pong(token, round(self._lag_ms, 3)))
                self._lag_ms = 0.0
            case Drain(timeout_s=timeout_s):
                self.drain(timeout_s)
            case Welcome() if self._serving is None:
                self._serving = self._welcome(message, descriptors)
                self._send(Ready(os.getpid()))
            case _:
                return False
        return True

    def _about_config(self, message: Any, descriptors: list[int]) -> None:
        serving = self._serving
        if serving is None:
            raise NonsenseError(f"{type(message).__name__} before Welcome")
        if _answers(serving, message):
            return
        match message:
            case Put(kind=kind, name=name, value=value):
                serving.tables.put(kind, name, value)
            case Remove(kind=kind, name=name):
                serving.tables.remove(kind, name)
            case Commit(version=version):
                serving.commit(version)
            case AddListener(name=name):
                serving.tables.add_socket(name, _one(message, descriptors))
            case TokenMemory() | CountMemory():
                _use_tables(serving.runtime, message, _one(message, descriptors))
            case Cells(cluster=cluster, index=index):
                serving.set_cells(cluster, index)
            case HostState(cluster=cluster, host=host, ejected=ejected):
                serving.set_ejected(cluster, host, ejected)
            case HashTables(cluster=cluster, tables=tables):
                serving.use_hash_tables(cluster, tables, _one(message, descriptors) if tables else -1)
            case BreakerState():
                serving.runtime.breakers.set_state(message, descriptors.pop() if descriptors else -1)
            case BreakerGone(breaker=breaker):
                serving.runtime.breakers.forget(breaker)
            case Identities(key_pairs=pairs, trust_pem=trust_pem, roots=roots):
                serving.runtime.tls.replace(pairs, trust_pem, roots)
            case _:
                raise NonsenseError(f"found {type(message).__name__}")

    def _welcome(self, message: Welcome, descriptors: list[int]) -> Serving:
        try:
            cells = SharedCells.attach(_one(message, descriptors), message.shared_bytes, message.slots)
        except (OSError, ValueError) as error:
            raise NonsenseError(f"the shared memory cannot be used: {error}") from error
        return Serving(
            node=message.node,
            cells=cells,
            slot=message.slot,
            log_path=self._log_path,
            eject=self._request_ejection,
            committed=self._committed,
            news=self._send,
        )

    def _committed(self, versions: Sequence[int], problems: tuple[str, ...], built: int) -> None:
        for version in versions:
            self._send(Committed(version, problems))
        self._built += built
        if self._built >= FREEZE_AFTER:
            self._built = 0
            self._freeze()

    def _freeze(self) -> None:
        """Take what lives for long out of the collector's rounds, so that they stay short.

        Only the first time, when nobody is served yet, is there a round before: it would be the longest pause of all.
        Nothing on the data path is freed by the collector alone, so next to no garbage is frozen.
        """
        if not self._collected:
            self._collected = True
            gc.collect()
        gc.freeze()

    def _request_ejection(self, request: EjectRequest) -> None:
        self._send(request)

    def _send(self, message: ToSupervisor) -> None:
        """To the supervisor, or to the one that has followed it."""
        channel = self._channel
        if channel.closed and self._successors:
            channel = self._successors[-1]
        try:
            channel.send(message)
        except ChannelFull as error:
            _log.error("the supervisor does not read", reason=str(error))

    # --- time -------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.time()
        self._lag_ms = max(self._lag_ms, (now - self._tick_at) * 1000)
        self._tick_at = now + TICK_S
        self._loop.call_at(self._tick_at, self._tick)
        if self._serving is not None:
            self._serving.tick()
            self._report(self._serving)

    def _report(self, serving: Serving) -> None:
        """Say what has been counted. While nobody reads, it adds up."""
        if not self._channel.closed and self._channel.queued_bytes < MAX_UNREAD_BYTES:
            delta = serving.stats_delta()
            if delta is not None:
                self._send(delta)

    # --- the supervisor's end and its successor ---------------------------------------------------------------

    def _on_closed(self, reason: str) -> None:
        if reason.startswith("bad frame"):
            _log.error("the supervisor speaks nonsense", reason=reason)
            self.end(1)
        elif self._serving is None:
            self.end(0)  # there is nothing to serve
        else:
            self._ask_anew(self._serving)
            if not self._draining:
                _log.warning("the supervisor is gone, serving on", reason=reason, for_s=ORPHAN_S)
                self._loop.call_later(ORPHAN_S - ORPHAN_DRAIN_S, self.drain, ORPHAN_DRAIN_S)

    def _on_successor(self, channel: Channel) -> None:
        _log.info("a successor has come")
        self._successors = [own for own in self._successors if not own.closed]
        self._successors.append(channel)
        if self._serving is not None:
            self._serving.runtime.checks.find()

    def _on_successor_closed(self, reason: str) -> None:
        _log.info("a successor's channel ended", reason=reason)
        if self._channel.closed and self._serving is not None:
            self._ask_anew(self._serving)

    def _ask_anew(self, serving: Serving) -> None:
        """Who was asked is gone. Its successor may have come before, as it is seen from here, or comes later."""
        serving.runtime.checks.lose()
        if self._successors and not self._successors[-1].closed:
            serving.runtime.checks.find()

    def _descriptors(self) -> Mapping[str, int]:
        return self._serving.listeners.descriptors if self._serving is not None else {}

    # --- the end ----------------------------------------------------------------------------------------------

    async def _drain(self, timeout_s: float) -> None:
        serving = self._serving
        if serving is not None:
            _log.info("draining", connections=serving.listeners.active, limit_s=timeout_s)
            deadline = self._loop.time() + timeout_s
            serving.listeners.drain()
            await self._until(lambda: not serving.listeners.active, min(IDLE_GRACE_S, timeout_s / 2))
            serving.listeners.close_idle()
            await self._until(lambda: not serving.listeners.active, deadline - self._loop.time())
            if serving.listeners.active:
                _log.warning("connections are cut", connections=serving.listeners.active)
                serving.listeners.abort()
                await self._until(lambda: not serving.listeners.active, FLUSH_S)  # they learn of it, and log
            serving.runtime.mirrors.end()
            serving.tick()
            self._report(serving)
            serving.runtime.close_logs()
        self._send(Drained())
        await self._until(self._all_sent, FLUSH_S)
        self.end(0)

    def _all_sent(self) -> bool:
        return not any(own.queued_bytes and not own.closed for own in (self._channel, *self._successors))

    async def _until(self, test: Callable[[], bool], timeout_s: float) -> None:
        deadline = self._loop.time() + timeout_s
        while not test() and self._loop.time() < deadline:  # noqa: ASYNC110 - several things end it, the clock too
            await asyncio.sleep(POLL_S)


def _use_tables(runtime: Runtime, message: TokenMemory | CountMemory, descriptor: int) -> None:
    """Takes the descriptor over."""
    slots, slot = message.slots, message.slot
    if isinstance(message, TokenMemory):
        runtime.tokens = TokenCells(table_memory.attach(descriptor, token_cells.TABLE, slots), slots, slot)
    else:
        counts = SharedCounts(table_memory.attach(descriptor, count_cells.TABLE, slots), slots, slot)
        runtime.bulkheads.counts = counts


def _answers(serving: Serving, message: Any) -> bool:
    """Whether it answers questions of this worker."""
    match message:
        case LimitAnswers():
            serving.runtime.limits.hear(message)
        case CheckAnswers():
            serving.runtime.checks.hear(message)
        case _:
            return False
    return True


def _one(message: Any, descriptors: list[int]) -> int:
    """The one descriptor of a message; it is taken out of the list."""
    if len(descriptors) != 1:
        raise NonsenseError(f"{type(message).__name__} with {len(descriptors)} descriptors, expected 1")
    return descriptors.pop()


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or soft == resource.RLIM_INFINITY:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="agent.worker", description="A data process, started by the agent.")
    parser.add_argument("--fd", type=int, required=True, help="the worker's end of the channel")
    parser.add_argument("--takeover-fd", type=int, default=-1, help="a listening AF_UNIX socket")
    parser.add_argument("--access-log", type=Path, default=Path("/dev/null"), help="for logs to the standard streams")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-json", action="store_true")
    return parser.parse_args(arguments)


async def serve(options: argparse.Namespace) -> int:
    """Serve until the end; the exit code."""
    takeover = socket(fileno=options.takeover_fd) if options.takeover_fd >= 0 else None
    worker = Worker(socket(fileno=options.fd), takeover, options.access_log)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.drain, TERM_DRAIN_S)
    loop.add_signal_handler(signal.SIGUSR1, worker.reopen_logs)
    return await worker.ended


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    logs.configure(level=options.log_level, as_json=options.log_json)
    _raise_file_limit()
    gc.set_threshold(*GC_THRESHOLDS)
    return uvloop.run(serve(options))


if __name__ == "__main__":
    sys.exit(main())
