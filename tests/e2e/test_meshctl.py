"""meshctl against a real control plane with its embedded etcd: what a user types, what it prints, what it leaves."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.cli.local_mesh import LocalMesh, wait_until
from tests.support import envoys, meshes

pytestmark = pytest.mark.e2e

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with meshes.local_mesh(tmp_path_factory.mktemp("meshctl")) as mesh:
        mesh.start_control_plane()
        yield mesh


@pytest.fixture
def run(mesh: LocalMesh):  # type: ignore[no-untyped-def]
    """meshctl as a user runs it; not checked."""

    def call(*arguments: str) -> Done:
        return envoys.meshctl(mesh, *arguments, check=False)

    return call


@pytest.fixture
def policies(tmp_path: Path, run) -> Iterator[Path]:  # type: ignore[no-untyped-def]
    """A folder with three objects in two files; what they made is deleted at the end."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "service.yaml").write_text(meshes.SERVICE)
    (folder / "routes.yaml").write_text(meshes.documents(meshes.SUBSETS, meshes.virtual_service(90, 10)))
    yield folder
    names = ("vs/user-service", "dr/user-service-versions", "svc/user-service")
    assert run("delete", *names, "--ignore-not-found").returncode == 0


def test_apply_creates_changes_and_leaves_alone(run, policies: Path) -> None:  # type: ignore[no-untyped-def]
    first = run("apply", "-f", str(policies), "--wait")
    assert first.returncode == 0, first.stderr
    *objects, revision, proxies = first.stdout.splitlines()
    assert objects == [
        "destinationrule.networking.istio.io/user-service-versions created",
        "virtualservice.networking.istio.io/user-service created",
        "service/user-service created",
    ]
    assert int(revision.removeprefix("revision ")) > 0
    assert proxies == "no proxy is connected"
    (policies / "routes.yaml").write_text(meshes.documents(meshes.SUBSETS, meshes.virtual_service(50, 50)))
    second = run("apply", "-f", str(policies))
    assert [line.split()[-1] for line in second.stdout.splitlines()[:3]] == ["unchanged", "configured", "unchanged"]


def test_apply_is_atomic_and_names_file_line_document_and_field(run, policies: Path) -> None:  # type: ignore[no-untyped-def]
    broken = meshes.virtual_service(90, 10).replace("weight: 10", "weight: ten")
    (policies / "routes.yaml").write_text(meshes.documents(meshes.SUBSETS, broken))
    done = run("apply", "-f", str(policies))
    assert done.returncode == 1
    assert done.stdout == ""
    line = (policies / "routes.yaml").read_text().splitlines().index("      weight: ten") + 1
    assert f"meshctl: {policies}/routes.yaml:{line} (document 2): VirtualService default/user-service: " in done.stderr
    assert 'spec.http[0].route[1].weight: found "ten"' in done.stderr
    assert done.stderr.endswith("meshctl: nothing was changed\n")
    assert run("get", "svc", "user-service").returncode == 1, "the good objects of the batch were not stored either"


