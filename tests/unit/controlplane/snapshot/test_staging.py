"""Two MeshStates at once: who gets which, what they share, whom the candidate changes and in which clusters."""

from controlplane.compiler.compile import Compiler
from controlplane.model.mesh_state import MeshState
from controlplane.model.rollout_observation import SPACE, place_of
from controlplane.model.rollout_overlay import Candidate, Overlay
from controlplane.snapshot.cache import SnapshotCache
from controlplane.snapshot.references import clusters_between
from controlplane.snapshot.staging import Concerned, Interest
from controlplane.snapshot.view import View
from mesh.xds import type_url
from tests.support.compiling import agent, fold, instance, mesh_of, proxy_of, put

BASE = """\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: b}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a, subsets: [{name: v1, labels: {version: v1}}]}
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{route: [{destination: {host: a, subset: v1}}]}]}
"""
A, V1, B = (
    f"outbound|80|{subset}|{name}.default.svc.cluster.local" for subset, name in (("", "a"), ("v1", "a"), ("", "b"))
)


def candidate(base: MeshState, text: str, limit: int = SPACE) -> Candidate:
    mesh = fold(base, text)
    mesh.revision = base.revision
    return Candidate(Overlay("r", dict(mesh.objects.items()), limit, 1), mesh)


def look(cache: SnapshotCache, *streams: int) -> list[Concerned | None]:
    return list(Interest().look(cache, streams))


def routes_to(view: View, cluster: str) -> bool:
    return any(cluster.encode() in item.body for _, item in view.items(type_url.VIRTUAL_HOST))


def test_each_proxy_has_its_side_and_both_share_what_is_alike() -> None:
    base = mesh_of(BASE)
    compiler = Compiler()
    cache = SnapshotCache(compiler, base)
    names = sorted(("n1", "n2"), key=lambda name: place_of("r", name))
    for stream, name in enumerate(names, 1):
        cache.connect(stream, agent(name))
    builds = compiler.builds.copy()
    cache.advance(base, candidate(base, ROUTE, place_of("r", names[0]) + 1))
    (update,) = cache.refresh()
    assert update.stream == 1
    assert routes_to(update.view, V1)
    assert compiler.builds - builds == {"VirtualHost": 1}, "only what differs was built"
    other = cache.view_of(names[1])
    assert other is not None
    assert not routes_to(other, V1)
    assert update.view.get(type_url.CLUSTER, B) is other.get(type_url.CLUSTER, B)
    assert list(cache.refresh()) == []

    late = cache.connect(3, agent(names[0]))
    assert routes_to(late, V1), "new streams of a staged node get the candidate at once"
    cache.advance(base)
    back = {item.stream: item.view for item in cache.refresh()}
    assert back.keys() == {1, 3}
    assert not routes_to(back[1], V1)


def test_endpoints_of_both_sides_follow_the_same_changes() -> None:
    base = mesh_of(BASE)
    cache = SnapshotCache(Compiler(), base)
    cache.connect(1, agent("n1"))
    laid = candidate(base, ROUTE)
    cache.advance(base, laid)
    list(cache.refresh())
    cache.advance(
        put(base, instance("a1", service="a")), Candidate(laid.overlay, put(laid.mesh, instance("a1", service="a")))
    )
    (update,) = cache.refresh()
    assignment = update.view.get(type_url.CLUSTER_LOAD_ASSIGNMENT, A)
    assert assignment is not None
    assert b"10.0.0.1" in assignment.body


def test_whom_it_changes_and_in_which_clusters() -> None:
    base = mesh_of(BASE)
    cache = SnapshotCache(Compiler(), base)
    cache.connect(1, agent("n1"))
    cache.connect(2, agent("n2", namespace="far"))
    cache.advance(base, candidate(base, ROUTE.replace("hosts: [a]", "hosts: [a], exportTo: [.]")))
    first, second = look(cache, 1, 2)
    assert first is not None
    assert (first.node, first.clusters) == ("n1", frozenset({A, V1}))
    assert second is None, "the route is not exported to it"
    assert look(cache, 7) == [], "a stream that has left"


def test_a_changed_cluster_concerns_its_requests() -> None:
    base = mesh_of(BASE)
    cache = SnapshotCache(Compiler(), base)
    cache.connect(1, agent("n1"))
    cache.advance(
        base,
        candidate(
            base,
            BASE.split("---")[2].replace(
                "spec: {", "spec: {trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}, "
            ),
        ),
    )
    (found,) = look(cache, 1)
    assert found is not None
    assert found.clusters == {A, V1}


def test_of_whole_route_configurations_only_what_differs_counts() -> None:
    """A SotW Envoy has all routes in one resource; the other hosts' clusters say nothing about the candidate."""
    base = mesh_of(BASE)
    cache = SnapshotCache(Compiler(), base)
    cache.connect(1, proxy_of({"id": "e", "userAgentName": "envoy"}, delta=False))
    cache.advance(base, candidate(base, ROUTE))
    (found,) = look(cache, 1)
    assert found is not None
    assert found.clusters == {A, V1}


def test_without_a_candidate_nobody_is_concerned() -> None:
    cache = SnapshotCache(Compiler(), mesh_of(BASE))
    cache.connect(1, agent("n1"))
    assert look(cache, 1) == []


def test_a_resource_that_comes_or_goes_concerns_what_it_names() -> None:
    cache = SnapshotCache(Compiler(), mesh_of(f"{BASE}---\n{ROUTE}"))
    view = cache.connect(1, agent("n1"))
    (routes,) = [item for _, item in view.items(type_url.VIRTUAL_HOST) if V1.encode() in item.body]
    assert clusters_between(None, routes) == clusters_between(routes, None) == {V1}
    assert clusters_between(None, view.get(type_url.CLUSTER, B)) == {B}
