"""The front: names, types, unreadable bytes, every golden of our own dialect."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cluster.retries import RetryRules
from agent.config.decode import Meaning, decode, decode_whole
from agent.config.fields import Rejected
from agent.filters.header_operations import Operations
from agent.ipc import frames
from agent.ipc.messages import Put
from agent.model.cluster import Cluster, LoadAssignment
from agent.model.listener import Listener
from agent.model.route import Forward, RouteConfiguration, VirtualHost, WeightedCluster
from agent.router.table import RouteTable
from agent.xds.decoding import decode_resource
from agent.xds.resources import KIND_OF, WILDCARD, Decoded
from mesh.vocabulary import Dialect
from mesh.xds import type_url
from tests.support import decoding as given_
from tests.support.depth import examples
from tests.support.golden import MESSAGES, cases
from tests.support.log_lines import line_of

URLS = sorted(MESSAGES)
OURS = [case for case in cases() if case.proxy.dialect is Dialect.GOSSAMER]
TLS = given_.downstream_socket()
SAMPLES = {
    type_url.CLUSTER: given_.cluster(
        outlier_detection={"interval": "1s"},
        circuit_breakers={"thresholds": [{"max_retries": 3, "retry_budget": {}}]},
        transport_socket_matches=[{"name": "m", "match": {"a": "b"}, "transport_socket": given_.upstream_socket()}],
    ),
    type_url.CLUSTER_LOAD_ASSIGNMENT: given_.assignment(given_.lb_endpoint(health_status="DRAINING")),
    type_url.VIRTUAL_HOST: given_.host(
        given_.route(
            {
                "weighted_clusters": {"clusters": [{"name": "a", "weight": 1}]},
                "retry_policy": {"retry_on": "5xx", "retry_back_off": {"base_interval": "1s"}},
                "regex_rewrite": {"pattern": {"regex": "/(a)"}, "substitution": r"/\1"},
            },
            {
                "safe_regex": {"regex": "/a+"},
                "headers": [{"name": "x", "string_match": {"safe_regex": {"regex": "b"}}}],
            },
        ),
        request_headers_to_add=[{"header": {"key": "x", "value": "%REQ(Y)%"}}],
    ),
    type_url.ROUTE_CONFIGURATION: given_.configuration(given_.host(), vhds={"config_source": given_.ADS}),
    type_url.LISTENER: given_.listener(
        {"filters": [given_.manager(route_config=given_.configuration(given_.host()))], "transport_socket": TLS},
        metadata={"filter_metadata": {"gossamer": {"identity": given_.SOME_ID}}},
    ),
}


@pytest.mark.parametrize("case", OURS, ids=lambda case: case.name)
def test_every_golden_of_our_dialect_is_taken(case: object) -> None:
    """What our compiler gives our agent is never refused."""
    view, _ = case.compiled  # type: ignore[attr-defined]
    resources = [item for url in URLS for _, item in view.items(url)]
    found = {item.name: decode_resource(item.type_url, item.name, item.body) for item in resources}
    assert {name: why for name, why in found.items() if isinstance(why, str)} == {}
    assert len(found) > 1


def test_our_dialect_has_many_goldens() -> None:
    assert len(OURS) >= 10


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (type_url.CLUSTER, Cluster),
        (type_url.CLUSTER_LOAD_ASSIGNMENT, LoadAssignment),
        (type_url.VIRTUAL_HOST, VirtualHost),
        (type_url.ROUTE_CONFIGURATION, RouteConfiguration),
        (type_url.LISTENER, Listener),
    ],
    ids=lambda value: str(value).rpartition(".")[2],
)
def test_each_type_gives_its_value(url: str, kind: type) -> None:
    assert isinstance(given_.value(url, SAMPLES[url]), kind)


@pytest.mark.parametrize(
    ("url", "name", "expected"),
    [
        (type_url.CLUSTER, "d", "name: found 'c', expected the resource's name, 'd'"),
        (type_url.LISTENER, "d", "name: found 'l', expected the resource's name, 'd'"),
        (type_url.ROUTE_CONFIGURATION, "d", "name: found 'r', expected the resource's name, 'd'"),
        (type_url.CLUSTER_LOAD_ASSIGNMENT, "d", "cluster_name: found 'c', expected the resource's name, 'd'"),
        (type_url.VIRTUAL_HOST, "d", "the resource's name: found 'd', expected <route configuration>/<virtual host>"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_names(url: str, name: str, expected: str) -> None:
    assert given_.refusal(url, SAMPLES[url], name) == expected


def test_a_virtual_host_may_have_a_name_of_its_own() -> None:
    """Its resource's name says which RouteConfiguration it belongs to."""
    found = given_.value(type_url.VIRTUAL_HOST, {**SAMPLES[type_url.VIRTUAL_HOST], "name": "own"}, "r/h")
    assert found.name == "own"


