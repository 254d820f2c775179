"""The grpcio xDS client resolves and calls through: xds:///user-service by posted policies, no proxy in between."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controlplane.cli.local_mesh import LocalMesh
from tests.support import envoys, meshes

pytestmark = pytest.mark.e2e

PORT = 50051


class Health(health_pb2_grpc.HealthServicer):
    """Answers SERVING and says which version it is."""

    def __init__(self, version: str) -> None:
        self._version = version

    def Check(self, request: object, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        context.send_initial_metadata((("server-version", self._version),))
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def policies(mesh: LocalMesh) -> str:
    """A Service over two WorkloadEntries without an agent, split 75/25."""
    entries = [
        f"""\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: user-{version}}}
spec:
  address: {mesh.address(number)}
  ports: {{grpc: {PORT}}}
  labels: {{app: user-service, version: {version}}}
"""
        for version, number in (("v1", 7), ("v2", 8))
    ]
    service = f"""\
apiVersion: v1
kind: Service
metadata: {{name: user-service}}
spec:
  selector: {{app: user-service}}
  ports: [{{name: grpc, port: {PORT}, targetPort: {PORT}}}]
"""
    return meshes.documents(service, *entries, meshes.SUBSETS, meshes.virtual_service(75, 25))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with meshes.local_mesh(tmp_path_factory.mktemp("grpc")) as mesh:
        mesh.start_control_plane("--xds-plaintext", f"{mesh.address(1)}:18002")
        servers = []
        for version, number in (("v1", 7), ("v2", 8)):
            server = grpc.server(ThreadPoolExecutor(4))
            health_pb2_grpc.add_HealthServicer_to_server(Health(version), server)
            assert server.add_insecure_port(f"{mesh.address(number)}:{PORT}") == PORT
            server.start()
            servers.append(server)
        mesh.apply(policies(mesh))
        yield mesh
        for server in servers:
            server.stop(None).wait(5)


@pytest.mark.parametrize("target", ["user-service", f"user-service.default.svc.cluster.local:{PORT}"])
def test_grpc_client_splits_by_policy(mesh: LocalMesh, target: str) -> None:
    """The client finds the service by its short and its full name and splits 75/25."""
    bootstrap = mesh.root / "grpc-bootstrap.json"
    done = envoys.meshctl(
        mesh, "grpc", "bootstrap", "--node", "client-1", "--xds-address", str(mesh.ready["xds_plaintext"])
    )
    bootstrap.write_text(done.stdout)
    client = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("grpc_client.py")), target, "400"],
        env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(bootstrap)},
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert client.returncode == 0, client.stderr
    answers = [json.loads(line) for line in client.stdout.splitlines()]
    assert len(answers) == 400
    meshes.assert_share(Counter(answer["peer"] for answer in answers), "v1", 0.75)
