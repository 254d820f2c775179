"""The mesh's roots by SDS: who is given them, what changes them, and that routes wait for them (decisions 15, 20)."""

from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from controlplane.compiler.compile import Compiler
from controlplane.discovery.delta import DeltaSession
from controlplane.discovery.response import Response
from controlplane.distribution.stream_sync import StreamSync
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.proxy import Proxy
from controlplane.snapshot.cache import SnapshotCache
from controlplane.snapshot.references import secrets_named
from mesh.xds.names import TRUST_SECRET
from mesh.xds.type_url import CLUSTER, CLUSTER_LOAD_ASSIGNMENT, LISTENER, SECRET, VIRTUAL_HOST
from tests.support.compiling import agent, instance, mesh_of, proxy_of, put

ONE, TWO = (f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n" for body in ("b25l", "dHdv"))
USERS = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec: {selector: {app: user-service}, ports: [{port: 80, targetPort: 3001}]}
"""


def roots(mesh: MeshState, *gone: str, **certificates: str) -> MeshState:
    """The next state, with these roots."""
    changes = Changes(revision=mesh.revision + 1, roots=tuple(certificates.items()), deleted_roots=gone)
    return mesh.with_changes(changes)


def envoy(**metadata: Any) -> Proxy:
    return proxy_of({"id": "edge-1", "userAgentName": "envoy", "metadata": metadata})


def trusted(mesh: MeshState, proxy: Proxy, compiler: Compiler | None = None) -> str:
    """The certificates in the proxy's secret, "" when it has none."""
    compiled = (compiler or Compiler()).compile_scope(mesh, mesh.scope_of(proxy))
    found = compiled.resources.get(SECRET, {}).get(TRUST_SECRET)
    return Secret.FromString(found.body).validation_context.trusted_ca.inline_string if found is not None else ""


def test_whoever_takes_secrets_has_the_roots() -> None:
    mesh = roots(mesh_of(USERS), r1=ONE)
    assert trusted(mesh, agent()) == ONE
    assert trusted(mesh, envoy(TLS_DIR="/tls")) == ONE
    assert trusted(mesh, envoy()) == "", "it has no certificates of the mesh"
    grpc = proxy_of({"id": "g", "userAgentName": "gRPC C-core", "metadata": {"TLS": True}}, delta=False)
    assert trusted(mesh, grpc) == "", "gRPC clients have certificate providers"


def test_roots_come_and_go_in_a_fixed_order_and_nothing_else_is_built() -> None:
    compiler, mesh = Compiler(), roots(mesh_of(USERS), r1=ONE)
    assert trusted(mesh, agent(), compiler) == ONE
    before = compiler.builds.copy()
    mesh = roots(mesh, r0=TWO)
    assert trusted(mesh, agent(), compiler) == TWO + ONE
    assert compiler.builds - before == {"Secret": 1}
    assert trusted(roots(mesh, "r0", "r1"), agent(), compiler) == ""
    assert trusted(roots(roots(mesh_of(USERS), r0=TWO), r1=ONE), agent()) == TWO + ONE


def test_a_change_of_the_roots_reaches_every_stream_that_has_them() -> None:
    mesh = roots(put(mesh_of(USERS), instance("u-1")), r1=ONE)
    cache = SnapshotCache(Compiler(), mesh)
    cache.connect(1, agent())
    cache.connect(2, envoy())
    cache.advance(roots(mesh, r2=TWO))
    assert [update.stream for update in cache.refresh()] == [1]


@pytest.mark.parametrize("proxy", [envoy(TLS_DIR="/tls"), agent()])
def test_what_clusters_name_exists(proxy: Proxy) -> None:
    """An agent's clusters name no secret: it has the roots from its own provider."""
    mesh = roots(put(mesh_of(USERS), instance("u-1")), r1=ONE)
    compiled = Compiler().compile_scope(mesh, mesh.scope_of(proxy)).resources
    named = {name for cluster in compiled[CLUSTER].values() for name in secrets_named(cluster)}
    assert named == ({TRUST_SECRET} if proxy.id == "edge-1" else set())
    assert named <= compiled[SECRET].keys()


def test_routes_wait_for_the_secrets_of_their_clusters() -> None:
    """Envoy acknowledges a cluster before it is warm; it is of use when its secret is acknowledged too."""
    mesh = roots(put(mesh_of(USERS), instance("u-1")), r1=ONE)
    view = SnapshotCache(Compiler(), mesh).connect(1, envoy(TLS_DIR="/tls"))
    session = DeltaSession(view, StreamSync())

    def say(url: str, *names: str, nonce: str = "") -> dict[str, Response]:
        request = DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=names, response_nonce=nonce)
        return {response.type_url: response for response in session.on_request(request, 0.0)}

    clusters = say(CLUSTER)[CLUSTER]
    named = list(view.names(CLUSTER_LOAD_ASSIGNMENT))
    endpoints = say(CLUSTER_LOAD_ASSIGNMENT, *named)[CLUSTER_LOAD_ASSIGNMENT]
    say(LISTENER)
    say(VIRTUAL_HOST)
    say(CLUSTER, nonce=clusters.nonce)
    say(CLUSTER_LOAD_ASSIGNMENT, nonce=endpoints.nonce)
    waits = {held.waits_for for held in session.sync.of(VIRTUAL_HOST).held.values()}
    assert waits == {f"SDS {TRUST_SECRET}"}
    secret = say(SECRET, TRUST_SECRET)[SECRET]
    assert [resource.name for resource in secret.resources] == [TRUST_SECRET]
    released = say(SECRET, nonce=secret.nonce)
    assert any("user-service" in resource.name for resource in released[VIRTUAL_HOST].resources)
