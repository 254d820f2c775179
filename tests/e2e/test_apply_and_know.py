"""Apply, and know: who has a change and who refuses it, on two replicas; history and rollback under traffic."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane.cli.local_mesh import LocalMesh, wait_until
from tests.support import envoys, meshes
from tests.support.picky import PickyClient, PickyProxy

pytestmark = pytest.mark.e2e

Done = subprocess.CompletedProcess[str]
RULE = "dr/user-service-versions"
VIRTUAL_SERVICE = "/apis/networking.istio.io/v1/namespaces/default/virtualservices/user-service"
V1 = "outbound|80|v1|user-service.default.svc.cluster.local"
AGENTS = "node-2, node-4"


@dataclass
class Replicas:
    """The mesh, and the plaintext xDS and REST addresses of its two replicas."""

    mesh: LocalMesh
    xds: tuple[str, str]
    rest: tuple[str, str]

    def run(self, *arguments: str, replica: int = 0) -> Done:
        """meshctl as a user runs it; not checked."""
        return envoys.meshctl(self.mesh, "--server", f"http://{self.rest[replica]}", *arguments, check=False)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """node-2 runs user-service v1 and v2, node-4 is the caller; both agents are on the first replica."""
    with meshes.local_mesh(tmp_path_factory.mktemp("know")) as mesh:
        one, two = mesh.address(1), mesh.address(9)
        mesh.start_control_plane("--xds-plaintext", f"{one}:18010")
        first = dict(mesh.ready)
        folder = mesh.root / "controlplane-2"
        folder.mkdir(mode=0o700)
        key = folder / "ca-encryption.key"
        key.touch(mode=0o600)
        key.write_bytes((mesh.root / "controlplane" / key.name).read_bytes())
        mesh.start_control_plane(
            "--rest", f"{two}:8080", "--grpc-mtls", f"{two}:18000", "--grpc-tls", f"{two}:18001",
            "--xds-plaintext", f"{two}:18010", name="controlplane-2", etcd=str(first["etcd"]),
        )  # fmt: skip
        rests = (str(first["rest"]), str(mesh.ready["rest"]))
        mesh.ready = first
        for service in (meshes.USER_V1, meshes.USER_V2):
            mesh.start_service(service, 2)
        mesh.start_agent("node-2", 2, (meshes.USER_V1, meshes.USER_V2))
        mesh.start_service(meshes.ORDERS, 4, mesh_port=meshes.CALLER_PORT)
        mesh.start_agent("node-4", 4, (meshes.ORDERS,))
        yield Replicas(mesh, (f"{one}:18010", f"{two}:18010"), rests)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """A file of YAML documents."""

    def make(*texts: str) -> str:
        path = tmp_path / "policies.yaml"
        path.write_text(meshes.documents(*texts))
        return str(path)

    return make


@pytest.fixture(autouse=True)
def _usual_policies(replicas: Replicas) -> None:
    """Each test begins with everything at v1."""
    mesh = replicas.mesh
    mesh.wait_revision(mesh.apply(meshes.documents(meshes.SERVICE, meshes.SUBSETS, meshes.virtual_service(100, 0))))


def versions(mesh: LocalMesh, count: int = 20) -> set[str]:
    agent = mesh.agents["node-4"]
    return {
        str(agent.call("user-service", "/users/1", port=meshes.CALLER_PORT).json["version"]) for _ in range(count)
    }  # fmt: skip


def revision_of(done: Done) -> int:
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("revision ")]
    return int(line.removeprefix("revision "))


def test_what_was_waited_for_holds_for_the_next_request(replicas: Replicas, write: Callable[..., str]) -> None:
    for v1, expected in ((0, {"v2"}), (100, {"v1"}), (0, {"v2"})):
        done = replicas.run("apply", "-f", write(meshes.virtual_service(v1, 100 - v1)), "--wait")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"acknowledged by {AGENTS}"), done.stderr
        assert versions(replicas.mesh) == expected
    wait_until("the status", lambda: " 2/2 " in replicas.run("get", "vs", "-o", "wide").stdout)
    described = replicas.run("describe", "vs", "user-service").stdout
    assert "Programmed=True (Acknowledged)" in described
    assert f"acknowledged by {AGENTS}\n" in described


def test_rest_waits_on_the_other_replica_too(replicas: Replicas) -> None:
    """The write is taken by a replica that no agent is connected to."""
    mesh = replicas.mesh
    mesh.ready = {**mesh.ready, "rest": replicas.rest[1]}
    try:
        patch = mesh.rest("POST", "/mesh/v1/batch?wait=20s", meshes.virtual_service(0, 100))
    finally:
        mesh.ready = {**mesh.ready, "rest": replicas.rest[0]}
    assert (patch.status, patch.headers["gossamer-outcome"]) == (200, "acknowledged")
    assert patch.json["wait"]["acked"] == ["node-2", "node-4"]
    assert versions(mesh) == {"v2"}


def test_a_refusal_is_explained_and_stays_told_on_another_replica(
    replicas: Replicas, write: Callable[..., str]
) -> None:
    """The agents take what the picky proxy refuses; the traffic is theirs alone."""
    mesh = replicas.mesh
    picky = PickyClient("picky-1", "|canary|", "this proxy knows no canary")
    canary = meshes.SUBSETS + "  - {name: canary, labels: {version: v2}}\n"
    with PickyProxy(picky, replicas.xds[0]):
        wait_until("the picky proxy", lambda: "picky-1" in replicas.run("proxies").stdout)
        done = replicas.run("apply", "-f", write(canary), "--wait")
        assert done.returncode == 1
        assert "meshctl: picky-1 refuses outbound|80|canary|" in done.stderr
        assert "this proxy knows no canary" in done.stderr
        _assert_told(replicas, 0)
        _assert_told(replicas, 1)
        assert versions(mesh) == {"v1"}
    wait_until("it is gone", lambda: "picky-1" not in replicas.run("proxies").stdout)
    with PickyProxy(picky, replicas.xds[1]):
        wait_until("it is on the other", lambda: "picky-1" in replicas.run("proxies").stdout)
        _assert_told(replicas, 0)
        waited = mesh.rest("GET", f"/mesh/v1/revisions/{revision_of(done)}?wait=10s").json
        assert [item["node"] for item in waited["rejected"]] == ["picky-1"]
        assert waited["acked"] == ["node-2", "node-4"]
        back = replicas.run("apply", "-f", write(meshes.SUBSETS), "--wait")
        assert (back.returncode, back.stdout.splitlines()[-1]) == (0, f"acknowledged by {AGENTS}, picky-1"), back.stderr
        wait_until("all is well", lambda: "Rejected" not in replicas.run("describe", RULE).stdout.partition("Spec:")[0])


def _assert_told(replicas: Replicas, replica: int) -> None:
    """On the object's status, in its table, in events and in describe: which proxy, why."""

    def told() -> bool:
        text = replicas.run("describe", RULE, replica=replica).stdout
        head, _, events = text.partition("Events:")
        return (
            "Rejected=True (ProxyRejected)" in head
            and "this proxy knows no canary" in head
            and "Programmed=False (Rejected)" in head
            and "acknowledged by 2 of 3 interested proxies, 1 rejected" in head
            and "refused by picky-1: " in head
            and "node picky-1 refuses CDS outbound|80|canary|" in events
        )

    wait_until("the refusal is told", told, timeout_s=15)
    wide = replicas.run("get", "dr", "-o", "wide", replica=replica).stdout
    assert "Rejected" in wide
    assert "2/3 (1 rejected)" in wide


