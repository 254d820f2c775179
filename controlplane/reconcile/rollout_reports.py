"""What this replica reports of its own proxies while a rollout is under way.

Owns:   which of its proxies are interested, busy, pending, refusing; the counts since the epoch began.
Not:    writing the report and what follows from it (rollouts).
Source: decision 16 (aggregates only in the store), 24.
"""

import asyncio
from collections.abc import Iterable

from controlplane.distribution.ledger import DistributionLedger
from controlplane.distribution.rollout_meter import RolloutMeter
from controlplane.distribution.stream_sync import Rejection
from controlplane.distribution.traffic import TrafficTable
from controlplane.model.mesh_state import MeshState
from controlplane.model.rollout_observation import MAX_COUNT, Refusal, Report, named, place_of
from controlplane.model.rollout_overlay import Candidate, Overlay
from controlplane.reconcile.reconciler import Reconciler
from controlplane.snapshot.staging import Concerned, Interest
from mesh.xds.type_url import SHORT_NAMES

_MOST_REFUSALS = 10
_REASON_CHARS = 500
_STREAMS_AT_ONCE = 100  # that are compared before others get a turn


class Reporter:
    """One per replica. `replica`: its name."""

    def __init__(self, replica: str, reconciler: Reconciler, ledger: DistributionLedger, traffic: TrafficTable) -> None:
        self._replica = replica
        self._reconciler = reconciler
        self._ledger = ledger
        self._traffic = traffic
        self._interest = Interest()
        self._meter = RolloutMeter({})
        self._metered = ("", -1)  # the rollout and epoch that the meter is for
        self._looked: tuple[MeshState, Candidate | None, tuple[int, ...]] | None = None
        self._found: list[Concerned] = []

    async def report(self) -> Report | None:
        """The present report; None while this replica's proxies have not been told of a rollout."""
        published = self._reconciler.published
        if published is None:
            self._looked, self._found, self._interest = None, [], Interest()  # they hold whole compilations
            return None
        overlay = published.candidate.overlay
        concerned = await self._concerned()
        clusters = frozenset().union(*(item.clusters for item in concerned))
        nodes = {item.node for item in concerned}
        self._read_meter(overlay, clusters)
        staged = {node for node in nodes if overlay.stages(node)}
        pending = staged & set(self._ledger.revision_status(published.revision).pending)
        return Report(
            rollout=overlay.rollout,
            replica=self._replica,
            epoch=overlay.epoch,
            interested=len(nodes),
            lowest=_lowest(overlay, nodes),
            busy=_lowest(overlay, nodes & self._busy(clusters)),
            staged=len(staged),
            pending=named(pending),
            pending_count=len(pending),
            rejected=self._refusals(concerned, overlay),
            own=self._meter.own,
            others=self._meter.others,
        )

    async def _concerned(self) -> list[Concerned]:
        """Compared anew only when there is something new: every proxy costs a look at both of its views."""
        cache = self._reconciler.cache
        streams = tuple(cache.views())
        known = self._looked
        if known is not None and known[0] is cache.mesh and known[1] is cache.candidate and known[2] == streams:
            return self._found
        looked = (cache.mesh, cache.candidate, streams)
        found: list[Concerned] = []
        for number, item in enumerate(self._interest.look(cache, streams)):
            if item is not None:
                found.append(item)
            if number % _STREAMS_AT_ONCE == _STREAMS_AT_ONCE - 1:
                await asyncio.sleep(0)
        self._looked, self._found = looked, found
        return found

    def _read_meter(self, overlay: Overlay, clusters: frozenset[str]) -> None:
        """Every epoch counts from zero: what proxies did before they had the candidate says nothing about it."""
        if self._metered != (overlay.rollout, overlay.epoch):
            self._metered = (overlay.rollout, overlay.epoch)
            self._meter = RolloutMeter(self._traffic.totals())
        self._meter.read(self._traffic.totals(), clusters, overlay.stages)

    def _busy(self, clusters: frozenset[str]) -> set[str]:
        """The nodes that have reported requests to one of the clusters since their stream began."""
        return {node for node, cluster in self._traffic.totals() if cluster in clusters}

    def _refusals(self, concerned: Iterable[Concerned], overlay: Overlay) -> tuple[Refusal, ...]:
        """What staged proxies refuse of that which the candidate alone brings."""
        by_node = {item.node: item for item in concerned if overlay.stages(item.node)}
        found = (
            Refusal(
                node,
                f"{SHORT_NAMES[rejection.type_url]} {rejection.name}",
                " ".join(rejection.reason.split())[:_REASON_CHARS],
            )
            for node, rejection in self._ledger.rejections()
            if (item := by_node.get(node)) is not None and _is_of_candidate(rejection, item)
        )
        return tuple(refusal for refusal, _ in zip(sorted(found), range(_MOST_REFUSALS), strict=False))


def _is_of_candidate(rejection: Rejection, item: Concerned) -> bool:
    candidate = item.candidate.get(rejection.type_url, rejection.name)
    stored = item.stored.get(rejection.type_url, rejection.name)
    if candidate is None or candidate.version != rejection.version:
        return False
    return stored is None or stored.version != rejection.version


def _lowest(overlay: Overlay, nodes: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted({place_of(overlay.rollout, node) for node in nodes})[:MAX_COUNT])
