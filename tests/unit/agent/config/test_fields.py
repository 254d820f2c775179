"""Paths, and which fields may be set."""

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from agent.config.fields import Refused, Rejected, enum_name, item, only, shown, unpacked, value_or, within


def test_paths() -> None:
    assert within("", "a") == "a"
    assert within("a", "b") == "a.b"
    assert item("", "a", 0) == "a[0]"
    assert within(item("a", "b", 2), "c") == "a.b[2].c"


def test_rejected_as_text() -> None:
    assert str(Rejected(name="n", path="a.b", reason="found 1, expected 2")) == "a.b: found 1, expected 2"
    assert str(Rejected(name="n", path="", reason="found nothing")) == "found nothing"


def test_shown_is_short() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown("x" * 500)) == 80


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Cluster(alt_stat_name="x"), "alt_stat_name: found 'x'"),
        (Cluster(lb_policy=Cluster.MAGLEV), "lb_policy: found MAGLEV"),
        (Cluster(per_connection_buffer_limit_bytes=UInt32Value(value=7)), "per_connection_buffer_limit_bytes: found 7"),
        (Cluster(load_assignment={"cluster_name": "c"}), "load_assignment: found a value"),
        (Cluster(health_checks=[{}]), "health_checks: found an entry"),
        (Cluster(health_checks=[{}, {}]), "health_checks: found 2 entries"),
        (Listener(freebind=BoolValue(value=True)), "freebind: found True"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_field_that_nobody_knows(message: Message, expected: str) -> None:
    with pytest.raises(Refused) as caught:
        only(message, "", frozenset({"name"}), frozenset({"freebind"}))
    assert f"{caught.value.path}: {caught.value.reason}" == (
        f"{expected}, expected it unset: the agent does not enforce it"
    )


def test_known_and_switched_off_fields_pass() -> None:
    only(Listener(name="l", freebind=BoolValue(value=False)), "", frozenset({"name"}), frozenset({"freebind"}))


def test_value_or() -> None:
    assert value_or(Listener(), "freebind", True) is True
    assert value_or(Listener(freebind=BoolValue(value=False)), "freebind", True) is False


def test_unpacked_wants_its_type() -> None:
    packed = AnyMessage()
    packed.Pack(Cluster(name="c"))
    assert unpacked(packed, Cluster, "p").name == "c"
    with pytest.raises(Refused) as caught:
        unpacked(packed, Listener, "p")
    assert caught.value.reason == (
        "found 'envoy.config.cluster.v3.Cluster', expected envoy.config.listener.v3.Listener"
    )


def test_enum_numbers_without_a_name() -> None:
    assert enum_name(Cluster(lb_policy=Cluster.RANDOM), "lb_policy", "") == "RANDOM"
    unknown = Cluster.FromString(b"\x30\x63")  # lb_policy = 99
    with pytest.raises(Refused) as caught:
        enum_name(unknown, "lb_policy", "")
    assert (caught.value.path, caught.value.reason) == ("lb_policy", "found 99, expected a LbPolicy")
