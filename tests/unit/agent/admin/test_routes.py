"""The admin port's pages, and Consul's registration paths on the node's real services."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.admin.http import Request, Response
from agent.admin.routes import Routes
from agent.admin.totals import Totals
from agent.settings import service
from agent.supervisor.registrations import LocalRegistrations
from agent.workloads.registry import PortPlan, Workloads
from tests.support.clock import ManualClock


class Facts:
    """agent.admin.routes.Facts that remembers what was asked of it."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.is_ready: tuple[bool, str] = (True, "LIVE")
        self.asked: list[str] = []

    def ready(self) -> tuple[bool, str]:
        return self.is_ready

    def health(self) -> dict[str, Any]:
        return {"status": "ok", "problems": []}

    def server_info(self) -> dict[str, Any]:
        return {"state": "LIVE"}

    def config_dump(self) -> dict[str, Any]:
        return {"configs": [], "waiting": ["cluster a waits for its endpoints"]}

    def client_status(self) -> dict[str, Any]:
        return {"generic_xds_configs": []}

    def clusters(self) -> list[dict[str, Any]]:
        return [{"name": "a", "hosts": []}]

    def listeners(self) -> list[dict[str, Any]]:
        return [{"name": "in", "bound": True}]

    def certs(self) -> dict[str, Any]:
        return {"certificates": []}

    def drain(self) -> None:
        self.asked.append("drain")

    def quit(self) -> None:
        self.asked.append("quit")


