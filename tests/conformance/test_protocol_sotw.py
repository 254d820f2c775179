"""The protocol suite of control-plane.md 5.1: what only SotW has, over real streams."""

from collections.abc import AsyncIterator

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse

from tests.conformance.protocol import CDS, EDS, LDS, RDS, ROUTES, A, B, Plane, client, cluster, mesh, rule, service
from tests.support.ads import served


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with served(Plane(mesh("a", "b"))) as plane:
        yield plane


async def test_rule_04_a_stale_nonce_is_not_answered(plane: Plane) -> None:
    """Rule 4: the client has not seen the newest response yet: its request is about an older state."""
    one = client(plane, delta=False)
    await one.want(EDS, A)
    first = await one.receive()
    plane.scale("a", 9)
    second = await one.receive()
    await one.want(EDS, A, B, nonce=first.nonce)  # stale: says nothing about what it wants now
    await one.get(LDS)
    expired = plane.metrics.expired_nonces._value.get()
    assert expired == 1
    one.nonces[EDS] = second.nonce
    assert (await one.get(EDS, A, B)).names == {B}


async def test_rule_04_the_first_request_of_a_stream_is_answered_whatever_nonce_it_carries(plane: Plane) -> None:
    """Rule 4: what a client brings from another server says nothing here."""
    one = client(plane, delta=False)
    await one.stream.send(type_url=CDS, version_info="17", response_nonce="of another server")
    assert {A, B} <= (await one.receive()).names


async def test_rule_08_the_life_of_a_wildcard(plane: Plane) -> None:
    """Rule 8: nothing ever named = everything; `*` and a name; the name alone; nothing."""
    one = client(plane, delta=False)
    everything = await one.get(CDS)
    assert {A, B} <= everything.names
    await one.want(CDS, "*", A)
    await one.assert_quiet()
    plane.apply(rule("b", 3))
    assert {A, B} <= (await one.take()).names
    await one.want(CDS, A)  # b's changes are of no concern now
    await one.assert_quiet()
    plane.apply(rule("b", 4))
    await one.assert_quiet()
    plane.apply(rule("a", 4))
    assert (await one.take()).names == {A}
    await one.want(CDS)  # nothing: not everything, since it has named something
    await one.assert_quiet()
    plane.apply(rule("a", 5))
    await one.assert_quiet()


async def test_rule_08_no_names_are_no_wildcard_for_other_types(plane: Plane) -> None:
    """Rule 8: only listeners and clusters have one."""
    one = client(plane, delta=False)
    await one.want(RDS)
    await one.assert_quiet()


async def test_rule_09_a_grown_set_is_answered_at_the_same_version(plane: Plane) -> None:
    """Rule 9: {a} -> {a, b}: b comes though nothing changed."""
    one = client(plane, delta=False)
    assert (await one.get(EDS, A)).names == {A}
    assert B in (await one.get(EDS, A, B)).names


async def test_rule_09_what_was_dropped_and_asked_for_again_is_sent_again(plane: Plane) -> None:
    """Rule 9: {a, b} -> {a} -> {a, b}: the client has forgotten b in between."""
    one = client(plane, delta=False)
    assert (await one.get(EDS, A, B)).names == {A, B}
    await one.want(EDS, A)
    assert B in (await one.get(EDS, A, B)).names
    other = client(plane, delta=False, name="node-2")
    assert (await other.get(CDS, A, B)).names == {A, B}
    await other.want(CDS, A)
    assert B in (await other.get(CDS, A, B)).names


async def test_rule_10_absence_from_the_full_state_is_deletion(plane: Plane) -> None:
    """Rule 10: clusters and listeners come whole; an empty answer deletes all that was asked for."""
    one = client(plane, delta=False)
    assert (await one.get(CDS, A, B)).names == {A, B}
    plane.apply(rule("a", 3))
    assert (await one.take()).names == {A, B}
    plane.remove("b")
    assert (await one.take()).names == {A}
    plane.remove("a")
    assert (await one.take()).names == set()


async def test_rule_10_other_types_come_in_parts(plane: Plane) -> None:
    """Rule 10: of endpoints and routes only what changed is sent; none can be deleted."""
    one = client(plane, delta=False)
    await one.get(EDS, A, B)
    plane.scale("b", 9)
    assert (await one.take()).names == {B}


async def test_rule_11_bar_comes_when_it_exists_and_clusters_do_not_come_again(plane: Plane) -> None:
    """Rules 6 and 11: endpoints {foo, bar}, bar is made after the ACK."""
    one = client(plane, delta=False)
    await one.get(CDS, A)
    late = cluster("c")
    assert (await one.get(EDS, A, late)).resources[late].endpoints == []
    plane.apply(service("c"))
    await one.assert_quiet()  # still no endpoint of it
    plane.scale("c", 1)
    assert (await one.take()).names == {late}
    await one.assert_quiet()


async def test_rule_12_listeners_by_name_are_these_only(plane: Plane) -> None:
    """Rule 12: a client that names its listeners gets no others."""
    one = client(plane, delta=False)
    whole = await one.get(LDS)
    (name,) = whole.names
    other = client(plane, delta=False, name="node-2")
    assert (await other.get(LDS, name, "nobody")).names == {name}


async def test_rule_25_what_does_not_exist_is_said(plane: Plane) -> None:
    """Rule 25: resource_errors replace the 15 s timer for clients that know them."""
    one = client(plane, delta=False)
    await one.get(CDS, A, "nobody")
    (error,) = DiscoveryResponse.FromString(one.stream.raw[-1]).resource_errors
    assert (error.resource_name.name, error.error_detail.code) == ("nobody", 5)


async def test_rule_02_a_version_survives_the_stream(plane: Plane) -> None:
    """Rule 2: the client that comes back sees the version that it has."""
    one = client(plane, delta=False)
    before = [(await one.get(url, *names)).version for url, names in ((CDS, ()), (EDS, (A, B)), (RDS, (ROUTES,)))]
    one.stream.cancel()
    again = client(plane, delta=False)
    after = [(await again.get(url, *names)).version for url, names in ((CDS, ()), (EDS, (A, B)), (RDS, (ROUTES,)))]
    assert after == before
