"""What a node tells of itself: who is told, as what, and when the first report may go."""

from collections.abc import Callable
from pathlib import Path

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.status.v3.csds_pb2 import ClientConfig

from agent import settings
from agent.identity.renewal import IdentityKeeper
from agent.identity.vault import Identity, Vault
from agent.ipc.messages import EjectRequest
from agent.model.cluster import Cluster, Endpoint, LoadAssignment, OutlierDetection
from agent.supervisor.breakers import Breakers
from agent.supervisor.ejections import Ejections
from agent.supervisor.node_report import Announcements, NodeReport
from agent.workloads.health import Outcome, Result
from agent.workloads.registry import Workloads, port_plan
from agent.xds.delta import DeltaSession
from mesh.vocabulary import HealthStatus
from tests.support.clock import ManualClock
from tests.unit.agent.supervisor.test_ejections import Detector

ORDERS = "spiffe://td/ns/default/sa/orders"
USERS = "spiffe://td/ns/shop/sa/users"
GATEWAY = "spiffe://td/ns/edge/sa/door"


class Told:
    """The announcements of a node with services, and how often something changed."""

    def __init__(self, folder: Path, *services: settings.Service, gateway: settings.GatewaySettings | None = None):
        self.clock = ManualClock()
        self.changes = 0
        self.settings = settings.Settings(
            node=settings.NodeSettings(name="n1", address="127.0.0.1"),
            control_plane=settings.ControlPlaneSettings(address="cp:18000", trust_domain="td"),
            proxy=settings.ProxySettings(state_dir=str(folder)),
            gateway=gateway or settings.GatewaySettings(),
        )
        self.vault = Vault(None)
        self.keeper = IdentityKeeper(
            self.settings.control_plane, "n1", "spiffe://td/node/n1", self.vault, clock=self.clock,
            on_change=lambda _: None, rng=lambda: 0.5,
        )  # fmt: skip
        self.wanted: list[list[str]] = []
        self.workloads = Workloads(
            folder, port_plan(self.settings), clock=self.clock, on_change=lambda: None, in_use=lambda *_: False
        )
        self.workloads.load(services)
        self.announcements = Announcements(self.settings, self.workloads, self.keeper, changed=self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def hold(self, *names: str) -> None:
        self.vault.store(
            [Identity(spiffe_id=n, chain_pem=b"c", key_pem=b"k", not_before_s=0.0, not_after_s=9e9) for n in names],
            b"r",
        )
        self.announcements.look()

    def ids(self) -> list[tuple[str, HealthStatus]]:
        return [(item.id, item.health) for item in self.announcements.instances()]


def service(name: str, port: int, **more: object) -> settings.Service:
    return settings.service({"name": name, "port": port, "service_account": name, **more}, "service")


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path, service("orders", 3001), service("users", 3002, namespace="shop"))


def test_an_instance_is_told_once_its_identity_is_decided(told: Told) -> None:
    told.announcements.workloads_changed()
    assert (told.ids(), told.changes) == ([], 1)
    assert not told.announcements.settled.is_set()
    told.hold(ORDERS)
    assert told.ids() == [("orders-3001", HealthStatus.HEALTHY)]
    assert not told.announcements.settled.is_set()
    told.keeper.problems[USERS] = "refused"  # the control plane says why, so it must know the instance
    told.announcements.look()
    assert [name for name, _ in told.ids()] == ["orders-3001", "users-3002"]
    assert told.announcements.settled.is_set()
    assert told.changes == 3


def test_it_is_settled_only_after_the_first_results_of_checks(tmp_path: Path) -> None:
    orders = service("orders", 3001, check={"http": "http://127.0.0.1:3001/"})
    assert orders.check is not None
    told = Told(tmp_path, orders)
    told.hold(ORDERS)
    assert not told.announcements.settled.is_set()
    told.workloads.checked("orders-3001", orders.check, Result(Outcome.PASSED))
    told.announcements.workloads_changed()
    assert told.announcements.settled.is_set()


def test_identities_of_services_are_wanted_and_no_others(told: Told) -> None:
    told.hold(ORDERS, USERS, "spiffe://td/ns/default/sa/gone", "spiffe://td/node/n1")
    told.announcements.workloads_changed()
    assert sorted(told.vault.identities) == ["spiffe://td/node/n1", ORDERS, USERS]


def test_a_gateway_is_an_instance_with_an_identity(tmp_path: Path) -> None:
    own = settings.GatewaySettings(enabled=True, namespace="edge", service_account="door")
    told = Told(tmp_path, gateway=own)
    told.hold(GATEWAY, ORDERS)
    told.announcements.workloads_changed()
    assert list(told.vault.identities) == [GATEWAY]
    assert told.ids() == [("gateway", HealthStatus.HEALTHY)]


def test_it_drains_and_then_there_is_nothing(told: Told) -> None:
    told.hold(ORDERS, USERS)
    before = told.changes
    told.announcements.drain()
    assert told.changes == before + 1
    assert told.ids() == [("orders-3001", HealthStatus.DRAINING), ("users-3002", HealthStatus.DRAINING)]
    assert {item.health_reason for item in told.announcements.instances()} == {"the agent ends"}
    told.announcements.leave()
    assert told.ids() == []


def test_the_report_is_put_together_from_its_owners(told: Told) -> None:
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    ejections = Ejections(
        Detector, tell=nothing, changed=nothing, count=nothing, clock=told.clock, rng=lambda: 0.5
    )  # fmt: skip
    host = LoadAssignment(cluster="c", endpoints=(Endpoint(address="10.0.0.1", port=80),))
    ejections.follow({"c": Cluster(name="c", outlier_detection=OutlierDetection())}, lambda _: host)
    ejections.request(EjectRequest(cluster="c", host="10.0.0.1:80", kind="consecutive_5xx", count=5, last_status=503))
    breakers = Breakers(
        tell=nothing, forget=nothing, changed=nothing, count=nothing, gauge=nothing, clock=told.clock
    )  # fmt: skip
    session = DeltaSession(Node(id="n1"), lambda *_: "refused")
    report = NodeReport(told.announcements, ejections, breakers, session, Node(id="n1"))
    told.hold(ORDERS)
    assert report.instances() == told.announcements.instances()
    assert [(item.cluster, item.host, item.enforced) for item in report.ejections()] == [("c", "10.0.0.1:80", True)]
    assert report.breakers() == ()
    assert ClientConfig.FromString(report.client_status(contents=False)).node.id == "n1"
