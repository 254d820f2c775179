"""Views are two shared parts; differences are computed once per pair; references are read out of the bytes."""

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, RouteMatch, VirtualHost, WeightedCluster
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from controlplane.compiler.types import Compiled
from controlplane.snapshot import diff
from controlplane.snapshot.diff import DiffCache, changed_names
from controlplane.snapshot.references import clusters_named, eds_name, empty_load_assignment
from controlplane.snapshot.view import EMPTY, View
from mesh.xds.type_url import CLUSTER, CLUSTER_LOAD_ASSIGNMENT, LISTENER, ROUTE_CONFIGURATION, VIRTUAL_HOST
from tests.support.resources import assignment, cluster, compiled, listener, resource, route_configuration


def test_the_own_part_wins_and_names_come_once() -> None:
    shared, own = compiled(cluster("a", "shared"), cluster("b")), compiled(cluster("a", "own"), listener("l"))
    view = View(3, shared, own)
    assert view.get(CLUSTER, "a") is own.resources[CLUSTER]["a"]
    assert view.get(CLUSTER, "b") is shared.resources[CLUSTER]["b"]
    assert view.get(CLUSTER, "c") is None
    assert view.get(ROUTE_CONFIGURATION, "a") is None
    assert list(view.names(CLUSTER)) == ["a", "b"]
    assert dict(view.items(CLUSTER)) == {"a": own.resources[CLUSTER]["a"], "b": shared.resources[CLUSTER]["b"]}
    assert list(view.names(LISTENER)) == ["l"]


def test_changed_names() -> None:
    old = compiled(cluster("same"), cluster("changed", "1"), cluster("gone"), listener("l"))
    new = compiled(cluster("same"), cluster("changed", "2"), cluster("came"), listener("l"), assignment("x"))
    assert changed_names(old, new) == {
        CLUSTER: {"changed", "gone", "came"},
        CLUSTER_LOAD_ASSIGNMENT: {"x"},
    }
    assert changed_names(old, old) == {}
    assert changed_names(EMPTY, compiled(cluster("a"))) == {CLUSTER: {"a"}}


def test_a_mapping_that_is_the_same_object_is_not_looked_into() -> None:
    """What makes an endpoint change cheap: only the types that were built anew are compared."""

    class Untouchable(dict[str, object]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise AssertionError("walked")

    same = Untouchable(a=cluster("a"))
    old = Compiled(resources={CLUSTER: same, LISTENER: {"l": listener("l", tag="1")}})  # type: ignore[dict-item]
    new = Compiled(resources={CLUSTER: same, LISTENER: {"l": listener("l", tag="2")}})  # type: ignore[dict-item]
    assert changed_names(old, new) == {LISTENER: {"l"}}


def test_differences_are_computed_once_per_pair_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[tuple[int, int]] = []
    real = diff.changed_names

    def counted(old: Compiled, new: Compiled) -> dict[str, frozenset[str]]:
        if old is not new:
            computed.append((id(old), id(new)))
        return real(old, new)

    monkeypatch.setattr(diff, "changed_names", counted)
    cache = DiffCache(size=2)
    states = [compiled(cluster("a", str(number))) for number in range(4)]
    views = [View(number, state, EMPTY) for number, state in enumerate(states)]
    for _ in range(100):  # a hundred streams of one scope
        assert cache.between(views[0], views[1]) == {CLUSTER: {"a"}}
    assert len(computed) == 1
    cache.between(views[1], views[2])
    cache.between(views[2], views[3])
    cache.between(views[0], views[1])  # was pushed out
    assert len(computed) == 4


def test_both_parts_are_joined() -> None:
    cache = DiffCache()
    old = View(1, compiled(cluster("a", "1")), compiled(cluster("own", "1"), listener("l", tag="1")))
    new = View(2, compiled(cluster("a", "2")), compiled(cluster("own", "2"), listener("l", tag="1")))
    assert cache.between(old, new) == {CLUSTER: {"a", "own"}}
    assert cache.between(old, View(2, old.shared, new.own)) == {CLUSTER: {"own"}}
    assert cache.between(old, old) == {}


def test_clusters_of_routes() -> None:
    """Direct, weighted, mirrored; of the virtual host and of its routes."""
    weighted = WeightedCluster(clusters=[WeightedCluster.ClusterWeight(name=name) for name in ("w1", "w2")])
    mirror = RouteAction.RequestMirrorPolicy
    host = VirtualHost(
        name="h",
        domains=["h"],
        request_mirror_policies=[mirror(cluster="m1")],
        routes=[
            Route(match=RouteMatch(prefix="/"), route=RouteAction(cluster="c")),
            Route(
                match=RouteMatch(prefix="/"),
                route=RouteAction(weighted_clusters=weighted, request_mirror_policies=[mirror(cluster="m2")]),
            ),
        ],
    )
    wanted = {"w1", "w2", "c", "m1", "m2"}
    assert clusters_named(resource(VIRTUAL_HOST, "h", host)) == wanted
    configuration = RouteConfiguration(name="r", virtual_hosts=[host])
    assert clusters_named(resource(ROUTE_CONFIGURATION, "r", configuration)) == wanted
    manager = Filter(name="hcm")
    manager.typed_config.Pack(HttpConnectionManager(route_config=configuration))
    inline = Listener(name="l", filter_chains=[FilterChain(filters=[manager])])
    assert clusters_named(resource(LISTENER, "l", inline)) == wanted
    api = Listener(name="l")
    api.api_listener.api_listener.CopyFrom(manager.typed_config)
    assert clusters_named(resource(LISTENER, "l", api)) == wanted


def test_clusters_of_tcp() -> None:
    weighted = TcpProxy.WeightedCluster(clusters=[TcpProxy.WeightedCluster.ClusterWeight(name="w", weight=1)])
    chains = [Filter(name="a"), Filter(name="b")]
    chains[0].typed_config.Pack(TcpProxy(cluster="c"))
    chains[1].typed_config.Pack(TcpProxy(weighted_clusters=weighted))
    message = Listener(
        filter_chains=[FilterChain(filters=chains[:1])], default_filter_chain=FilterChain(filters=chains[1:])
    )
    assert clusters_named(resource(LISTENER, "l", message)) == {"c", "w"}
    assert clusters_named(cluster("a")) == frozenset()
    assert clusters_named(route_configuration("r")) == frozenset()


def test_what_a_cluster_waits_for() -> None:
    assert eds_name(cluster("a")) == "a"
    assert eds_name(cluster("a", eds=False)) is None
    named = Cluster(name="a", type=Cluster.EDS)
    named.eds_cluster_config.service_name = "other"
    assert eds_name(resource(CLUSTER, "a", named)) == "other"


def test_an_empty_assignment_is_a_real_one() -> None:
    found = empty_load_assignment("gone")
    message = ClusterLoadAssignment.FromString(found.body)
    assert (message.cluster_name, len(message.endpoints)) == ("gone", 0)
    assert empty_load_assignment("gone") is found
