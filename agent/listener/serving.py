"""What a worker serves: from what the supervisor has said to snapshots, chains and clusters.

Owns:   applying a Commit in slices, what could not be used and why, the once-a-second work, the statistics' report.
Not:    the channel and the process (agent.worker), collecting changes (tables), listeners and clusters themselves.
Source: design section 1: a worker swaps one reference at a Commit.

    commit -> WAITING -> BUILDING, SLICE_S at a time: clusters, route tables -> swap: snapshot, listeners, removals
                 ^          |
                 +-- later Commits are merged here while one is being built

Invariants: a route is served only when what it names was built before it; an unusable part leaves its last good form in
        place and is named in `problems` until it is repaired or gone; what has not changed is not built anew.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from agent.ipc.messages import BreakerNews, CheckQuestions, EjectRequest, LimitQuestions, StatsDelta
from agent.ipc.shared import SharedCells
from agent.listener.clusters import Clusters
from agent.listener.listeners import Chain, Listeners
from agent.listener.tables import Change, RouteParts, Tables
from agent.model.cluster import HashTable
from agent.model.listener import FilterChain, HttpConnectionManager, Listener
from agent.proxy.chain import HttpChain
from agent.proxy.runtime import Runtime, Snapshot
from agent.proxy.tcp_proxy import TcpChain
from agent.router.table import RouteTable
from agent.stats.groups import Group
from agent.upstream.wheel import TimerWheel
from mesh.logs import get_logger

_log = get_logger(__name__)

SLICE_S = 0.002

Committed = Callable[[Sequence[int], tuple[str, ...], int], None]  # (versions, problems, how many parts were built)


def make_chain(runtime: Runtime, listener: Listener, config: FilterChain, stats: Group) -> Chain:
    """The chain that `config` asks for. Raises ValueError saying what in it cannot be used."""
    if isinstance(config.network, HttpConnectionManager):
        return HttpChain(runtime, listener, config, stats)
    return TcpChain(runtime, listener, config, stats)


class Serving:
    """Make it inside a running loop, after Welcome."""

    def __init__(
        self,
        *,
        node: str,
        cells: SharedCells,
        slot: int,
        log_path: Path,
        eject: Callable[[EjectRequest], None],
        committed: Committed,
        news: Callable[[BreakerNews | LimitQuestions | CheckQuestions], None] = lambda _: None,
    ) -> None:
        """`committed` is called once per applied change, with the versions of its Commits."""
        self._loop = asyncio.get_running_loop()
        self.runtime = Runtime(node=node, wheel=TimerWheel(self._loop), log_path=log_path, send=news)
        self.tables = Tables()
        self.listeners = Listeners(self.runtime, make_chain)
        self._clusters = Clusters(self.runtime, cells, slot, eject)
        self._committed = committed
        self._routes: dict[str, RouteTable] = {}
        self._waiting: Change | None = None
        self._building: Iterator[None] | None = None
        self._problems: dict[tuple[str, str], str] = {}  # (kind, name) -> why

    # --- configuration ----------------------------------------------------------------------------------------

    def commit(self, version: int) -> None:
        """Serve what the tables say now; done when `committed` is called, at once if it takes less than SLICE_S."""
        change = self.tables.take(version)
        if self._waiting is not None:
            self._waiting.follow(change)
        else:
            self._waiting = change
        if self._building is None:
            self._begin()

    def set_cells(self, cluster: str, block: int) -> None:
        self._clusters.set_cells(cluster, block)

    def set_ejected(self, cluster: str, host: str, ejected: bool) -> None:
        self._clusters.set_ejected(cluster, host, ejected)

    def use_hash_tables(self, cluster: str, tables: tuple[HashTable, ...], descriptor: int) -> None:
        """Takes the descriptor over; without tables there is none."""
        self._clusters.use_hash_tables(cluster, tables, descriptor)

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the configuration is not in use, and why."""
        found = [f"{kind} {name}: {why}" for (kind, name), why in self._problems.items()]
        found += [f"listener {name}: {why}" for name, why in self.listeners.problems.items()]
        return tuple(found)

    def _begin(self) -> None:
        change, self._waiting = self._waiting, None
        if change is not None:
            self._building = self._apply(change)
            self._build_on()

    def _build_on(self) -> None:
        """One slice."""
        until = time.monotonic() + SLICE_S
        assert self._building is not None
        for _ in self._building:
            if time.monotonic() >= until:
                self._loop.call_soon(self._build_on)
                return
        self._building = None
        self._begin()

    def _apply(self, change: Change) -> Iterator[None]:
        """Apply a change; between two steps the loop may serve."""
        for name, parts in change.clusters.items():
            if parts is not None:
                self._try("cluster", name, partial(self._clusters.put, name, parts))
                yield
        routes = dict(self._routes)
        for name, route_parts in change.routes.items():
            self._build_route(routes, name, route_parts)
            yield
        for name, parts in change.clusters.items():
            if parts is None:
                self._clusters.remove(name)
                self._problems.pop(("cluster", name), None)
        self._routes = routes
        self.runtime.snapshot = Snapshot(change.versions[-1], routes, dict(self._clusters.live))
        self._apply_listeners(change)
        self._clusters.close_removed()
        self._committed(change.versions, self.problems, len(change.clusters) + len(change.routes))

    def _build_route(self, routes: dict[str, RouteTable], name: str, parts: RouteParts | None) -> None:
        if parts is None:
            routes.pop(name, None)
            self._problems.pop(("route configuration", name), None)
            return

        def build() -> None:
            routes[name] = RouteTable(*parts, routes.get(name))

        self._try("route configuration", name, build)

    def _try(self, kind: str, name: str, build: Callable[[], None]) -> None:
        try:
            build()
            self._problems.pop((kind, name), None)
        except Exception as error:  # noqa: BLE001 - one unusable part must not cost the others; it is reported by name
            self._problems[kind, name] = str(error) or type(error).__name__
            _log.error("a part of the configuration cannot be used", kind=kind, name=name, exc_info=error)

    def _apply_listeners(self, change: Change) -> None:
        for name, config in change.listeners.items():
            if config is None:
                self.listeners.remove(name)
            else:
                self.listeners.put(config, change.sockets.pop(name, None))
        for name, sock in change.sockets.items():
            self.listeners.set_socket(name, sock)

    # --- time -------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second."""
        self.listeners.tick()
        self.runtime.flush_logs()

    def stats_delta(self) -> StatsDelta | None:
        """What has been counted since the last call; None when that is nothing."""
        report = self.runtime.stats.report()
        hosts = (*self._clusters.take_host_rows(), *self.runtime.take_unserved())
        late = self._clusters.take_late_rows()
        if not (report.counters or report.gauges or report.histograms or hosts):
            return None
        return StatsDelta(report.counters, report.gauges, report.histograms, report.sums, hosts, late)
