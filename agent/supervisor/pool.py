"""All workers of this agent: one per slot, all brought to the same target, each replaced when it is lost.

Owns:   the slots, what every worker should have, replacing with bounded back-off, when listener sockets are closed.
Not:    one worker (worker_link), sockets themselves (sockets), what should be served (agent.xds.warming).
Source: design section 1; decision 36.
Invariants: a slot's sockets stay open while its worker is replaced; a listener's sockets are closed only after every
        worker has committed a target without it; a dead worker's cells are zeroed before its successor starts.
"""

import asyncio
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from agent.ipc import permits, table_memory
from agent.ipc.messages import (
    CLUSTER,
    LISTENER,
    BreakerGone,
    BreakerNews,
    BreakerState,
    CheckAnswers,
    CheckQuestions,
    CountMemory,
    EjectRequest,
    HashTables,
    HostState,
    Identities,
    LimitAnswers,
    LimitQuestions,
    StatsDelta,
    TokenMemory,
)
from agent.model import count_cells, token_cells
from agent.model.listener import Listener
from agent.supervisor.cells import CellBook
from agent.supervisor.sockets import ListenerSockets
from agent.supervisor.worker_link import Launch, Owner, Target, WorkerLink
from agent.xds.warming import EMPTY, Tables
from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.resilience.backoff import Backoff

_log = get_logger(__name__)

RESTART_BASE_S = 0.1
RESTART_MAX_S = 5.0
SERVED_WITHIN_S = 30.0  # a worker that is silent is replaced long before; one that is fed reads for so long at most
STABLE_S = 30.0  # a worker that lived so long has paid for its slot's earlier failures


class Hooks(Protocol):
    """Who is told what workers say."""

    def eject_request(self, request: EjectRequest) -> None: ...
    def breaker_news(self, news: BreakerNews) -> None: ...
    def limit_questions(self, questions: LimitQuestions, reply: Callable[[LimitAnswers], None]) -> None: ...
    def check_questions(self, pid: int, questions: CheckQuestions, reply: Callable[[CheckAnswers], None]) -> None: ...
    def stats(self, pid: int, delta: StatsDelta) -> None: ...
    def worker_gone(self, pid: int) -> None: ...


@dataclass(slots=True)
class _Slot:
    link: WorkerLink | None
    backoff: Backoff
    started_at: float = 0.0
    start_at: float = 0.0  # monotonic: when the next start is due


