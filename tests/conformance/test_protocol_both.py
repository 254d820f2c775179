"""The protocol suite of control-plane.md 5.1: what holds for SotW and delta alike, over real streams."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from controlplane.distribution.ledger import Waiting
from controlplane.model.mesh_state import MeshState
from controlplane.registry.instances import Instance
from tests.conformance.protocol import (
    CDS,
    EDS,
    LDS,
    RDS,
    ROUTES,
    VHDS,
    A,
    B,
    Client,
    Plane,
    client,
    cluster,
    mesh,
    route,
    rule,
    service,
    ttls,
)  # fmt: skip
from tests.support.ads import NARROW, Ended, node, served, until
from tests.support.compiling import fold, instance, put

pytestmark = pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with served(Plane(mesh("a", "b"))) as plane:
        yield plane


async def test_rule_01_the_node_stands_in_the_first_request_only(plane: Plane, delta: bool) -> None:
    """Rule 1: what the first request said of the node holds for the stream; one without a node is refused."""
    one = client(plane, delta=delta)
    await one.get(CDS)
    assert (await one.get(LDS)).names  # sent without a node
    nameless = client(plane, delta=delta, name="")
    await nameless.want(CDS)
    code, details = await nameless.stream.end()
    assert (code, "node.id" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_rule_01_a_request_without_a_type_is_not_answered(plane: Plane, delta: bool) -> None:
    """Rule 1: an aggregated stream has no default type."""
    one = client(plane, delta=delta)
    await one.stream.send(type_url="")
    assert (await one.get(CDS)).url == CDS


async def test_rule_02_nonces_and_versions_are_of_one_type(plane: Plane, delta: bool) -> None:
    """Rule 2: each type counts for itself, and a nonce stands for one response."""
    one = client(plane, delta=delta)
    clusters, listeners = await one.get(CDS), await one.get(LDS)
    assert clusters.nonce != listeners.nonce
    states = {state.short_name: state for (proxy,) in [plane.ledger.proxies()] for state in proxy.types}
    await until("both acknowledged", lambda: {s.sync for p in plane.ledger.proxies() for s in p.types} == {"synced"})
    assert {"CDS", "LDS"} <= states.keys()
    plane.apply(rule("a", 1))
    changed = await one.take()
    assert changed.url == CDS
    assert changed.version != clusters.version
    await one.assert_quiet()  # the listeners have their own version


async def test_rule_02_versions_are_of_the_content(delta: bool) -> None:
    """Rule 2: another replica, started later and with another revision, gives the same versions."""
    found = []
    for name, extra in (("replica-1", 0), ("replica-2", 5)):
        state = mesh("a", "b")
        for number in range(extra):
            state = put(state, instance("x", node="far", service="nobody", address=f"10.9.9.{number + 1}"))
        async with served(Plane(put(state, instance("x", node="far", service="nobody")), replica=name)) as plane:
            answer = await client(plane, delta=delta).get(EDS, A, B)
            assert answer.raw.control_plane.identifier == name
            found.append(answer.versions if delta else answer.version)
    assert found[0] == found[1]


async def test_rule_03_only_error_detail_is_a_refusal(plane: Plane, delta: bool) -> None:
    """Rule 3: a request that still shows an old version, or none, refuses nothing."""
    one = client(plane, delta=delta)
    answer = await one.get(CDS)
    plane.apply(rule("a", 1))
    await one.receive()
    if delta:
        await one.stream.send(type_url=CDS)
    else:
        await one.stream.send(type_url=CDS, version_info=answer.version, response_nonce=one.nonces[CDS])
    await one.assert_quiet()
    assert plane.ledger.rejections() == ()


async def test_rule_06_an_acknowledgement_needs_no_answer(plane: Plane, delta: bool) -> None:
    """Rule 6: and what did not change for a proxy is not sent to it."""
    one = client(plane, delta=delta)
    await one.get(CDS)
    await one.get(EDS, A)
    await one.assert_quiet()
    plane.scale("b", 9)  # not subscribed
    await one.assert_quiet()
    plane.publish(fold(plane.cache.mesh, service("a")))  # a write that changes nothing
    await one.assert_quiet()
    plane.scale("a", 9)
    assert (await one.take()).names == {A}


async def test_rule_06_what_is_refused_is_not_sent_again_until_it_changes(plane: Plane, delta: bool) -> None:
    """Rule 6: no hot loop; a later version recovers; other resources of the type go on."""
    one = client(plane, delta=delta)
    await one.settle()
    plane.apply(rule("a", 1))
    bad = await one.receive()
    for _ in range(3):
        await one.ack(bad, error=f"{A}: no")
    assert (await one.take()).url == EDS  # rule 18: it follows its cluster
    await one.assert_quiet()
    ((_, rejection),) = plane.ledger.rejections()
    assert (rejection.name, rejection.certain) == (A, True)
    plane.apply(rule("b", 1))
    clusters = await one.receive()
    assert B in clusters.names
    await one.ack(clusters, error="" if delta else f"{A}: no")  # the full state repeats what was refused
    assert (await one.take()).url == EDS
    assert plane.ledger.rejections() != ()
    plane.apply(rule("a", 2))
    good = await one.take()
    assert good.resources[A].circuit_breakers.thresholds[0].max_connections.value == 2
    await one.take()
    await until("recovered", lambda: plane.ledger.rejections() == ())


async def test_rule_07_no_name_stands_twice(plane: Plane, delta: bool) -> None:
    """Rule 7: also when the client asks twice, by its name and by everything."""
    one = client(plane, delta=delta)
    field = "resource_names_subscribe" if delta else "resource_names"
    await one.stream.send(type_url=CDS, **{field: ["*", A, A]})
    answer = await one.receive()
    raw = [item.name for item in answer.raw.resources] if delta else list(answer.resources)
    assert sorted(raw) == sorted(set(raw))
    assert {A, B} <= set(raw)


async def test_rule_07_a_response_fits_into_grpc_s_default_limit(delta: bool) -> None:
    """Rule 7: 4 MiB is what a client takes unless told otherwise: what may be split is."""
    names = ("a", "b", "c", "d", "e", "f")
    large = put(mesh(*names), *(many for name in names for many in instances(name, 3000)))
    async with served(Plane(large)) as plane:
        one = client(plane, delta=delta)
        wanted = {cluster(name) for name in names}
        await one.want(EDS, *wanted)
        seen: set[str] = set()
        while seen != wanted:
            answer = await one.take()
            assert len(one.stream.raw[-1]) < 4 * 1024 * 1024
            assert not seen & answer.names
            seen |= answer.names
        assert sum(map(len, one.stream.raw)) > 4 * 1024 * 1024


def instances(name: str, count: int) -> list[Instance]:
    """Each in a locality of its own with a long name, so that their assignment is large."""
    return [
        instance(
            f"{name}{number}", node=f"far-{number}", service=name, address=f"10.0.{number // 250}.{number % 250}",
            locality=f"{'r' * 200}/{number}",
        )
        for number in range(count)
    ]  # fmt: skip


async def test_rule_11_an_endpoint_name_of_a_cluster_that_went_gets_an_empty_assignment(delta: bool) -> None:
    """Rule 11: after a failover to a replica that no longer has the cluster, the Envoy must not warm for ever."""
    async with served(Plane(mesh("a"), replica="replica-2")) as plane:
        answer = await client(plane, delta=delta).get(EDS, A, B)
        assert answer.names == {A, B}
        assert list(answer.resources[B].endpoints) == []


async def test_rule_11_a_name_is_remembered_until_it_exists(plane: Plane, delta: bool) -> None:
    """Rule 11: what exists is not held back for what does not, and that comes the moment that it is there."""
    one = client(plane, delta=delta)
    await one.get(CDS)
    late = cluster("c")
    answer = await one.get(EDS, A, late)
    assert len(answer.resources[A].endpoints) == 1
    plane.apply(service("c"))
    plane.scale("c", 1)
    seen = [await one.take() for _ in range(2)]
    assert {item.url for item in seen} == {CDS, EDS}
    assert len(seen[-1].resources[late].endpoints) == 1


async def test_rule_17_clusters_endpoints_listeners_routes(plane: Plane, delta: bool) -> None:
    """Rule 17: one change that concerns all types comes in this order, whatever order was asked in."""
    one = client(plane, delta=delta)
    new = cluster("c")
    for url, names in ((RDS, [ROUTES]), (LDS, []), (EDS, [A, B, new]), (CDS, [])):
        await one.want(url, *names)
    url = VHDS if delta else RDS
    if delta:
        await one.want(VHDS)
    await one.drain()
    plane.publish(with_c(plane))
    seen = [await one.take()]
    while new not in str(seen[-1].resources) or seen[-1].url != url:
        seen.append(await one.take())
    assert [answer.url for answer in seen if new in str(answer.resources)] == [CDS, EDS, url]


async def test_rule_18_endpoints_follow_every_cluster_change(plane: Plane, delta: bool) -> None:
    """Rule 18: though they did not change: Envoy warms a cluster only on a new assignment."""
    one = client(plane, delta=delta)
    await one.settle()
    plane.apply(rule("a", 7))
    first, second = await one.take(), await one.take()
    assert (first.url, second.url, second.names) == (CDS, EDS, {A})
    await one.assert_quiet()


async def test_rule_18_endpoints_that_are_asked_for_before_clusters_come_again(plane: Plane, delta: bool) -> None:
    """Rule 18: an Envoy that reconnects may ask in that order; then its clusters would warm for ever."""
    one = client(plane, delta=delta)
    await one.get(EDS, A)
    await one.want(CDS)
    first, second = await one.take(), await one.take()
    assert (first.url, second.url, second.names) == (CDS, EDS, {A})


async def test_rule_19_a_route_configuration_that_does_not_exist_is_answered(plane: Plane, delta: bool) -> None:
    """Rule 19: a listener that waits for its routes is told that there are none, so that it does not wait for ever."""
    one = client(plane, delta=delta)
    answer = await one.get(RDS, "outbound.nowhere")
    assert answer.names == set()
    assert answer.removed == (frozenset({"outbound.nowhere"}) if delta else frozenset())


async def test_rule_20_make_before_break(plane: Plane, delta: bool) -> None:
    """Rule 20, decision 20: cluster, ACK, endpoints, ACK, route, ACK, and only then the old cluster goes."""
    old, new = cluster("a", "old"), cluster("a", "new")
    plane.apply(rule("a", subsets=["old"]), route("a", "a", "old"))
    one = client(plane, delta=delta)
    await one.settle()
    plane.apply(rule("a", subsets=["new"]), route("a", "a", "new"))
    clusters = await one.receive()
    assert clusters.url == CDS
    assert new in clusters.names
    assert old not in clusters.removed if delta else old in clusters.names  # its route has not gone yet
    (wait,) = {wait.waits_for for wait in waits(plane) if wait.type == ("VHDS" if delta else "RDS")}
    assert wait == f"CDS {new}"
    await one.ack(clusters)
    await one.want(EDS, *one.names[EDS], new)
    endpoints = await one.receive()
    assert (endpoints.url, new in endpoints.names) == (EDS, True)
    (wait,) = {wait.waits_for for wait in waits(plane) if wait.type == ("VHDS" if delta else "RDS")}
    assert wait == f"EDS {new}"
    await one.ack(endpoints)
    routes = await one.receive()
    assert routes.url == (VHDS if delta else RDS)
    assert new in str(routes.resources)
    await one.assert_quiet()  # the old cluster stays until the route is acknowledged
    await one.ack(routes)
    removal = await one.take()
    assert removal.url == CDS
    assert old in removal.removed if delta else old not in removal.names
    (last,) = await one.drain()
    assert (last.url, list(last.resources[old].endpoints)) == (EDS, [])  # it still asks for the endpoints
    await until("settled", lambda: plane.ledger.revision_status(plane.cache.mesh.revision).settled)


def waits(plane: Plane) -> tuple[Waiting, ...]:
    return plane.ledger.revision_status(plane.cache.mesh.revision).waits


def with_c(plane: Plane) -> MeshState:
    """One more service, and the route for a that leads there."""
    state = fold(plane.cache.mesh, "---\n".join((service("c"), route("a", "c"))))
    return put(state, instance("c1", node="far", service="c", address="10.0.1.9"))


async def test_rule_20_a_stream_is_pending_until_its_first_state_is_acknowledged(plane: Plane, delta: bool) -> None:
    """Decision 20, `?wait=`: between its answer to one type and its request for the next a client owes nothing, and has
    not the revision all the same; nor has one that comes back, until it shows what it has."""
    one = client(plane, delta=delta)
    lacks = {CDS: ("LDS", ""), LDS: ("EDS", A), EDS: ("RDS", ROUTES), RDS: ("VHDS", "")}
    for url, names in ((CDS, ()), (LDS, ()), (EDS, (A, B)), (RDS, (ROUTES,)), (VHDS, ())):
        if url == VHDS and not delta:
            break
        await one.get(url, *names)
        await until(f"{url} is acknowledged", lambda own=url: synced(plane, own))
        status = plane.ledger.revision_status(plane.cache.mesh.revision)
        if url == (VHDS if delta else RDS):
            assert (status.acked, status.pending) == (("node-1",), ())
        else:
            assert (status.acked, status.pending) == ((), ("node-1",))
            (wait,) = status.waits
            assert (wait.type, wait.waits_for) == (lacks[url][0], "the proxy's request")
            assert wait.name in (lacks[url][1], B)
    one.stream.cancel()
    await until("it is gone", lambda: not plane.ledger.proxies())
    again = client(plane, delta=delta)
    await again.want(CDS)
    await until("it is back", lambda: bool(plane.ledger.proxies()))
    assert plane.ledger.revision_status(plane.cache.mesh.revision).pending == ("node-1",)
    await again.take()
    await until("clusters are acknowledged", lambda: synced(plane, CDS))
    assert plane.ledger.revision_status(plane.cache.mesh.revision).pending == ("node-1",)


def synced(plane: Plane, url: str) -> bool:
    (proxy,) = plane.ledger.proxies()
    return [state.sync for state in proxy.types if state.type_url == url] == ["synced"]


async def test_rule_20_a_refusal_holds_only_what_needs_it(plane: Plane, delta: bool) -> None:
    """Rule 20, decision 20: routes to a refused cluster wait, the others go."""
    one = client(plane, delta=delta)
    await one.settle()
    new = cluster("c")
    plane.publish(with_c(plane))
    clusters = await one.receive()
    await one.ack(clusters, error=f"{new}: no")
    await one.assert_quiet()
    waits = plane.ledger.revision_status(plane.cache.mesh.revision)
    assert [refused.node for refused in waits.rejected] == ["node-1"]
    if delta:  # SotW has one resource for all routes
        plane.apply(route("b", "a"))
        assert "b.default" in str((await one.take()).names)


async def test_rule_21_a_subset_is_a_cluster_of_its_own(plane: Plane, delta: bool) -> None:
    """Rule 21: what differs in its hosts has another name; nothing is changed in place into something else."""
    one = client(plane, delta=delta)
    await one.settle()
    plane.apply(rule("a", subsets=["v1"]))
    first = await one.take()
    assert cluster("a", "v1") in first.names
    plane.apply(rule("a", subsets=["v2"]))
    changes = [answer for answer in await one.drain() if answer.url == CDS]
    assert cluster("a", "v2") in changes[0].names
    assert cluster("a", "v1") in changes[-1].removed if delta else cluster("a", "v1") not in changes[-1].names


async def test_rule_22_nobody_is_answered_before_the_first_snapshot(delta: bool) -> None:
    """Rule 22: an empty answer would delete everything; UNAVAILABLE lets clients keep what they have."""
    async with served(Plane(mesh("a"), loaded=False)) as plane:
        one = client(plane, delta=delta)
        await one.want(CDS)
        code, _ = await one.stream.end()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert one.stream.raw == []
        plane.open_gate()
        assert A in (await client(plane, delta=delta).get(CDS)).names


async def test_rule_23_new_streams_are_admitted_at_a_rate(delta: bool) -> None:
    """Rule 23: within a second's worth at once, then evenly; who would wait too long comes back later."""
    async with served(Plane(mesh("a"), admission_per_s=2.0)) as plane:
        clients = [client(plane, delta=delta, name=f"node-{number}") for number in range(5)]
        await asyncio.gather(*(one.get(CDS) for one in clients))
        assert len(plane.ledger.proxies()) == 5  # three of them had to wait; test_admission.py has the rate
    async with served(Plane(mesh("a"), admission_per_s=0.01)) as plane:
        await client(plane, delta=delta).get(CDS)
        second = client(plane, delta=delta, name="node-2")
        await second.want(CDS)
        assert (await second.stream.end())[0] is grpc.StatusCode.UNAVAILABLE