class Node:
    """Routes over facts and real services."""

    def __init__(self, state_dir: Path) -> None:
        self.clock = ManualClock()
        plan = PortPlan(
            inbound_range=(20000, 20009), inbound_address="127.0.0.1", outbound_start=15100,
            outbound_address="127.0.0.1", reserved=frozenset(),
        )  # fmt: skip
        self.changes = 0
        self.workloads = Workloads(
            state_dir, plan, clock=self.clock, on_change=self._changed, in_use=lambda address, port: False
        )
        self.facts = Facts()
        self._routes = Routes(self.facts, LocalRegistrations(self.workloads))

    def _changed(self) -> None:
        self.changes += 1

    async def ask(self, method: str, path: str, body: Any = None, **query: str) -> Response:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return await self._routes(Request(method=method, path=path, query=query, headers={}, body=data))

    async def json(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert (answer.status, answer.content_type) == (200, "application/json")
        return json.loads(answer.body)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_ready(node: Node) -> None:
    answer = await node.ask("GET", "/ready")
    assert (answer.status, answer.body) == (200, b"LIVE\n")
    node.facts.is_ready = (False, "no configuration yet")
    answer = await node.ask("GET", "/ready")
    assert (answer.status, answer.body) == (503, b"no configuration yet\n")


async def test_pages_show_the_facts(node: Node) -> None:
    assert await node.json("/clusters") == {"clusters": [{"name": "a", "hosts": []}]}
    assert await node.json("/listeners") == {"listeners": [{"name": "in", "bound": True}]}
    assert (await node.json("/config_dump"))["waiting"] == ["cluster a waits for its endpoints"]
    as_csds = await node.ask("GET", "/config_dump", format="csds")
    assert json.loads(as_csds.body) == {"generic_xds_configs": []}
    assert await node.json("/server_info") == {"state": "LIVE"}
    assert await node.json("/health") == {"status": "ok", "problems": []}
    assert await node.json("/certs") == {"certificates": []}
    index = await node.ask("GET", "/")
    assert b"POST /drain\n" in index.body


async def test_stats(node: Node) -> None:
    node.facts.totals.count("cluster.a.upstream_rq_total", 3)
    node.facts.totals.count("other", 1)
    assert (await node.ask("GET", "/stats")).body == b"cluster.a.upstream_rq_total: 3\nother: 1\n"
    assert (await node.ask("GET", "/stats", filter="other")).body == b"other: 1\n"
    for answer in (
        await node.ask("GET", "/stats/prometheus"),
        await node.ask("GET", "/stats", format="prometheus"),
    ):
        assert b'envoy_cluster_upstream_rq_total{envoy_cluster_name="a"} 3\n' in answer.body
        assert answer.content_type.startswith("text/plain; version=0.0.4")


async def test_what_changes_the_agent_needs_post(node: Node) -> None:
    for path in ("/drain", "/quitquitquit"):
        refused = await node.ask("GET", path)
        assert (refused.status, refused.headers["allow"]) == (405, "POST")
    assert node.facts.asked == []
    assert (await node.ask("POST", "/drain")).status == 200
    assert (await node.ask("POST", "/quitquitquit")).status == 200
    assert node.facts.asked == ["drain", "quit"]


async def test_unknown_pages(node: Node) -> None:
    assert (await node.ask("GET", "/nothing")).status == 404
    assert (await node.ask("GET", "/v1/agent/service/deregister/x")).status == 404
    assert (await node.ask("PUT", "/v1/agent/check/loud/x")).status == 404


# --- Consul's paths -------------------------------------------------------------------------------------------

REGISTRATION = {
    "Name": "user-service",
    "ID": "user-1",
    "Port": 3001,
    "Tags": ["version=v1", "canary"],
    "Meta": {"team": "users", "gossamer.mesh/service-account": "users"},
    "Check": {"TTL": "10s"},
}


async def test_register_show_deregister(node: Node) -> None:
    assert (await node.ask("PUT", "/v1/agent/service/register", REGISTRATION)).status == 200
    services = await node.json("/v1/agent/services")
    shown = services["user-1"]
    assert (shown["Service"], shown["Port"], shown["Tags"]) == ("user-service", 3001, ["canary"])
    assert shown["Meta"] == {"app": "user-service", "team": "users", "version": "v1"}
    assert (shown["ServiceAccount"], shown["InboundPorts"], shown["OutboundPort"]) == ("users", {"3001": 20000}, 15100)
    assert node.changes
    assert (await node.ask("PUT", "/v1/agent/service/deregister/user-1")).status == 200
    assert await node.json("/v1/agent/services") == {}
    assert (await node.ask("PUT", "/v1/agent/service/deregister/user-1")).status == 404


async def test_time_to_live_checks(node: Node) -> None:
    await node.ask("PUT", "/v1/agent/service/register", REGISTRATION)
    check = "service:user-1"
    assert (await node.json("/v1/agent/checks"))[check]["Status"] == "critical", "nothing has been said yet"
    for word, status in (("pass", "passing"), ("warn", "warning"), ("fail", "critical")):
        answer = await node.ask("PUT", f"/v1/agent/check/{word}/{check}", note="as said")
        assert answer.status == 200
        shown = (await node.json("/v1/agent/checks"))[check]
        assert shown["Status"] == status
        assert "as said" in shown["Output"] or word == "pass"
    await node.ask("PUT", f"/v1/agent/check/pass/{check}")
    node.clock.advance(11)
    node.workloads.sweep(frozenset())
    assert (await node.json("/v1/agent/checks"))[check]["Status"] == "critical", "its time to live is over"
    assert (await node.ask("PUT", "/v1/agent/check/pass/service:other")).status == 404


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{", 400, b"body"),
        ([1], 400, b"body"),
        ({"Name": "a"}, 400, b"port"),
        ({"Name": "", "Port": 1}, 400, b"name"),
        ({"Name": "a", "Port": 70000}, 400, b"port"),
        ({"Name": "a", "Port": 1, "Connect": {}}, 400, b"Connect"),
        ({"Name": "a", "Port": 1, "Checks": [{"TTL": "1s"}, {"TTL": "2s"}]}, 400, b"Checks"),
        ({"Name": "a", "Port": 1, "Check": {"GRPC": "x"}}, 400, b"Check.GRPC"),
        ({"Name": "a", "Port": 1, "Check": {"TTL": "soon"}}, 400, b"ttl"),
        ({"Name": "a", "Port": 1, "Meta": {"x": 1}}, 400, b"Meta"),
        ({"Name": "a", "Port": 1, "Tags": "x"}, 400, b"Tags"),
        ({"Name": "a", "Port": 1, "Weights": {"Passing": 1000}}, 400, b"weight"),
    ],
)
async def test_bad_registrations_name_the_field(node: Node, body: Any, status: int, named: bytes) -> None:
    answer = await node.ask("PUT", "/v1/agent/service/register", body)
    assert answer.status == status, answer.body
    assert named in answer.body
    assert await node.json("/v1/agent/services") == {}


async def test_services_of_the_config_file_are_not_changed_here(node: Node) -> None:
    node.workloads.load([service({"name": "orders", "port": 3000, "id": "orders-1"}, "service[0]")])
    assert (await node.ask("PUT", "/v1/agent/service/deregister/orders-1")).status == 409
    taken = {"Name": "orders", "ID": "orders-1", "Port": 4000}
    assert (await node.ask("PUT", "/v1/agent/service/register", taken)).status == 409
    assert (await node.json("/v1/agent/services"))["orders-1"]["Port"] == 3000


async def test_registrations_survive_a_restart(node: Node, tmp_path: Path) -> None:
    await node.ask("PUT", "/v1/agent/service/register", REGISTRATION)
    before = await node.json("/v1/agent/services")
    again = Node(tmp_path)
    again.workloads.load([])
    assert await again.json("/v1/agent/services") == before