class WorkerPool(Owner):
    """Make it inside a running loop, in the main thread."""

    def __init__(
        self,
        launch: Launch,
        sockets: ListenerSockets,
        cells: CellBook,
        hooks: Hooks,
        *,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """`launch` is that of slot 0; the others differ in the slot only."""
        self._launch = launch
        self._sockets = sockets
        self._cells = cells
        self._hooks = hooks
        self._clock = clock
        self._rng = rng
        self._tables: Tables = EMPTY
        self._bound: Tables = EMPTY
        self._targets: list[Target] = []
        self._identities: Identities | None = None
        self._ejected: set[tuple[str, str]] = set()
        self._hash_tables: dict[str, tuple[HashTables, int]] = {}  # by cluster, with the descriptor of their memory
        self._breakers: dict[tuple[str, str], tuple[BreakerState, int]] = {}  # with the permits' descriptor, or -1
        self._tokens = table_memory.create("gossamer-tokens", token_cells.TABLE, launch.slots)
        self._counts = table_memory.create("gossamer-counts", count_cells.TABLE, launch.slots)
        self._stopping = False
        self._abandoned = False
        self._news = asyncio.Event()  # a worker has confirmed something, or is gone
        self._slots = [_Slot(None, Backoff(RESTART_BASE_S, RESTART_MAX_S)) for _ in range(launch.slots)]
        self.restarts = 0
        self.published = 0

    # --- what is known ----------------------------------------------------------------------------------------

    @property
    def links(self) -> tuple[WorkerLink, ...]:
        return tuple(slot.link for slot in self._slots if slot.link is not None)

    @property
    def serving(self) -> bool:
        """Every worker serves the newest target."""
        return self.published > 0 and all(slot.link is not None and slot.link.up_to_date for slot in self._slots)

    @property
    def bind_problems(self) -> Mapping[str, str]:
        """Listener -> why it is not bound."""
        return self._sockets.problems

    @property
    def addresses(self) -> Mapping[str, tuple[str, int]]:
        """Listener -> where it is bound."""
        return self._sockets.addresses

    def problems(self) -> tuple[str, ...]:
        """What workers could not use, each once."""
        return tuple(dict.fromkeys(problem for link in self.links for problem in link.problems))

    async def served(self) -> None:
        """Wait until no worker serves what was before the last `publish` and `set_identities`: who accepts, accepts by
        these. At most SERVED_WITHIN_S. One that is only starting is not waited for: it will accept with the newest.
        """
        try:
            async with asyncio.timeout(SERVED_WITHIN_S):
                while any(link.behind for link in self.links):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            _log.warning("workers are behind what is acknowledged", waited_s=SERVED_WITHIN_S)

    # --- what every worker should have ------------------------------------------------------------------------

    def start(self) -> None:
        """Start a worker in every slot."""
        for number in range(len(self._slots)):
            self._start(number)

    def publish(self, tables: Tables) -> None:
        """Serve `tables` everywhere. Listeners that cannot be bound are left out and tried again by `tick`."""
        self._tables = tables
        self.published += 1
        self._bind()

    def set_identities(self, identities: Identities) -> None:
        """New connections use these from now on."""
        self._identities = identities
        for link in self.links:
            link.send(identities)
            link.confirm()

    def set_host_state(self, cluster: str, host: str, *, ejected: bool) -> None:
        """The verdict on one host, for all workers."""
        (self._ejected.add if ejected else self._ejected.discard)((cluster, host))
        for link in self.links:
            link.send(HostState(cluster, host, ejected))

    def set_breaker(self, state: BreakerState, probes: int = 0) -> None:
        """The state of a circuit breaker, for all workers, which share so many `probes`."""
        self._close_permits(state.breaker, state.caller)
        descriptor = permits.create(probes) if probes else -1
        self._breakers[state.breaker, state.caller] = (state, descriptor)
        for link in self.links:
            link.send(state, *_given(descriptor))

    def drop_breaker(self, breaker: str) -> None:
        """There is no such circuit breaker any more."""
        for name, caller in [key for key in self._breakers if key[0] == breaker]:
            self._close_permits(name, caller)
        for link in self.links:
            link.send(BreakerGone(breaker))

    def _close_permits(self, breaker: str, caller: str) -> None:
        before = self._breakers.pop((breaker, caller), None)
        if before is not None and before[1] >= 0:
            os.close(before[1])

    def set_hash_tables(self, tables: HashTables, descriptor: int) -> None:
        """Choose the hosts of a cluster by these, in all workers. The descriptor is duplicated."""
        self._close_tables(tables.cluster)
        self._hash_tables[tables.cluster] = (tables, os.dup(descriptor))
        for link in self.links:
            link.send(tables, descriptor)

    def drop_hash_tables(self, cluster: str) -> None:
        """A cluster has no tables any more."""
        if self._close_tables(cluster):
            for link in self.links:
                link.send(HashTables(cluster, ()))

    def _close_tables(self, cluster: str) -> bool:
        """Whether there were any."""
        before = self._hash_tables.pop(cluster, None)
        if before is not None:
            os.close(before[1])
        return before is not None

    def _bind(self) -> None:
        listeners = {}
        for name, value in self._tables[LISTENER].items():
            assert isinstance(value, Listener)
            if self._sockets.addresses.get(name, (value.address, value.port)) != (value.address, value.port):
                self._sockets.close(name)
            before = self._sockets.problems.get(name)
            if self._sockets.open(value):
                listeners[name] = value
            elif self._sockets.problems[name] != before:
                _log.error("a listener cannot be bound", listener=name, reason=self._sockets.problems[name])
        for name in [name for name in self._sockets.problems if name not in self._tables[LISTENER]]:
            self._sockets.close(name)
        self._bound = {**self._tables, LISTENER: listeners}
        missed = self._cells.follow(self._bound[CLUSTER])
        if missed:
            _log.error("too many clusters to count their limits for all", left_out=len(missed), first=missed[0])
        self._targets = [self._target(number) for number in range(len(self._slots))]
        for link in self.links:
            link.feed(self._targets[link.slot])

    def _target(self, number: int) -> Target:
        sockets = {name: self._sockets.of(name, number) for name in self._bound[LISTENER]}
        return Target(
            tables=self._bound,
            sockets={name: sock for name, sock in sockets.items() if sock is not None},
            cells=dict(self._cells.blocks),
        )

    # --- time -------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Several times a second: pings, starts that are due, listeners that could not be bound."""
        if self._abandoned:
            return
        now = self._clock.monotonic()
        for link in self.links:
            link.tick()
        for number, slot in enumerate(self._slots):
            if slot.link is None and not self._stopping and now >= slot.start_at:
                self._start(number)
            elif slot.link is not None and now - slot.started_at > STABLE_S:
                slot.backoff.reset()
        if self._sockets.problems and self.published:
            before = len(self._sockets.problems)
            if any(self._retry(name) for name in list(self._sockets.problems)):
                _log.info("listeners are bound after all", count=before - len(self._sockets.problems))
                self._bind()

    def _retry(self, name: str) -> bool:
        value = self._tables[LISTENER].get(name)
        return isinstance(value, Listener) and self._sockets.open(value)

    def _start(self, number: int) -> None:
        slot = self._slots[number]
        slot.started_at = self._clock.monotonic()
        self._cells.clear_slot(number)
        shared = (self._cells.shared.descriptor, self._cells.shared.length)
        try:
            link = WorkerLink(replace(self._launch, slot=number), self, shared, self._clock)
        except OSError as error:
            _log.error("a worker cannot be started", slot=number, reason=str(error))
            slot.start_at = slot.started_at + slot.backoff.next_delay_s(self._rng)
            return
        slot.link = link
        _log.info("worker started", slot=number, pid=link.pid)
        link.send(TokenMemory(number, len(self._slots)), self._tokens)
        link.send(CountMemory(number, len(self._slots)), self._counts)
        if self._identities is not None:
            link.send(self._identities)
        for cluster, host in self._ejected:
            link.send(HostState(cluster, host, True))
        for tables, descriptor in self._hash_tables.values():
            link.send(tables, descriptor)
        for state, descriptor in self._breakers.values():
            link.send(state, *_given(descriptor))
        if self._targets:
            link.feed(self._targets[number])

    # --- the end ----------------------------------------------------------------------------------------------

    def drain(self, timeout_s: float) -> None:
        """Tell all workers to end; none is replaced any more."""
        self._stopping = True
        for link in self.links:
            link.drain(timeout_s)

    def abandon(self) -> None:
        """Leave the workers to a successor: they go on, and nothing of theirs is touched any more."""
        self._stopping = self._abandoned = True

    def kill(self) -> None:
        """End what is left."""
        self._stopping = True
        for link in () if self._abandoned else self.links:
            link.lost("the agent ends")

    def reopen_logs(self) -> None:
        for link in self.links:
            link.reopen_logs()

    # --- Owner ------------------------------------------------------------------------------------------------

    def on_eject_request(self, request: EjectRequest) -> None:
        self._hooks.eject_request(request)

    def on_breaker_news(self, news: BreakerNews) -> None:
        self._hooks.breaker_news(news)

    def on_limit_questions(self, worker: WorkerLink, questions: LimitQuestions) -> None:
        self._hooks.limit_questions(questions, worker.send)

    def on_check_questions(self, worker: WorkerLink, questions: CheckQuestions) -> None:
        self._hooks.check_questions(worker.pid, questions, worker.send)

    def on_stats(self, worker: WorkerLink, delta: StatsDelta) -> None:
        self._hooks.stats(worker.pid, delta)

    def on_committed(self, worker: WorkerLink) -> None:
        self._news.set()
        if self.serving:
            for name in [name for name in self._sockets.addresses if name not in self._bound[LISTENER]]:
                self._sockets.close(name)

    def on_gone(self, worker: WorkerLink, reason: str) -> None:
        slot = self._slots[worker.slot]
        slot.link = None
        self._news.set()
        self._hooks.worker_gone(worker.pid)
        table_memory.clear(self._counts, count_cells.TABLE, worker.slot)
        if self._stopping:
            _log.info("worker ended", slot=worker.slot, pid=worker.pid, reason=reason)
            return
        self.restarts += 1
        _log.error("worker lost, it is replaced", slot=worker.slot, pid=worker.pid, reason=reason)
        short = self._clock.monotonic() - slot.started_at < STABLE_S
        # The first replacement is immediate: its connections are waiting.
        delay_s = slot.backoff.next_delay_s(self._rng) if short and slot.backoff.attempt else 0.0
        slot.backoff.attempt = max(slot.backoff.attempt, 1)
        slot.start_at = self._clock.monotonic() + delay_s
        if not delay_s:
            self._start(worker.slot)


def _given(descriptor: int) -> tuple[int, ...]:
    return (descriptor,) if descriptor >= 0 else ()
