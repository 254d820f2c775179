"""Folding: what a change touches, and what stays the same object."""

from dataclasses import replace

from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.proxy import Caller
from controlplane.registry.instances import Ejection, Node
from tests.support.compiling import SETTINGS, agent, fold, instance, mesh_of, parse, put

A, B = "a.default.svc.cluster.local", "b.default.svc.cluster.local"
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: b}, ports: [{port: 80}]}
"""
SOURCE_LABELS = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{match: [{sourceLabels: {version: v1}}], route: [{destination: {host: a}}]}]}
"""


def test_an_instance_touches_its_service_only() -> None:
    mesh = put(mesh_of(SERVICES), instance("a1", service="a"), instance("b1", service="b", node="node-2"))
    after = put(mesh, instance("a1", service="a", health="UNHEALTHY"))
    assert after.views.changed_since(mesh.views) == {A}
    assert after.node_views.changed_since(mesh.node_views) == {"node-1"}
    assert after.objects is mesh.objects


def test_an_equal_instance_changes_nothing() -> None:
    mesh = put(mesh_of(SERVICES), instance("a1", service="a"))
    after = put(mesh, instance("a1", service="a"))
    assert after.views is mesh.views
    assert after.node_views is mesh.node_views
    assert after.revision == mesh.revision + 1


def test_a_service_touches_the_node_of_its_namesake_that_it_does_not_select() -> None:
    """What enters there is told by the service of that name."""
    service = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selector: {app: b}, ports: [{port: 80}]}}"
    entry = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: [a.default.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: b}}
"""
    own = instance("a1", service="a")
    (old,), (new,) = parse(service)[0], parse(entry)[0]
    before = put(mesh_of(service), own)
    changes = Changes(revision=before.revision + 1, objects=(new,), deleted_objects=(old.ref,))
    after = before.with_changes(changes)
    assert dict(after.node_views) == dict(put(mesh_of(entry), own).node_views)
    assert after.node_views.changed_since(before.node_views) == {"node-1"}


def test_a_state_never_changes() -> None:
    mesh = put(mesh_of(SERVICES), instance("a1", service="a"))
    views = dict(mesh.views)
    gone = mesh.with_changes(Changes(revision=9, deleted_instances=(("default", "node-1", "a1"),)))
    assert gone.endpoints(A) == ()
    assert dict(mesh.views) == views
    assert len(mesh.endpoints(A)) == 1


def test_peer_authentication_touches_its_namespace() -> None:
    """Whether an endpoint takes mTLS is part of its service's view."""
    policy = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: DISABLE}}
"""
    mesh = put(mesh_of(SERVICES), instance("a1", service="a"))
    after = fold(mesh, policy)
    assert [own.tls for own in mesh.endpoints(A)] == [True]
    assert [own.tls for own in after.endpoints(A)] == [False]
    assert B not in after.views.changed_since(mesh.views)
    back = after.with_changes(Changes(revision=9, deleted_objects=tuple(set(after.objects) - set(mesh.objects))))
    assert [own.tls for own in back.endpoints(A)] == [True]


def test_scope_of_an_agent() -> None:
    """The callers are its workloads; labels count only when a rule tests them."""
    proxy = agent()
    mesh = put(mesh_of(SERVICES), instance("a1", service="a", version="v1"), instance("b1", service="b"))
    assert mesh.scope_of(proxy).callers == (Caller("default"),)
    tested = fold(mesh, SOURCE_LABELS)
    assert tested.scope_of(proxy).callers == (Caller("default"), Caller("default", (("version", "v1"),)))
    other = put(tested, instance("c1", service="c", namespace="other"))
    assert other.scope_of(proxy).namespaces == ("default", "other")
    assert mesh.scope_of(agent("node-9")) == mesh.scope_of(agent("node-8"))


def test_caller_of_the_node_wide_port() -> None:
    """That of the workloads when they agree, else the node's own."""
    mesh = put(mesh_of(), instance("c1", service="c", namespace="other"))
    assert mesh.caller_of(agent()) == Caller("other")
    mixed = put(mesh, instance("a1", service="a"))
    assert mixed.caller_of(agent(namespace="third")) == Caller("third")


def test_nodes_and_ejections() -> None:
    node = Node(name="n", address="10.0.0.1")
    ejection = Ejection(
        cluster="c", endpoint="e", node="n", reason="5xx", detail="", times=1, since_ms=1, until_ms=2, enforced=True
    )  # fmt: skip
    mesh = MeshState.empty(SETTINGS).with_changes(Changes(revision=1, nodes=(node,), ejections=(ejection,)))
    assert mesh.nodes() == (node,)
    assert mesh.node("n") == node
    assert mesh.ejections() == (ejection,)
    changed = mesh.with_changes(
        Changes(revision=2, nodes=(replace(node, version="2"),), deleted_ejections=(("c", "e", "n"),))
    )
    assert changed.nodes()[0].version == "2"
    assert changed.ejections() == ()
    assert changed.views is mesh.views


def test_reading() -> None:
    mesh = put(mesh_of(SERVICES), instance("a1", service="a"))
    assert [service.host for service in mesh.services()] == [A, B]
    assert mesh.service("nobody") is None
    assert mesh.endpoints("nobody") == ()
    assert [item.id for item in mesh.instances()] == ["a1"]
    assert [item.id for item in mesh.instances_of("node-1")] == ["a1"]
