"""How one supervisor follows another: the lock on the state directory, and a predecessor's workers.

Owns:   who may run with a state directory, asking a living supervisor to leave, finding orphaned workers, taking their
        listening sockets, telling them to drain, reaping those that are our own children (after an exec in place).
Not:    the worker's side (agent.ipc.takeover), using the sockets (sockets).
Source: decision 27.

    lock is free ------------------------------------------------+
    lock is held, --replace --"leave"--> the holder exits, ------+--> each worker-*.sock: sockets, then Drain when ours
    lock is held --> refused                its workers stay          accept on the same ones

Invariants: at most one supervisor holds the lock; every wait is timed; an orphan that does not answer is left alone (it
        ends by itself), and its socket's file is removed when nobody listens there.
"""

import asyncio
import errno
import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.ipc.channel import Channel, ChannelFull
from agent.ipc.messages import AddListener, CheckAnswers, CheckQuestions, Drain, Drained, Ready
from agent.supervisor.unix import bind_unix, connect_unix
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger

_log = get_logger(__name__)

LOCK = "supervisor.lock"
SOCKET = "supervisor.sock"
CONNECT_S = 1.0
ANSWER_S = 5.0
LEAVE_S = 15.0

Ask = Callable[[int, CheckQuestions, Callable[[CheckAnswers], None]], None]


class StateLock:
    """The right to run with a state directory, for as long as this process lives."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LOCK
        self._descriptor = -1

    def take(self) -> bool:
        """False when another process holds it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return True

    def holder(self) -> str:
        """The pid that the holder has written, for people."""
        return self._path.read_text().strip() if self._path.exists() else ""


async def take_state_dir(state_dir: Path, *, replace: bool) -> StateLock:
    """Take the lock, asking its holder to leave when `replace`. Raises CONFLICT."""
    lock = StateLock(state_dir)
    deadline = asyncio.get_running_loop().time() + LEAVE_S
    asked = False
    while not lock.take():
        if not replace:
            raise MeshError(
                ErrorCode.CONFLICT,
                f"another agent (pid {lock.holder()}) runs with this state directory",
                subject=str(state_dir),
                hint="--replace takes its place with no connection refused",
            )
        asked = asked or _ask_to_leave(state_dir)
        if asyncio.get_running_loop().time() >= deadline:
            raise MeshError(
                ErrorCode.TIMEOUT, f"pid {lock.holder()} did not leave within {LEAVE_S:g} s", subject=str(state_dir)
            )
        await asyncio.sleep(0.02)
    return lock


def _ask_to_leave(state_dir: Path) -> bool:
    try:
        with connect_unix(state_dir / SOCKET, CONNECT_S) as peer:
            peer.sendall(b"leave\n")
        return True
    except OSError:
        return False


class LeavePoint:
    """Where a successor asks this supervisor to leave. `on_leave` ends the process and leaves its workers."""

    def __init__(self, state_dir: Path, on_leave: Any) -> None:
        self._path = state_dir / SOCKET
        self._on_leave = on_leave
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises OSError."""
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bind_unix(sock, self._path)
        self._server = await asyncio.start_unix_server(self._asked, sock=sock)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                line = await reader.readline()
        except (OSError, TimeoutError, ValueError):
            line = b""
        finally:
            writer.close()
        if line == b"leave\n":
            _log.info("a successor takes over")
            self._on_leave()


@dataclass(slots=True)
class Orphan:
    """A worker of a predecessor."""

    pid: int
    channel: Channel
    sockets: list[socket.socket] = field(default_factory=list)
    gone: bool = False


class Orphans:
    """The workers that a predecessor has left. `ask`: who answers what they ask (worker, questions, where to)."""

    def __init__(self, state_dir: Path, ask: Ask = lambda worker, questions, reply: None) -> None:
        self._state_dir = state_dir
        self._ask = ask
        self._orphans: list[Orphan] = []
        self.drained = False

    @property
    def alive(self) -> int:
        return sum(1 for orphan in self._orphans if not orphan.gone)

    async def find(self) -> list[socket.socket]:
        """Their listening sockets, which are ours from now on."""
        for path in sorted(self._state_dir.glob("worker-*.sock")):
            orphan = await self._meet(path)
            if orphan is not None:
                self._orphans.append(orphan)
                _log.info("found a predecessor's worker", pid=orphan.pid, listeners=len(orphan.sockets))
        return [sock for orphan in self._orphans for sock in orphan.sockets]

    def drain(self, timeout_s: float) -> None:
        """Our own workers accept: the old ones may end."""
        self.drained = True
        for orphan in self._orphans:
            if not orphan.gone:
                orphan.channel.send(Drain(timeout_s))

    def reap(self) -> None:
        """Collect those that are this process's children and have ended."""
        for orphan in self._orphans:
            if orphan.pid:
                try:
                    ended, _ = os.waitpid(orphan.pid, os.WNOHANG)
                except ChildProcessError:
                    ended = 0
                if ended:
                    orphan.gone, orphan.pid = True, 0

    async def _meet(self, path: Path) -> Orphan | None:
        try:
            sock = connect_unix(path, CONNECT_S)
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                path.unlink(missing_ok=True)
            return None
        ready = asyncio.Event()
        received: list[socket.socket] = []
        orphan: Orphan | None = None

        def on_message(message: Any, descriptors: list[int]) -> None:
            match message:
                case AddListener():
                    received.extend(socket.socket(fileno=descriptor) for descriptor in descriptors)
                case Ready(pid=pid):
                    known.pid = pid
                    ready.set()
                case CheckQuestions():
                    self._ask(known.pid, message, reply)
                case Drained():
                    known.gone = True
                case _:
                    for descriptor in descriptors:
                        os.close(descriptor)

        def reply(answers: CheckAnswers) -> None:
            try:
                known.channel.send(answers)
            except ChannelFull:  # it does not read: it is of no use any more
                known.channel.close()

        def on_closed(reason: str) -> None:
            known.gone = True
            path.unlink(missing_ok=True)
            ready.set()

        known = Orphan(0, Channel(sock, on_message, on_closed), received)
        try:
            async with asyncio.timeout(ANSWER_S):
                await ready.wait()
            orphan = known
        except TimeoutError:
            _log.warning("a predecessor's worker does not answer", path=str(path))
            known.channel.close()
        return orphan
