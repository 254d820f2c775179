"""The clusters of a worker over all configurations: made, changed in place, closed; cells and ejections by name.

Owns:   what outlives a configuration: the row of shared cells of a cluster, the supervisor's verdicts on hosts, the
        tables by which it hashes; the clusters that are gone and still end requests; the rows that StatsDelta carries.
Not:    one cluster (agent.upstream.clusters), when a change applies (agent.listener.serving).
Invariant: a verdict is known to a cluster whether it came before the cluster or after it.
"""

import mmap
import os
from collections import defaultdict
from collections.abc import Callable

from agent.cluster import hash_tables
from agent.cluster.hash_tables import Table
from agent.ipc.messages import EjectRequest
from agent.ipc.shared import SharedCells
from agent.listener.tables import ClusterParts, NonsenseError
from agent.model.cluster import HashTable
from agent.proxy import global_rate_limit
from agent.proxy.runtime import Runtime
from agent.stats.names import cluster_group
from agent.upstream.clusters import HostRow, LateRow, Parts, UpstreamCluster


class Clusters:
    """`live` is what the next snapshot holds."""

    def __init__(self, runtime: Runtime, cells: SharedCells, slot: int, eject: Callable[[EjectRequest], None]) -> None:
        self._stats = runtime.stats
        self._parts = Parts(
            wheel=runtime.wheel, tls_contexts=runtime.tls, rng=runtime.rng, eject=eject, callers=runtime.callers
        )
        self._cells = cells
        self._slot = slot
        self._blocks: dict[str, int] = {}
        self._ejected: defaultdict[str, set[str]] = defaultdict(set)
        self._tables: dict[str, tuple[Table, ...]] = {}
        self._late: list[LateRow] = []
        self._removed: list[UpstreamCluster] = []  # still in the snapshot
        self._closing: list[UpstreamCluster] = []  # closed, with something to report
        self._reported: dict[str, list[int]] = {}  # a cluster's counts when its hosts were looked at
        self.live: dict[str, UpstreamCluster] = {}

    def put(self, name: str, parts: ClusterParts) -> None:
        """A new cluster, or a change of one. Raises what its parts raise; then the one of before stays."""
        config, assignment = parts
        known = self.live.get(name)
        self._reported.pop(name, None)
        if known is not None:
            known.update(config, assignment)
            return
        stats = self._stats.get(_stats_key(name), lambda: cluster_group(config.alt_stat_name or name))
        block = self._blocks.get(name)
        row = self._cells.row(block, self._slot) if block is not None else None
        made = UpstreamCluster(config, assignment, self._parts, stats, row, self._ejected.get(name, ()))
        if name in self._tables:
            made.use_tables(self._tables[name])
        self.live[name] = made

    def remove(self, name: str) -> None:
        """The next snapshot is without it; `close_removed` closes it then."""
        known = self.live.pop(name, None)
        if known is not None:
            self._removed.append(known)

    def close_removed(self) -> None:
        """The snapshot without the removed ones is in place."""
        for cluster in self._removed:
            cluster.close()
            name = cluster.config.name
            if name not in self.live:
                self._blocks.pop(name, None)
                self._reported.pop(name, None)
                self._stats.drop(_stats_key(name))
                self._stats.drop(global_rate_limit.stats_key(name))
        self._closing += self._removed
        self._removed = []

    def set_cells(self, name: str, block: int) -> None:
        """Raises NonsenseError for a block outside the memory."""
        try:
            row = self._cells.row(block, self._slot)
        except IndexError as error:
            raise NonsenseError(f"cells of {name}: {error}") from error
        self._blocks[name] = block
        if name in self.live:
            self.live[name].use_row(row)

    def set_ejected(self, name: str, host: str, ejected: bool) -> None:
        verdicts = self._ejected[name]
        (verdicts.add if ejected else verdicts.discard)(host)
        if not verdicts:
            del self._ejected[name]
        if name in self.live:
            self.live[name].set_ejected(host, ejected)

    def use_hash_tables(self, name: str, tables: tuple[HashTable, ...], descriptor: int) -> None:
        """Takes the descriptor of the tables' memory over; without tables there is none. Raises NonsenseError when they
        are not in it."""
        found: tuple[Table, ...] = ()
        if tables:
            try:
                memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
                found = hash_tables.read(tables, memoryview(memory))
            except (OSError, ValueError) as error:
                raise NonsenseError(f"hash tables of {name}: {error}") from error
            finally:
                os.close(descriptor)
            self._tables[name] = found
        else:
            self._tables.pop(name, None)
        if name in self.live:
            self.live[name].use_tables(found)

    def take_late_rows(self) -> tuple[LateRow, ...]:
        """What StatsDelta.late carries. Call it after `take_host_rows`."""
        taken, self._late = self._late, []
        return tuple(taken)

    def take_host_rows(self) -> tuple[HostRow, ...]:
        """What StatsDelta.hosts carries; clusters whose last request has ended are forgotten.

        Whatever a host counts, its cluster counts too: of idle clusters no host is looked at.
        """
        rows: list[HostRow] = []
        for name, cluster in self.live.items():
            counts = cluster.stats.counts
            if self._reported.get(name) != counts:
                self._reported[name] = list(counts)
                rows += cluster.take_host_rows()
                self._late += cluster.take_late_rows()
        for cluster in self._closing:
            rows += cluster.take_host_rows()
        self._closing = [cluster for cluster in self._closing if not cluster.settled]
        return tuple(rows)


def _stats_key(name: str) -> str:
    return f"cluster.{name}"
