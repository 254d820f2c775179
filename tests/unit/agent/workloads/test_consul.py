"""The local registration API in the form of Consul's agent API."""

from pathlib import Path
from typing import Any

import pytest

from agent.supervisor.registrations import LocalRegistrations
from agent.workloads import consul
from agent.workloads.registry import PortPlan, Workloads
from mesh.errors import ErrorCode, MeshError
from tests.support.clock import ManualClock

FULL: dict[str, Any] = {
    "ID": "redis1",
    "Name": "redis",
    "Namespace": "shop",
    "Tags": ["primary", "version=v1"],
    "Address": "127.0.0.2",
    "Port": 8000,
    "Meta": {
        "tier": "cache",
        "gossamer.mesh/service-account": "redis-sa",
        "gossamer.mesh/protocol": "TCP",
        "gossamer.mesh/outbound-port": "15200",
    },
    "EnableTagOverride": False,
    "Weights": {"Passing": 10, "Warning": 1},
    "Check": {
        "CheckID": "service:redis1",
        "Name": "Redis health check",
        "HTTP": "http://127.0.0.1:8000/health",
        "Method": "GET",
        "Interval": "1m30s",
        "Timeout": "500ms",
        "DeregisterCriticalServiceAfter": "90m",
        "SuccessBeforePassing": 3,
        "FailuresBeforeCritical": 0,
    },
}


def test_a_whole_definition_is_read() -> None:
    found = consul.read(FULL)
    assert (found.id, found.name, found.namespace, found.address) == ("redis1", "redis", "shop", "127.0.0.2")
    assert found.service_account == "redis-sa"
    assert [(port.port, port.protocol) for port in found.ports] == [(8000, "TCP")]
    assert (found.outbound_port, found.weight) == (15200, 10)
    assert dict(found.labels) == {"app": "redis", "tag.primary": "true", "version": "v1", "tier": "cache"}
    check = found.check
    assert check is not None
    assert (check.http, check.interval_s, check.timeout_s) == ("http://127.0.0.1:8000/health", 90.0, 0.5)
    assert (check.healthy_threshold, check.unhealthy_threshold, check.deregister_after_s) == (3, 1, 5400.0)


def test_the_least_definition_is_enough() -> None:
    found = consul.read({"Name": "web", "Port": 80})
    assert (found.id, found.namespace, found.check, dict(found.labels)) == ("web-80", "default", None, {"app": "web"})
    assert consul.read({"Name": "web", "Port": 80, "Check": None, "Checks": [], "Meta": None, "Tags": None}) == found


def test_one_check_may_stand_in_a_list() -> None:
    found = consul.read({"Name": "web", "Port": 80, "Checks": [{"TTL": "15s"}]})
    assert found.check is not None
    assert found.check.ttl_s == 15.0
    tcp = consul.read({"Name": "web", "Port": 80, "Check": {"TCP": "localhost:80", "Interval": "5s"}})
    assert tcp.check is not None
    assert tcp.check.tcp == "localhost:80"


