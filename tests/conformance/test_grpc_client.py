"""grpcio's xDS client and server with posted policies and no proxy in between: xds:///user-service."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controlplane.cli.local_mesh import LocalMesh, wait_until
from tests.support import envoys, meshes

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
PORT = 50051
TARGET = f"user-service.default.svc.cluster.local:{PORT}"
SECOND = 9  # address of the second replica


class Health(health_pb2_grpc.HealthServicer):
    """Answers SERVING, or UNAVAILABLE when it `fails`, and says which version it is."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.fails = False
        self.calls = 0

    def Check(self, request: object, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        self.calls += 1
        if self.fails:
            context.abort(grpc.StatusCode.UNAVAILABLE, "told to fail")
        context.send_initial_metadata((("server-version", self._version),))
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class Caller:
    """A running client; what it prints is read as it comes."""

    def __init__(self, bootstrap: Path, *arguments: str, target: str = TARGET, **env: str) -> None:
        command = [sys.executable, str(HERE / "grpc_client.py"), target, *arguments]
        with bootstrap.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(bootstrap), **env}, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.answers: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.answers.append(json.loads(line))

    def next(self, count: int) -> list[dict[str, Any]]:
        """The answers to the next calls."""
        begun = len(self.answers)
        wait_until(f"{count} more calls", lambda: len(self.answers) >= begun + count)
        return self.answers[begun : begun + count]

    def until(self, what: str, test: Callable[[list[dict[str, Any]]], bool], *, count: int = 20) -> None:
        """Until a run of `count` answers passes."""
        wait_until(what, lambda: test(self.next(count)))

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [answer for answer in self.answers if "error" in answer]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def calling(bootstrap: Path, *arguments: str, target: str = TARGET, **env: str) -> Iterator[Caller]:
    """Calls without end, one at a time."""
    caller = Caller(bootstrap, "0", "--pause", "0.005", *arguments, target=target, **env)
    try:
        yield caller
    finally:
        caller.close()


def only(version: str) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda answers: {answer.get("peer") for answer in answers} == {version}


def entry(mesh: LocalMesh, name: str, number: int, version: str = "") -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}}}
spec:
  address: {mesh.address(number)}
  ports: {{grpc: {PORT}}}
  labels: {{app: {name.partition("-v")[0]}, version: {version or name.rpartition("-")[2]}}}
"""


def service(name: str) -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: grpc, port: {PORT}, targetPort: {PORT}}}]}}
"""


def policies(mesh: LocalMesh, v1: int = 75, v2: int = 25) -> str:
    """A Service over two WorkloadEntries without an agent, split."""
    entries = [entry(mesh, "user-service-v1", 7), entry(mesh, "user-service-v2", 8)]
    return meshes.documents(service("user-service"), *entries, meshes.SUBSETS, meshes.virtual_service(v1, v2))


@pytest.fixture(scope="module")
def servers() -> dict[str, Health]:
    return {"v1": Health("v1"), "v2": Health("v2")}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, servers: dict[str, Health]) -> Iterator[LocalMesh]:
    with meshes.local_mesh(tmp_path_factory.mktemp("grpc")) as mesh:
        mesh.start_control_plane("--xds-plaintext", f"{mesh.address(1)}:18002")
        running = []
        for number, health in zip((7, 8), servers.values(), strict=True):
            server = grpc.server(ThreadPoolExecutor(4))
            health_pb2_grpc.add_HealthServicer_to_server(health, server)
            assert server.add_insecure_port(f"{mesh.address(number)}:{PORT}") == PORT
            server.start()
            running.append(server)
        mesh.apply(policies(mesh))
        yield mesh
        for server in running:
            server.stop(None).wait(5)


@pytest.fixture
def bootstrap(mesh: LocalMesh) -> Path:
    """Of a client without certificates; the mesh is as the module's fixture made it."""
    mesh.wait_revision(mesh.apply(policies(mesh)))
    return bootstrap_of(mesh, "client-1", str(mesh.ready["xds_plaintext"]))


def bootstrap_of(mesh: LocalMesh, node: str, address: str, *more: str) -> Path:
    path = mesh.root / f"{node}.json"
    done = envoys.meshctl(mesh, "grpc", "bootstrap", "--node", node, "--xds-address", address, *more)
    path.write_text(done.stdout)
    return path


@pytest.mark.parametrize("target", ["user-service", TARGET])
def test_grpc_client_splits_by_policy(bootstrap: Path, target: str) -> None:
    """The client finds the service by its short and its full name and splits 75/25."""
    with calling(bootstrap, "--pause", "0", target=target) as caller:
        answers = caller.next(400)
    meshes.assert_share(Counter(answer["peer"] for answer in answers), "v1", 0.75)


