"""What this replica can say about the mesh: the one object that the API reads (its MeshView).

Owns:   joining cache, ledger, traffic, breakers, events and readiness; previews of changes that are not stored yet.
Not:    any state of its own.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from controlplane.compiler.types import Condition
from controlplane.distribution.breakers import BreakerRow, BreakerTable
from controlplane.distribution.events import EventLog
from controlplane.distribution.ledger import DistributionLedger
from controlplane.distribution.replicas import ReplicaRecord
from controlplane.distribution.traffic import Traffic, TrafficTable
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Proxy
from controlplane.policy.objects import PolicyObject
from controlplane.reconcile.reconciler import Reconciler
from controlplane.snapshot.view import View
from mesh.vocabulary import ObjectRef


class ReplicaView:
    """Nothing here waits."""

    def __init__(
        self,
        *,
        reconciler: Reconciler,
        ledger: DistributionLedger,
        traffic: TrafficTable,
        events: EventLog,
        readiness: Callable[[], Mapping[str, str]],
        breakers: BreakerTable | None = None,
    ) -> None:
        self._reconciler = reconciler
        self._ledger = ledger
        self._traffic = traffic
        self._events = events
        self._readiness = readiness
        self._breakers = breakers if breakers is not None else BreakerTable()

    def mesh(self) -> MeshState:
        return self._reconciler.mesh

    def ledger(self) -> DistributionLedger:
        return self._ledger

    def config_dump(self, node: str) -> View | None:
        return self._reconciler.cache.view_of(node)

    def traffic(self) -> tuple[Traffic, ...]:
        return self._traffic.snapshot(time.monotonic())

    def breakers(self) -> tuple[BreakerRow, ...]:
        return self._breakers.rows()

    def events(self) -> Sequence[Mapping[str, str]]:
        return [event.as_json() for event in self._events.events()]

    def ready(self) -> Mapping[str, str]:
        return self._readiness()

    def preview(self, puts: Sequence[PolicyObject], deletes: Sequence[ObjectRef]) -> tuple[Condition, ...]:
        return self._reconciler.preview(puts, deletes)

    def previewed(self, puts: Sequence[PolicyObject], deletes: Sequence[ObjectRef]) -> MeshState:
        return self._reconciler.previewed(puts, deletes)

    def rollout_of(self, node: str) -> str:
        candidate = self._reconciler.cache.candidate
        return candidate.overlay.rollout if candidate is not None and candidate.overlay.stages(node) else ""

    def connected(self) -> Mapping[str, Proxy]:
        return self._reconciler.cache.connected()

    def conditions(self) -> tuple[Condition, ...]:
        return self._reconciler.conditions()

    def peers(self) -> tuple[ReplicaRecord, ...]:
        return self._reconciler.peers()
