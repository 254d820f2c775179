"""From the store to the proxies: watch, fold into MeshState, compile, tell the streams that are concerned.

Owns:   the current MeshState, and during a rollout that of its staged proxies; the debounce; the order (compile, queue
        on streams, then `published`).
Not:    what is compiled (controlplane.compiler), what goes on which stream (controlplane.discovery).
Source: design section 5; decisions 17 and 18.

    watch --step--> fold --(debounce)--> advance, refresh in slices --> deliver --> published
One task folds whatever comes, another publishes the newest state: what comes during a publication is merged.

Invariants:
  `published` is R only when every stream that a revision up to R touches has it queued.
  A status, token or apply record moves `published`, never a compile.
  A publication that fails is logged and counted; streams keep what they have, the next change tries everything again.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.compiler.gateway_api_status import GatewayApiStatus
from controlplane.compiler.types import Condition
from controlplane.distribution.ledger import DistributionLedger
from controlplane.distribution.replicas import ReplicaRecord
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.rollout_overlay import Candidate, followed
from controlplane.policy.objects import PolicyObject
from controlplane.reconcile.changes import ChangeReader, Gathered
from controlplane.reconcile.debounce import Debounce
from controlplane.reconcile.expiry import expiry_conditions
from controlplane.reconcile.jwks import key_conditions
from controlplane.reconcile.metrics import ReconcileMetrics
from controlplane.reconcile.reaching import Reaching
from controlplane.reconcile.rollout_reader import RolloutReader
from controlplane.reconcile.status import StatusBook, rejection_conditions
from controlplane.settings import MeshSettings
from controlplane.snapshot.cache import Compiling, SnapshotCache, Update
from controlplane.store.keys import ROOT, ejection_key, instance_key
from controlplane.store.protocol import Changes as Step
from controlplane.store.protocol import ConfigStore
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.vocabulary import ObjectRef

_log = get_logger(__name__)

_SYNC_S = 60.0
# How long the loop may be held by one slice of a publication. The first stream of a scope pays for its compilation.
_SLICE_S = 0.01
_ENTRIES_AT_ONCE = 200  # that are parsed before others get a turn


@dataclass(frozen=True, slots=True)
class Published:
    """A rollout's state as every stream here has been told of it, with store revision `revision`."""

    candidate: Candidate
    revision: int


