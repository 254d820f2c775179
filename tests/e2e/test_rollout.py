"""Staged rollouts with real agents and traffic: good ones, bad ones that stop by themselves, a killed control plane."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from controlplane.cli.local_mesh import LocalMesh, wait_until
from tests.support import meshes
from tests.support.picky import PickyClient, PickyProxy

pytestmark = pytest.mark.e2e

CALLERS = {"node-3": 3, "node-4": 4, "node-5": 5}
NO_RETRIES = "    retries: {attempts: 0}\n"
STORED = "/apis/networking.istio.io/v1/namespaces/default/virtualservices/user-service"
QUERY = "stages=1,100%25&pause=1s&minRequests=50&waitLimit=60s"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """node-2 runs user-service v1 and v2; node-3, node-4 and node-5 call it."""
    with meshes.local_mesh(tmp_path_factory.mktemp("rollout")) as mesh:
        mesh.start_control_plane("--xds-plaintext", f"{mesh.address(1)}:18010")
        for service in (meshes.USER_V1, meshes.USER_V2):
            mesh.start_service(service, 2)
        mesh.start_agent("node-2", 2, (meshes.USER_V1, meshes.USER_V2))
        for name, number in CALLERS.items():
            mesh.start_agent(name, number)
        yield mesh


@pytest.fixture(autouse=True)
def _usual_policies(mesh: LocalMesh) -> None:
    """Each test begins with everything at v1, and both versions well."""
    for port in (3001, 3002):
        mesh.behave(2, port)
    usual = meshes.documents(meshes.SERVICE, meshes.SUBSETS, meshes.virtual_service(100, 0, extra=NO_RETRIES))
    mesh.wait_revision(mesh.apply(usual))


@contextmanager
def load(mesh: LocalMesh) -> Iterator[dict[str, meshes.Load]]:
    """Gentle traffic through every caller, by its node's name."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                meshes.Load(mesh.agents[name].outbound, "user-service", connections=1, pause_s=0.01)
            )
            for name in CALLERS
        }


def wait_reported(mesh: LocalMesh) -> None:
    """Until every caller has told of its requests."""

    def all_of_them() -> bool:
        items = mesh.rest("GET", "/mesh/v1/traffic").json["items"]
        return any(item["reporters"] == len(CALLERS) for item in items)

    wait_until("load reports of all callers", all_of_them)


def begin(mesh: LocalMesh, text: str, query: str = QUERY) -> str:
    reply = mesh.rest("POST", f"/mesh/v1/rollouts?{query}", text)
    assert reply.status == 201, reply.body
    return str(reply.json["rollout"]["id"])


def rollout(mesh: LocalMesh, id_: str) -> Any:
    return mesh.rest("GET", f"/mesh/v1/rollouts/{id_}").json


def ended(mesh: LocalMesh, id_: str, phase: str, *, timeout_s: float = 90.0) -> Any:
    """The rollout when it has ended, as it must."""
    found = wait_until(
        f"the end of rollout {id_}",
        lambda: (found := rollout(mesh, id_))["phase"] in ("Finished", "Aborted") and found,
        timeout_s=timeout_s,
    )
    assert found["phase"] == phase, f"{found['reason']}: {found['message']}"
    return found


def stored_weights(mesh: LocalMesh) -> list[int]:
    return [item["weight"] for item in mesh.rest("GET", STORED).json["spec"]["http"][0]["route"]]


def versions(mesh: LocalMesh, node: str, count: int = 10) -> set[str]:
    return {str(mesh.agents[node].call("user-service", "/users/1").json["version"]) for _ in range(count)}


def staged(mesh: LocalMesh) -> set[str]:
    """The callers that have the candidate."""
    items = mesh.rest("GET", "/mesh/v1/proxies").json["items"]
    return {item["node"] for item in items if item["rollout"]} & set(CALLERS)


def test_a_good_rollout_reaches_one_then_all_and_is_stored(mesh: LocalMesh) -> None:
    with load(mesh) as loads:
        wait_until("traffic", lambda: all(item.statuses[200] > 20 for item in loads.values()))
        wait_reported(mesh)
        id_ = begin(mesh, meshes.virtual_service(0, 100, extra=NO_RETRIES))
        wait_until("the first stage", lambda: rollout(mesh, id_)["phase"] == "Watching")
        if rollout(mesh, id_)["stage"] == 1:
            given = staged(mesh)
            assert len(given) == 1, "one of those that have traffic"
            assert [versions(mesh, name) for name in given] == [{"v2"}]
            assert {version for name in CALLERS.keys() - given for version in versions(mesh, name)} == {"v1"}
            assert stored_weights(mesh) == [100, 0]
        found = ended(mesh, id_, "Finished")
        assert stored_weights(mesh) == [0, 100]
        mesh.wait_revision(found["revision"])
        assert {version for name in CALLERS for version in versions(mesh, name)} == {"v2"}
        assert {status for item in loads.values() for status in item.statuses} == {200}
        assert sum((item.errors for item in loads.values()), start=type(next(iter(loads.values())).errors)()) == {}
    newest = mesh.rest("GET", "/mesh/v1/history").json["items"][0]
    assert newest["revision"] == found["revision"]


