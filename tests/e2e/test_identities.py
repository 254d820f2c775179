"""Keys and certificates of live agents: rotation under traffic, and keys that are in memory only."""

import json
from typing import Any

import pytest

from controlplane.cli.local_mesh import LocalAgent, LocalMesh, request, wait_until
from tests.support import meshes

pytestmark = pytest.mark.e2e

LIFETIME_S = 12
# Every request opens a connection of its own between the agents, and so shows the present certificates.
NEW_CONNECTIONS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: user-service}
spec:
  host: user-service
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
"""


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """node-2 runs user-service, node-4 calls it; certificates live for LIFETIME_S."""
    with meshes.local_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.start_control_plane(f"--certificate-ttl-s={LIFETIME_S}")
        mesh.start_service(meshes.USER_V1, 2)
        mesh.start_agent("node-2", 2, (meshes.USER_V1,))
        mesh.start_service(meshes.ORDERS, 4, mesh_port=meshes.CALLER_PORT)
        mesh.start_agent("node-4", 4, (meshes.ORDERS,))
        mesh.wait_revision(mesh.apply(meshes.documents(meshes.SERVICE, NEW_CONNECTIONS)))
        yield mesh


def certificates(agent: LocalAgent) -> dict[str, str]:
    """Identity -> fingerprint."""
    items = request(agent.admin, "GET", "/certs").json["certificates"]
    return {item["spiffe_id"]: item["sha256"] for item in items}


def test_rotation_costs_no_request(short_lived: LocalMesh) -> None:
    """Over more than two lifetimes every certificate is renewed, again and again, and no request fails."""
    mesh = short_lived
    caller = mesh.agents["node-4"]
    wait_until(
        "the first request", lambda: caller.call("user-service", port=meshes.CALLER_PORT).status == 200, timeout_s=20
    )
    seen: dict[str, set[str]] = {}
    with meshes.Load(f"{caller.address}:{meshes.CALLER_PORT}", "user-service", pause_s=0.02) as load:

        def rotated() -> bool:
            for agent in mesh.agents.values():
                for name, fingerprint in certificates(agent).items():
                    seen.setdefault(name, set()).add(fingerprint)
            # The fifth certificate of everybody: the first two have expired meanwhile.
            return all(len(prints) >= 5 for prints in seen.values())

        wait_until("five certificates of each identity", rotated, timeout_s=8 * LIFETIME_S, every_s=0.25)
        load.wait(50)
    assert set(load.statuses) == {200}, dict(load.statuses)
    assert not load.errors, dict(load.errors)
    kinds = {name.split("/")[3] for name in seen}
    assert kinds == {"node", "ns"}, "nodes and workloads"
    # A node's new certificate opens a new stream.
    wait_until("both in sync", lambda: _sync(mesh) == {"node-2": "synced", "node-4": "synced"})


def test_the_root_is_replaced_under_traffic(short_lived: LocalMesh) -> None:
    """Every connection is new and mutual TLS: none fails while both roots are trusted, the signer changes, one goes."""
    mesh = short_lived
    caller = mesh.agents["node-4"]
    before = mesh.rest("GET", "/mesh/v1/certificates").json["roots"]
    with meshes.Load(f"{caller.address}:{meshes.CALLER_PORT}", "user-service", pause_s=0.02) as load:
        begun = mesh.rest("POST", "/mesh/v1/certificates/rotation").json
        assert (begun["phase"], mesh.rest("POST", "/mesh/v1/certificates/rotation").status) == ("Distributing", 409)

        def over() -> bool:
            return mesh.rest("GET", "/mesh/v1/certificates").json["rotation"] is None

        wait_until("the old root is gone", over, timeout_s=8 * LIFETIME_S, every_s=0.25)
        (after,) = mesh.rest("GET", "/mesh/v1/certificates").json["roots"]
        wait_until("agents trust the new one alone", lambda: _trusted(mesh) == {(after["fingerprint_sha256"],)})
        load.wait(50)
    assert set(load.statuses) == {200}, dict(load.statuses)
    assert not load.errors, dict(load.errors)
    assert [after["fingerprint_sha256"]] != [root["fingerprint_sha256"] for root in before]
    assert after["fingerprint_sha256"].startswith(begun["new"])
    # Who comes now joins under the new root.
    mesh.start_agent("node-5", 5, ())
    wait_until("all in sync", lambda: set(_sync(mesh).values()) == {"synced"})
    mesh.agents["node-5"].process.stop()


def _trusted(mesh: LocalMesh) -> set[tuple[str, ...]]:
    return {
        tuple(request(mesh.agents[name].admin, "GET", "/certs").json["trust_roots"]) for name in ("node-2", "node-4")
    }


def _sync(mesh: LocalMesh) -> dict[str, str]:
    return {item["node"]: item["sync"] for item in mesh.rest("GET", "/mesh/v1/proxies").json["items"]}


def test_keys_in_memory_are_on_no_disk_and_a_restart_needs_a_new_token(mesh: LocalMesh) -> None:
    agent = mesh.start_agent("node-6", 6, (), proxy={"keys": "memory"})
    node = "spiffe://cluster.local/node/node-6"
    first = certificates(agent)[node]
    assert agent.call("user-service", "/users/1").status == 200
    for path in agent.state_dir.rglob("*"):
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes(), path
    agent.process.stop()

    agent.started.append(mesh.spawn("node-6", mesh.agent_command(agent)))
    said = wait_until("it says why it has no identity", lambda: _problem(agent, node))
    assert "the join was refused: UNAUTHENTICATED" in said
    assert "token" in said
    assert agent.process.running, "it goes on asking"

    (agent.config.parent / "token").write_text(mesh.token("node-6"))
    fingerprint = wait_until("it joins by itself", lambda: certificates(agent).get(node), timeout_s=60)
    assert fingerprint != first
    wait_until("and calls", lambda: agent.call("user-service", "/users/1").status == 200)
    agent.process.stop()


def test_keys_in_memory_without_any_token_end_the_start(mesh: LocalMesh) -> None:
    agent = mesh.write_agent_config("node-7", 7, (), proxy={"keys": "memory"})
    (agent.config.parent / "token").unlink()
    process = mesh.spawn("node-7", mesh.agent_command(agent))
    assert process.popen.wait(30) == 64
    assert "the join token cannot be read" in process.tail()
    assert "meshctl token create" in process.tail()


def _problem(agent: LocalAgent, node: str) -> str:
    found: dict[str, Any] = json.loads(request(agent.admin, "GET", "/certs").body)
    return str(found["problems"].get(node, ""))


def test_a_damaged_identity_is_told_once(mesh: LocalMesh) -> None:
    agent = mesh.start_agent("node-8", 8, ())
    agent.process.stop()
    (agent.state_dir / "identity" / "damaged.json").write_text("{")
    mesh.run_agent(agent)
    log = agent.process.log.read_text()
    assert log.count("a stored identity is not used") == 1
    assert "damaged.json is ignored" in log
    agent.process.stop()
