"""What all filter chains of one worker share: the configuration of now, clocks, TLS contexts, statistics, logs.

Owns:   the reference that a Commit swaps (`snapshot`), the access-log writers, counts of requests that no host got.
Not:    how a snapshot is made from what the supervisor sends, accepting (agent.listener), requests (agent.proxy).
Invariants: a snapshot is never changed after it is published; whoever has taken a cluster or route from one keeps it.
        Times: seconds of time.monotonic.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

from agent.cluster.workloads import CallerIndex
from agent.filters.token_buckets import TokenCells
from agent.ipc import table_memory
from agent.ipc.messages import BreakerNews, CheckQuestions, LimitQuestions
from agent.model.token_cells import TABLE
from agent.proxy.breaker_book import BreakerBook
from agent.proxy.bulkhead_book import BulkheadBook
from agent.proxy.check_book import CheckBook
from agent.proxy.limit_book import LimitBook
from agent.proxy.mirror import MirrorBook
from agent.router.table import RouteTable
from agent.stats.access_log import AccessLogWriter
from agent.stats.names import worker_group
from agent.stats.registry import Registry
from agent.upstream.clusters import UpstreamCluster
from agent.upstream.tls import TlsContexts
from agent.upstream.wheel import TimerWheel

MAX_UNSERVED = 1000  # clusters, within one second
STANDARD_STREAMS = frozenset({"/dev/stdout", "/dev/stderr"})


class Snapshot:
    """One configuration. `routes` by RouteConfiguration name, `clusters` by cluster name."""

    __slots__ = ("clusters", "routes", "version")

    def __init__(self, version: int, routes: dict[str, RouteTable], clusters: dict[str, UpstreamCluster]) -> None:
        self.version = version
        self.routes = routes
        self.clusters = clusters


class Runtime:
    """One per worker. `snapshot` is read when a request is routed, and not again for that request."""

    __slots__ = (
        "_log_path",
        "_logs",
        "_unserved",
        "breakers",
        "bulkheads",
        "callers",
        "checks",
        "clock",
        "limits",
        "mirrors",
        "node",
        "rng",
        "snapshot",
        "stats",
        "tls",
        "tokens",
        "wall",
        "wheel",
        "worker_stats",
    )

    def __init__(
        self,
        *,
        node: str,
        wheel: TimerWheel,
        log_path: Path,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        send: Callable[[BreakerNews | LimitQuestions | CheckQuestions], None] = lambda _: None,
    ) -> None:
        """`log_path`: where access logs for the standard streams go, which a worker does not have; `send`: to the
        supervisor."""
        self.node = node
        self.wheel = wheel
        self.clock = clock
        self.wall = wall  # seconds since the epoch
        self.rng = rng
        self.tls = TlsContexts()
        self.tokens = TokenCells(table_memory.private(TABLE), 1, 0)  # until the supervisor gives those that all share
        self.callers = CallerIndex()
        self.stats = Registry()
        self.mirrors = MirrorBook()
        self.breakers = BreakerBook(wheel, clock, send)
        self.bulkheads = BulkheadBook(wheel, clock, self.stats)
        self.limits = LimitBook(wheel, clock, send)
        self.checks = CheckBook(wheel, clock, send)
        self.worker_stats = self.stats.get("worker.", worker_group)
        self.snapshot = Snapshot(0, {}, {})
        self._log_path = log_path
        self._logs: dict[Path, AccessLogWriter] = {}
        self._unserved: dict[str, int] = {}

    def note_unserved(self, cluster: str) -> None:
        """A request failed that no host of the cluster got: there is no such cluster, no healthy host, or no room."""
        count = self._unserved.get(cluster, 0)
        if count or len(self._unserved) < MAX_UNSERVED:
            self._unserved[cluster] = count + 1

    def take_unserved(self) -> tuple[tuple[str, str, int, int, int, int], ...]:
        """These requests since the last call as rows of StatsDelta.hosts, of the host without a name."""
        taken, self._unserved = self._unserved, {}
        return tuple((cluster, "", count, 0, count, 0) for cluster, count in taken.items())

    def access_log(self, path: str) -> AccessLogWriter:
        """The writer of a log file, shared by all that name it."""
        target = self._log_path if path in STANDARD_STREAMS else Path(path)
        writer = self._logs.get(target)
        if writer is None:
            writer = self._logs[target] = AccessLogWriter(target, self.worker_stats)
        return writer

    def flush_logs(self) -> None:
        """Called once a second."""
        for writer in self._logs.values():
            writer.flush()

    def reopen_logs(self) -> None:
        """A log rotation has happened."""
        for writer in self._logs.values():
            writer.reopen()

    def close_logs(self) -> None:
        for writer in self._logs.values():
            writer.close()
