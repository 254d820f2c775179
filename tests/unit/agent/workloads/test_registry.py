"""The services of a node: registering, ports, health, what outlives a restart."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import settings
from agent.settings import Service, ServiceCheck, service
from agent.workloads import registry
from agent.workloads.health import Outcome, Result
from agent.workloads.registry import PortPlan, Workloads, port_plan, table_of
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import HealthStatus
from tests.support.clock import ManualClock

OK = Result(Outcome.PASSED)
DOWN = Result(Outcome.FAILED, "connection refused")
WRONG = Result(Outcome.REFUSED, "answered 503")
HTTP = {"http": "http://127.0.0.1:3001/health"}


def made(name: str = "orders", **fields: Any) -> Service:
    return service({"name": name, "port": 3001, **fields}, "service")


class Node:
    """The services of one node; `restart` reads the folder again."""

    def __init__(self, folder: Path, *, busy: frozenset[int] = frozenset(), inbound: tuple[int, int] = (20000, 20999)):
        self.folder = folder
        self.clock = ManualClock()
        self.changes = 0
        self._busy = busy
        self._inbound = inbound
        self.problems: tuple[str, ...] = ()
        self.restart()

    def restart(self, from_file: tuple[Service, ...] = ()) -> Workloads:
        plan = PortPlan(
            inbound_range=self._inbound,
            inbound_address="10.0.0.1",
            outbound_start=15100,
            outbound_address="127.0.0.1",
            reserved=frozenset({15101}),
        )
        self.workloads = Workloads(
            self.folder,
            plan,
            clock=self.clock,
            on_change=self._changed,
            in_use=lambda host, port: port in self._busy,
        )
        self.problems = self.workloads.load(from_file)
        return self.workloads

    def _changed(self) -> None:
        self.changes += 1

    def health(self, service_id: str = "orders-3001") -> tuple[HealthStatus, str]:
        (found,) = [item for item in self.workloads.instances() if item.id == service_id]
        return found.health, found.health_reason


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_service_gets_ports_and_is_told_to_the_control_plane(node: Node) -> None:
    node.workloads.register(
        service(
            {
                "name": "orders",
                "namespace": "shop",
                "service_account": "orders-sa",
                "ports": [{"name": "http", "port": 3001}, {"port": 3002, "protocol": "TCP"}],
                "labels": {"version": "v1", "app": "orders"},
                "weight": 3,
            },
            "service",
        )
    )
    (instance,) = node.workloads.instances()
    assert instance.id == "orders-3001"
    assert (instance.service, instance.namespace, instance.service_account) == ("orders", "shop", "orders-sa")
    assert instance.labels == (("app", "orders"), ("version", "v1"))
    assert [(port.port, port.inbound_port, port.protocol) for port in instance.ports] == [
        (3001, 20000, ""),
        (3002, 20001, "TCP"),
    ]
    assert (instance.outbound_port, instance.weight) == (15100, 3)
    assert (instance.health, instance.health_reason) == (HealthStatus.HEALTHY, "")
    assert instance.health_since_ms == int(node.clock.wall() * 1000)
    assert node.workloads.service_accounts() == (("shop", "orders-sa"),)
    assert node.changes == 2


def test_ports_are_chosen_once_and_survive_restart_and_order(node: Node) -> None:
    for name in ("a", "b", "c"):
        node.workloads.register(made(name))
    before = {item.id: (item.outbound_port, item.ports[0].inbound_port) for item in node.workloads.instances()}
    assert before == {"a-3001": (15100, 20000), "b-3001": (15102, 20001), "c-3001": (15103, 20002)}

    node.workloads.deregister("a-3001")
    node.restart((made("d"),))
    node.workloads.register(made("a"))
    after = {item.id: (item.outbound_port, item.ports[0].inbound_port) for item in node.workloads.instances()}
    assert {key: after[key] for key in before} == before
    assert after["d-3001"] == (15104, 20003)


def test_ports_in_use_are_passed_over(tmp_path: Path) -> None:
    node = Node(tmp_path, busy=frozenset({20000, 20001, 15100}))
    node.workloads.register(made())
    (instance,) = node.workloads.instances()
    assert (instance.ports[0].inbound_port, instance.outbound_port) == (20002, 15102)


def test_a_range_that_is_used_up_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, inbound=(20000, 20001))
    node.workloads.register(made("a"))
    node.workloads.register(made("b"))
    with pytest.raises(MeshError, match="no free inbound port") as caught:
        node.workloads.register(made("c"))
    assert caught.value.code is ErrorCode.CONFLICT
    assert sorted(node.workloads.services) == ["a-3001", "b-3001"]


def test_an_outbound_port_of_the_users_choice(node: Node) -> None:
    assert node.workloads.register(made("a", outbound_port=15200)).outbound_port == 15200
    taken = node.workloads.register(made("b", outbound_port=15200))
    assert taken.outbound_port != 15200
    assert taken.problems == ("b-3001: outbound port 15200 is another service's; one was chosen",)


def test_what_the_api_registered_is_there_after_a_restart(node: Node) -> None:
    item = made("orders", check={**HTTP, "interval": "3s"}, labels={"v": "1"}, weight=7, outbound_port=15300)
    node.workloads.register(item)
    node.workloads.register(made("gone"))
    node.workloads.deregister("gone-3001")
    node.restart()
    assert {name: held.service for name, held in node.workloads.services.items()} == {item.id: item}
    assert node.problems == ()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"check": {"tcp": "127.0.0.1:3001", "timeout": "500ms", "unhealthy_threshold": 5, "healthy_threshold": 1}},
        {"check": {"ttl": "30s", "deregister_after": "1h"}},
        {"check": HTTP, "labels": {"a": ""}, "address": "127.0.0.9", "id": "x.y", "service_account": "sa"},
    ],
)
def test_a_service_is_written_as_it_is_read(fields: dict[str, Any]) -> None:
    item = made(**fields)
    assert service(json.loads(json.dumps(table_of(item))), "services.json") == item


def test_the_config_files_services_belong_to_the_file(node: Node) -> None:
    node.restart((made("orders"),))
    for attempt in (
        lambda: node.workloads.register(made("orders", weight=2)),
        lambda: node.workloads.deregister("orders-3001"),
    ):
        with pytest.raises(MeshError, match="config file") as caught:
            attempt()  # type: ignore[no-untyped-call]
        assert caught.value.code is ErrorCode.CONFLICT
    node.restart(())
    assert node.workloads.services == {}, "what the file names no longer is gone"


def test_the_file_wins_over_an_earlier_registration(node: Node) -> None:
    node.workloads.register(made("orders", weight=2))
    node.restart((made("orders", weight=5),))
    (held,) = node.workloads.services.values()
    assert (held.service.weight, held.from_file) == (5, True)


def test_a_service_that_is_not_there_cannot_be_deregistered(node: Node) -> None:
    with pytest.raises(MeshError) as caught:
        node.workloads.deregister("none")
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_a_node_has_a_bounded_number_of_services(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_SERVICES", 2)
    node.workloads.register(made("a"))
    node.workloads.register(made("b"))
    with pytest.raises(MeshError) as caught:
        node.workloads.register(made("c"))
    assert caught.value.code is ErrorCode.TOO_LARGE
    node.workloads.register(made("a", weight=9))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 9}', '{"schema": 1}', '{"schema": 1, "services": 7}'])
def test_a_damaged_file_is_reported_and_ignored(node: Node, text: str) -> None:
    (node.folder / registry.FILE).write_text(text)
    node.restart((made("orders"),))
    (problem,) = node.problems
    assert registry.FILE in problem
    assert list(node.workloads.services) == ["orders-3001"]


def test_one_bad_registration_does_not_cost_the_others(node: Node) -> None:
    tables = [table_of(made("a")), {"name": "b/d", "port": 1}, 7, table_of(made("c"))]
    (node.folder / registry.FILE).write_text(json.dumps({"schema": 1, "services": tables}))
    node.restart()
    assert list(node.workloads.services) == ["a-3001", "c-3001"]
    assert len(node.problems) == 2


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_stored_is_not_registered_and_can_be_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.workloads.register(made("a"))
    changes = node.changes
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        attempts: tuple[Callable[[], object], ...] = (
            lambda: node.workloads.register(made("b")),
            lambda: node.workloads.register(made("a", weight=9)),
            lambda: node.workloads.deregister("a-3001"),
        )
        for attempt in attempts:
            with pytest.raises(MeshError, match="No space left") as caught:
                attempt()
            assert caught.value.code is ErrorCode.UNAVAILABLE
    assert {name: held.service.weight for name, held in node.workloads.services.items()} == {"a-3001": 1}
    assert node.changes == changes
    node.workloads.register(made("b"))
    node.restart()
    assert sorted(node.workloads.services) == ["a-3001", "b-3001"]


# --- health -----------------------------------------------------------------------------------------------------------


def test_health_follows_the_checks_with_reason_and_time(node: Node) -> None:
    check = ServiceCheck(**HTTP, unhealthy_threshold=2)
    node.workloads.register(made(check=HTTP))
    assert node.health() == (HealthStatus.UNHEALTHY, "not checked yet")
    assert not node.workloads.settled
    node.clock.advance(1)
    node.workloads.checked("orders-3001", check, OK)
    assert node.health() == (HealthStatus.HEALTHY, "")
    assert node.workloads.settled
    healthy_since = node.workloads.instances()[0].health_since_ms

    changes = node.changes
    node.clock.advance(1)
    node.workloads.checked("orders-3001", check, OK)
    node.workloads.checked("orders-3001", check, DOWN)
    assert node.changes == changes, "nothing changed that anybody is told"
    assert node.workloads.instances()[0].health_since_ms == healthy_since
    node.workloads.checked("orders-3001", check, DOWN)
    assert node.health() == (HealthStatus.UNHEALTHY, "connection refused")
    assert node.workloads.instances()[0].health_since_ms == healthy_since + 1000
    assert node.changes == changes + 1


def test_results_of_another_check_are_dropped(node: Node) -> None:
    old = ServiceCheck(**HTTP)
    node.workloads.register(made(check=HTTP))
    node.workloads.register(made(check={"tcp": "127.0.0.1:3001"}))
    node.workloads.checked("orders-3001", old, OK)
    node.workloads.checked("gone", old, OK)
    assert node.health() == (HealthStatus.UNHEALTHY, "not checked yet")


def test_a_registration_with_the_same_check_keeps_the_health_that_was_found(node: Node) -> None:
    node.workloads.register(made(check=HTTP))
    node.workloads.checked("orders-3001", ServiceCheck(**HTTP), OK)
    since = node.workloads.instances()[0].health_since_ms
    node.clock.advance(5)
    node.workloads.register(made(check=HTTP, weight=9))
    (instance,) = node.workloads.instances()
    assert (instance.health, instance.weight, instance.health_since_ms) == (HealthStatus.HEALTHY, 9, since)


def test_a_time_to_live_check(node: Node) -> None:
    node.workloads.register(made(check={"ttl": "10s"}))
    node.workloads.sweep(frozenset())
    assert node.health() == (HealthStatus.UNHEALTHY, "not checked yet")
    node.workloads.said("orders-3001", "passing", "")
    assert node.health() == (HealthStatus.HEALTHY, "")
    node.clock.advance(9.9)
    node.workloads.register(made(check={"ttl": "10s"}, weight=2))
    node.workloads.sweep(frozenset())
    assert node.health() == (HealthStatus.HEALTHY, ""), "a re-registration does not make it critical"
    node.clock.advance(0.1)
    node.workloads.sweep(frozenset())
    assert node.health() == (HealthStatus.UNHEALTHY, "nothing was heard within the time to live")
    node.workloads.said("orders-3001", "warning", "disk")
    assert node.health() == (HealthStatus.HEALTHY, "warning: disk")
    node.workloads.said("orders-3001", "critical", "gone")
    assert node.health() == (HealthStatus.UNHEALTHY, "gone")


@pytest.mark.parametrize("check", [None, HTTP])
def test_only_a_time_to_live_check_can_be_told(node: Node, check: dict[str, str] | None) -> None:
    node.workloads.register(made(**({"check": check} if check else {})))
    for service_id in ("orders-3001", "none"):
        with pytest.raises(MeshError) as caught:
            node.workloads.said(service_id, "passing", "")
        assert caught.value.code is ErrorCode.NOT_FOUND


def test_a_service_that_stays_critical_leaves(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    check = ServiceCheck(**HTTP, deregister_after_s=60.0)
    node.workloads.register(made(check={**HTTP, "deregister_after": "1m"}))
    node.workloads.checked("orders-3001", check, OK)
    node.clock.advance(100)
    node.workloads.sweep(frozenset())
    node.workloads.checked("orders-3001", check, WRONG)
    node.clock.advance(59)
    node.workloads.sweep(frozenset())
    assert list(node.workloads.services) == ["orders-3001"]
    node.clock.advance(1)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        node.workloads.sweep(frozenset())
    assert list(node.workloads.services) == ["orders-3001"], "tried again with the next sweep"
    node.workloads.sweep(frozenset())
    assert node.workloads.services == {}


def test_a_service_of_the_file_never_leaves(node: Node) -> None:
    node.restart((made(check={**HTTP, "deregister_after": "1m"}),))
    node.clock.advance(3600)
    node.workloads.sweep(frozenset())
    assert list(node.workloads.services) == ["orders-3001"]


def test_an_application_beyond_loopback_is_warned_of_once_and_reported(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.workloads.register(made("a"))
    node.workloads.register(made("b", port=3002))
    changes = node.changes
    for _ in range(3):
        node.workloads.sweep(frozenset({3001, 9999}))
    assert [(item.id, item.bypass_possible) for item in node.workloads.instances()] == [
        ("a-3001", True),
        ("b-3002", False),
    ]
    warnings = [record for record in caplog.records if "beyond loopback" in record.getMessage()]
    assert [record.fields["id"] for record in warnings] == ["a-3001"]  # type: ignore[attr-defined]
    assert node.changes == changes + 1
    node.workloads.sweep(frozenset())
    assert not any(item.bypass_possible for item in node.workloads.instances())


def test_the_plan_of_a_nodes_settings() -> None:
    """A workload's port is none that the node listens on itself."""
    plan = port_plan(
        settings.Settings(
            node=settings.NodeSettings(name="n1", address="10.0.0.9"),
            control_plane=settings.ControlPlaneSettings(address="cp:18000"),
            proxy=settings.ProxySettings(
                outbound_port=15101,
                workload_port_start=15100,
                outbound_address="127.0.0.2",
                inbound_port_range=(30000, 30010),
                admin=("127.0.0.1", 15102),
            ),
        )
    )
    assert plan == PortPlan(
        inbound_range=(30000, 30010),
        inbound_address="10.0.0.9",
        outbound_start=15100,
        outbound_address="127.0.0.2",
        reserved=frozenset({15101, 15102}),
    )
