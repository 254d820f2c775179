"""From an agent's report to registry values: what is refused costs nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.discovery import report_values
from controlplane.discovery.report_values import ejections_of, instances_of, node_of
from controlplane.registry.codec import decode_instance, encode_instance
from controlplane.registry.instances import Node
from mesh.api.v1 import report_pb2
from mesh.vocabulary import HealthStatus, Locality

NODE = Node(name="node-1", address="10.0.0.1", locality=Locality("eu", "a"))


def hello(**fields: Any) -> report_pb2.Hello:
    return report_pb2.Hello(**{"node": "node-1", "address": "10.0.0.1", **fields})


def instance(**fields: Any) -> report_pb2.Instance:
    defaults = {"id": "orders-1", "service": "orders", "ports": [report_pb2.InstancePort(port=3001)]}
    return report_pb2.Instance(**{**defaults, **fields})


def ejection(**fields: Any) -> report_pb2.Ejection:
    defaults = {"cluster": "outbound|80||users.default.svc.cluster.local", "endpoint": "10.0.0.2:20000"}
    return report_pb2.Ejection(**{**defaults, **fields})


def test_a_hello_names_the_node() -> None:
    found = node_of(hello(locality="eu/a/r1", version="1.2", outbound_address="10.0.0.1", outbound_port=15005))
    assert found == Node(
        name="node-1",
        address="10.0.0.1",
        locality=Locality("eu", "a", "r1"),
        version="1.2",
        outbound_address="10.0.0.1",
        outbound_port=15005,
    )
    assert node_of(hello()) == Node(name="node-1", address="10.0.0.1")


@pytest.mark.parametrize(
    "fields",
    [
        {"address": ""},
        {"address": "a b"},
        {"address": "10.0.0.1/8"},
        {"address": "x" * 300},
        {"locality": "a/b/c/d"},
        {"locality": "x" * 300},
        {"outbound_port": 70000},
        {"outbound_address": "\n"},
    ],
)
def test_a_hello_that_cannot_be_used_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="found"):
        node_of(hello(**fields))


def test_an_instance_gets_what_it_does_not_say_from_its_node() -> None:
    found, problems = instances_of([instance()], NODE)
    assert problems == []
    made = found["orders-1"]
    assert (made.namespace, made.service_account, made.weight) == ("default", "default", 1)
    assert (made.address, made.locality, made.app_address) == ("10.0.0.1", Locality("eu", "a"), "127.0.0.1")
    assert (made.health, made.agent) == (HealthStatus.UNKNOWN, True)


def test_a_gateway_has_neither_service_nor_ports() -> None:
    found, problems = instances_of([report_pb2.Instance(id="gateway", namespace="edge", gateway=True)], NODE)
    assert problems == []
    assert (found["gateway"].gateway, found["gateway"].service, found["gateway"].ports) == (True, "", ())


BAD_INSTANCES: list[dict[str, Any]] = [
    {"id": ""},
    {"id": "a/b"},
    {"id": "a b"},
    {"id": "a" * 300},
    {"service": ""},
    {"service": "../x"},
    {"namespace": "Shop"},
    {"namespace": "a/b"},
    {"service_account": "a/b"},
    {"service_account": "x\n"},
    {"ports": []},
    {"ports": [report_pb2.InstancePort(port=0)]},
    {"ports": [report_pb2.InstancePort(port=65536)]},
    {"ports": [report_pb2.InstancePort(port=80, inbound_port=99999)]},
    {"ports": [report_pb2.InstancePort(port=80, protocol="SMTP")]},
    {"ports": [report_pb2.InstancePort(port=port) for port in range(1, 67)]},
    {"labels": {f"k{i}": "" for i in range(65)}},
    {"labels": {"k": "v" * 600}},
    {"labels": {"k" * 600: "v"}},
    {"health": "FINE"},
    {"outbound_port": 70000},
    {"weight": 4_000_000_000},
    {"app_address": "a b"},
]


@pytest.mark.parametrize("fields", BAD_INSTANCES)
def test_one_bad_instance_does_not_cost_the_others(fields: dict[str, Any]) -> None:
    found, problems = instances_of([instance(id="good"), instance(**fields), instance(id="also-good")], NODE)
    assert set(found) == {"good", "also-good"}
    assert len(problems) == 1
    assert "found" in problems[0]
    assert len(problems[0]) < 400


def test_an_id_that_stands_twice_is_refused_the_second_time() -> None:
    found, problems = instances_of([instance(weight=1), instance(weight=2)], NODE)
    assert found["orders-1"].weight == 1
    assert problems == ["instance orders-1: the id stands twice in the report"]


def test_a_node_has_a_bounded_number_of_instances_and_ejections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_values, "MAX_INSTANCES", 2)
    monkeypatch.setattr(report_values, "MAX_EJECTIONS", 2)
    found, problems = instances_of([instance(id=f"i{i}") for i in range(4)], NODE)
    assert (len(found), len(problems)) == (2, 2)
    ejected, problems = ejections_of([ejection(endpoint=f"10.0.0.{i}:1") for i in range(4)], "node-1")
    assert (len(ejected), len(problems)) == (2, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"cluster": ""},
        {"cluster": "a/b"},
        {"cluster": "a" * 600},
        {"endpoint": ""},
        {"endpoint": "10.0.0.1:80/x"},
        {"endpoint": "a b"},
    ],
)
def test_one_bad_ejection_does_not_cost_the_others(fields: dict[str, Any]) -> None:
    found, problems = ejections_of([ejection(), ejection(**fields)], "node-1")
    assert len(found) == 1
    assert len(problems) == 1


def test_an_ejection_says_what_its_node_said() -> None:
    (found,), _ = ejections_of(
        [ejection(reason="consecutive_5xx", detail="x" * 5000, times=2, since_ms=1, until_ms=2, enforced=True)],
        "node-1",
    )
    assert (found.node, found.reason, found.times, found.since_ms, found.until_ms, found.enforced) == (
        *("node-1", "consecutive_5xx", 2, 1, 2, True),
    )
    assert len(found.detail) == 1024


texts = st.text(max_size=30)


@given(st.lists(st.builds(report_pb2.Instance, id=texts, service=texts, namespace=texts, health=texts), max_size=5))
def test_any_report_is_values_and_problems(reported: list[report_pb2.Instance]) -> None:
    for item in reported:
        item.ports.add(port=1)
    found, problems = instances_of(reported, NODE)
    assert len(found) + len(problems) == len(reported)
    for made in found.values():
        assert decode_instance(encode_instance(made)) == made
        assert "/" not in made.id + made.namespace
