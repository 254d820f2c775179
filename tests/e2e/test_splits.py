"""Blue-green and canary by hand on a running mesh: `meshctl traffic` and `switch` move real requests, and back."""

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from controlplane.cli.local_mesh import LocalMesh, request, wait_until
from tests.support import envoys, meshes

pytestmark = pytest.mark.e2e

Run = Callable[..., subprocess.CompletedProcess[str]]
REQUESTS = 300


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """node-2 runs user-service v1 and v2, node-4 calls it. There is a Service and nothing else."""
    with meshes.local_mesh(tmp_path_factory.mktemp("splits")) as mesh:
        mesh.start_control_plane()
        for service in (meshes.USER_V1, meshes.USER_V2):
            mesh.start_service(service, 2)
        mesh.start_agent("node-2", 2, (meshes.USER_V1, meshes.USER_V2))
        mesh.start_agent("node-4", 4)
        yield mesh


@pytest.fixture
def run(mesh: LocalMesh) -> Run:
    """meshctl as a user runs it; each test begins with the Service alone and both versions healthy."""
    for port in (3001, 3002):
        mesh.behave(2, port)
    envoys.meshctl(mesh, "delete", "vs/user-service", "dr/user-service", "--ignore-not-found")
    mesh.wait_revision(mesh.apply(meshes.SERVICE))
    wait_until("both versions healthy", lambda: healthy(mesh) == {"v1", "v2"})
    return lambda *arguments: envoys.meshctl(mesh, *arguments, check=False)


def healthy(mesh: LocalMesh) -> set[str]:
    items = mesh.rest("GET", "/mesh/v1/endpoints?service=user-service").json["items"]
    return {item["labels"]["version"] for item in items if item["health"] == "HEALTHY"}


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def undo(run: Run, out: str) -> None:
    """Type what the command said."""
    (line,) = [line for line in out.splitlines() if line.startswith("meshctl rollback ")]
    ok(run("rollback", line.split()[2], "--wait"))


def version(mesh: LocalMesh, tester: str = "") -> str:
    reply = mesh.agents["node-4"].call("user-service", "/users/1", x_tester=tester)
    assert reply.status == 200
    return str(reply.json["version"])


def versions(mesh: LocalMesh, tester: str = "") -> set[str]:
    return {version(mesh, tester) for _ in range(20)}


def test_a_canary_takes_its_share_and_rollback_takes_it_back(mesh: LocalMesh, run: Run) -> None:
    assert versions(mesh) == {"v1", "v2"}, "without any policy requests go to every instance"
    first = ok(run("traffic", "user-service", "v1=100", "--wait"))
    assert versions(mesh) == {"v1"}
    second = ok(run("traffic", "user-service", "v1=80", "v2=20", "--wait"))
    assert "acknowledged by node-2, node-4" in second
    counts = meshes.shares(lambda: version(mesh), REQUESTS)
    meshes.assert_share(counts, "v2", 0.2)
    undo(run, second)
    assert versions(mesh) == {"v1"}
    undo(run, first)
    assert versions(mesh) == {"v1", "v2"}
    assert run("get", "vs,dr").stderr.startswith("no object found"), "what was made is gone"


def test_blue_green_first_for_one_tester_then_for_all(mesh: LocalMesh, run: Run) -> None:
    ok(run("switch", "user-service", "v1", "--wait"))
    ok(run("switch", "user-service", "v2", "--header", "x-tester=ann", "--wait"))
    assert versions(mesh) == {"v1"}
    assert versions(mesh, "bob") == {"v1"}
    assert versions(mesh, "ann") == {"v2"}
    out = ok(run("switch", "user-service", "v2", "--wait"))
    assert versions(mesh) == {"v2"}
    undo(run, out)
    assert (versions(mesh), versions(mesh, "ann")) == ({"v1"}, {"v2"})
    ok(run("traffic", "user-service", "--header", "x-tester=ann", "--remove", "--wait"))
    assert versions(mesh, "ann") == {"v1"}


def answered(mesh: LocalMesh, port: int) -> int:
    return int(request(f"{mesh.address(2)}:{port}", "GET", "/behaviour").json["answered"])


def test_a_mirror_gets_copies_and_answers_nobody(mesh: LocalMesh, run: Run) -> None:
    ok(run("traffic", "user-service", "v1=100", "--mirror", "v2", "--wait"))
    before = answered(mesh, 3002)
    assert versions(mesh) == {"v1"}
    wait_until("20 copies", lambda: answered(mesh, 3002) == before + 20)
    ok(run("traffic", "user-service", "--no-mirror", "--wait"))
    assert versions(mesh) == {"v1"}
    assert answered(mesh, 3002) == before + 20


def test_the_rest_of_the_users_objects_stays(mesh: LocalMesh, run: Run) -> None:
    extra = "    timeout: 3s\n    headers: {response: {set: {x-kept: 'yes'}}}\n"
    subset = meshes.SUBSETS.replace("user-service-versions", "user-service")
    text = meshes.documents(subset, meshes.virtual_service(100, 0, extra=extra))
    mesh.wait_revision(mesh.apply(text))
    before = json.loads(ok(run("get", "vs", "user-service", "-o", "json")))["spec"]
    out = ok(run("traffic", "user-service", "v1=0", "v2=100", "--wait"))
    assert "destinationrule" not in out, "the subsets are there"
    reply = mesh.agents["node-4"].call("user-service", "/users/1")
    assert (reply.json["version"], reply.headers["x-kept"]) == ("v2", "yes")
    after = json.loads(ok(run("get", "vs", "user-service", "-o", "json")))["spec"]
    before["http"][0]["route"][0]["weight"], before["http"][0]["route"][1]["weight"] = 0, 100
    assert after == before


def test_a_version_that_is_not_well_gets_nothing_unless_forced(mesh: LocalMesh, run: Run) -> None:
    mesh.behave(2, 3002, health=503)
    wait_until("v2 unhealthy", lambda: healthy(mesh) == {"v1"})
    refused = run("switch", "user-service", "v2")
    assert refused.returncode == 1
    assert "subset v2: none of its 1 instances is healthy" in refused.stderr
    assert run("get", "vs,dr").stderr.startswith("no object found")
    missing = run("switch", "user-service", "v9")
    assert "no instance has version=v9; there are v1, v2" in missing.stderr
    assert run("switch", "user-service", "v2", "--force", "--wait").returncode == 0


def test_a_switch_in_stages(mesh: LocalMesh, run: Run) -> None:
    ok(run("traffic", "user-service", "v1=100", "v2=0", "--wait"))
    out = ok(run("switch", "user-service", "v2", "--stage", "1,100%", "--pause", "0s", "--min-requests", "0", "--wait"))
    assert "stage 1 passed" in out
    assert versions(mesh) == {"v2"}


def test_the_live_share_is_that_of_the_requests(mesh: LocalMesh, run: Run) -> None:
    ok(run("traffic", "user-service", "v1=75", "v2=25", "--wait"))

    def live() -> dict[str, float]:
        found = json.loads(ok(run("traffic", "user-service", "-o", "json")))
        assert found["rules"][0]["split"][1] == {"subset": "v2", "weight": 25, "share": 0.25}
        return {item["subset"]: item["live_share"] for item in found["subsets"]}

    with meshes.Load(mesh.agents["node-4"].outbound, "user-service", connections=2):
        wait_until("live shares", lambda: 0.1 < live().get("v2", 0) < 0.4, every_s=0.5)
    text = ok(run("traffic", "user-service"))
    assert "http[0]   all others   v2       25       25.0%" in text
