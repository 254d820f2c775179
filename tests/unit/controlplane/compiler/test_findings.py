"""Conditions that golden files do not show: those of scopes, and what they say after a change."""

import pytest

from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import MeshState
from tests.support.compiling import agent, fold, instance, mesh_of, proxy_of, put

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec: {selector: {app: user-service}, ports: [{port: 80}]}
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: user-service}
spec: {hosts: [user-service], http: [{route: [{destination: {host: user-service, subset: v1}}]}]}
"""
SUBSETS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: versions}
spec: {host: user-service, subsets: [{name: v1, labels: {version: v1}}]}
"""
OTHER = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: theirs, namespace: other}
spec: {host: user-service.default.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
"""
STRICT_FOR_ONE = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: some}
spec: {selector: {matchLabels: {app: user-service}}, mtls: {mode: STRICT}}
"""
OTHERS_HOST = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: taken}
spec:
  hosts: [user-service.default.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: somebody-else}}
"""


def found(compiler: Compiler, mesh: MeshState) -> list[tuple[str, str]]:
    return [(item.ref.name, item.type) for item in compiler.conditions(mesh)]


def test_missing_subset_comes_and_goes() -> None:
    """The finding that the source document leaves open, its hint, and its end when the subsets are posted."""
    compiler, mesh = Compiler(), mesh_of(SERVICE + "---\n" + ROUTE)
    (first,) = compiler.conditions(mesh)
    assert first.message.endswith(
        "user-service has no instances with labels yet; define the subsets in a DestinationRule"
    )
    mesh = put(mesh, instance("u1", version="v1"), instance("u2", version="v2", node="node-2", address="10.0.0.2"))
    (condition,) = compiler.conditions(mesh)
    assert condition == Condition(
        condition.ref,
        "ReferencedResourceNotFound",
        "True",
        "UnknownDestination",
        "subset v1 of user-service.default.svc.cluster.local is not defined; user-service has instances labelled "
        "version=v1, version=v2; define the subsets in a DestinationRule",
        "IST0101",
    )
    mesh = fold(mesh, SUBSETS)
    assert found(compiler, mesh) == []


def test_a_selector_selects_a_workload_that_no_service_has() -> None:
    """It joins, which changes no service's view, and the finding ends; it leaves, and the finding is back."""
    compiler, mesh = Compiler(), mesh_of(STRICT_FOR_ONE + "---\n" + OTHERS_HOST)
    alone = [("taken", "SelectsNothing"), ("some", "SelectsNothing")]
    assert found(compiler, mesh) == alone
    joined = put(mesh, instance("u1", service="user-service"))
    assert joined.views is mesh.views
    assert found(compiler, joined) == alone[:1]
    assert found(compiler, mesh) == alone


def test_a_selector_of_the_root_namespace_is_sought_in_all() -> None:
    policy = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: %s}\n"
        "spec: {selector: {matchLabels: {app: b}}, rules: [{}]}"
    )
    for namespace, where in (("istio-system", "the mesh"), ("default", "namespace default")):
        [condition] = Compiler().conditions(put(mesh_of(SERVICE + "---\n" + policy % namespace), instance("u1")))
        assert condition.message == f"spec.selector: no workload of {where} carries app=b"


def test_rules_of_two_namespaces_on_one_node() -> None:
    """Clusters are shared by all workloads of an agent: the rule that loses says so, once such an agent is there."""
    compiler = Compiler()
    mesh = put(
        mesh_of(SERVICE + "---\n" + SUBSETS + "---\n" + OTHER),
        instance("u1", version="v1"),
        instance("o1", service="o", namespace="other", node="node-1"),
    )
    assert found(compiler, mesh) == []
    compiler.compile_scope(mesh, mesh.scope_of(agent()))
    assert found(compiler, mesh) == [("theirs", "NotEnforced")]
    compiler.compile_scope(mesh, mesh.scope_of(agent("node-2")))
    assert len(found(compiler, mesh)) == 1


DELEGATING = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [user-service]
  http:
  - {match: [{uri: {prefix: /a}}], delegate: {name: rules}}
  - {match: [{uri: {prefix: /b}}], delegate: {name: rules}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: rules}
spec:
  http: [{fault: {abort: {httpStatus: 500, percentage: {value: 1}}}, route: [{destination: {host: user-service}}]}]
"""


@pytest.mark.parametrize(
    ("user_agent", "kind"), [("envoy", "Approximated"), ("gRPC C-core", "NotEnforced")], ids=["envoy", "grpc"]
)
def test_what_others_do_of_a_delegates_rule_is_told_to_the_delegate(user_agent: str, kind: str) -> None:
    """At its place in the object as it is stored: not below the root, whose second rule has no fault."""
    compiler, mesh = Compiler(), put(mesh_of(SERVICE + DELEGATING), instance("u1"))
    assert found(compiler, mesh) == []
    compiler.compile_scope(mesh, mesh.scope_of(proxy_of({"id": "p", "userAgentName": user_agent}, delta=False)))
    [condition] = compiler.conditions(mesh)
    assert (condition.ref.name, condition.type) == ("rules", kind)
    assert "spec.http[0].fault" in condition.message
    assert "spec.http[1]" not in condition.message


def test_conditions_of_a_hypothetical_state() -> None:
    """Asking about a state that never comes (the preview of a write) leaves what is known of the present one."""
    compiler, mesh = Compiler(), put(mesh_of(SERVICE + "---\n" + SUBSETS), instance("u1", version="v1"))
    before = compiler.conditions(mesh)
    assert compiler.conditions(fold(mesh, ROUTE.replace("v1}", "v9}"))) != before
    assert compiler.conditions(mesh) == before == ()