def test_unknown_type() -> None:
    found = decode("type.googleapis.com/x.Y", "n", b"")
    assert isinstance(found, Rejected)
    assert found.reason.startswith("found type type.googleapis.com/x.Y, expected one of type.googleapis.com/envoy.")


@pytest.mark.parametrize("url", URLS, ids=lambda url: url.rpartition(".")[2])
def test_unreadable_bytes(url: str) -> None:
    found = decode(url, "r/n", b"\xff\xff\xff")
    assert isinstance(found, Rejected)
    assert str(found) == f"found bytes that are no {MESSAGES[url].DESCRIPTOR.full_name}"


def test_unreadable_bytes_in_an_any() -> None:
    fields = given_.cluster()
    message = MESSAGES[type_url.CLUSTER].FromString(given_.body_of(type_url.CLUSTER, fields))
    message.transport_socket.name = "tls"  # type: ignore[attr-defined]
    packed = message.transport_socket.typed_config  # type: ignore[attr-defined]
    packed.type_url = f"{given_.PREFIX}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    packed.value = b"\xff"
    assert str(decode(type_url.CLUSTER, "c", message.SerializeToString())) == (
        "transport_socket.typed_config: found bytes that are no "
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    )


# --- what a resource brings and needs


def decoded(url: str) -> Decoded:
    fields = SAMPLES[url]
    name = fields.get("cluster_name", fields.get("name"))
    found = decode_resource(url, name, given_.body_of(url, fields))
    assert isinstance(found, Decoded), found
    return found


def test_needs() -> None:
    """A cluster its endpoints, routes by name all virtual hosts, a listener its routes unless they are inline."""
    assert decoded(type_url.CLUSTER).needs == {(type_url.CLUSTER_LOAD_ASSIGNMENT, "c")}
    assert decoded(type_url.ROUTE_CONFIGURATION).needs == {(type_url.VIRTUAL_HOST, WILDCARD)}
    assert decoded(type_url.VIRTUAL_HOST).needs == frozenset()
    assert decoded(type_url.LISTENER).needs == frozenset()
    asking = given_.body_of(type_url.LISTENER, given_.http_listener())
    found = decode_resource(type_url.LISTENER, "l", asking)
    assert isinstance(found, Decoded)
    assert found.needs == {(type_url.ROUTE_CONFIGURATION, "r")}


def test_a_static_cluster_needs_nothing() -> None:
    found = decode_resource(type_url.CLUSTER, "c", given_.body_of(type_url.CLUSTER, given_.cluster(type="STATIC")))
    assert isinstance(found, Decoded)
    assert found.needs == frozenset()


def test_inline_routes_come_with_their_listener() -> None:
    kinds = [(kind, name) for kind, name, _ in decoded(type_url.LISTENER).values]
    assert kinds == [("listener", "l"), ("route_configuration", "l/0/r")]


def test_a_refusal_is_a_sentence_with_the_path() -> None:
    body = given_.body_of(type_url.CLUSTER, given_.cluster(lb_policy="CLUSTER_PROVIDED"))
    assert decode_resource(type_url.CLUSTER, "c", body) == (
        "lb_policy: found CLUSTER_PROVIDED, expected ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH or MAGLEV: "
        "the agent does not enforce it"
    )


# --- nothing raises


@given(url=st.sampled_from(URLS), name=st.text(max_size=20), body=st.binary(max_size=300))
@settings(max_examples=examples(500))
def test_any_bytes_have_an_answer(url: str, name: str, body: bytes) -> None:
    assert isinstance(decode_resource(url, name, body), str | Decoded)


BODIES = [
    (item.type_url, item.name, item.body)
    for case in cases()
    if case.proxy.delta
    for item in (resource for url in URLS for _, resource in case.compiled[0].items(url))
] + [
    (url, fields.get("cluster_name", fields.get("name")), given_.body_of(url, fields))
    for url, fields in SAMPLES.items()
]