def test_a_route_change_fails_no_call(mesh: LocalMesh, bootstrap: Path) -> None:
    """From one subset to the other and back, with the clusters that the routes need."""
    with calling(bootstrap) as caller:
        caller.next(10)
        mesh.apply(meshes.virtual_service(0, 100))
        caller.until("v2 only", only("v2"))
        mesh.apply(meshes.virtual_service(100, 0))
        caller.until("v1 only", only("v1"))
        assert caller.errors == []


def test_an_endpoint_change_fails_no_call(mesh: LocalMesh, bootstrap: Path) -> None:
    """The subset's only endpoint moves to another address."""
    mesh.apply(meshes.virtual_service(100, 0))
    with calling(bootstrap) as caller:
        caller.until("v1 only", only("v1"))
        mesh.apply(entry(mesh, "user-service-v1", 8))  # the server there says that it is v2
        caller.until("the other server", only("v2"))
        assert caller.errors == []


def test_what_is_deleted_is_gone_and_comes_back(mesh: LocalMesh, bootstrap: Path) -> None:
    """Without the service its listener goes: calls fail at once; with it they succeed again, on the same channel."""
    mesh.apply(meshes.documents(service("gone"), entry(mesh, "gone-v1", 7)))
    with calling(bootstrap, "--fail-fast", "--timeout", "5", target=f"gone:{PORT}") as caller:
        caller.until("answers", only("v1"))
        assert mesh.rest("DELETE", "/api/v1/namespaces/default/services/gone").status == 200
        caller.until("refused", lambda answers: {answer.get("error") for answer in answers} == {"UNAVAILABLE"})
        mesh.apply(service("gone"))
        caller.until("answers again", only("v1"))


def test_a_name_that_never_was_fails_at_once(bootstrap: Path) -> None:
    """Rule 25, gRFC A88: a client that knows resource_errors need not wait for its timer."""
    env = {"GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING": "true"}
    with calling(bootstrap, "--fail-fast", "--timeout", "10", target="nobody", **env) as caller:
        (answer,) = caller.next(1)
    assert answer["error"] == "UNAVAILABLE"


def test_consecutive_errors_eject_by_failure_percentage(
    mesh: LocalMesh, bootstrap: Path, servers: dict[str, Health]
) -> None:
    """Decision 22: a host that fails all the time is left alone, though gRPC counts no consecutive errors."""
    outlier = "{consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 60s}"
    rule = meshes.SUBSETS.replace("  subsets:", f"  trafficPolicy: {{outlierDetection: {outlier}}}\n  subsets:")
    plain = meshes.virtual_service(100, 0).replace(", subset: v1", "")
    whole = plain[: plain.index("    - destination: {host: user-service, subset: v2}")] + "    retries: {attempts: 0}\n"
    mesh.apply(meshes.documents(rule, whole.replace("      weight: 100\n", "")))
    servers["v1"].fails = True
    try:
        with calling(bootstrap, "--fail-fast") as caller:
            wait_until("failures", lambda: caller.errors)
            caller.until("no more failures", only("v2"), count=60)
            before = servers["v1"].calls
            caller.next(60)
            assert servers["v1"].calls == before
    finally:
        servers["v1"].fails = False

    def approximated() -> str:
        found = mesh.rest(
            "GET", "/apis/networking.istio.io/v1/namespaces/default/destinationrules/user-service-versions"
        ).json
        conditions = found.get("status", {}).get("conditions", [])
        return next((item["message"] for item in conditions if item["type"] == "Approximated"), "")

    with calling(bootstrap):
        told = wait_until("the condition", approximated)
    assert "consecutive5xxErrors 3" in told
    assert "85 %" in told


def test_a_replica_that_dies_is_replaced_and_fails_no_call(mesh: LocalMesh, bootstrap: Path) -> None:
    """kill -9 of the replica that the client is on: calls go on, and the next change comes from the other."""
    first = dict(mesh.ready)
    here = mesh.address(SECOND)
    folder = mesh.root / "controlplane-2"
    folder.mkdir(mode=0o700)
    shutil.copy(mesh.root / "controlplane" / "ca-encryption.key", folder)  # as operators copy it to each replica
    second = mesh.start_control_plane(
        "--rest", f"{here}:8080", "--grpc-mtls", f"{here}:18000", "--grpc-tls", f"{here}:18001",
        "--xds-plaintext", f"{here}:18002", name="controlplane-2", etcd=str(first["etcd"]),
    )  # fmt: skip
    addresses = f"ipv4:{mesh.ready['xds_plaintext']},{first['xds_plaintext']}"
    both = bootstrap_of(mesh, "client-2", str(mesh.ready["xds_plaintext"]))
    both.write_text(both.read_text().replace(str(mesh.ready["xds_plaintext"]), addresses))
    mesh.apply(meshes.virtual_service(100, 0))
    with calling(both) as caller:
        caller.until("v1 only", only("v1"))
        second.stop(signal.SIGKILL)
        mesh.ready = first
        caller.next(50)
        mesh.apply(meshes.virtual_service(0, 100))
        caller.until("v2 only", only("v2"))
        assert caller.errors == []


STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


@contextmanager
def serving(mesh: LocalMesh, bootstrap: Path, address: str) -> Iterator[None]:
    """A server of service `greeter` that has its Listener from the mesh."""
    log = (mesh.root / "grpc-server.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, str(HERE / "grpc_server.py"), address, "xds"],
        env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(bootstrap)}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
        log.close()


GREETER = service("greeter")


def test_a_server_has_its_listener_from_the_mesh(mesh: LocalMesh, bootstrap: Path) -> None:
    """Rule 28: the server registers with its bootstrap, gets its Listener by name, and the client finds it."""
    address = f"{mesh.address(6)}:{PORT}"
    workload = f"name=greeter,port={PORT},protocol=grpc,address={mesh.address(6)},labels.app=greeter"
    server = bootstrap_of(
        mesh, "server-1", str(mesh.ready["xds_plaintext"]), "--address", mesh.address(6), "--workload", workload
    )
    mesh.apply(GREETER)
    with serving(mesh, server, address), calling(bootstrap, target="greeter:50051") as caller:
        caller.until("the server answers", only("xds"))


DENIED = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guarded}
spec:
  selector: {matchLabels: {app: guarded}}
  action: DENY
  rules:
  - {to: [{operation: {paths: ["/grpc.health.v1.Health/*"], notHosts: [nobody], ports: ["50051"]}}]}
  - from: [{source: {namespaces: [other], notIpBlocks: [10.0.0.0/8]}}]
    when: [{key: "request.headers[x-a]", values: [b]}]
"""


def test_a_server_enforces_authorization(mesh: LocalMesh, bootstrap: Path) -> None:
    """gRFC A41: the server takes the filters, and a call that is denied says so; without the policy it is answered."""
    address = f"{mesh.address(9)}:{PORT}"
    workload = f"name=guarded,port={PORT},protocol=grpc,address={mesh.address(9)},labels.app=guarded"
    server = bootstrap_of(
        mesh, "server-3", str(mesh.ready["xds_plaintext"]), "--address", mesh.address(9), "--workload", workload
    )
    mesh.apply(service("guarded"))
    with serving(mesh, server, address), calling(bootstrap, target="guarded:50051") as caller:
        caller.until("the server answers", only("xds"))
        mesh.apply(DENIED)
        caller.until("calls are denied", lambda answers: {own.get("error") for own in answers} == {"PERMISSION_DENIED"})
        mesh.rest("DELETE", "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies/guarded")
        caller.until("the server answers again", only("xds"))


def test_client_and_server_speak_mtls_under_strict(mesh: LocalMesh) -> None:
    """Rule 32: certificates of the mesh by the bootstrap's provider on both sides; plaintext is not let in."""
    address = f"{mesh.address(5)}:{PORT}"
    workload = (
        f"name=secure,port={PORT},protocol=grpc,address={mesh.address(5)},labels.app=secure,service-account=secure"
    )
    where = ("--address", mesh.address(5), "--workload", workload)
    server = joined(mesh, "server-2", "--service-account", "secure", *where)
    client = joined(mesh, "client-3", "--service-account", "orders")
    mesh.apply(meshes.documents(service("secure"), STRICT))
    try:
        with serving(mesh, server, address):
            with calling(client, "--mtls", target="secure:50051") as caller:
                caller.until(
                    "the server answers and sees who calls", only("xds spiffe://cluster.local/ns/default/sa/orders")
                )
            plain = bootstrap_of(mesh, "client-1", str(mesh.ready["xds_plaintext"]))
            with calling(plain, "--fail-fast", "--timeout", "3", target="secure:50051") as caller:
                assert {answer.get("error") for answer in caller.next(5)} <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    finally:
        mesh.rest("DELETE", "/apis/security.istio.io/v1/namespaces/default/peerauthentications/default")


def joined(mesh: LocalMesh, node: str, *more: str) -> Path:
    """The bootstrap of a client with certificates."""
    folder = mesh.root / node
    envoys.meshctl(
        mesh, "grpc", "bootstrap", "--node", node, "--token", mesh.token(node), "--dir", str(folder),
        "--join-address", str(mesh.ready["grpc_tls"]), "--xds-address", str(mesh.ready["grpc_mtls"]), *more,
    )  # fmt: skip
    return folder / "bootstrap.json"