def test_history_and_rollback_under_traffic(replicas: Replicas, write: Callable[..., str]) -> None:
    mesh = replicas.mesh
    at_v1 = revision_of(replicas.run("apply", "-f", write(meshes.virtual_service(100, 0)), "--wait"))
    created = mesh.rest("GET", VIRTUAL_SERVICE).json["metadata"]["creationTimestamp"]
    agent = mesh.agents["node-4"]
    with meshes.Load(f"{agent.address}:{meshes.CALLER_PORT}", "user-service") as load:
        load.wait(50)
        at_v2 = revision_of(replicas.run("apply", "-f", write(meshes.virtual_service(0, 100)), "--wait"))
        for number in range(6):
            goal, expected = (at_v1, {"v1"}) if number % 2 == 0 else (at_v2, {"v2"})
            done = replicas.run("rollback", str(goal), "--wait", replica=number % 2)
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[0] == "virtualservice.networking.istio.io/user-service configured"
            assert versions(mesh) == expected
            load.wait(30)
        # Everything goes and comes back, each in one revision; the route goes first and comes last by itself.
        before = revision_of(replicas.run("apply", "-f", write(meshes.virtual_service(50, 50)), "--wait"))
        gone = replicas.run("delete", "-f", write(meshes.virtual_service(50, 50)), "--wait")
        assert gone.returncode == 0, gone.stderr
        back = replicas.run("rollback", str(before), "--wait")
        assert (back.returncode, back.stdout.split()[1]) == (0, "created"), back.stderr
        load.wait(50)
    assert (dict(load.errors), set(load.statuses)) == ({}, {200}), dict(load.statuses)
    assert load.total > 200
    assert mesh.rest("GET", VIRTUAL_SERVICE).json["metadata"]["creationTimestamp"] == created

    listed = replicas.run("history", "vs/user-service").stdout
    assert f"rollback to {before}" in listed
    shown = replicas.run("history", str(at_v2)).stdout
    assert "-      weight: 100\n" in shown
    assert "VirtualService default/user-service configured" in shown
    dry = replicas.run("rollback", str(at_v1), "--dry-run").stdout
    assert "+      weight: 100\n" in dry
    records = json.loads(replicas.run("history", "-o", "json", "--limit", "3").stdout)["items"]
    assert records[0]["reason"] == f"rollback to {before}"


def test_diff_at_the_proxies_of_both_replicas(replicas: Replicas, write: Callable[..., str]) -> None:
    picky = PickyClient("picky-1", "")
    with PickyProxy(picky, replicas.xds[1]):
        wait_until("it is on the other", lambda: "picky-1" in replicas.run("proxies").stdout)
        done = replicas.run("diff", "--proxies", "-f", write(meshes.SUBSETS.replace("name: v2", "name: v3")))
    assert done.returncode == 1, done.stderr
    assert "CDS outbound|80|v3|user-service.default.svc.cluster.local added at node-2, node-4, picky-1" in done.stdout
    assert "CDS outbound|80|v2|user-service.default.svc.cluster.local removed at node-2, node-4, picky-1" in done.stdout


def test_a_file_is_deleted_whole_or_not_at_all(replicas: Replicas, write: Callable[..., str]) -> None:
    other = meshes.SUBSETS.replace("user-service-versions", "nothing-of-this-name")
    done = replicas.run("delete", "-f", write(meshes.virtual_service(1, 99), other))
    assert done.returncode == 1
    assert done.stderr.startswith("meshctl: DestinationRule default/nothing-of-this-name: not found")
    assert replicas.mesh.rest("GET", VIRTUAL_SERVICE).status == 200
