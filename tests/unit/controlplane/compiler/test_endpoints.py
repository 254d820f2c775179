"""Endpoints do not depend on what a DestinationRule says of TLS: the cluster alone decides which mark it looks at."""

import pytest

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
