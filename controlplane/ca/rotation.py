"""Changing the mesh's root while everything goes on: the record in the store and the transactions that move it.

Owns:   the record, the replicas' confirmations, when a phase may end.
Not:    looking at proxies and moving it (reconcile.root_rotation), the roots themselves (roots.py).

    (none) --begin--> DISTRIBUTING --switch--> SIGNING --finish--> (none)
                          `---------abort: the new root is dropped---^

    DISTRIBUTING  both roots are trusted, the old one signs
    SIGNING       both roots are trusted, the new one signs
    finish        the old root is dropped, with its key

A phase ends when every replica that is alive has confirmed it (DISTRIBUTING: it trusts both, and so does every proxy
that is connected to it; SIGNING: it signs with the new root), and when the longest life of a certificate, and a tenth
more, is over since it began. So a node that was away meanwhile has either been there in between, or has no valid
certificate left and joins anew; and what the old root signed has expired when it is dropped.

Invariants: one rotation at a time; each move is one transaction from the revision that was read.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from controlplane.ca import roots
from controlplane.ca.authority import create_root
from controlplane.ca.sealing import SealingKey
from controlplane.store.keys import CA_CONFIRMED, CA_ROTATION, CA_SIGNER, ca_confirmed_key, ca_root_key
from controlplane.store.protocol import Check, ConfigStore, Delete, Entry, ModRevisionIs, Op, Put
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError

_LONGER = 1.1  # clocks differ, and certificates are made from SKEW_S before


class Phase(StrEnum):
    """Of a rotation."""

    DISTRIBUTING = "Distributing"
    SIGNING = "Signing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """`old`, `new`: ids of roots; `since`: when the phase began, seconds since the epoch; `revision`: of the record."""

    old: str
    new: str
    phase: Phase
    since: float
    author: str
    revision: int = 0

    def may_end(self, confirmed: Mapping[str, float], replicas: Collection[str], now: float) -> bool:
        """`confirmed`: replica -> how long the certificates that it signs live, in seconds; `replicas`: all alive."""
        if not replicas or not confirmed.keys() >= set(replicas):
            return False
        return now >= self.ends_at(max(confirmed.values()))

    def ends_at(self, leaf_ttl_s: float) -> float:
        """When the phase may end at the earliest, seconds since the epoch."""
        return self.since + _LONGER * leaf_ttl_s


class Rotations:
    """The rotation of this mesh. `sealing` must be the same on every replica."""

    def __init__(self, store: ConfigStore, sealing: SealingKey, clock: Clock, *, trust_domain: str) -> None:
        self._store = store
        self._sealing = sealing
        self._clock = clock
        self._trust_domain = trust_domain

    async def present(self) -> Rotation | None:
        """The one that is under way."""
        entry = await self._store.get(CA_ROTATION)
        return _decode(entry) if entry is not None else None

    async def begin(self, author: str) -> Rotation:
        """Put a new root beside the present one. Raises CONFLICT when a rotation is under way."""
        signer = await self._store.get(CA_SIGNER)
        if signer is None:
            raise MeshError(ErrorCode.UNAVAILABLE, "the CA has no root yet", subject="CA")
        now = self._clock.wall()
        root_id, value = roots.encoded(create_root(self._trust_domain, now), self._sealing, self._trust_domain)
        begun = Rotation(
            old=signer.value.decode(), new=root_id, phase=Phase.DISTRIBUTING, since=now, author=author
        )  # fmt: skip
        checks = (ModRevisionIs(CA_ROTATION, 0), ModRevisionIs(CA_SIGNER, signer.mod_revision))
        ops: list[Op] = [Put(ca_root_key(root_id), value), Put(CA_ROTATION, _encode(begun))]
        return replace(begun, revision=await self._transact(checks, ops))

    async def abort(self) -> Rotation:
        """Drop the new root again. Raises NOT_FOUND, and CONFLICT when it signs already."""
        found = await self.present()
        if found is None:
            raise MeshError(ErrorCode.NOT_FOUND, "none is under way", subject="rotation of the CA's root")
        if found.phase is not Phase.DISTRIBUTING:
            raise MeshError(
                ErrorCode.CONFLICT,
                "the new root signs already: certificates of it are in use",
                subject="rotation of the CA's root",
                hint="let it finish, then begin another",
            )
        await self._transact(_from(found), [Delete(ca_root_key(found.new)), Delete(CA_ROTATION)])
        return found

    async def move(self, found: Rotation) -> None:
        """End the phase. Raises CONFLICT when another replica was first."""
        if found.phase is Phase.DISTRIBUTING:
            signing = replace(found, phase=Phase.SIGNING, since=self._clock.wall())
            ops: list[Op] = [Put(CA_SIGNER, found.new.encode()), Put(CA_ROTATION, _encode(signing))]
        else:
            ops = [Delete(ca_root_key(found.old)), Delete(CA_ROTATION)]
        await self._transact(_from(found), ops)

    async def confirm(self, found: Rotation, replica: str, lease: int, leaf_ttl_s: float) -> None:
        """This replica has done its part of the phase. It holds as long as the replica's lease."""
        value = {"phase": found.phase.value, "new": found.new, "leafTtlS": leaf_ttl_s}
        await self._store.transact([], [Put(ca_confirmed_key(replica), json.dumps(value).encode(), lease)])

    async def confirmed(self, found: Rotation) -> dict[str, float]:
        """replica -> how long the certificates that it signs live, of those that have confirmed the phase."""
        entries = (await self._store.list(CA_CONFIRMED)).entries
        known = ((entry.key.removeprefix(CA_CONFIRMED), json.loads(entry.value)) for entry in entries)
        return {
            replica: float(value["leafTtlS"])
            for replica, value in known
            if (value["phase"], value["new"]) == (found.phase.value, found.new)
        }

    async def _transact(self, checks: Collection[Check], ops: list[Op]) -> int:
        done = await self._store.transact(list(checks), ops)
        if not done.succeeded:
            raise MeshError(
                ErrorCode.CONFLICT,
                "another one is under way, or it has moved on meanwhile",
                subject="rotation of the CA's root",
                hint="meshctl ca status",
            )
        return done.revision


def _from(found: Rotation) -> tuple[Check, ...]:
    return (ModRevisionIs(CA_ROTATION, found.revision),)


def _encode(rotation: Rotation) -> bytes:
    value = {
        "old": rotation.old,
        "new": rotation.new,
        "phase": rotation.phase.value,
        "since": rotation.since,
        "author": rotation.author,
    }
    return json.dumps(value, sort_keys=True).encode()


def _decode(entry: Entry) -> Rotation:
    try:
        value = json.loads(entry.value)
        return Rotation(
            old=str(value["old"]),
            new=str(value["new"]),
            phase=Phase(value["phase"]),
            since=float(value["since"]),
            author=str(value["author"]),
            revision=entry.mod_revision,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MeshError(ErrorCode.UNREADABLE, f"found {error!r}, expected a rotation", subject=entry.key) from error