@given(data=st.data())
@settings(max_examples=examples(1500))
def test_damaged_resources_have_an_answer(data: st.DataObject) -> None:
    """Bytes of good resources, with some replaced, left out, put in or repeated."""
    url, name, whole = data.draw(st.sampled_from(BODIES))
    body = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(body) - 1)))
        end = min(len(body), at + data.draw(st.integers(0, 6)))
        body[at:end] = data.draw(st.one_of(st.binary(max_size=6), st.just(bytes(body[at : at + 40]))))
    assert isinstance(decode_resource(url, name, bytes(body)), str | Decoded)


@given(data=st.data())
@settings(max_examples=examples(800))
def test_strange_fields_have_an_answer(data: st.DataObject) -> None:
    """Good resources whose messages have random fields of their types set to random values."""
    url, name, whole = data.draw(st.sampled_from(BODIES))
    message = MESSAGES[url].FromString(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        _change(data, message)
    found = decode_whole(url, name, message.SerializeToString())
    if isinstance(found, Rejected):
        assert found.reason
    else:
        assert_usable(url, name, found)


@pytest.mark.parametrize("case", OURS, ids=lambda case: case.name)
def test_a_worker_can_use_every_golden(case: object) -> None:
    view, _ = case.compiled  # type: ignore[attr-defined]
    for item in (resource for url in URLS for _, resource in view.items(url)):
        found = decode_whole(item.type_url, item.name, item.body)
        assert isinstance(found, Meaning), found
        assert_usable(item.type_url, item.name, found)


def assert_usable(url: str, name: str, found: Meaning) -> None:
    """A worker gets it whole, and compiles it without a complaint."""
    put = Put(KIND_OF[url], name, found.value)
    assert frames.decode(frames.encode(put)) == put
    match found.value:
        case RouteConfiguration() as config:
            _compile(config, ())
        case VirtualHost() as host:
            _compile(RouteConfiguration(name="r"), (host,))
        case Listener() as listener:
            for chain in listener.filter_chains:
                for log in chain.network.access_logs:
                    line_of(log)
            for routes in found.inline:
                _compile(routes, ())


def _compile(config: RouteConfiguration, by_name: tuple[VirtualHost, ...]) -> None:
    RouteTable(config, by_name)
    for host in (*config.virtual_hosts, *by_name):
        for level in (config, host, *host.routes, *_clusters(host)):
            Operations(level.request_headers)
            Operations(level.response_headers)
        for policy in (host.retry, *(getattr(route.action, "retry", None) for route in host.routes)):
            if policy is not None:
                RetryRules(policy)


def _clusters(host: VirtualHost) -> list[WeightedCluster]:
    return [one for route in host.routes if isinstance(route.action, Forward) for one in route.action.clusters]


def _change(data: st.DataObject, message: object) -> None:
    """Go down a random way and set one field."""
    while True:
        fields = [field for field in message.DESCRIPTOR.fields if not _is_map(field)]  # type: ignore[attr-defined]
        field = data.draw(st.sampled_from(fields)) if fields else None
        if field is None:
            return
        target = getattr(message, field.name)
        if field.message_type is None:
            chosen = data.draw(_scalars(field))
            target.append(chosen) if field.is_repeated else setattr(message, field.name, chosen)
            return
        if field.is_repeated:
            message = target[0] if len(target) and data.draw(st.booleans()) else target.add()
        else:
            target.SetInParent()
            message = target
        if data.draw(st.integers(0, 3)) == 0:
            return


def _is_map(field: object) -> bool:
    kind = field.message_type  # type: ignore[attr-defined]
    return kind is not None and kind.GetOptions().map_entry


def _scalars(field: object) -> st.SearchStrategy[object]:
    kinds = type(field)
    match field.type:  # type: ignore[attr-defined]
        case kinds.TYPE_STRING:
            return st.sampled_from(["", "a", "(", "%", "%REQ(A)%", "\\9", "host", "é", "\r\n", "::1", "spiffe://x"])
        case kinds.TYPE_BYTES:
            return st.binary(max_size=8)
        case kinds.TYPE_BOOL:
            return st.booleans()
        case kinds.TYPE_DOUBLE | kinds.TYPE_FLOAT:
            return st.sampled_from([0.0, -1.0, 50.0, 101.0, float("nan"), float("inf")])
        case kinds.TYPE_ENUM:
            return st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 99])
        case kinds.TYPE_INT32 | kinds.TYPE_SINT32 | kinds.TYPE_SFIXED32:
            return st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)])
        case kinds.TYPE_INT64 | kinds.TYPE_SINT64 | kinds.TYPE_SFIXED64:
            return st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)])
        case _:
            return st.sampled_from([0, 1, 2, 70000, 2**32 - 1])