async def test_rule_23_a_slow_reader_is_cut_off_and_resynced_and_delays_nobody(delta: bool) -> None:
    """Rule 23: others get every change meanwhile; the slow one gets the newest on its next stream."""
    large = "x" * 400_000

    def answer(number: int) -> str:
        return route("a", "a").replace(
            "route: [{destination: {host: a}}]",
            f'directResponse: {{status: 200, body: {{string: "{number}{large}"}}}}',
        )

    async with served(Plane(mesh("a"), send_timeout_s=0.5)) as plane:
        agent = "gossamer-agent" if delta else "envoy"
        slow = Client(plane.stream(node("slow", agent), delta=delta, options=NARROW))
        quick = Client(plane.stream(node("quick", agent), delta=delta, options=NARROW))
        for one in (slow, quick):
            await one.settle()
        for number in range(10):
            plane.apply(answer(number))
            changed = await quick.take()
            assert changed.url == (VHDS if delta else RDS)
            assert f"{number}xxx" in str(changed.resources)
        await until("the slow one is cut off", lambda: [p.node for p in plane.ledger.proxies()] == ["quick"])
        assert (await slow.stream.end())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        again = Client(plane.stream(node("slow", agent), delta=delta, options=NARROW))
        await again.settle()
        assert b"9xxx" in again.stream.raw[-1]


