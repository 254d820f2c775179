"""Seconds of the wire."""

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from google.protobuf.duration_pb2 import Duration

from agent.config.durations import MAX_S, optional_seconds, seconds, seconds_or
from agent.config.fields import Refused


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Duration(), 0.0),
        (Duration(seconds=3), 3.0),
        (Duration(seconds=1, nanos=250_000_000), 1.25),
        (Duration(seconds=MAX_S), float(MAX_S)),
    ],
    ids=str,
)
def test_seconds(message: Duration, expected: float) -> None:
    assert seconds(message, "p") == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Duration(seconds=-1), "found -1s, expected at least 0s"),
        (Duration(nanos=-5), "found 0s -5 nanos, expected at least 0s"),
        (Duration(seconds=MAX_S + 1), f"found {MAX_S + 1}s, expected at most {MAX_S}s and less than 1000000000 nanos"),
        (
            Duration(nanos=2_000_000_000),
            f"found 0s 2000000000 nanos, expected at most {MAX_S}s and less than 1000000000 nanos",
        ),
    ],
    ids=str,
)
def test_refused(message: Duration, expected: str) -> None:
    with pytest.raises(Refused) as caught:
        seconds(message, "p")
    assert (caught.value.path, caught.value.reason) == ("p", expected)


def test_unset_is_the_default() -> None:
    unset, zero = Cluster(), Cluster(connect_timeout=Duration())
    assert seconds_or(unset, "connect_timeout", "", 5.0) == 5.0
    assert seconds_or(zero, "connect_timeout", "", 5.0) == 0.0
    assert optional_seconds(unset, "connect_timeout", "") is None
    assert optional_seconds(zero, "connect_timeout", "") == 0.0