class Reconciler:
    """One per process. `cache` is what streams are served from, `mesh` the newest state, which it may lag behind."""

    def __init__(
        self,
        *,
        store: ConfigStore,
        compiler: Compiling,
        mesh_settings: MeshSettings,
        ledger: DistributionLedger,
        deliver: Callable[[Iterable[Update]], None],
        metrics: ReconcileMetrics,
        clock: Clock,
    ) -> None:
        self._store = store
        self._compiler = compiler
        self._ledger = ledger
        self._deliver = deliver
        self._metrics = metrics
        self._clock = clock
        self._reader = ChangeReader()
        self._book = StatusBook()
        self._gateway_api = GatewayApiStatus()
        self._reaching = Reaching(ledger)
        self._debounce = Debounce()
        self.rollouts = RolloutReader()
        self._candidate: Candidate | None = None
        self.published: Published | None = None
        self.mesh = MeshState.empty(mesh_settings)
        self.jwks_problems: dict[str, str] = {}  # by URL: why this replica's latest fetch of keys has failed
        self.cache = SnapshotCache(compiler, self.mesh)
        self._revision = 0  # of the store, as far as the watch has come
        self._waiting_since: float | None = None
        self._changed = asyncio.Event()
        self._ended_or_synced = asyncio.Event()
        self.synced = False

    async def run(self) -> None:
        """Follow the store until cancelled; it bridges the store's outages. Raises what breaks it for good."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="reconcile: follow")
                group.create_task(self._publish_all(), name="reconcile: publish")
        finally:
            self._ended_or_synced.set()

    async def wait_synced(self) -> None:
        """Until the first snapshot is published. Raises UNAVAILABLE after a minute, or when `run` has ended."""
        try:
            async with asyncio.timeout(_SYNC_S):
                await self._ended_or_synced.wait()
        except TimeoutError as error:
            raise _not_synced(f"not loaded within {_SYNC_S:g} s") from error
        if not self.synced:
            raise _not_synced("the reconciler ended before it was loaded")

    # --- what others ask

    def leased_keys_of(self, node: str) -> list[str]:
        """The keys of a node's instances and ejections in the store, as far as they are known here."""
        instances = [instance_key(item.namespace, item.node, item.id) for item in self.mesh.instances_of(node)]
        ejections = (item for item in self.mesh.ejections() if item.node == node)
        return instances + [ejection_key(item.cluster, item.endpoint, item.node) for item in ejections]

    def peers(self) -> tuple[ReplicaRecord, ...]:
        """The replicas that are alive, this one included, by name."""
        return tuple(record for _, record in sorted(self._reader.replicas.items()))

    def conditions(self) -> tuple[Condition, ...]:
        """All that users should know about their objects: the compiler's findings, what is unreadable or refused."""
        unreadable = (
            Condition(ref, "Accepted", "False", "Unreadable", f"the stored value cannot be read: {reason}")
            for ref, reason in self._reader.unreadable_objects().items()
        )
        refused = rejection_conditions(self._ledger.rejections())
        unfetched = key_conditions(self.cache.mesh, self.jwks_problems)
        return (*self._findings(self.cache.mesh), *unreadable, *refused, *unfetched)

    def _findings(self, mesh: MeshState) -> tuple[Condition, ...]:
        return (*self._compiler.conditions(mesh), *expiry_conditions(mesh.secrets.values(), self._clock.wall()))

    def statuses(self) -> Mapping[ObjectRef, bytes]:
        """The status of each object that has a condition or is used by a proxy, as the store keeps it."""
        conditions = self.conditions()
        objects = self.cache.mesh.objects
        found = self._reaching.reaches(self.cache.views(), self._reader.revisions)
        reaches = {ref: reach for ref, reach in found.items() if ref in objects}
        details = self._gateway_api.of(self.cache.mesh)
        refs = {*(item.ref for item in conditions), *reaches, *details}
        generations = {ref: objects[ref].metadata.generation for ref in refs if ref in objects}
        return self._book.values(conditions, generations, self._clock.wall(), reaches, details)

    def preview(self, puts: Sequence[PolicyObject], deletes: Sequence[ObjectRef]) -> tuple[Condition, ...]:
        """The compiler's findings as they would be with these changes."""
        return self._findings(self.previewed(puts, deletes))

    def previewed(self, puts: Sequence[PolicyObject], deletes: Sequence[ObjectRef]) -> MeshState:
        """The newest state with these changes; it is of a revision that does not exist yet."""
        changes = Changes(revision=self.mesh.revision + 1, objects=tuple(puts), deleted_objects=tuple(deletes))
        return self.mesh.with_changes(changes)

    # --- following the store

    async def _follow(self) -> None:
        async for step in self._store.watch(ROOT):
            gathered = await self._read(step)
            staged = self.rollouts.read(step.puts, step.deletes)
            self._revision = step.revision
            if gathered or staged or not self.synced:
                changes = gathered.as_changes(step.revision)
                self.mesh = self.mesh.with_changes(changes)
                self._candidate = followed(self._candidate, self.rollouts.overlay, self.mesh, changes)
                self._note_change()
            elif self._debounce.due is None:
                self._ledger.publish(step.revision)  # nothing that a proxy could wait for
        raise MeshError(ErrorCode.UNAVAILABLE, "the store ended the watch", subject="store")

    async def _read(self, step: Step) -> Gathered:
        gathered = Gathered()
        for start in range(0, len(step.puts), _ENTRIES_AT_ONCE):
            self._reader.put(step.puts[start : start + _ENTRIES_AT_ONCE], gathered)
            await asyncio.sleep(0)
        self._reader.delete(step.deletes, gathered)
        unreadable = len(self._reader.unreadable)
        self._metrics.unreadable.set(unreadable)
        if step.full and unreadable:
            key, reason = next(iter(self._reader.unreadable.items()))
            _log.warning("stored values cannot be read; they are left out", count=unreadable, key=key, reason=reason)
        return gathered

    def _note_change(self) -> None:
        now = self._clock.monotonic()
        self._debounce.changed(now)
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        self._changed.set()

    # --- publishing

    async def _publish_all(self) -> None:
        while True:
            await self._until_due()
            try:
                await self._publish()
            except Exception as error:  # noqa: BLE001 - proxies keep what they have; what failed is logged whole
                self._metrics.failures.inc()
                _log.error("a publication failed", exc_info=error, revision=self._revision)

    async def _until_due(self) -> None:
        while True:
            due = self._debounce.due
            if due is None:
                self._changed.clear()
                await self._changed.wait()
            elif (left := due - self._clock.monotonic()) > 0:
                await asyncio.sleep(left)
            else:
                return

    async def _publish(self) -> None:
        begun = self._clock.monotonic()
        revision, mesh, candidate = self._revision, self.mesh, self._candidate
        if self._waiting_since is not None:
            self._metrics.debounce_time.observe(begun - self._waiting_since)
        self._waiting_since = None
        self._debounce.flushed(begun)  # what comes from now on waits for the next publication
        self.cache.advance(mesh, candidate)
        await self._refresh()
        self._ledger.publish(revision)
        self._note_published(candidate, revision)
        self._metrics.publications.inc()
        self._metrics.revision.set(revision)
        self._metrics.push_time.observe(self._clock.monotonic() - begun)
        if not self.synced:
            self.synced = True
            self._ended_or_synced.set()

    def _note_published(self, candidate: Candidate | None, revision: int) -> None:
        """The revision is the one that first brought the rollout's present state, so that its answers are those."""
        known = self.published
        if candidate is None:
            self.published = None
        elif known is None or known.candidate.overlay is not candidate.overlay:
            self.published = Published(candidate, revision)

    async def _refresh(self) -> None:
        """Give every stream its new view; others get a turn after each slice."""
        until = self._clock.monotonic() + _SLICE_S
        for update in self.cache.refresh():
            self._deliver((update,))
            if self._clock.monotonic() >= until:
                await asyncio.sleep(0)
                until = self._clock.monotonic() + _SLICE_S


def _not_synced(reason: str) -> MeshError:
    return MeshError(ErrorCode.UNAVAILABLE, reason, subject="first snapshot", hint="is the store reachable?")
