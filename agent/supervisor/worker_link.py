"""One worker process: started, fed, watched.

Owns:   the process, its channel, what it has been sent, its pings.
Not:    what all workers have in common and when one is replaced (pool).
Source: design section 1; decision 36: no inherited stdin or stdout, a fresh exec with -P.

    STARTING --Ready--> FEEDING --Committed--> SERVING --target changed--> FEEDING ...
        |                  |                     |
        +------------------+--- channel lost, silent for SILENT_S, or `kill` ---> GONE
                                                 +--- `drain` --> DRAINING --Drained or time--> GONE

Invariants: frames go out in order and in slices, so that neither loop stalls; Commit follows only a complete
        difference; a listener's socket goes before its Put.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from agent.ipc import channel
from agent.ipc.channel import Channel, ChannelFull
from agent.ipc.messages import (
    LISTENER,
    AddListener,
    BreakerGone,
    BreakerNews,
    BreakerState,
    Cells,
    CheckAnswers,
    CheckQuestions,
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
    LimitQuestions,
    Ping,
    Pong,
    Ready,
    Remove,
    StatsDelta,
    TokenMemory,
    Welcome,
)
from agent.supervisor.changes import changes
from agent.supervisor.unix import bind_unix
from agent.xds.warming import EMPTY, Tables
from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.tasks import spawn

_log = get_logger(__name__)

Told = (
    Identities | HostState | HashTables | TokenMemory | CountMemory | LimitAnswers | CheckAnswers | BreakerState
    | BreakerGone
)  # fmt: skip
SILENT_S = 2.0
START_S = 20.0  # a cold disk: python and its modules are read
SLICE = 32
SLICE_WAIT_S = 30.0
# glibc gives a large body's buffers, 256 KiB each, back to the system at every read and takes them again: half of the
# CPU time of such a body. mallopt(3): blocks up to the first come from the heap, whose end keeps up to the second.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(4 << 20)}


class Phase(Enum):
    STARTING = "starting"
    FEEDING = "feeding"
    SERVING = "serving"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a worker is started with. `program`: arguments of this Python, before those of the worker."""

    slot: int
    slots: int
    node: str
    state_dir: Path
    access_log: Path
    log_level: str
    log_json: bool
    program: tuple[str, ...] = ("-P", "-m", "agent.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a worker should have. `sockets`: listener -> this slot's socket."""

    tables: Tables
    sockets: Mapping[str, socket.socket]
    cells: Mapping[str, int]


class Owner:
    """Who is told what a worker says: the pool."""

    def on_eject_request(self, request: EjectRequest) -> None:
        raise NotImplementedError

    def on_breaker_news(self, news: BreakerNews) -> None:
        raise NotImplementedError

    def on_limit_questions(self, worker: "WorkerLink", questions: LimitQuestions) -> None:
        raise NotImplementedError

    def on_check_questions(self, worker: "WorkerLink", questions: CheckQuestions) -> None:
        raise NotImplementedError

    def on_stats(self, worker: "WorkerLink", delta: StatsDelta) -> None:
        raise NotImplementedError

    def on_committed(self, worker: "WorkerLink") -> None:
        raise NotImplementedError

    def on_gone(self, worker: "WorkerLink", reason: str) -> None:
        raise NotImplementedError


class WorkerLink:
    """The supervisor's end of one worker. Make it inside a running loop, in the main thread."""

    def __init__(self, launch: Launch, owner: Owner, shared: tuple[int, int], clock: Clock) -> None:
        """`shared`: descriptor and size of the cells' memory."""
        self.launch = launch
        self.phase = Phase.STARTING
        self.problems: tuple[str, ...] = ()
        self.loop_lag_ms = 0.0
        self._owner = owner
        self._clock = clock
        self._started = self._heard = clock.monotonic()
        self._target: Target | None = None
        self._has: Tables = EMPTY
        self._given: dict[str, socket.socket] = {}  # listener -> the socket of which it has a duplicate
        self._cells: dict[str, int] = {}
        self._commits = 0
        self._confirmed = 0  # the last Commit of which it has said that it is done
        self._sent_target: Target | None = None
        self._pings = 0
        self._feeding: asyncio.Task[None] | None = None
        self._takeover_path = _takeover_path(launch)
        self._process, sock = _start(launch, self._takeover_path)
        self._channel = Channel(sock, self._on_message, lambda reason: self.lost(reason))
        descriptor, length = shared
        welcome = Welcome(slot=launch.slot, slots=launch.slots, node=launch.node, shared_bytes=length)
        self._channel.send(welcome, [descriptor])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def slot(self) -> int:
        return self.launch.slot

    @property
    def up_to_date(self) -> bool:
        """It serves the newest target."""
        return self.phase is Phase.SERVING

    @property
    def behind(self) -> bool:
        """It serves, or is about to, and has not confirmed all that it has been told or is to be told."""
        is_unsent = self._sent_target is not self._target
        return self.phase in (Phase.FEEDING, Phase.SERVING) and (is_unsent or self._confirmed != self._commits)

    # --- sending ----------------------------------------------------------------------------------------------

    def send(self, message: Told, *descriptors: int) -> None:
        """Tell it something that needs no Commit. Descriptors are duplicated."""
        self._send(message, descriptors)

    def feed(self, target: Target) -> None:
        """Bring it to `target`; a newer one replaces an older one that has not been sent yet."""
        self._target = target
        if self.phase in (Phase.FEEDING, Phase.SERVING) and (self._feeding is None or self._feeding.done()):
            self.phase = Phase.FEEDING
            self._feeding = spawn(f"feed worker {self.pid}", self._feed(), on_failure=lambda e: self.lost(repr(e)))

    def confirm(self) -> None:
        """It is `behind` until it has taken what it was sent without a Commit."""
        if self.phase is Phase.SERVING and self._sent_target is self._target:  # else one comes in any case
            self._commit()

    def tick(self) -> None:
        """Ping it; a worker that has been silent for SILENT_S is killed."""
        if self.phase is Phase.GONE:
            return
        if self._process.poll() is not None:
            self.lost(f"it ended with exit code {self._process.returncode}")
            return
        now = self._clock.monotonic()
        limit = START_S if self.phase is Phase.STARTING else SILENT_S
        if self.phase is not Phase.DRAINING and now - self._heard > limit:
            self.lost(f"it was silent for {now - self._heard:.1f} s")
            return
        if self.phase is not Phase.STARTING:
            self._pings += 1
            self._send(Ping(self._pings))

    def drain(self, timeout_s: float) -> None:
        """Tell it to stop accepting and to end."""
        if self.phase is not Phase.GONE:
            self.phase = Phase.DRAINING
            self._send(Drain(timeout_s))

    def reopen_logs(self) -> None:
        """A log rotation has happened."""
        if self.phase is not Phase.GONE:
            self._process.send_signal(signal.SIGUSR1)

    def lost(self, reason: str) -> None:
        """It is of no use any more: end it for certain, and tell the owner once."""
        if self.phase is Phase.GONE:
            return
        self.phase = Phase.GONE
        self._channel.close()
        if self._feeding is not None:
            self._feeding.cancel()
        self._takeover_path.unlink(missing_ok=True)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._owner.on_gone(self, reason)

    def _send(self, message: Any, descriptors: Sequence[int] = ()) -> None:
        try:
            self._channel.send(message, descriptors)
        except ChannelFull as error:
            self.lost(f"it does not read: {error}")

    async def _feed(self) -> None:
        while self._target is not None and self._sent_target is not self._target:
            target = self._target
            self._send_cells(target)
            self._send_sockets(target)
            for number, frame in enumerate(changes(self._has, target.tables), start=1):
                self._send(frame)
                if number % SLICE == 0 and not await self._drained():
                    return
            self._has, self._sent_target = target.tables, target
            self._commit()

    async def _drained(self) -> bool:
        """Let both loops breathe. False when the worker does not read."""
        await asyncio.sleep(0)
        if await self._channel.drained(SLICE_WAIT_S):
            return True
        self.lost(f"it has not read for {SLICE_WAIT_S:g} s")
        return False

    def _commit(self) -> None:
        self._commits += 1
        self._send(Commit(self._commits))

    def _send_cells(self, target: Target) -> None:
        for cluster, index in target.cells.items():
            if self._cells.get(cluster) != index:
                self._send(Cells(cluster, index))
                self._cells[cluster] = index
        for cluster in [cluster for cluster in self._cells if cluster not in target.cells]:
            del self._cells[cluster]

    def _send_sockets(self, target: Target) -> None:
        """Give it the sockets of new listeners; one that was bound anew is taken back first."""
        for name in [name for name, sock in self._given.items() if target.sockets.get(name) is not sock]:
            del self._given[name]
            if name in target.sockets and name in self._has[LISTENER]:
                self._take_back(name)
        for name, sock in target.sockets.items():
            if name not in self._given:
                self._send(AddListener(name), [sock.fileno()])
                self._given[name] = sock

    def _take_back(self, name: str) -> None:
        self._send(Remove(LISTENER, name))
        self._commit()
        rest = {other: value for other, value in self._has[LISTENER].items() if other != name}
        self._has = {**self._has, LISTENER: rest}

    # --- hearing ----------------------------------------------------------------------------------------------

    def _on_message(self, message: Any, descriptors: list[int]) -> None:
        for descriptor in descriptors:  # none is expected from a worker that was started here
            os.close(descriptor)
        self._heard = self._clock.monotonic()
        match message:
            case Ready():
                self.phase = Phase.FEEDING
                if self._target is not None:
                    self.feed(self._target)
            case Committed(version=version, problems=problems):
                self._on_committed(version, problems)
            case Pong(loop_lag_ms=lag):
                self.loop_lag_ms = lag
            case EjectRequest():
                self._owner.on_eject_request(message)
            case BreakerNews():
                self._owner.on_breaker_news(message)
            case LimitQuestions():
                self._owner.on_limit_questions(self, message)
            case CheckQuestions():
                self._owner.on_check_questions(self, message)
            case StatsDelta():
                self._owner.on_stats(self, message)
            case Drained():
                self._end_drained()
            case _:
                self.lost(f"found {type(message).__name__}, which a worker does not say")

    def _on_committed(self, version: int, problems: tuple[str, ...]) -> None:
        if problems != self.problems:
            for problem in problems:
                _log.warning("a worker cannot use a part of the configuration", pid=self.pid, problem=problem)
            self.problems = problems
        self._confirmed = version
        if version == self._commits and self.phase in (Phase.FEEDING, Phase.SERVING):
            self.phase = Phase.SERVING if self._sent_target is self._target else Phase.FEEDING
        self._owner.on_committed(self)

    def _end_drained(self) -> None:
        """It exits by itself in a moment."""
        if self.phase is Phase.GONE:
            return
        try:
            self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            _log.warning("a drained worker did not exit", pid=self.pid)
        self.lost("drained")


def _takeover_path(launch: Launch) -> Path:
    return launch.state_dir / f"worker-{os.urandom(6).hex()}.sock"


def _start(launch: Launch, takeover_path: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process; (process, our end of the channel)."""
    ours, theirs = channel.pair()
    takeover = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bind_unix(takeover, takeover_path)
        takeover.listen(4)
        command = [
            *(sys.executable, *launch.program),
            *("--fd", str(theirs.fileno()), "--takeover-fd", str(takeover.fileno())),
            *("--access-log", str(launch.access_log), "--log-level", launch.log_level),
            *(("--log-json",) if launch.log_json else ()),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**_ALLOCATOR, **os.environ},
            pass_fds=(theirs.fileno(), takeover.fileno()),
            # Its own session: an interrupt typed at a terminal goes to the supervisor, which drains.
            start_new_session=True,
        )
    except OSError:
        ours.close()
        takeover_path.unlink(missing_ok=True)
        raise
    finally:
        theirs.close()
        takeover.close()
    return process, ours
