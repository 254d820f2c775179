"""Services that come and go by the local registration API, their checks, and what keeps them from being served."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from controlplane.cli.local_mesh import LocalAgent, LocalMesh, Reply, request, wait_until
from tests.support import meshes

pytestmark = pytest.mark.e2e


class Application(BaseHTTPRequestHandler):
    """Answers its server's name."""

    def do_GET(self) -> None:
        healthy = self.path != "/health" or self.server.healthy  # type: ignore[attr-defined]
        body = self.server.name.encode()  # type: ignore[attr-defined]
        self.send_response(200 if healthy else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def application(address: str, name: str) -> Iterator[ThreadingHTTPServer]:
    """An application on a free port of `address`; `healthy` says what it answers to /health."""
    server = ThreadingHTTPServer((address, 0), Application)
    server.name, server.healthy = name, True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def local_api(agent: LocalAgent, method: str, path: str, body: Any = None) -> Reply:
    return request(agent.admin, method, path, body=None if body is None else json.dumps(body))


def registered(agent: LocalAgent, body: dict[str, Any]) -> None:
    reply = local_api(agent, "PUT", "/v1/agent/service/register", body)
    assert reply.status == 200, reply.body


def endpoints(mesh: LocalMesh, service: str) -> list[dict[str, Any]]:
    reply = mesh.rest("GET", f"/mesh/v1/endpoints?service={service}")
    return list(reply.json["items"]) if reply.status == 200 else []


def test_register_check_discover_and_deregister(mesh: LocalMesh, caller) -> None:  # type: ignore[no-untyped-def]
    """As Consul's clients do it; another node's callers follow each step."""
    agent = mesh.agents["node-2"]
    with application(agent.address, "carts") as server:
        port = server.server_address[1]
        check = {"HTTP": f"http://{agent.address}:{port}/health", "Interval": "200ms", "Timeout": "1s"}
        body = {"Name": "carts", "ID": "carts-7", "Address": agent.address, "Port": port, "Tags": ["green"],
                "Meta": {"version": "v3"}, "Check": check}  # fmt: skip
        registered(agent, body)
        listed = local_api(agent, "GET", "/v1/agent/services").json["carts-7"]
        assert (listed["Service"], listed["Port"], listed["Tags"]) == ("carts", port, ["green"])
        assert listed["Meta"]["version"] == "v3"

        wait_until("discovered", lambda: caller(f"carts:{port}").status == 200)
        assert caller(f"carts:{port}").body == b"carts"
        assert local_api(agent, "GET", "/v1/agent/checks").json["service:carts-7"]["Status"] == "passing"
        (found,) = endpoints(mesh, "carts")
        assert (found["node"], found["health"], found["labels"]["version"]) == ("node-2", "HEALTHY", "v3")

        server.healthy = False  # type: ignore[attr-defined]
        wait_until("taken out", lambda: caller(f"carts:{port}").status == 503)
        (found,) = wait_until("unhealthy in REST", lambda: _with(endpoints(mesh, "carts"), health="UNHEALTHY"))
        assert "503" in found["health_reason"]
        assert local_api(agent, "GET", "/v1/agent/checks").json["service:carts-7"]["Status"] == "critical"
        server.healthy = True  # type: ignore[attr-defined]
        wait_until("back", lambda: caller(f"carts:{port}").status == 200)

        assert local_api(agent, "PUT", "/v1/agent/service/deregister/carts-7").status == 200
        wait_until("gone", lambda: caller(f"carts:{port}").status == 502)
        assert endpoints(mesh, "carts") == []
        assert local_api(agent, "PUT", "/v1/agent/service/deregister/carts-7").status == 404


def test_what_the_api_refuses(mesh: LocalMesh) -> None:
    agent = mesh.agents["node-2"]
    reply = local_api(agent, "PUT", "/v1/agent/service/register", {"Name": "x", "Port": 70000})
    assert reply.status == 400
    assert b"port" in reply.body
    reply = local_api(agent, "PUT", "/v1/agent/service/register", {"Name": "x", "Port": 1, "Proxy": {}})
    assert b"Proxy" in reply.body
    reply = local_api(agent, "PUT", f"/v1/agent/service/deregister/{meshes.USER_V1.id}")
    assert reply.status == 409, "it stands in the config file"


def test_a_registration_outlives_the_agent(mesh: LocalMesh, caller) -> None:  # type: ignore[no-untyped-def]
    agent = mesh.agents["node-2"]
    with application(agent.address, "kept") as server:
        port = server.server_address[1]
        registered(agent, {"Name": "kept", "Address": agent.address, "Port": port})
        wait_until("discovered", lambda: caller(f"kept:{port}").status == 200)
        agent.process.stop()
        mesh.run_agent(agent)
        wait_until("discovered again", lambda: caller(f"kept:{port}").status == 200)
        (service_id,) = [
            name
            for name, item in local_api(agent, "GET", "/v1/agent/services").json.items()
            if item["Service"] == "kept"
        ]
        local_api(agent, "PUT", f"/v1/agent/service/deregister/{service_id}")
        wait_until("gone", lambda: endpoints(mesh, "kept") == [])


def test_an_instance_is_not_told_before_it_has_its_certificate(mesh: LocalMesh) -> None:
    """Who could find it would call it in vain. Accounts that are new to a running agent take a while to be signed."""
    agent = mesh.agents["node-2"]
    names = {f"signed-{number}" for number in range(20)}
    for port, name in enumerate(sorted(names), start=4000):
        meta = {"gossamer.mesh/service-account": name}
        registered(agent, {"Name": name, "ID": name, "Address": agent.address, "Port": port, "Meta": meta})

    def all_told() -> bool:
        items = mesh.rest("GET", "/mesh/v1/endpoints").json["items"]
        told = names & {item["service"].partition(".")[0] for item in items}
        held = {item["spiffe_id"].rpartition("/")[2] for item in local_api(agent, "GET", "/certs").json["certificates"]}
        assert told <= held
        return told == names

    wait_until("every instance", all_told, every_s=0.0)
    for name in names:
        assert local_api(agent, "PUT", f"/v1/agent/service/deregister/{name}").status == 200


def test_a_tcp_check_and_the_bypass_warning(mesh: LocalMesh, caller) -> None:  # type: ignore[no-untyped-def]
    """A check that only connects; an application that listens beyond loopback can be called past the mesh."""
    agent = mesh.agents["node-3"]
    with application("0.0.0.0", "ledger") as server:
        port = server.server_address[1]
        check = {"TCP": f"{agent.address}:{port}", "Interval": "200ms", "Timeout": "1s"}
        registered(agent, {"Name": "ledger", "ID": "ledger", "Address": agent.address, "Port": port, "Check": check})
        wait_until("discovered", lambda: caller(f"ledger:{port}").status == 200)
        (found,) = wait_until("the warning", lambda: _with(endpoints(mesh, "ledger"), bypass_possible=True))
        assert found["warnings"] == ["BypassPossible"]
        assert found["health"] == "HEALTHY"
        problems = request(agent.admin, "GET", "/health").json["problems"]
        assert "ledger listens beyond loopback and can be called past the mesh" in problems
    (found,) = wait_until("nobody listens", lambda: _with(endpoints(mesh, "ledger"), health="UNHEALTHY"))
    assert "refused" in found["health_reason"]
    wait_until("taken out", lambda: caller(f"ledger:{port}").status == 503)
    local_api(agent, "PUT", "/v1/agent/service/deregister/ledger")
    wait_until("gone", lambda: endpoints(mesh, "ledger") == [])


def _with(items: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [item for item in items if all(item[key] == value for key, value in wanted.items())]


def test_a_grpc_port_says_what_cannot_be_done(mesh: LocalMesh, caller) -> None:  # type: ignore[no-untyped-def]
    """Our agents speak HTTP/1.1 to servers: a clear answer, no healthy host ejected, and a condition on the Service."""
    agent = mesh.agents["node-2"]
    service = """\
apiVersion: v1
kind: Service
metadata: {name: greeter}
spec: {selector: {app: greeter}, ports: [{name: grpc, port: 50051}]}
"""
    with application(agent.address, "greeter") as server:
        meta = {"gossamer.mesh/protocol": "GRPC"}
        port = server.server_address[1]
        registered(agent, {"Name": "greeter", "ID": "greeter", "Address": agent.address, "Port": port, "Meta": meta})
        mesh.wait_revision(mesh.apply(service))
        reply = wait_until("the answer", lambda: _status(caller("greeter:50051"), 501))
        assert b"greeter.default.svc.cluster.local:50051 is for HTTP/2" in reply.body
        problems = mesh.rest("GET", "/mesh/v1/status").json["problems"]
        found = [item for item in problems if item["object"] == "Service default/greeter"]
        assert [(item["type"], item["reason"]) for item in found] == [("NotEnforced", "UnsupportedProtocol")]
    mesh.rest("DELETE", "/api/v1/namespaces/default/services/greeter")
    local_api(agent, "PUT", "/v1/agent/service/deregister/greeter")
    wait_until("gone", lambda: endpoints(mesh, "greeter") == [])


def _status(reply: Reply, wanted: int) -> Reply | None:
    return reply if reply.status == wanted else None


# --- a port that another program has


@contextmanager
def taken(address: str, port: int) -> Iterator[None]:
    """Another program listens there."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((address, port))
        other.listen()
        yield


def listeners_of(mesh: LocalMesh, node: str) -> dict[str, Any]:
    found = [item for item in mesh.rest("GET", "/mesh/v1/proxies").json["items"] if item["node"] == node]
    return dict(found[0]["types"].get("LDS", {})) if found else {}


def test_a_listener_whose_port_is_taken_is_refused_until_it_is_free(mesh: LocalMesh) -> None:
    """At the first start, and with the last known good after a restart: REST shows it, and that it is over."""
    agent = mesh.write_agent_config("node-5", 5, ())
    why = f"{agent.address}:15001: Address already in use"
    for _ in range(2):
        with taken(agent.address, 15001):
            process = mesh.spawn("node-5", mesh.agent_command(agent))
            agent.started.append(process)
            state = wait_until("the refusal in REST", lambda: _rejected(listeners_of(mesh, "node-5")))
            assert [why in item["reason"] for item in state["rejected"]] == [True]
            said = wait_until("the admin page", lambda: _not_ready(agent, why))
            assert said.startswith("listener ")
        wait_until("accepted after all", lambda: listeners_of(mesh, "node-5").get("state") == "synced")
        wait_until("ready", lambda: request(agent.admin, "GET", "/ready", timeout_s=2).status == 200)
        assert agent.call("user-service", "/users/1").status == 200
        process.stop()


def _not_ready(agent: LocalAgent, why: str) -> str:
    reply = request(agent.admin, "GET", "/ready", timeout_s=2)
    return reply.body.decode() if reply.status == 503 and why in reply.body.decode() else ""


def _rejected(state: dict[str, Any]) -> dict[str, Any] | None:
    return state if state.get("state") == "rejected" else None