async def test_rule_24_a_ttl_is_for_clients_that_support_it(delta: bool) -> None:
    """Rule 24: by the client's features; renewed with name, version and TTL, and never a configuration change."""
    features = ["xds.config.supports-resource-ttl", *([] if delta else ["xds.config.resource-in-sotw"])]
    async with served(Plane(mesh("a", "b"))) as plane:
        plane.apply(rule("a").replace("{name: a}", "{name: a, annotations: {gossamer.mesh/ttl: 3s}}", 1))
        plain = client(plane, delta=delta, name="plain", features=features[1:])
        assert ttls(await plain.get(CDS)) == {}
        one = client(plane, delta=delta, features=features)
        first = await one.get(CDS)
        assert ttls(first) == {A: 3.0}
        beat = await one.take()
        assert (beat.url, ttls(beat)) == (CDS, {A: 3.0})
        if delta:
            (item,) = beat.raw.resources
            assert (item.version, item.HasField("resource")) == (first.versions[A], False)
        else:
            assert (beat.version, beat.names) == (first.version, first.names)
        await one.assert_quiet()
        await plain.assert_quiet()


async def test_rule_26_an_old_stream_ends_well_and_loses_nothing(delta: bool) -> None:
    """Rule 26: OK after an answer, so the client comes back at once; with its versions nothing is sent again."""
    async with served(Plane(mesh("a", "b"), max_stream_age_s=0.3)) as plane:
        one = client(plane, delta=delta)
        first = await one.get(CDS)
        assert await one.stream.end() == (grpc.StatusCode.OK, "")
        again = client(plane, delta=delta)
        await again.want(CDS, have=first.versions)
        second = await again.take()
        assert second.names == (set() if delta else first.names)
        assert second.version == first.version or delta


