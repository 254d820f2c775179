"""Whatever happens to a mesh, and in whatever order: incremental results are those from scratch, and hang together."""

from collections.abc import Iterable
from dataclasses import replace

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.proxy import Proxy
from controlplane.model.workloads import WorkloadKey, key_of
from controlplane.policy.objects import PolicyObject
from controlplane.registry.instances import Instance
from controlplane.snapshot.references import clusters_named
from controlplane.snapshot.view import View
from mesh.vocabulary import HealthStatus, ObjectRef
from mesh.xds import type_url
from tests.support.compiling import SETTINGS, agent, instance, parse, proxy_of
from tests.support.depth import examples
from tests.support.secrets import CERTIFICATE, KEY, encoded

TEXT = """\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 3001}]}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a, version: v1}, ports: [{name: http, port: 80}, {name: admin, port: 81, targetPort: admin}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {ports: [{name: http-x, port: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: short}
spec:
  hosts: [a, a.default]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.9.0.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.example.com", a.default.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: b}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: we}
spec: {address: 10.8.0.1, labels: {app: a, version: v2}, ports: {http: 8000}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a, trafficPolicy: {outlierDetection: {}}, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a, subsets: [{name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: more}
spec: {host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}, workloadSelector: {matchLabels: {app: b}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: all, namespace: istio-system}
spec: {host: "*.local", trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}, subsets: [{name: v1, labels: {app: a}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http: [{route: [{destination: {host: a, subset: v1}, weight: 1}, {destination: {host: b, subset: v2}, weight: 3}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a, b], http: [{match: [{sourceLabels: {version: v1}}], route: [{destination: {host: a}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: second}
spec:
  hosts: [a, "*.example.com"]
  exportTo: ["."]
  http: [{route: [{destination: {host: a.default, port: {number: 81}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside, namespace: other}
spec: {hosts: ["*.local", a.default], http: [{mirror: {host: a}, route: [{destination: {host: nobody}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: some}
spec: {selector: {matchLabels: {app: a}}, portLevelMtls: {3001: {mode: STRICT}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: MUTUAL, credentialName: c}}
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: ["*.local"], tls: {mode: PASSTHROUGH}}
  - {port: {number: 90, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: other}
spec:
  selector: {}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [./a.example.com]}
  - {port: {number: 90, name: http-too, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: at-edge}
spec:
  hosts: ["*"]
  gateways: [edge, other/edge]
  http: [{match: [{sourceLabels: {version: v1}}, {uri: {prefix: /a}}], route: [{destination: {host: a, subset: v1}}]}]
  tls: [{match: [{sniHosts: [b.local]}], route: [{destination: {host: b}}]}]
  tcp: [{route: [{destination: {host: a, subset: v2}, weight: 1}, {destination: {host: b}, weight: 2}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: at-edge}
spec:
  hosts: [a.example.com]
  gateways: [edge, mesh]
  http: [{match: [{gateways: [edge]}], route: [{destination: {host: b}}]}, {route: [{destination: {host: a}}]}]
---
apiVersion: v1
kind: Secret
metadata: {name: c}
type: kubernetes.io/tls
data: {tls.crt: CHAIN, tls.key: PRIVATE}
---
apiVersion: v1
kind: Secret
metadata: {name: c-cacert}
data: {cacert: CHAIN}
"""
TEXT = TEXT.replace("CHAIN", encoded(CERTIFICATE)).replace("PRIVATE", encoded(KEY))
OBJECTS, _, _ = parse(TEXT)
INSTANCES = [
    instance("a1", service="a", version="v1", outbound_port=15100),
    instance("a1", service="a", version="v2", health="UNHEALTHY"),
    instance("a2", service="a", version="v2", node="node-2", address="10.0.0.2", service_account="other"),
    instance("b1", service="b", version="v1", port=8080, outbound_port=15101, inbound_port=20001),
    instance("c1", service="a", version="v1", namespace="other", inbound_port=20002),
    instance(
        "gateway", service="", service_account="edge", node="edge", labels={"istio": "edge"}, ports=[], gateway=True
    ),
    instance(
        "gateway",
        service="",
        service_account="edge",
        node="edge",
        labels={"istio": "edge", "version": "v1"},
        ports=[],
        gateway=True,
    ),
]
EDGE = {"GATEWAY": True, "LABELS": {"istio": "edge"}, "NAMESPACE": "default"}
PROXIES = (
    agent(),
    agent("node-2", namespace="other"),
    proxy_of({"id": "node-1", "userAgentName": "envoy", "metadata": {"TLS_DIR": "/tls"}}, delta=False),
    proxy_of({"id": "client", "userAgentName": "gRPC C-core"}, delta=False),
    replace(agent("edge", **EDGE), secrets=True),
    replace(proxy_of({"id": "edge", "userAgentName": "envoy", "metadata": {"TLS_DIR": "/tls", **EDGE}}), secrets=True),
    proxy_of({"id": "edge", "userAgentName": "envoy", "metadata": EDGE}, delta=False),
)

Step = tuple[frozenset[int], frozenset[int], frozenset[int], frozenset[int]]


def subset_of(items: list[PolicyObject] | list[Instance]) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.integers(0, len(items) - 1), max_size=4)


STEPS = st.lists(
    st.tuples(subset_of(OBJECTS), subset_of(OBJECTS), subset_of(INSTANCES), subset_of(INSTANCES)), max_size=6
)


