"""Replacing the CA's root: both are trusted, then the new one signs, then the old one goes; over replicas."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from controlplane.ca.rotation import Phase
from controlplane.ca.service import CertificateAuthority, open_authority
from controlplane.distribution.stream_sync import Sent, Span
from controlplane.reconcile.replica import Replica
from controlplane.reconcile.root_rotation import RootRotation
from controlplane.store.keys import CA_ROOTS
from controlplane.store.memory import MemoryStore
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn
from mesh.xds.names import TRUST_SECRET
from mesh.xds.type_url import SECRET
from tests.support.clock import ManualClock
from tests.support.plane import Plane, plane, until
from tests.support.resources import cluster

TTL_S = 1000


class One:
    """A replica, as far as roots concern it."""

    def __init__(self, made: Plane, authority: CertificateAuthority, replica: Replica, clock: ManualClock) -> None:
        self.plane, self.authority, self.replica = made, authority, replica
        self.driver = RootRotation(
            authority=authority, rotations=authority.rotations, replica=replica, reconciler=made.reconciler,
            ledger=made.ledger, events=made.events, clock=clock,
        )  # fmt: skip

    @property
    def trusted(self) -> list[str]:
        """The ids of the roots, the signing one first."""
        return [fingerprint[:16] for fingerprint in self.authority._authority.fingerprints]

    @property
    def given(self) -> int:
        """How many roots its agents are to trust."""
        view = self.plane.reconciler.cache.views()[1]
        resource = view.get(SECRET, TRUST_SECRET)
        assert resource is not None
        return resource.body.count(b"BEGIN CERTIFICATE")


class Mesh:
    def __init__(self, store: MemoryStore, clock: ManualClock, replicas: list[One]) -> None:
        self.store, self.clock, self.replicas = store, clock, replicas

    async def turn(self, *, acknowledge: bool = True) -> None:
        """Every replica looks; its proxies take what they are given."""
        for one in self.replicas:
            await one.driver.look()
            await self.settle()
            if acknowledge:
                for sync in one.plane.syncs.values():
                    sync.take_queued(Span(0, 0))

    async def settle(self) -> None:
        revision = (await self.store.list("/")).revision
        for one in self.replicas:
            await one.plane.published(revision)

    async def phase(self) -> Phase | None:
        found = await self.replicas[0].authority.rotations.present()
        return found.phase if found is not None else None


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """Two replicas with a proxy each."""
    store, clock = MemoryStore(), ManualClock(wall_s=1_790_000_000.0)
    async with AsyncExitStack() as stack:
        replicas = []
        for name in ("cp-1", "cp-2"):
            made = await stack.enter_async_context(plane(store))
            authority = await open_authority(
                store, state_dir=tmp_path, trust_domain="cluster.local", clock=clock, leaf_ttl_s=TTL_S
            )
            replica = Replica(store, name)
            stack.push_async_callback(cancel_and_wait, spawn(name, replica.run({"rest": "127.0.0.1:1"})))
            await until(lambda replica=replica: bool(replica.lease))
            made.connect(f"node-{name}")
            replicas.append(One(made, authority, replica, clock))
        found = Mesh(store, clock, replicas)
        await found.settle()
        yield found


async def test_a_rotation_goes_through_its_phases_by_itself(mesh: Mesh) -> None:
    one = mesh.replicas[0]
    (old,) = one.trusted
    begun = await one.authority.rotations.begin("ann")
    assert (begun.old, begun.phase, begun.author) == (old, Phase.DISTRIBUTING, "ann")
    await mesh.turn()
    await mesh.turn()
    assert [item.trusted for item in mesh.replicas] == [[old, begun.new]] * 2
    assert [item.given for item in mesh.replicas] == [2, 2]

    mesh.clock.advance(TTL_S)  # nodes may still be away that know the old root only
    await mesh.turn()
    assert await mesh.phase() is Phase.DISTRIBUTING
    mesh.clock.advance(TTL_S / 10 + 1)
    await mesh.turn()
    assert await mesh.phase() is Phase.SIGNING
    await mesh.turn()
    assert [item.trusted for item in mesh.replicas] == [[begun.new, old]] * 2
    assert [item.given for item in mesh.replicas] == [2, 2]
    mesh.clock.advance(TTL_S)
    await mesh.turn()
    assert await mesh.phase() is Phase.SIGNING
    mesh.clock.advance(TTL_S / 10 + 1)
    await mesh.turn()
    await mesh.turn()
    assert await mesh.phase() is None
    assert [item.trusted for item in mesh.replicas] == [[begun.new]] * 2
    assert [item.given for item in mesh.replicas] == [1, 1]
    assert [entry.key for entry in (await mesh.store.list(CA_ROOTS)).entries] == [f"{CA_ROOTS}{begun.new}"]
    told = [event.type for item in mesh.replicas for event in item.plane.events.events()]
    assert told == ["RootChanged"] * 2


async def test_the_servers_certificate_and_new_tokens_follow_the_signer(mesh: Mesh) -> None:
    one, _ = mesh.replicas
    identity = one.authority.server_identity()
    before = identity.current()
    assert identity.current() is before
    begun = await one.authority.rotations.begin("ann")
    await one.driver.look()
    both = identity.current()
    assert (both.bundle_pem.count(b"BEGIN"), both.chain_pem.endswith(before.chain_pem[-200:])) == (2, True)
    for _ in range(3):
        await mesh.turn()
    mesh.clock.advance(2 * TTL_S)
    await mesh.turn()
    await mesh.turn()
    assert one.authority.root_fingerprint.startswith(begun.new)
    after = identity.current()
    assert not after.chain_pem.endswith(before.chain_pem[-200:])
    minted = await one.authority.tokens.create(node="node-9", ttl_s=60, uses=1, author="ann")
    assert minted.text.reveal().endswith(one.authority.root_fingerprint)


async def test_a_proxy_that_has_not_answered_or_refuses_holds_it(mesh: Mesh) -> None:
    one, two = mesh.replicas
    await one.authority.rotations.begin("ann")
    mesh.clock.advance(2 * TTL_S)
    for _ in range(3):
        await mesh.turn(acknowledge=False)
    assert await mesh.phase() is Phase.DISTRIBUTING
    (sync,) = two.plane.syncs.values()
    await mesh.settle()
    span = sync.take_queued(Span(0, 0))
    sync.sent(SECRET, "1", Sent(span, {"x": cluster("x")}, frozenset({"x"})))
    sync.nack(SECRET, "1", "x: no", {"x": "no"})
    for _ in range(3):
        await mesh.turn()
    assert await mesh.phase() is Phase.DISTRIBUTING
    sync.forget(SECRET, "x")
    for _ in range(3):
        await mesh.turn()
    assert await mesh.phase() is Phase.SIGNING


async def test_a_replica_that_has_not_confirmed_holds_it(mesh: Mesh) -> None:
    one, two = mesh.replicas
    await one.authority.rotations.begin("ann")
    mesh.clock.advance(2 * TTL_S)
    for sync in one.plane.syncs.values():
        sync.take_queued(Span(0, 0))
    mesh.replicas = [one]
    for _ in range(3):
        await mesh.turn()
    assert await mesh.phase() is Phase.DISTRIBUTING
    mesh.replicas = [one, two]
    for _ in range(3):
        await mesh.turn()
    assert await mesh.phase() is Phase.SIGNING


async def test_abort_drops_the_new_root_while_it_does_not_sign(mesh: Mesh) -> None:
    one, _ = mesh.replicas
    rotations = one.authority.rotations
    with pytest.raises(MeshError) as missing:
        await rotations.abort()
    assert missing.value.code is ErrorCode.NOT_FOUND
    (old,) = one.trusted
    await rotations.begin("ann")
    with pytest.raises(MeshError) as second:
        await rotations.begin("bob")
    assert second.value.code is ErrorCode.CONFLICT
    await mesh.turn()
    await rotations.abort()
    await mesh.turn()
    assert [item.trusted for item in mesh.replicas] == [[old]] * 2
    await rotations.begin("ann")
    for _ in range(3):
        await mesh.turn()
    mesh.clock.advance(2 * TTL_S)
    await mesh.turn()
    assert await mesh.phase() is Phase.SIGNING
    with pytest.raises(MeshError, match="the new root signs already") as late:
        await rotations.abort()
    assert late.value.code is ErrorCode.CONFLICT