async def test_rule_26_a_stream_on_which_something_is_under_way_does_not_end(delta: bool) -> None:
    """Rule 26: a proxy that is pending is not cut off; when it has answered, its stream ends."""
    async with served(Plane(mesh("a"), max_stream_age_s=0.1)) as plane:
        one = client(plane, delta=delta)
        await one.want(CDS)
        answer = await one.receive()
        await asyncio.sleep(0.6)
        assert len(plane.ledger.proxies()) == 1
        plane.apply(rule("a", 3))
        changed = await one.receive()
        await one.ack(answer)
        await one.ack(changed)
        with pytest.raises(Ended) as ended:
            await one.receive()
        assert ended.value.code is grpc.StatusCode.OK


async def test_rule_26_the_next_stream_makes_a_new_connection(delta: bool) -> None:
    """Rule 26: the old connection takes no new streams, so a load balancer may choose another replica."""
    async with served(Plane(mesh("a"), max_stream_age_s=0.5)) as plane:
        one = client(plane, delta=delta)
        await one.get(CDS)
        ((first,),) = [[proxy.address for proxy in plane.ledger.proxies()]]
        await one.stream.end()
        again = Client(one.stream.reopened())
        await again.get(CDS)
        ((second,),) = [[proxy.address for proxy in plane.ledger.proxies()]]
        assert first != second


async def test_rule_27_who_refuses_one_resource_has_the_others(plane: Plane, delta: bool) -> None:
    """Rule 27: clients apply the valid rest of a refused response: routes to those need not wait."""
    one = client(plane, delta=delta)
    await one.want(CDS)
    clusters = await one.receive()
    await one.ack(clusters, error=f"{A}: no")
    await one.get(EDS, A, B)
    accepted = next(
        state for (proxy,) in [plane.ledger.proxies()] for state in proxy.types if state.short_name == "CDS"
    )
    assert dict(accepted.rejected).keys() == {A}
    assert accepted.resources == len(clusters.names) - 1