def test_apply_from_standard_input_into_a_namespace(mesh: LocalMesh, run) -> None:  # type: ignore[no-untyped-def]
    command = [str(Path(sys.executable).parent / "meshctl"), "--server", f"http://{mesh.rest_address}"]
    done = subprocess.run(
        [*command, "apply", "-n", "shop", "-f", "-"],
        input=meshes.SUBSETS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "user-service-versions in shop created" in done.stdout
    assert run("get", "dr", "-A", "-o", "name").stdout == "destinationrule.networking.istio.io/user-service-versions\n"
    assert run("delete", "dr/user-service-versions", "-n", "shop").returncode == 0


def test_warnings_of_the_mesh_come_with_the_apply(run, policies: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("apply", "-f", str(policies / "service.yaml"))
    assert done.stderr == ""
    (policies / "alone.yaml").write_text(meshes.virtual_service(90, 10))
    done = run("apply", "-f", str(policies / "alone.yaml"))
    assert done.returncode == 0
    assert done.stderr.startswith(
        "Warning: VirtualService default/user-service: ReferencedResourceNotFound: subsets v1, v2"
    )


def test_get_in_every_form(run, policies: Path) -> None:  # type: ignore[no-untyped-def]
    run("apply", "-f", str(policies))
    table = run("get", "vs").stdout.splitlines()
    assert table[0].split() == ["NAME", "GATEWAYS", "HOSTS", "STATUS", "AGE"]
    assert table[1].split()[:3] == ["user-service", "-", "user-service"]
    assert run("get", "virtualservices.networking.istio.io", "-A").stdout.startswith("NAMESPACE   NAME")
    assert json.loads(run("get", "vs/user-service", "-o", "json").stdout)["spec"]["hosts"] == ["user-service"]
    assert run("get", "svc", "-l", "nobody=has").stderr == "no object found in namespace default\n"
    everything = run("get", "all", "-o", "name").stdout.splitlines()
    assert {"service/user-service", "virtualservice.networking.istio.io/user-service"} <= set(everything)


def test_what_get_prints_can_be_applied_again(run, policies: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run("apply", "-f", str(policies))
    (tmp_path / "copy.yaml").write_text(run("get", "vs,dr,svc", "-o", "yaml").stdout)
    done = run("apply", "-f", str(tmp_path / "copy.yaml"))
    assert done.returncode == 0, done.stderr
    assert {line.split()[-1] for line in done.stdout.splitlines()[:3]} == {"unchanged"}


def test_watch_tells_what_is_there_and_what_changes(mesh: LocalMesh, run, policies: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run("apply", "-f", str(policies))
    command = [
        str(Path(sys.executable).parent / "meshctl"),
        "--server",
        f"http://{mesh.rest_address}",
        "get",
        "vs",
        "-w",
    ]
    log = tmp_path / "watch.log"
    with log.open("w") as sink, subprocess.Popen(command, stdout=sink, stdin=subprocess.DEVNULL) as watch:
        try:
            wait_until("what is there", lambda: "ADDED      user-service" in log.read_text())
            (policies / "routes.yaml").write_text(meshes.virtual_service(20, 80))
            run("apply", "-f", str(policies / "routes.yaml"))
            wait_until("the change", lambda: "MODIFIED   user-service" in log.read_text())
            run("delete", "vs", "user-service")
            wait_until("the deletion", lambda: "DELETED    user-service" in log.read_text())
        finally:
            watch.terminate()
    lines = log.read_text().splitlines()
    assert lines[0].split() == ["EVENT", "NAME", "GATEWAYS", "HOSTS", "STATUS", "AGE"]
    assert len({line.index("user-service") for line in lines[1:]}) == 1, "rows stand below each other"


def test_diff_shows_what_apply_would_change_and_changes_nothing(run, policies: Path) -> None:  # type: ignore[no-untyped-def]
    new = run("diff", "-f", str(policies))
    assert new.returncode == 1
    assert "+++ applied Service default/user-service\n@@ -0,0 +1," in new.stdout
    run("apply", "-f", str(policies))
    same = run("diff", "-f", str(policies))
    assert (same.returncode, same.stdout) == (0, "")
    (policies / "routes.yaml").write_text(meshes.documents(meshes.SUBSETS, meshes.virtual_service(80, 20)))
    changed = run("diff", "-f", str(policies))
    assert changed.returncode == 1
    assert "-      weight: 90\n+      weight: 80\n" in changed.stdout
    assert "\x1b[" not in changed.stdout, "no colours where nobody looks"
    assert json.loads(run("get", "vs/user-service", "-o", "json").stdout)["spec"]["http"][0]["route"][0]["weight"] == 90
    (policies / "routes.yaml").write_text("kind: Nonsense\n")
    assert run("diff", "-f", str(policies)).returncode == 2


def test_describe_shows_conditions_and_changes(run, policies: Path) -> None:  # type: ignore[no-untyped-def]
    (policies / "routes.yaml").write_text(meshes.virtual_service(90, 10))
    run("apply", "-f", str(policies))
    wait_until(
        "the condition", lambda: "ReferencedResourceNotFound=True" in run("describe", "vs", "user-service").stdout
    )
    text = run("describe", "vs/user-service").stdout
    assert text.startswith(
        "Name:         user-service\nNamespace:    default\nKind:         VirtualService (networking.istio.io/v1)\n"
    )
    assert "subsets v1, v2 of user-service.default.svc.cluster.local are not defined" in text
    assert "Spec:\n  hosts:\n  - user-service\n" in text
    assert "Proxies:\n  none is connected\n" in text
    assert "created" in text.partition("Changes:")[2]
    assert run("describe", "vs", "nope").stderr == "meshctl: VirtualService default/nope: not found\n"


def test_status_shows_what_needs_attention(run, policies: Path) -> None:  # type: ignore[no-untyped-def]
    run("apply", "-f", str(policies))
    wait_until("the service", lambda: "Services       0/1 healthy" in run("status").stdout)
    text = run("status").stdout
    assert "               ready\n" in text
    assert "Proxies        none connected\n" in text
    assert "service user-service.default.svc.cluster.local   Endpoints" in text
    assert json.loads(run("status", "-o", "json").stdout)["ready"]["etcd"] == ""


def test_tokens_live_until_they_are_revoked(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "token"
    made = run("token", "create", "--node", "edge-*", "--namespaces", "a,b", "--uses", "2", "--output-file", str(path))
    assert (made.returncode, made.stdout) == (0, "")
    token = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    listed = run("token", "list").stdout
    assert f"{token.partition('.')[0]}   edge-*   a,b" in listed
    assert token.split(".")[1] not in listed
    assert run("token", "revoke", token).returncode == 0
    assert token.partition(".")[0] not in run("token", "list").stdout
    refused = run("token", "create", "--node", "Bad Node")
    assert refused.returncode == 1
    assert "node: found 'Bad Node'" in refused.stderr


def test_views_of_an_empty_mesh(run) -> None:  # type: ignore[no-untyped-def]
    assert run("proxies").stdout == "no proxy is connected\n"
    assert json.loads(run("proxies", "-o", "json").stdout) == {"items": []}
    assert "node nowhere: no proxy of this node is connected" in run("config-dump", "nowhere").stderr
    version = run("version").stdout.splitlines()
    assert version[0].split()[1] == version[1].split()[1]


@pytest.mark.envoy
def test_an_envoy_joins_is_shown_and_renews(mesh: LocalMesh, run, policies: Path) -> None:  # type: ignore[no-untyped-def]
    """Decision 15 from end to end: bootstrap, attach over mTLS, renew, bootstrap again without a token."""
    run("apply", "-f", str(policies))
    workload = "name=user-service,service-account=users,port=3001,labels.app=user-service,labels.version=v1"
    envoy = envoys.start_envoy(mesh, "edge-1", 6, workload)
    try:
        wait_until("the Envoy in sync", lambda: "edge-1   envoy     delta   synced" in run("proxies").stdout)
        assert f"{mesh.address(6)}:20000   edge-1   user-service-3001   v1" in run("endpoints", "user-service").stdout
        waited = run("apply", "-f", str(policies), "--wait")
        assert waited.stdout.endswith("acknowledged by edge-1\n")
        dumped = run("config-dump", "edge-1", "--type", "CDS", "-o", "table").stdout
        assert "outbound|80|v1|user-service.default.svc.cluster.local" in dumped
        assert "Service default/user-service" in dumped
        assert "ProxyConnected" in run("events", "--subject", "node edge-1").stdout
        folder = mesh.root / "edge-1"
        before = (folder / "identity.yaml").read_text()
        renewed = run("envoy", "renew", "--dir", str(folder))
        assert renewed.returncode == 0, renewed.stderr
        assert "spiffe://cluster.local/ns/default/sa/users until" in renewed.stdout
        assert (folder / "identity.yaml").read_text() != before
    finally:
        envoy.stop()
    again = run(
        "envoy", "bootstrap", "--renew", "--sotw", "--node", "edge-1", "--dir", str(folder),
        "--address", mesh.address(6), "--xds-address", str(mesh.ready["grpc_mtls"]), "--workload", workload,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "api_type: GRPC\n" in (folder / "bootstrap.yaml").read_text()


def test_a_grpc_client_gets_certificates(mesh: LocalMesh, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "token").write_text(mesh.token("client-1"))
    folder = tmp_path / "client"
    done = run(
        "grpc", "bootstrap", "--node", "client-1", "--token-file", str(tmp_path / "token"), "--dir", str(folder),
        "--join-address", str(mesh.ready["grpc_tls"]), "--xds-address", str(mesh.ready["grpc_mtls"]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    program = (
        "import grpc\n"
        "from grpc_health.v1 import health_pb2, health_pb2_grpc\n"
        "channel = grpc.insecure_channel('xds:///nowhere:1')\n"
        "try:\n"
        "    stub = health_pb2_grpc.HealthStub(channel)\n"
        "    stub.Check(health_pb2.HealthCheckRequest(), timeout=15, wait_for_ready=True)\n"
        "except grpc.RpcError:\n"
        "    pass\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(folder / "bootstrap.json")},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until("the client over mTLS", lambda: "client-1   grpc" in run("proxies").stdout, timeout_s=15)
    finally:
        client.kill()
        client.wait(10)
    assert run("grpc", "renew", "--dir", str(folder)).returncode == 0


def test_an_api_token_is_demanded_and_given(tmp_path: Path) -> None:
    """Decision 12: with --api-token-file nothing is shown without a token."""
    import hashlib

    (tmp_path / "tokens").write_text(f"admin:{hashlib.sha256(b's3cret').hexdigest()}\n")
    (tmp_path / "mine").write_text("s3cret\n")
    with meshes.local_mesh(tmp_path / "mesh") as mesh:
        mesh.start_control_plane("--api-token-file", str(tmp_path / "tokens"))
        refused = envoys.meshctl(mesh, "status", check=False)
        assert refused.returncode == 1
        assert "found no bearer token (meshctl: --token-file or GOSSAMER_TOKEN)" in refused.stderr
        envoys.meshctl(mesh, "--token-file", str(tmp_path / "mine"), "status")
        (tmp_path / "dr.yaml").write_text(meshes.SUBSETS)
        envoys.meshctl(mesh, "apply", "-f", str(tmp_path / "dr.yaml"), "--token-file", str(tmp_path / "mine"))
        described = envoys.meshctl(
            mesh, "--token-file", str(tmp_path / "mine"), "describe", "dr", "user-service-versions"
        )
        assert "admin" in described.stdout.partition("Changes:")[2], "the token's name is the author"
