"""Endpoints do not depend on what a DestinationRule says of TLS: the cluster alone decides which mark it looks at."""

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from agent.config.decode import decode
from agent.model.cluster import Cluster
from agent.model.tls import UpstreamTls
from controlplane.compiler.compile import Compiler
from mesh.xds import type_url
from tests.support.compiling import agent, fold, instance, mesh_of, put

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec: {selector: {app: user-service}, ports: [{port: 80, targetPort: 3001}]}
"""
RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: user-service}
spec: {host: user-service, trafficPolicy: {tls: %s}}
"""
CLUSTER = "outbound|80||user-service.default.svc.cluster.local"


@pytest.mark.parametrize("tls", ["{mode: ISTIO_MUTUAL}", "{mode: DISABLE}", "{mode: SIMPLE, insecureSkipVerify: true}"])
def test_a_tls_mode_changes_no_endpoint(tls: str) -> None:
    """EDS comes after CDS: an old cluster, kept while the new one is on its way or for good when it was refused, would
    lose the marks by which it chooses mTLS and send plaintext."""
    compiler, proxy = Compiler(), agent()
    before = put(mesh_of(SERVICE), instance("i1"))
    after = fold(before, RULE % tls)
    versions = [
        compiler.compile_scope(mesh, mesh.scope_of(proxy)).resources[type_url.CLUSTER_LOAD_ASSIGNMENT][CLUSTER].version
        for mesh in (before, after)
    ]
    assert versions[0] == versions[1]


@pytest.mark.parametrize(
    "tls",
    [
        "{mode: MUTUAL, clientCertificate: /tls/cert.pem, privateKey: /tls/key.pem}",
        "{mode: SIMPLE, caCertificates: /tls/roots.pem, caCrl: /tls/crl.pem}",
    ],
)
def test_an_agent_is_told_of_no_files_of_the_users(tls: str) -> None:
    """It would refuse the cluster; the policy says that it is not enforced, and there is no endpoint."""
    mesh = fold(put(mesh_of(SERVICE), instance("i1")), RULE % tls)
    compiled = Compiler().compile_scope(mesh, mesh.scope_of(agent()))
    body = compiled.resources[type_url.CLUSTER][CLUSTER].body
    assert b"/tls/" not in body
    made = decode(type_url.CLUSTER, CLUSTER, body)
    assert isinstance(made, Cluster)
    assert made.tls == UpstreamTls(
        identity="",
        trust="system",
        peer_dns=frozenset({"user-service.default.svc.cluster.local"}),
        sni="user-service.default.svc.cluster.local",
        alpn=made.tls.alpn if made.tls else (),
    )
    endpoints = compiled.resources[type_url.CLUSTER_LOAD_ASSIGNMENT][CLUSTER]
    assert not ClusterLoadAssignment.FromString(endpoints.body).endpoints