class World:
    """What the store would hold."""

    def __init__(self) -> None:
        self.objects: dict[ObjectRef, PolicyObject] = {}
        self.instances: dict[WorkloadKey, Instance] = {}
        self.mesh = MeshState.empty(SETTINGS)

    def step(self, step: Step) -> None:
        puts = {OBJECTS[index].ref: OBJECTS[index] for index in sorted(step[0])}
        gone = {OBJECTS[index].ref for index in step[1]} - puts.keys()
        came = {key_of(INSTANCES[index]): INSTANCES[index] for index in sorted(step[2])}
        left = {key_of(INSTANCES[index]) for index in step[3]} - came.keys()
        self.objects = {key: item for key, item in {**self.objects, **puts}.items() if key not in gone}
        self.instances = {key: item for key, item in {**self.instances, **came}.items() if key not in left}
        self.mesh = self.mesh.with_changes(
            Changes(
                revision=self.mesh.revision + 1,
                objects=tuple(puts.values()),
                deleted_objects=tuple(gone),
                instances=tuple(came.values()),
                deleted_instances=tuple(left),
            )
        )

    def from_scratch(self) -> MeshState:
        changes = Changes(
            revision=self.mesh.revision,
            objects=tuple(self.objects.values()),
            instances=tuple(self.instances.values()),
        )
        return MeshState.empty(SETTINGS).with_changes(changes)


def views_of(compiler: Compiler, mesh: MeshState) -> list[View]:
    def view(proxy: Proxy) -> View:
        scope = compiler.compile_scope(mesh, mesh.scope_of(proxy))
        return View(mesh.revision, scope, compiler.compile_proxy(mesh, proxy))

    return [view(proxy) for proxy in PROXIES]


def versions(view: View) -> dict[str, dict[str, str]]:
    urls = {*view.shared.resources, *view.own.resources}
    return {url: {name: item.version for name, item in view.items(url)} for url in urls}


@settings(max_examples=examples(60))
@given(STEPS)
def test_incremental_is_from_scratch(steps: list[Step]) -> None:
    """After every step, views, resources and conditions are those of a mesh and a compiler that know only the end."""
    world, compiler = World(), Compiler()
    for step in steps:
        world.step(step)
        fresh, fresh_compiler = world.from_scratch(), Compiler()
        assert dict(world.mesh.views) == dict(fresh.views)
        assert dict(world.mesh.node_views) == dict(fresh.node_views)
        assert world.mesh.tested_labels == fresh.tested_labels
        found, expected = views_of(compiler, world.mesh), views_of(fresh_compiler, fresh)
        assert [versions(view) for view in found] == [versions(view) for view in expected]
        assert compiler.conditions(world.mesh) == fresh_compiler.conditions(fresh)


@settings(max_examples=examples(60))
@given(STEPS)
def test_resources_hang_together(steps: list[Step]) -> None:
    """Every EDS cluster has its assignment; a route to no cluster has its condition; no domain stands twice."""
    world, compiler = World(), Compiler()
    for step in steps:
        world.step(step)
    views = views_of(compiler, world.mesh)
    conditions = compiler.conditions(world.mesh)
    for view in views:
        assert_clusters_have_endpoints(view)
        assert_domains_are_unique(view)
        assert_routes_lead_somewhere(view, conditions)


def assert_clusters_have_endpoints(view: View) -> None:
    for name, resource in view.items(type_url.CLUSTER):
        if Cluster.FromString(resource.body).type == Cluster.EDS:
            assert view.get(type_url.CLUSTER_LOAD_ASSIGNMENT, name) is not None, name


def assert_routes_lead_somewhere(view: View, conditions: Iterable[Condition]) -> None:
    told = {item.ref for item in conditions if item.type in ("ReferencedResourceNotFound", "NoPort")}
    for url in (type_url.LISTENER, type_url.ROUTE_CONFIGURATION, type_url.VIRTUAL_HOST):
        for name, resource in view.items(url):
            missing = [own for own in clusters_named(resource) if view.get(type_url.CLUSTER, own) is None]
            if missing:
                assert told & {source.ref for source in resource.sources}, (name, missing)


def assert_domains_are_unique(view: View) -> None:
    by_routes: dict[str, list[str]] = {}
    for name, resource in view.items(type_url.VIRTUAL_HOST):
        message = VirtualHost.FromString(resource.body)
        by_routes.setdefault(name.partition("/")[0], []).extend(message.domains)
    for name, resource in view.items(type_url.ROUTE_CONFIGURATION):
        for host in RouteConfiguration.FromString(resource.body).virtual_hosts:
            by_routes.setdefault(name, []).extend(host.domains)
    for name, domains in by_routes.items():
        assert len(domains) == len(set(domains)), (name, sorted(domains))


@settings(max_examples=examples(30))
@given(STEPS, st.sampled_from(list(HealthStatus)))
def test_health_changes_assignments_only(steps: list[Step], health: HealthStatus) -> None:
    """A health change of a registered instance rebuilds nothing but ClusterLoadAssignments."""
    world, compiler = World(), Compiler()
    for step in steps:
        world.step(step)
    views_of(compiler, world.mesh)
    before = compiler.builds.copy()
    for item in world.instances.values():
        changed = replace(item, health=health)
        world.mesh = world.mesh.with_changes(Changes(revision=world.mesh.revision + 1, instances=(changed,)))
        views_of(compiler, world.mesh)
    assert set(compiler.builds - before) <= {"ClusterLoadAssignment"}
