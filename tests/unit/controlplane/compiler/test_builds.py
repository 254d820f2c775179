"""Work is proportional to what changed: one change builds what it touches and leaves every other object as it was."""

from collections import Counter

import pytest

from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Compiled
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Proxy
from mesh.xds import type_url
from tests.support.compiling import agent, fold, instance, mesh_of, proxy_of, put

SERVICES = "".join(
    f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\n"
    f"spec: {{selector: {{app: s{number}}}, ports: [{{port: 80}}]}}\n"
    for number in range(20)
)
SUBSETS = """\
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: s0}
spec: {host: s0, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: s0}
spec: {hosts: [s0], http: [{route: [{destination: {host: s0, subset: v1}}]}]}
"""


class Fixture:
    """A mesh with 20 services, compiled for some proxies."""

    def __init__(self, *proxies: Proxy) -> None:
        self.proxies = proxies
        self.compiler = Compiler()
        instances = [instance(f"i{number}", service=f"s{number}", version="v1") for number in range(20)]
        self.mesh = put(mesh_of(SERVICES + SUBSETS), *instances)
        self.scopes, self.own = self.compile(self.mesh)

    def compile(self, mesh: MeshState) -> tuple[list[Compiled], list[Compiled]]:
        scopes = [self.compiler.compile_scope(mesh, mesh.scope_of(proxy)) for proxy in self.proxies]
        return scopes, [self.compiler.compile_proxy(mesh, proxy) for proxy in self.proxies]

    def change(self, mesh: MeshState) -> Counter[str]:
        """What was built for the next state."""
        before = self.compiler.builds.copy()
        self.mesh = mesh
        self.scopes, self.own = self.compile(mesh)
        return self.compiler.builds - before


SOTW = {"id": "sotw", "userAgentName": "envoy"}


def test_scopes_share() -> None:
    """A second agent of the same scope costs its own listeners and nothing else, and has the very same objects."""
    fixture = Fixture(agent("other-1"))
    built = fixture.compiler.builds.copy()
    second = agent("other-2", OUTBOUND_ADDRESS="127.0.0.2")
    compiled = fixture.compiler.compile_scope(fixture.mesh, fixture.mesh.scope_of(second))
    assert compiled is fixture.scopes[0]
    assert fixture.compiler.builds == built
    fixture.compiler.compile_proxy(fixture.mesh, second)
    assert fixture.compiler.builds - built == Counter({"Listener": 1})


@pytest.mark.parametrize("number", [1, 7])
def test_one_endpoint(number: int) -> None:
    """One assignment, whatever the number of proxies; no other mapping becomes another object."""
    fixture = Fixture(agent("n1"), agent("n2"), proxy_of(SOTW, delta=False))
    before = fixture.scopes[0]
    changed = instance(f"i{number}", service=f"s{number}", version="v1", health="UNHEALTHY")
    built = fixture.change(put(fixture.mesh, changed))
    assert built == Counter({"ClusterLoadAssignment": 2})  # one per dialect
    after = fixture.scopes[0]
    assert {url for url in after.resources if after.resources[url] is not before.resources[url]} == {
        type_url.CLUSTER_LOAD_ASSIGNMENT
    }
    old, new = (own.resources[type_url.CLUSTER_LOAD_ASSIGNMENT] for own in (before, after))
    assert [name for name in new if new[name] is not old[name]] == [f"outbound|80||s{number}.default.svc.cluster.local"]


def test_endpoint_of_a_subset() -> None:
    """Only the assignments of the cluster and of the subset that has it; the empty v2 stays."""
    fixture = Fixture(agent("n1"))
    built = fixture.change(put(fixture.mesh, instance("i0", service="s0", version="v1", weight=5)))
    assert built == Counter({"ClusterLoadAssignment": 2})


def test_a_new_account_changes_the_cluster() -> None:
    """Whom a client accepts is part of the cluster."""
    fixture = Fixture(agent("n1"))
    more = instance("i1b", service="s1", version="v1", node="node-2", address="10.0.0.2", service_account="new")
    assert fixture.change(put(fixture.mesh, more)) == Counter({"ClusterLoadAssignment": 1, "Cluster": 1})


def test_a_route() -> None:
    """One virtual host; for SotW also the RouteConfiguration that holds it."""
    fixture = Fixture(agent("n1"))
    assert fixture.change(fold(fixture.mesh, ROUTE)) == Counter({"VirtualHost": 1})
    whole = Fixture(proxy_of(SOTW, delta=False))
    assert whole.change(fold(whole.mesh, ROUTE)) == Counter({"VirtualHost": 1, "RouteConfiguration": 1})


def test_nothing_relevant() -> None:
    """What no resource shows changes no object at all."""
    fixture = Fixture(agent("n1"), agent("n2"))
    scopes, own = fixture.scopes, fixture.own
    said = instance("i1", service="s1", version="v1", health_reason="checked", health_since_ms=7)
    assert fixture.change(put(fixture.mesh, said)) == Counter()
    assert all(new is old for new, old in zip(fixture.scopes, scopes, strict=True))
    assert all(new is old for new, old in zip(fixture.own, own, strict=True))


def test_there_and_back() -> None:
    """A change that is taken back builds nothing the second time."""
    fixture = Fixture(agent("n1"))
    healthy = instance("i1", service="s1", version="v1")
    version = fixture.scopes[0].resources[type_url.CLUSTER_LOAD_ASSIGNMENT]
    fixture.change(put(fixture.mesh, instance("i1", service="s1", version="v1", health="UNHEALTHY")))
    assert fixture.change(put(fixture.mesh, healthy)) == Counter()
    name = "outbound|80||s1.default.svc.cluster.local"
    assert fixture.scopes[0].resources[type_url.CLUSTER_LOAD_ASSIGNMENT][name] is version[name]


def test_replicas_agree() -> None:
    """Two compilers give the same bytes, whatever the order of the changes."""
    instances = [instance(f"i{number}", service=f"s{number}", version="v1") for number in range(20)]
    one = put(mesh_of(SERVICES, SUBSETS.lstrip("-\n")), *instances)
    two = fold(put(put(mesh_of(SUBSETS.lstrip("-\n")), *instances[10:]), *instances[:10]), SERVICES)
    proxy = agent("n1")
    bodies = [
        {
            (url, name): item.any_bytes
            for url, mapping in Compiler().compile_scope(mesh, mesh.scope_of(proxy)).resources.items()
            for name, item in mapping.items()
        }
        for mesh in (one, two)
    ]
    assert bodies[0] == bodies[1]


def test_conditions_are_the_same_object() -> None:
    fixture = Fixture(agent("n1"))
    before = fixture.compiler.conditions(fixture.mesh)
    assert before
    mesh = put(fixture.mesh, instance("i1", service="s1", version="v1", health="UNHEALTHY"))
    assert fixture.compiler.conditions(mesh) is before