@pytest.mark.parametrize(
    ("text", "status", "body_of"),
    [
        (meshes.virtual_service(0, 100, extra=NO_RETRIES), 500, "v2 answers 500"),
        (meshes.virtual_service(0, 100, extra=NO_RETRIES).replace("subset: v2", "subset: v9"), 503, "no such cluster"),
    ],
    ids=["500-of-the-upstream", "503-no-cluster"],
)
def test_more_errors_stop_it_by_itself_and_one_proxy_alone_saw_them(
    mesh: LocalMesh, text: str, status: int, body_of: str
) -> None:
    mesh.behave(2, 3002, status=500)
    with load(mesh) as loads:
        wait_reported(mesh)
        id_ = begin(mesh, text, "stages=1,100%25&pause=30s&minRequests=50&waitLimit=60s")
        found = ended(mesh, id_, "Aborted")
        assert found["reason"] == "ErrorRate", (body_of, found)
        assert "more than 5 points above" in found["message"]
        assert stored_weights(mesh) == [100, 0]
        hurt = {name for name, item in loads.items() if item.statuses[status]}
        assert len(hurt) == 1, {name: dict(item.statuses) for name, item in loads.items()}
        (name,) = hurt
        wait_until("it is well again", lambda: mesh.agents[name].call("user-service", "/users/1").status == 200)
        before = loads[name].statuses[status]
        loads[name].wait(50)
        assert loads[name].statuses[status] == before
    assert staged(mesh) == set()
    events = [item["message"] for item in mesh.rest("GET", "/mesh/v1/events").json["items"]]
    assert any(text.startswith("aborted, ErrorRate") for text in events)


def test_a_refusal_stops_it(mesh: LocalMesh) -> None:
    picky = PickyClient("picky-1", "|canary|", "this proxy knows no canary")
    canary = meshes.SUBSETS + "  - {name: canary, labels: {version: v2}}\n"
    with PickyProxy(picky, f"{mesh.address(1)}:18010"):
        wait_until("the picky proxy", lambda: "picky-1" in mesh.rest("GET", "/mesh/v1/proxies").body.decode())
        found = ended(mesh, begin(mesh, canary, "stages=100%25&minRequests=0&pause=30s"), "Aborted")
        assert found["reason"] == "Rejected"
        assert "picky-1 refuses CDS outbound|80|canary|" in found["message"]
        assert "this proxy knows no canary" in found["message"]
        wait_until("nobody has the candidate", lambda: "canary" not in "".join(picky.accepted))


def test_it_goes_on_after_the_control_plane_was_killed(mesh: LocalMesh) -> None:
    """The state is in the store: the next process goes on with the same stage, and agents keep what they have."""
    id_ = begin(mesh, meshes.virtual_service(0, 100, extra=NO_RETRIES), "stages=1,100%25&minRequests=0&pause=2s")
    before = wait_until("the first stage", lambda: (found := rollout(mesh, id_))["phase"] == "Watching" and found)
    given = staged(mesh)
    (process,) = [item for item in mesh.processes if item.name == "controlplane" and item.running]
    process.stop(signal.SIGKILL)
    mesh.start_control_plane("--xds-plaintext", f"{mesh.address(1)}:18010")
    after = rollout(mesh, id_)
    assert after["log"][: len(before["log"])] == before["log"]
    assert after["phase"] in ("Watching", "Spreading", "Finishing", "Finished")
    found = ended(mesh, id_, "Finished")
    assert stored_weights(mesh) == [0, 100]
    mesh.wait_revision(found["revision"])
    assert {version for name in CALLERS for version in versions(mesh, name)} == {"v2"}
    assert given <= set(CALLERS)


def test_meshctl_shows_it_and_its_exit_code_says_how_it_ended(mesh: LocalMesh, tmp_path: Path) -> None:
    file = tmp_path / "vs.yaml"
    file.write_text(meshes.virtual_service(0, 100, extra=NO_RETRIES))
    run = _meshctl(mesh)
    done = run(
        "apply", "-f", str(file), "--stage", "1,100%", "--pause", "1s", "--min-requests", "0", "--wait"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "finished: the objects are stored" in done.stdout
    assert lines[-1].startswith("acknowledged by node-2, node-3")
    status = run("rollout", "status")
    assert (status.returncode, "Finished" in status.stdout) == (0, True)
    file.write_text(meshes.virtual_service(50, 50, extra=NO_RETRIES))
    stopped = run("apply", "-f", str(file), "--stage", "1,100%", "--wait-limit", "1s", "--pause", "1s")
    assert stopped.returncode == 1
    assert "meshctl: aborted, Inconclusive: found 0 requests" in stopped.stderr
    assert run("rollout", "status").returncode == 1


def _meshctl(mesh: LocalMesh) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-P",
            "-m",
            "controlplane.cli",
            "--server",
            f"http://{mesh.rest_address}",
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    return run
