"""The gRPC shell on real sockets: admission, shared bytes, slow readers, NACKs, the graceful end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from google.rpc.status_pb2 import Status

from controlplane.discovery import encode, server
from controlplane.model.mesh_state import MeshState
from mesh.xds import type_url
from tests.support.ads import NARROW, Ads, RawStream, node, served, until
from tests.support.compiling import fold, instance, mesh_of, put

CLUSTER = "outbound|80||user-service.default.svc.cluster.local"
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec: {selector: {app: user-service}, ports: [{port: 80, targetPort: 3001}]}
"""
LARGE = 400_000


def answer(text: str, size: int = 0) -> str:
    """A VirtualService that answers by itself; `size` makes its resource large."""
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: user-service}}
spec: {{hosts: [user-service], http: [{{directResponse: {{status: 200, body: {{string: "{text}{"x" * size}"}}}}}}]}}
"""


def mesh() -> MeshState:
    return put(mesh_of(SERVICE), instance("u1", node="elsewhere"))


@pytest.fixture
async def ads() -> AsyncIterator[Ads]:
    async with served(Ads(mesh())) as ads:
        yield ads


async def settled(stream: RawStream) -> dict[str, Any]:
    """Subscribe to what an agent wants and acknowledge it all: {type: its first response}."""
    found = {}
    for url, names in (
        (type_url.CLUSTER, []),
        (type_url.CLUSTER_LOAD_ASSIGNMENT, [CLUSTER]),
        (type_url.LISTENER, []),
        (type_url.VIRTUAL_HOST, []),
    ):
        await stream.send(type_url=url, resource_names_subscribe=names)
        found[url] = await stream.take()
    return found


def body_of(response: Any) -> str:
    (resource,) = [item for item in response.resources if "user-service" in item.name]
    host = VirtualHost.FromString(resource.resource.value)
    return host.routes[0].direct_response.body.inline_bytes.decode()


# --- what is sent


async def test_first_answers_and_an_endpoint_change(ads: Ads) -> None:
    stream = ads.stream()
    first = await settled(stream)
    assert CLUSTER in {item.name for item in first[type_url.CLUSTER].resources}
    assert first[type_url.CLUSTER].control_plane.identifier == "replica-1"
    ads.publish(put(ads.cache.mesh, instance("u2", node="other", address="10.0.0.2")))
    change = await stream.take()
    assert change.type_url == type_url.CLUSTER_LOAD_ASSIGNMENT
    assert [item.name for item in change.resources] == [CLUSTER]
    await until("acknowledged", lambda: ads.ledger.revision_status(ads.cache.mesh.revision).acked == ("node-1",))


async def test_sotw_beside_delta(ads: Ads) -> None:
    """The same view by the other protocol: whole RouteConfigurations, full-state CDS."""
    stream = ads.stream(node("envoy-1", "envoy"), delta=False)
    await stream.send(type_url=type_url.CLUSTER)
    clusters = await stream.take()
    assert {item.type_url for item in clusters.resources} == {type_url.CLUSTER}
    await stream.send(type_url=type_url.CLUSTER_LOAD_ASSIGNMENT, resource_names=[CLUSTER])
    await stream.take()
    await stream.send(type_url=type_url.ROUTE_CONFIGURATION, resource_names=["outbound.default"])
    (routes,) = (await stream.take()).resources
    assert routes.type_url == type_url.ROUTE_CONFIGURATION


async def test_many_streams_share_what_is_built_and_serialised(ads: Ads) -> None:
    """Forty agents of one scope: the compiler builds once, each resource is encoded once, all get the same bytes."""
    streams = [ads.stream(node(f"node-{number}")) for number in range(40)]
    await asyncio.gather(*(settled(stream) for stream in streams))
    shared = [stream.raw[:2] + stream.raw[3:] for stream in streams]  # the third is each node's own listener
    assert all(own == shared[0] for own in shared)
    builds = ads.compiler.builds.copy()
    encoded = encode._delta_resource.cache_info().misses
    ads.publish(put(ads.cache.mesh, instance("u2", node="other", address="10.0.0.2")))
    await asyncio.gather(*(stream.take() for stream in streams))
    assert len({stream.raw[-1] for stream in streams}) == 1
    assert dict(ads.compiler.builds - builds) == {"ClusterLoadAssignment": 1}
    assert encode._delta_resource.cache_info().misses == encoded + 1


async def test_types_that_are_not_served_are_not_answered(ads: Ads) -> None:
    stream = ads.stream()
    await stream.send(type_url="type.googleapis.com/unknown.Type")
    await stream.send(type_url=type_url.CLUSTER)
    assert (await stream.take()).type_url == type_url.CLUSTER


# --- slow readers


async def test_a_slow_reader_skips_what_lies_between_and_delays_nobody(ads: Ads) -> None:
    slow, quick = ads.stream(node("slow"), options=NARROW), ads.stream(node("quick"), options=NARROW)
    for stream in (slow, quick):
        await settled(stream)
    updates = 30
    for number in range(updates):
        ads.publish(fold(ads.cache.mesh, answer(str(number), LARGE)))
        assert body_of(await quick.take()).startswith(str(number))
    # The slow one reads now: what stood on the wire, then the newest; not the thirty.
    bodies = [body_of(await slow.take())]
    while not bodies[-1].startswith(f"{updates - 1}x"):
        bodies.append(body_of(await slow.take()))
    assert len(bodies) < updates / 2
    await until("both in sync", lambda: {item.sync for item in ads.ledger.proxies()} == {"synced"})


async def test_who_does_not_read_at_all_is_cut_off_and_comes_back() -> None:
    async with served(Ads(mesh(), send_timeout_s=0.3)) as ads:
        stuck = ads.stream(node("stuck"), options=NARROW)
        await settled(stuck)
        for number in range(10):
            ads.publish(fold(ads.cache.mesh, answer(str(number), LARGE)))
            await asyncio.sleep(0.01)
        await until("cut off", lambda: ads.ledger.proxies() == ())
        assert ads.metrics.slow._value.get() == 1
        code, details = await stuck.end()
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED, details
        again = ads.stream(node("stuck"), options=NARROW)
        first = await settled(again)
        assert body_of(first[type_url.VIRTUAL_HOST]).startswith("9x")


# --- the end


async def test_the_server_ends_streams_gracefully(ads: Ads) -> None:
    """OK, not an error: a client that got an answer comes back at once, without back-off (rule 26)."""
    streams = [ads.stream(node(f"node-{number}"), delta=number % 2 == 0) for number in range(6)]
    for stream in streams:
        await stream.send(type_url=type_url.CLUSTER)
        await stream.take()
    ads.service.end_streams()
    assert {await stream.end() for stream in streams} == {(grpc.StatusCode.OK, "")}
    await until("nobody is left", lambda: ads.ledger.proxies() == ())


@pytest.mark.parametrize("politely", [True, False])
async def test_a_client_that_leaves_leaves_nothing_behind(ads: Ads, politely: bool) -> None:
    stream = ads.stream()
    await settled(stream)
    assert ads.cache.view_of("node-1") is not None
    if politely:
        await stream.call.done_writing()
    else:
        stream.cancel()
    await until("gone", lambda: ads.ledger.proxies() == ())
    assert ads.cache.view_of("node-1") is None
    assert [event.type for event in ads.events.events()] == ["ProxyConnected", "ProxyDisconnected"]
    ads.publish(put(ads.cache.mesh, instance("u2")))  # to nobody


async def test_a_stream_without_a_request_ends(ads: Ads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_S", 0.05)
    code, details = await ads.stream().end()
    assert (code, details) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no request within 30 s")


# --- NACK


async def test_a_refusal_is_seen_everywhere(ads: Ads) -> None:
    stream = ads.stream()
    await stream.send(type_url=type_url.CLUSTER)
    response = await stream.receive()
    error = Status(code=3, message=f"Error adding/updating cluster(s) {CLUSTER}: no such thing")
    await stream.send(type_url=type_url.CLUSTER, response_nonce=response.nonce, error_detail=error)
    await until("rejected", lambda: ads.ledger.rejections() != ())
    ((who, rejection),) = ads.ledger.rejections()
    assert (who, rejection.name, rejection.certain) == ("node-1", CLUSTER, True)
    assert [str(source.ref) for source in rejection.sources] == ["Service default/user-service"]
    assert ads.metrics.rejects.labels("cds")._value.get() == 1
    assert ads.events.events()[-1].type == "ConfigRejected"
    # Not sent again until it changes; other news come.
    await stream.send(type_url=type_url.LISTENER)
    assert (await stream.take()).type_url == type_url.LISTENER


# --- admission


async def refused(stream: RawStream) -> tuple[grpc.StatusCode, str]:
    await stream.send(type_url=type_url.CLUSTER)
    return await stream.end()


async def test_nobody_is_answered_from_a_mesh_that_is_not_loaded() -> None:
    """Rule 22: UNAVAILABLE, so that clients keep what they have."""
    async with served(Ads(mesh(), loaded=False)) as ads:
        code, details = await refused(ads.stream())
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "the first snapshot is not loaded yet" in details
        assert ads.metrics.refused.labels("unavailable")._value.get() == 1


async def test_streams_wait_for_nodes_that_still_register() -> None:
    """Loaded and not open: the stream stays, and is answered from the newest state when the gate opens."""
    async with served(Ads(mesh(), loaded=False)) as ads:
        assert ads.gate.look(["node-2"], [], ads.clock.monotonic()) == ("node-2",)
        stream = ads.stream()
        await stream.send(type_url=type_url.CLUSTER)
        reading = asyncio.ensure_future(stream.take())
        await asyncio.sleep(0.05)
        assert not reading.done()
        ads.gate.saw("node-2")
        ads.open_gate()
        assert (await reading).type_url == type_url.CLUSTER


async def test_too_many_at_once_are_told_to_come_back() -> None:
    async with served(Ads(mesh(), admission_per_s=0.01)) as ads:
        first = ads.stream()
        await first.send(type_url=type_url.CLUSTER)
        await first.take()
        code, details = await refused(ads.stream(node("node-2")))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "too many new streams at once" in details


async def test_streams_get_their_first_state_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins holds its place until it has what it asked for, or has gone; who waits too long may return."""
    monkeypatch.setattr(server, "_BEGIN_AT_ONCE", 1)
    monkeypatch.setattr(server, "_BEGIN_S", 60.0)
    monkeypatch.setattr(server, "_BEGIN_WAIT_S", 0.2)
    async with served(Ads(mesh())) as ads:
        first = ads.stream()
        await first.send(type_url=type_url.CLUSTER)
        await first.receive()  # not acknowledged: it is not at rest
        code, details = await refused(ads.stream(node("node-2")))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "too many new streams at once" in details
        first.cancel()
        await until("the first has left", lambda: not ads.cache.connected())
        assert await settled(ads.stream(node("node-3")))


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (node(""), "found no node.id in the first request"),
        (node("n", DIALECT="latin"), "found DIALECT 'latin', expected one of"),
        (node("n", NAMESPACE=7), "expected a string"),
        (node("n", NAMESPACE="../x"), "found NAMESPACE '../x'"),
        (node("n", "envoy", WORKLOADS=[{"ports": []}]), "a workload without ports"),
        (node("n", OUTBOUND_PORT=99999), "expected 1 to 65535"),
    ],
    ids=["id", "dialect", "type", "namespace", "workload", "port"],
)
async def test_a_node_that_cannot_be_read_is_refused(ads: Ads, who: Any, message: str) -> None:
    code, details = await refused(ads.stream(who))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in details
    assert ads.ledger.proxies() == ()
