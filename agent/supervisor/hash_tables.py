"""The hash tables of all clusters that choose by one: built beside what else happens, and given to every worker.

Owns:   when a table is built anew, the memory that it lies in, the task that builds.
Not:    what is in a table (agent.cluster.hash_tables), sending (agent.supervisor.pool).
Source: design section 1: tables travel built, a worker never stalls its loop to build one.
Invariants: a table is built anew only when its hosts, their weights or its settings change; one is built at a time, and
        the loop serves in between; of changes that come while a cluster waits only the last one is built.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping

from agent.cluster.hash_levels import HashLevel, hash_levels
from agent.cluster.hash_tables import build
from agent.cluster.hosts import Host
from agent.cluster.load_balancing import HASHED
from agent.ipc.messages import HashTables
from agent.model.cluster import Cluster, HashTable, LoadAssignment
from mesh.logs import get_logger
from mesh.tasks import spawn

_log = get_logger(__name__)

Tell = Callable[[HashTables, int], None]  # (message, descriptor of the memory, which stays the teller's)
Forget = Callable[[str], None]
_Signature = tuple[object, ...]


class HashTableBook:
    """`tell`: give this to every worker, also to later ones; `forget`: the cluster has no tables any more."""

    def __init__(self, tell: Tell, forget: Forget) -> None:
        self._tell = tell
        self._forget = forget
        self._clusters: dict[str, tuple[Cluster, LoadAssignment]] = {}
        self._ejected: set[tuple[str, str]] = set()
        self._built: dict[str, _Signature] = {}
        self._waiting: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def follow(self, clusters: Mapping[str, Cluster], assignment: Callable[[str], LoadAssignment | None]) -> None:
        """Have tables for exactly those of these clusters that hash and have hosts."""
        before = self._clusters
        self._clusters = {}
        for name, cluster in clusters.items():
            found = assignment(name) if cluster.lb_policy in HASHED else None
            if found is not None and found.endpoints:
                self._clusters[name] = (cluster, found)
        for name in before.keys() - self._clusters.keys():
            self._waiting.pop(name, None)
            if self._built.pop(name, None) is not None:
                self._forget(name)
        self._want(name for name, parts in self._clusters.items() if before.get(name) != parts)

    def set_ejected(self, cluster: str, host: str, ejected: bool) -> None:
        """The verdict on a host: it leaves the table, or comes back into it."""
        (self._ejected.add if ejected else self._ejected.discard)((cluster, host))
        if cluster in self._clusters:
            self._want((cluster,))

    @property
    def idle(self) -> bool:
        """All tables are built."""
        return not self._waiting and (self._task is None or self._task.done())

    async def close(self) -> None:
        """Build no more."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1.0)

    def _want(self, names: Iterable[str]) -> None:
        self._waiting.update(dict.fromkeys(names))
        if self._waiting and (self._task is None or self._task.done()):
            self._task = spawn("hash tables", self._work())

    async def _work(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            del self._waiting[name]
            await self._build(name)

    async def _build(self, name: str) -> None:
        cluster, levels = self._levels(name)
        signature = _signature(cluster, levels)
        if self._built.get(name) == signature:
            return
        tables: list[HashTable] = []
        parts: list[bytes] = []
        for level in levels:
            steps = build(level, cluster.lb_policy, cluster.hashing)
            while True:
                try:
                    next(steps)
                except StopIteration as done:
                    tables.append(done.value[0])
                    parts.append(done.value[1])
                    break
                await asyncio.sleep(0)
        if name in self._clusters:
            self._built[name] = signature
            self._publish(name, tables, b"".join(parts))

    def _levels(self, name: str) -> tuple[Cluster, list[HashLevel]]:
        cluster, assignment = self._clusters[name]
        hosts = [Host(endpoint) for endpoint in assignment.endpoints]
        for host in hosts:
            host.ejected = (name, host.key) in self._ejected
        levels = hash_levels(
            hosts,
            overprovisioning_factor=assignment.overprovisioning_factor,
            panic_threshold_percent=cluster.healthy_panic_threshold_percent,
            locality_weighted=cluster.locality_weighted,
        )
        return cluster, [level for level in levels if level.members]

    def _publish(self, name: str, tables: list[HashTable], data: bytes) -> None:
        if not tables:  # nobody may be picked
            self._forget(name)
            return
        try:
            descriptor = _memory(data)
        except OSError as error:
            _log.error("no memory for a hash table", cluster=name, bytes=len(data), reason=str(error))
            return
        try:
            self._tell(HashTables(name, tuple(tables)), descriptor)
        finally:
            os.close(descriptor)


def _signature(cluster: Cluster, levels: list[HashLevel]) -> _Signature:
    hosts = tuple(
        (level.priority, tuple((host.key, host.endpoint.hash_key, host.endpoint.hostname) for host in level.members))
        for level in levels
    )
    return cluster.lb_policy, cluster.hashing, hosts, tuple(level.weights for level in levels)


def _memory(data: bytes) -> int:
    """The descriptor of anonymous memory that holds `data`."""
    descriptor = os.memfd_create("gossamer-hash-tables", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
