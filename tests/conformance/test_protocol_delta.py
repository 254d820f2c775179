"""The protocol suite of control-plane.md 5.1: what only delta has, over real streams."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.protocol import CDS, EDS, LDS, RDS, ROUTES, VHDS, A, B, Plane, client, cluster, mesh, rule
from tests.support.ads import served


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with served(Plane(mesh("a", "b"))) as plane:
        yield plane


async def test_rule_05_a_stale_nonce_does_not_spoil_a_subscription(plane: Plane) -> None:
    """Rule 5: subscriptions always count; a nonce only tells which response is answered."""
    one = client(plane, delta=True)
    first = await one.get(EDS, A)
    plane.scale("a", 9)
    await one.take()
    await one.stream.send(type_url=EDS, resource_names_subscribe=[B], response_nonce=first.nonce)
    assert (await one.take()).names == {B}
    await one.stream.send(type_url=EDS, resource_names_unsubscribe=[A], response_nonce="never given")
    await one.assert_quiet()
    plane.scale("a", 10)
    await one.assert_quiet()


async def test_rule_05_a_request_without_a_nonce_is_spontaneous(plane: Plane) -> None:
    """Rule 5: it acknowledges nothing."""
    one = client(plane, delta=True)
    await one.want(CDS)
    answer = await one.receive()
    await one.stream.send(type_url=CDS)
    await one.assert_quiet()
    (proxy,) = plane.ledger.proxies()
    assert {state.short_name: state.sync for state in proxy.types}["CDS"] == "pending"
    await one.ack(answer)


async def test_rule_08_the_life_of_a_wildcard(plane: Plane) -> None:
    """Rule 8: nothing named at first = everything; `*` and a name; without `*` the name stays; then nothing."""
    one = client(plane, delta=True)
    assert {A, B} <= (await one.get(CDS)).names
    await one.stream.send(type_url=CDS, resource_names_subscribe=["*", A])
    assert {A, B} <= (await one.take()).names
    await one.stream.send(type_url=CDS, resource_names_unsubscribe=["*"])
    await one.assert_quiet()
    plane.apply(rule("b", 3))
    await one.assert_quiet()
    plane.apply(rule("a", 3))
    assert (await one.take()).names == {A}
    await one.stream.send(type_url=CDS, resource_names_unsubscribe=[A])
    await one.assert_quiet()
    plane.apply(rule("a", 4))
    await one.assert_quiet()


async def test_rule_08_virtual_hosts_have_a_wildcard(plane: Plane) -> None:
    """Rule 8: Envoy's VHDS subscribes to everything with an empty list."""
    one = client(plane, delta=True)
    assert {name.partition("/")[0] for name in (await one.get(VHDS)).names} == {ROUTES}


async def test_rule_09_13_a_subscription_survives_other_responses(plane: Plane) -> None:
    """Rules 9 and 13: what happens to other types and other names takes nothing away."""
    one = client(plane, delta=True)
    await one.settle()
    for number in range(1, 4):
        plane.apply(rule("b", number))
        await one.take()
        await one.take()
    plane.scale("a", 9)
    assert (await one.take()).names == {A}


async def test_rule_13_what_the_client_has_is_not_sent_again(plane: Plane) -> None:
    """Rule 13: also by another replica, since versions are of the content."""
    one = client(plane, delta=True)
    wanted = {CDS: (), EDS: (A, B), LDS: (), VHDS: ()}
    held = {url: (await one.get(url, *names)).versions for url, names in wanted.items()}
    async with served(Plane(plane.cache.mesh, replica="replica-2")) as other:
        again = client(other, delta=True)
        for url, versions in held.items():
            await again.want(url, *wanted[url], have=versions)
        bodies = [answer.names for answer in await again.drain()]
        assert bodies == [set()] * len(bodies)
        other.scale("a", 9)
        assert (await again.take()).names == {A}


async def test_rule_13_what_went_meanwhile_is_removed(plane: Plane) -> None:
    """Rule 13: in removed_resources, or the client would keep it for ever."""
    one = client(plane, delta=True)
    held = (await one.get(CDS)).versions
    one.stream.cancel()
    plane.remove("b")
    again = client(plane, delta=True)
    await again.want(CDS, have=held)
    for url, names in ((EDS, [A]), (LDS, []), (RDS, [ROUTES]), (VHDS, [])):  # decision 20: it says which routes it has
        await again.want(url, *names)
    while (answer := await again.take()).removed != {B}:
        assert answer.url != CDS or not answer.names


async def test_rule_13_what_the_client_has_is_no_subscription(plane: Plane) -> None:
    """Rule 13: initial_resource_versions are its cache: it gets no changes of what it does not ask for."""
    one = client(plane, delta=True)
    clusters, versions = (await one.get(CDS)).versions, (await one.get(EDS, A, B)).versions
    again = client(plane, delta=True)
    await again.want(CDS, have=clusters)
    assert (await again.take()).names == set()
    await again.want(EDS, A, have=versions)
    plane.scale("b", 9)
    await again.assert_quiet()


async def test_rule_14_a_name_that_is_asked_for_again_is_sent_again(plane: Plane) -> None:
    """Rule 14: at the same version: the client may have forgotten it."""
    one = client(plane, delta=True)
    first = await one.get(EDS, A, B)
    await one.stream.send(type_url=EDS, resource_names_subscribe=[A])
    again = await one.take()
    assert again.versions == {A: first.versions[A]}


async def test_rule_14_so_is_everything(plane: Plane) -> None:
    """Rule 14: `*` again is everything again."""
    one = client(plane, delta=True)
    first = await one.get(CDS)
    await one.stream.send(type_url=CDS, resource_names_subscribe=["*"])
    assert (await one.take()).versions == first.versions


async def test_rule_15_what_does_not_exist_is_removed(plane: Plane) -> None:
    """Rule 15: said at once, so that the client need not wait for a timer; and sent when it comes (rule 11)."""
    one = client(plane, delta=True)
    answer = await one.get(CDS, A, cluster("c"))
    assert (answer.names, answer.removed) == ({A}, {cluster("c")})


async def test_rule_15_an_unsubscription_needs_no_answer(plane: Plane) -> None:
    """Rule 15: and one of what was never subscribed says nothing."""
    one = client(plane, delta=True)
    await one.get(EDS, A, B)
    await one.stream.send(type_url=EDS, resource_names_unsubscribe=[B, "phantom"])
    await one.assert_quiet()


async def test_rule_15_but_under_a_wildcard_the_client_is_told(plane: Plane) -> None:
    """Rule 15: it is still in the wildcard: sent again, or said to be gone."""
    one = client(plane, delta=True)
    await one.stream.send(type_url=CDS, resource_names_subscribe=["*", A, "nobody"])
    await one.take()
    await one.stream.send(type_url=CDS, resource_names_unsubscribe=[A, "nobody"])
    answer = await one.take()
    assert (answer.names, answer.removed) == ({A}, {"nobody"})


async def test_rule_16_what_is_referenced_is_not_removed(plane: Plane) -> None:
    """Rules 16 and 20: a cluster that a route of the client still names stays until the route has gone."""
    one = client(plane, delta=True)
    await one.settle()
    plane.remove("b")
    first = await one.receive()
    assert first.url == VHDS
    assert any("b.default" in name for name in first.removed)
    await one.assert_quiet()  # its removal is not acknowledged yet
    await one.ack(first)
    removal = await one.take()
    assert (removal.url, removal.removed) == (CDS, {B})