BAD: list[tuple[Any, str]] = [
    ([], "body"),
    ("text", "body"),
    (None, "body"),
    ({}, "service"),
    ({"Name": "web"}, "ports[0].port"),
    ({"Name": "", "Port": 80}, "service.name"),
    ({"Name": 7, "Port": 80}, "service.name"),
    ({"Name": "a/b", "Port": 80}, "service.name"),
    ({"Name": "web", "Port": 0}, "ports[0].port"),
    ({"Name": "web", "Port": 65536}, "ports[0].port"),
    ({"Name": "web", "Port": "eighty"}, "ports[0].port"),
    ({"Name": "web", "Port": True}, "ports[0].port"),
    ({"Name": "web", "Port": 80, "ID": "a b"}, "service.id"),
    ({"Name": "web", "Port": 80, "Proxy": {}}, "Proxy"),
    ({"Name": "web", "Port": 80, "Connect": {"Native": True}}, "Connect"),
    ({"Name": "web", "Port": 80, "name": "web"}, "name"),
    ({"Name": "web", "Port": 80, "Meta": [1]}, "Meta"),
    ({"Name": "web", "Port": 80, "Meta": "x"}, "Meta"),
    ({"Name": "web", "Port": 80, "Meta": {"a": 1}}, "Meta"),
    ({"Name": "web", "Port": 80, "Meta": {f"k{i}": "" for i in range(65)}}, "service.labels"),
    ({"Name": "web", "Port": 80, "Meta": {"k": "v" * 600}}, "service.labels"),
    ({"Name": "web", "Port": 80, "Meta": {"gossamer.mesh/protocol": "SMTP"}}, "ports[0].protocol"),
    ({"Name": "web", "Port": 80, "Meta": {"gossamer.mesh/outbound-port": "x"}}, "service.outbound_port"),
    ({"Name": "web", "Port": 80, "Tags": "x"}, "Tags"),
    ({"Name": "web", "Port": 80, "Tags": [1]}, "Tags"),
    ({"Name": "web", "Port": 80, "Tags": ["t"] * 65}, "Tags"),
    ({"Name": "web", "Port": 80, "Address": "a b"}, "service.address"),
    ({"Name": "web", "Port": 80, "Address": 7}, "service.address"),
    ({"Name": "web", "Port": 80, "Weights": [1]}, "Weights"),
    ({"Name": "web", "Port": 80, "Weights": {"Passing": 1000}}, "service.weight"),
    ({"Name": "web", "Port": 80, "Weights": {"Passing": "x"}}, "service.weight"),
    ({"Name": "web", "Port": 80, "Check": "x"}, "Checks"),
    ({"Name": "web", "Port": 80, "Check": [1]}, "Checks"),
    ({"Name": "web", "Port": 80, "Checks": {"TTL": "1s"}}, "Checks"),
    ({"Name": "web", "Port": 80, "Checks": 7}, "Checks"),
    ({"Name": "web", "Port": 80, "Checks": [{"TTL": "1s"}, {"TTL": "2s"}]}, "Checks"),
    ({"Name": "web", "Port": 80, "Check": {"TTL": "1s"}, "Checks": [{"TTL": "2s"}]}, "Checks"),
    ({"Name": "web", "Port": 80, "Check": {"Interval": "1s"}}, "check"),
    ({"Name": "web", "Port": 80, "Check": {"TTL": "1s", "TCP": "a:1"}}, "check"),
    ({"Name": "web", "Port": 80, "Check": {"Args": ["sh"], "Interval": "1s"}}, "Check.Args"),
    ({"Name": "web", "Port": 80, "Check": {"GRPC": "a:1"}}, "Check.GRPC"),
    ({"Name": "web", "Port": 80, "Check": {"HTTP": "https://a/"}}, "check.http"),
    ({"Name": "web", "Port": 80, "Check": {"HTTP": "http://u@a/"}}, "check.http"),
    ({"Name": "web", "Port": 80, "Check": {"TCP": "a"}}, "check.tcp"),
    ({"Name": "web", "Port": 80, "Check": {"TTL": "soon"}}, "check.ttl"),
    ({"Name": "web", "Port": 80, "Check": {"TTL": 10**400}}, "check.ttl"),
    ({"Name": "web", "Port": 80, "Check": {"TTL": "1s", "Interval": "-1s"}}, "check.interval"),
    ({"Name": "web", "Port": 80, "Check": {"TTL": "1s", "FailuresBeforeCritical": -1}}, "unhealthy_threshold"),
    ({"Name": "web", "Port": 80, "Check": {"TTL": "1s", "SuccessBeforePassing": "2"}}, "healthy_threshold"),
    ({"Name": "web", "Port": 80, "Check": {"TTL": "1s", "SuccessBeforePassing": True}}, "healthy_threshold"),
]


@pytest.mark.parametrize(("body", "subject"), BAD, ids=[f"{index}-{subject}" for index, (_, subject) in enumerate(BAD)])
def test_what_cannot_be_obeyed_is_refused_by_name(body: Any, subject: str) -> None:
    with pytest.raises(MeshError) as caught:
        consul.read(body)
    assert caught.value.code is ErrorCode.INVALID
    assert subject in caught.value.subject
    assert caught.value.message


@pytest.fixture
def local(tmp_path: Path) -> LocalRegistrations:
    plan = PortPlan(
        inbound_range=(20000, 20999),
        inbound_address="127.0.0.1",
        outbound_start=15100,
        outbound_address="127.0.0.1",
        reserved=frozenset(),
    )
    return LocalRegistrations(
        Workloads(tmp_path, plan, clock=ManualClock(), on_change=lambda: None, in_use=lambda host, port: False)
    )


def test_registered_services_are_shown_as_consul_shows_them(local: LocalRegistrations) -> None:
    local.register(FULL)
    local.register({"Name": "web", "Port": 80})
    shown = local.services()
    assert set(shown) == {"redis1", "web-80"}
    redis = shown["redis1"]
    assert (redis["ID"], redis["Service"], redis["Namespace"], redis["Port"]) == ("redis1", "redis", "shop", 8000)
    assert redis["Tags"] == ["primary"]
    assert redis["Meta"] == {"app": "redis", "tier": "cache", "version": "v1"}
    assert redis["Weights"] == {"Passing": 10, "Warning": 1}
    assert (redis["OutboundPort"], redis["InboundPorts"]) == (15200, {"8000": 20000})
    local.deregister("redis1")
    assert set(local.services()) == {"web-80"}


def test_checks_are_shown_with_their_status(local: LocalRegistrations) -> None:
    local.register({"Name": "web", "Port": 80, "Check": {"TTL": "15s"}})
    local.register({"Name": "plain", "Port": 81})
    (check_id,) = local.checks()
    assert check_id == "service:web-80"
    told = {"passing": "passing", "warning": "warning", "critical": "critical"}
    assert local.checks()[check_id]["Status"] == "critical"
    for said, status in told.items():
        local.said(check_id, said, "why")
        shown = local.checks()[check_id]
        assert (shown["Status"], shown["ServiceID"], shown["Type"]) == (status, "web-80", "ttl")
    assert local.checks()[check_id]["Output"] == "why"
    with pytest.raises(MeshError) as caught:
        local.said("service:plain-81", "passing", "")
    assert caught.value.code is ErrorCode.NOT_FOUND
