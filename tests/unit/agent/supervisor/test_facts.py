"""What the admin pages say, from the real parts of a supervisor. No processes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, Resource

from agent import settings
from agent.admin.totals import Totals
from agent.identity.renewal import IdentityKeeper
from agent.identity.vault import Identity, Vault
from agent.ipc.messages import CLUSTER, LISTENER, EjectRequest
from agent.ipc.shared import REQUESTS
from agent.model.cluster import Cluster, Endpoint, LoadAssignment, OutlierDetection
from agent.model.listener import Direction, Listener
from agent.report.client import ReportClient
from agent.supervisor.bind_gate import BindGate
from agent.supervisor.breakers import Breakers
from agent.supervisor.cells import CellBook
from agent.supervisor.config_flow import ConfigFlow
from agent.supervisor.ejections import Ejections
from agent.supervisor.facts import LISTENERS_WITHIN_S, AgentFacts, Parts
from agent.supervisor.node import hello
from agent.supervisor.pool import WorkerPool
from agent.supervisor.sockets import ListenerSockets
from agent.supervisor.worker_link import Launch
from agent.workloads.registry import PortPlan, Workloads
from agent.xds.client import AdsClient
from agent.xds.delta import DeltaSession
from agent.xds.resources import Decoded
from mesh.xds import type_url
from tests.support.certificates import key_pem, self_signed
from tests.support.clock import ManualClock
from tests.unit.agent.supervisor.test_ejections import Detector

HOST = Endpoint(address="10.0.0.1", port=80)
SECRET = "super-secret"


def decode(url: str, name: str, body: bytes) -> Decoded | str:
    """Clusters with one host; those that are called bad are refused."""
    if name.startswith("bad"):
        return "cluster.lb_policy: found MAGLEV, expected ROUND_ROBIN"
    hosts = LoadAssignment(cluster=name, endpoints=(HOST,))
    value = Cluster(name=name, static=hosts, outlier_detection=OutlierDetection())
    return Decoded(values=((CLUSTER, name, value),))


def no_channel() -> grpc.aio.Channel:
    raise AssertionError("nothing is called here")


class Supervisor:
    """The parts, unstarted."""

    def __init__(self, state_dir: Path) -> None:
        self.clock = clock = ManualClock()
        self.asked: list[str] = []
        self.settings = settings.Settings(
            node=settings.NodeSettings(name="n1", address="10.0.0.9"),
            control_plane=settings.ControlPlaneSettings(address="cp:18000"),
            proxy=settings.ProxySettings(state_dir=str(state_dir)),
        )
        self.totals = Totals()
        self.sockets = ListenerSockets(1)
        self.gate = BindGate(self.sockets)
        self.session = DeltaSession(Node(id="n1"), decode, usable=self.gate.usable)
        launch = Launch(
            slot=0, slots=1, node="n1", state_dir=state_dir, access_log=state_dir / "a", log_level="info",
            log_json=False,
        )  # fmt: skip
        self.cells = CellBook(1, 8)
        self.pool = WorkerPool(launch, self.sockets, self.cells, self, clock=clock)  # type: ignore[arg-type]
        self.flow = ConfigFlow(
            self.session, self.pool, state_dir=state_dir, node="n1", clock=clock, on_published=lambda _: None
        )
        self.ejections = Ejections(
            Detector, tell=lambda *_: None, changed=lambda: None, count=self.totals.count, clock=clock,
            rng=lambda: 0.5,
        )  # fmt: skip
        self.breakers = Breakers(
            tell=lambda *_: None, forget=lambda _: None, changed=lambda: None, count=self.totals.count,
            gauge=self.totals.replace_gauge, clock=clock,
        )  # fmt: skip
        plan = PortPlan(
            inbound_range=(20000, 20009), inbound_address="127.0.0.1", outbound_start=15100,
            outbound_address="127.0.0.1", reserved=frozenset(),
        )  # fmt: skip
        self.workloads = Workloads(
            state_dir, plan, clock=clock, on_change=lambda: None, in_use=lambda address, port: False
        )
        self.vault = Vault(None)
        self.keeper = IdentityKeeper(
            self.settings.control_plane, "n1", "spiffe://cluster.local/node/n1", self.vault, clock=clock,
            on_change=lambda _: None, rng=lambda: 0.5,
        )  # fmt: skip
        self.reports = ReportClient(hello(self.settings), self, no_channel, clock=clock)  # type: ignore[arg-type]
        self.client = AdsClient(
            self.session, no_channel, on_change=self.flow.step, served=self.pool.served, clock=clock
        )
        self.facts = AgentFacts(
            Parts(
                settings=self.settings, node=Node(id="n1"), clock=clock, totals=self.totals, session=self.session,
                client=self.client, flow=self.flow, pool=self.pool, gate=self.gate, cells=self.cells,
                ejections=self.ejections, breakers=self.breakers, workloads=self.workloads,
                vault=self.vault, keeper=self.keeper, reports=self.reports,
            ),
            on_drain=lambda: self.asked.append("drain"),
            on_quit=lambda: self.asked.append("quit"),
        )  # fmt: skip

    def receive(self, *clusters: ClusterMessage) -> None:
        """A response with these clusters."""
        if not self.session.online:
            self.session.connected(0.0)
        response = DeltaDiscoveryResponse(type_url=type_url.CLUSTER, nonce="1", system_version_info="v1")
        for message in clusters:
            resource = Resource(name=message.name, version="v1")
            resource.resource.Pack(message)
            response.resources.append(resource)
        self.session.received(response.SerializeToString(), 0.0)
        self.flow.step()
        found = {name: value for name, value in self.flow.tables[CLUSTER].items() if isinstance(value, Cluster)}
        self.ejections.follow(found, self.flow.assignment)

    def close(self) -> None:
        self.sockets.close_all()
        self.cells.close()


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    made = Supervisor(tmp_path)
    yield made
    made.close()


async def test_not_ready_without_configuration(supervisor: Supervisor) -> None:
    supervisor.client.health.error = "UNAVAILABLE: connection refused"
    ready, why = supervisor.facts.ready()
    assert (ready, why) == (False, "no configuration yet UNAVAILABLE: connection refused")
    assert supervisor.facts.server_info()["state"] == "INITIALIZING"


async def test_not_ready_before_the_workers_serve_it(supervisor: Supervisor) -> None:
    supervisor.receive(ClusterMessage(name="a"))
    assert supervisor.facts.ready() == (False, "workers are not up to date")


async def test_not_ready_while_a_listener_is_not_bound(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor.receive(ClusterMessage(name="a"))
    monkeypatch.setattr(WorkerPool, "serving", True)
    supervisor.sockets.problems["outbound"] = "10.0.0.9:15001: Address already in use"
    why = "listener outbound is not bound: 10.0.0.9:15001: Address already in use"
    assert supervisor.facts.ready() == (False, why)
    assert why in supervisor.facts.health()["problems"]
    supervisor.sockets.problems.clear()
    assert supervisor.facts.ready() == (True, "LIVE")


async def test_ready_needs_the_listeners_of_local_services(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.receive(ClusterMessage(name="a"))
    monkeypatch.setattr(WorkerPool, "serving", True)
    assert supervisor.facts.ready() == (True, "LIVE")
    supervisor.workloads.register(settings.service({"name": "users", "port": 3001}, "service"))
    supervisor.client.health.since = supervisor.clock.wall()
    assert supervisor.facts.ready() == (False, "no listener yet on port 15100, 20000")
    supervisor.clock.advance(LISTENERS_WITHIN_S + 1)
    assert supervisor.facts.ready() == (True, "LIVE"), "another xDS server may never send them"
    supervisor.facts.draining = True
    assert supervisor.facts.ready() == (False, "DRAINING")
    assert supervisor.facts.server_info()["state"] == "DRAINING"


async def test_clusters_show_health_and_ejection_and_limits(supervisor: Supervisor) -> None:
    supervisor.receive(ClusterMessage(name="a"))
    block = supervisor.cells.blocks["a"]
    supervisor.cells.shared.cells[supervisor.cells.shared.row(block, 0).own + REQUESTS] = 7
    request = EjectRequest(cluster="a", host=HOST.key, kind="consecutive_5xx", count=5, last_status=503)
    supervisor.ejections.request(request)
    (shown,) = supervisor.facts.clusters()
    assert (shown["name"], shown["lb_policy"]) == ("a", "ROUND_ROBIN")
    assert shown["in_use"] == {"connections": 0, "pending": 0, "requests": 7, "retries": 0}
    (host,) = shown["hosts"]
    assert (host["address"], host["ejected"]) == ("10.0.0.1:80", True)
    assert host["ejection"]["reason"] == "consecutive_5xx"
    assert host["ejection"]["detail"] == "5 times 503"
    assert host["ejection"]["until"].endswith("Z")


async def test_config_dump_has_versions_refusals_and_no_secrets(supervisor: Supervisor) -> None:
    good = ClusterMessage(name="a")
    good.metadata.filter_metadata["x"].update({"password": SECRET, "kept": "yes"})
    supervisor.receive(good, ClusterMessage(name="bad"))
    dump = supervisor.facts.config_dump()
    (clusters,) = [config for config in dump["configs"] if config["type_url"] == type_url.CLUSTER]
    assert clusters["version"] == "v1"
    (resource,) = clusters["resources"]
    assert (resource["name"], resource["version"], resource["resource"]["name"]) == ("a", "v1", "a")
    assert clusters["refused"] == {"bad": "cluster.lb_policy: found MAGLEV, expected ROUND_ROBIN"}
    text = json.dumps(dump)
    assert SECRET not in text
    assert "[redacted]" in text
    assert '"kept": "yes"' in text


async def test_health_names_everything_that_is_wrong(supervisor: Supervisor) -> None:
    assert supervisor.facts.health() == {"status": "ok", "problems": []}
    supervisor.receive(ClusterMessage(name="bad"))
    supervisor.client.health.error = "no route to host"
    supervisor.keeper.problems["spiffe://x"] = "denied"
    supervisor.sockets.problems["in"] = "127.0.0.1:1: Permission denied"
    found = supervisor.facts.health()
    assert found["status"] == "degraded"
    text = "\n".join(found["problems"])
    for part in ("listener in is not bound: 127.0.0.1:1", "bad is refused", "no route to host", "spiffe://x: denied"):
        assert part in text


async def test_listeners_show_where_they_are_bound(supervisor: Supervisor) -> None:
    value = Listener(
        name="in", address="127.0.0.1", port=0, direction=Direction.INBOUND, filter_chains=(), identity=""
    )  # fmt: skip
    supervisor.flow._published = type(supervisor.flow._published)(
        tables={**supervisor.flow.tables, LISTENER: {"in": value}}
    )
    supervisor.sockets.open(value)
    (shown,) = supervisor.facts.listeners()
    assert (shown["name"], shown["direction"], shown["bound"]) == ("in", "INBOUND", True)


async def test_certs_show_lifetimes_and_never_keys(supervisor: Supervisor) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = self_signed(key)
    now = supervisor.clock.wall()
    identity = Identity(
        spiffe_id="spiffe://cluster.local/node/n1", chain_pem=chain, key_pem=key_pem(key),
        not_before_s=now - 100, not_after_s=now + 500,
    )  # fmt: skip
    supervisor.vault.store([identity], chain)
    found = supervisor.facts.certs()
    (shown,) = found["certificates"]
    assert (shown["spiffe_id"], shown["expires_in_s"]) == ("spiffe://cluster.local/node/n1", 500)
    assert len(shown["sha256"]) == 64
    assert found["trust_roots"] == [shown["sha256"]]
    assert "PRIVATE KEY" not in json.dumps(found)


async def test_posts_reach_the_agent(supervisor: Supervisor) -> None:
    supervisor.facts.drain()
    supervisor.facts.quit()
    assert supervisor.asked == ["drain", "quit"]
