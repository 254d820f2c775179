"""What must outlive what: workers, supervisors, the control plane, etcd; nobody's connection is refused."""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from controlplane.cli.local_mesh import LocalAgent, LocalMesh, request, wait_until
from tests.support import meshes

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _serving(mesh: LocalMesh) -> Iterator[None]:
    """Each test starts and ends with a mesh that answers."""
    wait_until("the mesh answers", lambda: ask(mesh) == 200, timeout_s=30)
    yield
    wait_until("the mesh answers again", lambda: ask(mesh) == 200, timeout_s=30)


def ask(mesh: LocalMesh) -> int:
    return mesh.agents["node-4"].call("user-service", "/users/1", port=meshes.CALLER_PORT).status


def workers(agent: LocalAgent) -> list[psutil.Process]:
    """The worker processes of the agent's present supervisor."""
    children = psutil.Process(agent.process.pid).children(recursive=True)
    return [child for child in children if "agent.worker" in _command(child)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it has just ended
        return ""


def load(mesh: LocalMesh) -> meshes.Load:
    return meshes.Load(f"{mesh.agents['node-4'].address}:{meshes.CALLER_PORT}", "user-service", reconnect=True)


def test_killed_worker_refuses_no_connection(mesh: LocalMesh) -> None:
    """Only requests in flight may fail when a worker is killed; the backlog waits for its successor."""
    with load(mesh) as running:
        running.wait(50)
        for _ in range(3):
            (worker,) = workers(mesh.agents["node-4"])
            os.kill(worker.pid, signal.SIGKILL)
            wait_until(
                "a successor", lambda pid=worker.pid: [w for w in workers(mesh.agents["node-4"]) if w.pid != pid]
            )
            running.wait(100)
    assert running.errors["ConnectionRefusedError"] == 0, dict(running.errors)
    # Four connections, three kills: at most what was in flight at each.
    assert sum(running.errors.values()) <= 12, dict(running.errors)
    assert set(running.statuses) == {200}, dict(running.statuses)


def test_killed_supervisor_and_its_successor_refuse_no_connection(mesh: LocalMesh) -> None:
    """After kill -9 of a supervisor its workers serve on; a new one takes over; old workers leave."""
    agent = mesh.agents["node-4"]
    old = workers(agent)
    with load(mesh) as running:
        running.wait(50)
        agent.process.stop(signal.SIGKILL)
        running.wait(100)
        mesh.run_agent(agent)
        running.wait(200)
        wait_until("the old workers' end", lambda: not any(worker.is_running() for worker in old), timeout_s=60)
        running.wait(50)
    assert running.errors["ConnectionRefusedError"] == 0, dict(running.errors)
    assert sum(running.errors.values()) <= 8, dict(running.errors)
    assert set(running.statuses) == {200}, dict(running.statuses)


def test_agent_upgrade_refuses_no_connection(mesh: LocalMesh) -> None:
    """SIGHUP replaces the supervisor and its workers under load."""
    agent = mesh.agents["node-4"]
    old = workers(agent)
    with load(mesh) as running:
        running.wait(50)
        agent.process.popen.send_signal(signal.SIGHUP)
        wait_until("the old workers' end", lambda: not any(worker.is_running() for worker in old), timeout_s=60)
        running.wait(200)
    assert not running.errors, dict(running.errors)
    assert set(running.statuses) == {200}, dict(running.statuses)


def test_control_plane_killed_leaves_no_etcd_and_no_failed_request(mesh: LocalMesh) -> None:
    """kill -9: etcd dies with it; traffic goes on; an agent restarted meanwhile serves its last known good."""
    (control_plane,) = [p for p in mesh.processes if p.name == "controlplane" and p.running]
    children = psutil.Process(control_plane.pid).children(recursive=True)
    assert any("etcd" in child.name() for child in children)
    with load(mesh) as running:
        running.wait(50)
        control_plane.stop(signal.SIGKILL)
        wait_until("etcd's end", lambda: not any(child.is_running() for child in children), timeout_s=10)
        running.wait(300)
    assert set(running.statuses) == {200}, dict(running.statuses)
    assert not running.errors, dict(running.errors)
    agent = mesh.agents["node-4"]
    agent.process.stop()
    mesh.run_agent(agent)
    assert ask(mesh) == 200, "the last known good is served after the agent's own restart"
    mesh.start_control_plane()
    # A control plane that has just started must not tell anybody that there are no endpoints.
    for _ in range(60):
        assert ask(mesh) == 200
        time.sleep(0.1)
    wait_until(
        "all proxies in sync",
        lambda: _all_synced(mesh),
        timeout_s=30,
    )


def _all_synced(mesh: LocalMesh) -> bool:
    items = mesh.rest("GET", "/mesh/v1/proxies").json["items"]
    return len(items) == 3 and all(state["state"] == "synced" for item in items for state in item["types"].values())


def test_policies_survive_and_apply_after_the_restart(mesh: LocalMesh) -> None:
    """What was acknowledged before the kill is there; new policies reach every proxy."""
    revision = mesh.apply(meshes.virtual_service(0, 100))
    mesh.wait_revision(revision)
    versions = {mesh.agents["node-4"].call("user-service", port=meshes.CALLER_PORT).json["version"] for _ in range(20)}
    assert versions == {"v2"}


def test_agent_restart_needs_no_new_token(mesh: LocalMesh) -> None:
    """The token is spent; the identity on disk is enough."""
    agent = mesh.agents["node-3"]
    (agent.config.parent / "token").write_text("spent")
    agent.process.stop()
    mesh.run_agent(agent)
    wait_until("node-3 connected", lambda: _connected(mesh, "node-3"), timeout_s=20)
    certificates = request(agent.admin, "GET", "/certs").body
    assert b"spiffe://cluster.local/node/node-3" in certificates
    assert b"PRIVATE KEY" not in certificates


def _connected(mesh: LocalMesh, node: str) -> bool:
    return any(item["node"] == node for item in mesh.rest("GET", "/mesh/v1/proxies").json["items"])


def test_stopped_processes_leave_none_behind(mesh: LocalMesh) -> None:
    """SIGTERM of an agent ends its workers too."""
    agent = mesh.agents["node-2"]
    old = workers(agent)
    assert agent.process.stop() == 0
    wait_until("the workers' end", lambda: not any(worker.is_running() for worker in old), timeout_s=10)
    mesh.run_agent(agent)
