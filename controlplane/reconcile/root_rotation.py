"""Follows the roots of the CA on this replica, and moves a rotation of them on.

Owns:   when to look, what this replica confirms, who moves it (whoever sees first that it may).
Not:    the phases and their transactions (ca.rotation), how proxies get the roots (compiler.secrets).
Invariant: nothing is kept here that a successor would need.
"""

import asyncio

from controlplane.ca.rotation import Phase, Rotation, Rotations
from controlplane.ca.service import CertificateAuthority
from controlplane.distribution.events import EventLog
from controlplane.distribution.ledger import DistributionLedger
from controlplane.reconcile.reconciler import Reconciler
from controlplane.reconcile.replica import Replica
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger

_log = get_logger(__name__)

EVERY_S = 2.0
_TEXTS = {
    Phase.DISTRIBUTING: "every proxy trusts the new root too: it signs from now on",
    Phase.SIGNING: "what the old root signed has expired: it is dropped",
}


class RootRotation:
    """One per replica."""

    def __init__(
        self,
        *,
        authority: CertificateAuthority,
        rotations: Rotations,
        replica: Replica,
        reconciler: Reconciler,
        ledger: DistributionLedger,
        events: EventLog,
        clock: Clock,
    ) -> None:
        self._authority = authority
        self._rotations = rotations
        self._replica = replica
        self._reconciler = reconciler
        self._ledger = ledger
        self._events = events
        self._clock = clock
        self._confirmed: tuple[object, ...] = ()

    async def run(self) -> None:
        """Look every two seconds until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except MeshError as error:
                _log.warning("cannot follow the CA's roots; trying again", reason=str(error))

    async def look(self) -> None:
        """Use the roots that are in the store; confirm and move a rotation when it is time."""
        if await self._authority.reload():
            _log.info("the CA's roots have changed", signer=self._authority.root_fingerprint[:16])
        found = await self._rotations.present()
        if found is None or not self._replica.lease:
            return
        await self._confirm(found)
        replicas = {peer.name for peer in self._reconciler.peers()}
        if found.may_end(await self._rotations.confirmed(found), replicas, self._clock.wall()):
            await self._move(found)

    async def _confirm(self, found: Rotation) -> None:
        mark = (found.new, found.phase, self._replica.generation)
        if mark != self._confirmed and self._is_done(found):
            ttl_s = self._authority.leaf_ttl_s
            await self._rotations.confirm(found, self._replica.name, self._replica.lease, ttl_s)
            self._confirmed = mark

    def _is_done(self, found: Rotation) -> bool:
        """This replica's part of the phase."""
        if found.phase is Phase.SIGNING:
            return self._authority.root_fingerprint.startswith(found.new)
        if not self._authority.trusts(found.new) or not self._ledger.settled(found.revision):
            return False
        return not self._ledger.revision_status(found.revision).rejected

    async def _move(self, found: Rotation) -> None:
        try:
            await self._rotations.move(found)
        except MeshError as error:
            if error.code is not ErrorCode.CONFLICT:  # else another replica was first
                raise
            return
        self._events.add(self._clock.wall(), "RootChanged", "CA", _TEXTS[found.phase])
        _log.info(_TEXTS[found.phase], old=found.old, new=found.new)
        await self._authority.reload()
