"""From accepted resources to workers and to the disk.

Owns:   running the warming after every change, publishing what changed, writing the last known good.
Not:    the stream (agent.xds.client), workers (pool).
Source: decision 35; design section 5.
Invariants: what the disk holds is served before the control plane is reached; a publication is one difference and one
        Commit for each worker; the file is written at most once every SAVE_EVERY_S, off the loop's thread.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from agent.ipc.messages import CLUSTER, KINDS, LOAD_ASSIGNMENT
from agent.model.cluster import Cluster, LoadAssignment
from agent.xds import known_good
from agent.xds.resources import KIND_OF
from agent.xds.session import AdsSession
from agent.xds.warming import EMPTY, Published, Tables, Warming
from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.tasks import spawn

_log = get_logger(__name__)

SAVE_EVERY_S = 1.0


class Publisher(Protocol):
    """Who serves: the pool."""

    def publish(self, tables: Tables) -> None: ...


class ConfigFlow:
    """Call `step` after every change of the session, and `tick` now and then."""

    def __init__(
        self,
        session: AdsSession,
        publisher: Publisher,
        *,
        state_dir: Path,
        node: str,
        clock: Clock,
        on_published: Callable[[Tables], None],
    ) -> None:
        self._session = session
        self._publisher = publisher
        self._state_dir = state_dir
        self._node = node
        self._clock = clock
        self._on_published = on_published
        self._warming = Warming()
        self._published = Published(tables=EMPTY)
        self._dirty = False
        self._saving: asyncio.Task[None] | None = None
        self._saved_at = 0.0
        self._kept = False  # what is on the disk stays
        self.save_error = ""

    @property
    def tables(self) -> Tables:
        """What is served."""
        return self._published.tables

    @property
    def waiting(self) -> tuple[str, ...]:
        """What is accepted and not served yet, with what it waits for."""
        return self._published.waiting

    def begin(self) -> None:
        """Serve what the session holds from the disk."""
        self._publish()

    def step(self) -> None:
        """The session holds something else."""
        self._dirty = not self._kept
        self._publish()

    def tick(self) -> None:
        """Waits may have run out; a change may be due to be written."""
        if self._published.waiting:
            self._publish()
        idle = self._saving is None or self._saving.done()
        if self._dirty and idle and self._clock.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self._saving = spawn("save last known good", self._save())

    async def keep(self) -> None:
        """Write what is not written yet, and no more from then on.

        For the end of an agent: the others are told that its instances leave, and that comes back to it. After a
        restart without a control plane it must still know them.
        """
        await self.close()
        self._dirty, self._kept = False, True

    async def close(self) -> None:
        """Write what is not written yet."""
        if self._saving is not None and not self._saving.done():
            await asyncio.wait({self._saving}, timeout=5.0)
        if self._dirty:
            await self._save()

    def assignment(self, cluster: str) -> LoadAssignment | None:
        """The endpoints that are served for a cluster."""
        found = self.tables[CLUSTER].get(cluster)
        if not isinstance(found, Cluster):
            return None
        if found.static is not None:
            return found.static
        assignment = self.tables[LOAD_ASSIGNMENT].get(found.eds_name)
        return assignment if isinstance(assignment, LoadAssignment) else None

    def _publish(self) -> None:
        before = self._published.tables
        self._published = self._warming.step(self._session.all_held(), self._clock.monotonic(), self._session.absent())
        if not _same(before, self._published.tables):
            self._publisher.publish(self._published.tables)
            self._on_published(self._published.tables)

    async def _save(self) -> None:
        self._dirty = False
        self._saved_at = self._clock.monotonic()
        # What has a TTL ends at a time that is not on the disk; the roots are in the vault.
        held = self._session.all_held()
        resources = tuple(item for item in held if item.type_url in KIND_OF and not item.has_ttl)
        try:
            await asyncio.to_thread(known_good.save, self._state_dir, self._node, resources)
            self.save_error = ""
        except OSError as error:
            if str(error) != self.save_error:
                _log.error("the last known good cannot be written", reason=str(error))
            self._dirty, self.save_error = True, str(error)


def _same(before: Tables, after: Tables) -> bool:
    """Nothing has changed: the same names, the same objects."""
    return all(
        before[kind].keys() == after[kind].keys()
        and all(before[kind][name] is value for name, value in after[kind].items())
        for kind in KINDS
    )
