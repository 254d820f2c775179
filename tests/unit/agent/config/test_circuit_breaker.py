"""Circuit breakers and bulkheads of routes, as the control plane sends them and as nobody should.

Source: proto/mesh/api/v1/circuit_breaker.proto, bulkhead.proto.
"""

from collections.abc import Callable
from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import FilterConfig
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from agent.config.fields import Refused
from agent.config.http_filters import route_filters
from agent.model.bulkhead import Bulkhead, Bulkheads
from agent.model.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakers,
    FixedAnswer,
    Forced,
    LastGood,
    OtherService,
    Window,
)
from mesh.api.v1.bulkhead_pb2 import Bulkhead as BulkheadMessage
from mesh.api.v1.bulkhead_pb2 import BulkheadPerRoute
from mesh.api.v1.circuit_breaker_pb2 import CircuitBreaker as BreakerMessage
from mesh.api.v1.circuit_breaker_pb2 import CircuitBreakerPerRoute


def read(message: Message) -> Any:
    """What a route says, wrapped as the control plane does."""
    wrapper, outer = FilterConfig(is_optional=True), AnyMessage()
    wrapper.config.Pack(message)
    outer.Pack(wrapper)
    (found,) = route_filters({"f": outer}, "")
    return found.config


def message(**more: Any) -> BreakerMessage:
    """Hystrix' defaults."""
    made = BreakerMessage(
        name="default/web", volume=20, error_percent=50, probes=1, window=Duration(seconds=10), buckets=10,
        open_for=Duration(seconds=5),
    )  # fmt: skip
    for name, value in more.items():
        getattr(made, name).CopyFrom(value) if isinstance(value, Message) else setattr(made, name, value)
    return made


def breaker(made: BreakerMessage) -> CircuitBreaker:
    config = read(CircuitBreakerPerRoute(breakers=[made]))
    assert isinstance(config, CircuitBreakers)
    return config.breakers[0]


def test_the_defaults() -> None:
    assert breaker(message()) == CircuitBreaker(name="default/web", statuses=())


def test_every_field() -> None:
    made = message(
        per_caller=True, slow_after=Duration(nanos=500_000_000), slow_percent=80.0, window_requests=50,
        probe_wait=Duration(seconds=3), judge_percentages=True, forced=BreakerMessage.OPEN, fallback_on_failure=True,
    )  # fmt: skip
    made.clusters.extend(["a", "b"])
    made.failure_flags.extend(["UF"])
    made.failure_statuses.add(**{"from": 500, "to": 504})
    made.answer.status = 203
    made.answer.body = b"x"
    made.answer.headers.add(name="Content-Type", value="text/html")
    assert breaker(made) == CircuitBreaker(
        name="default/web", clusters=frozenset({"a", "b"}), per_caller=True, statuses=((500, 504),),
        flags=frozenset({"UF"}), slow_s=0.5, slow_percent=80.0, window=Window(size=50), probe_wait_s=3.0,
        any_failure=False, forced=Forced.OPEN, on_failure=True,
        fallback=FixedAnswer(status=203, body=b"x", headers=((b"content-type", b"text/html"),)),
    )  # fmt: skip


def test_other_fallbacks() -> None:
    assert breaker(message(cluster="other")).fallback == OtherService(cluster="other")
    kept = BreakerMessage.LastGood(max_age=Duration(seconds=60), max_entries=5, max_bytes=100)
    assert breaker(message(last_good=kept)).fallback == LastGood(max_age_s=60.0, max_entries=5, max_bytes=100)


def _status(made: BreakerMessage) -> None:
    made.failure_statuses.add(**{"from": 504, "to": 500})


def _header(made: BreakerMessage) -> None:
    made.answer.status = 200
    made.answer.headers.add(name="a", value="b\r\nc: d")


@pytest.mark.parametrize(
    ("spoil", "path"),
    [
        (lambda made: made.ClearField("name"), "name"),
        (lambda made: made.ClearField("volume"), "volume"),
        (lambda made: made.ClearField("probes"), "probes"),
        (lambda made: made.ClearField("window"), "window"),
        (lambda made: setattr(made, "buckets", 1001), "buckets"),
        (lambda made: setattr(made, "window_requests", 1_000_001), "window_requests"),
        (lambda made: setattr(made, "error_percent", 100.1), "error_percent"),
        (lambda made: setattr(made, "forced", 7), "forced"),
        (lambda made: made.open_for.CopyFrom(Duration(seconds=-1)), "open_for"),
        (lambda made: setattr(made.answer, "status", 99), "answer.status"),
        (lambda made: setattr(made.last_good, "max_bytes", 5), "last_good"),
        (_status, "failure_statuses[0]"),
        (_header, "answer.headers[0]"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(spoil: Callable[[BreakerMessage], Any], path: str) -> None:
    made = message()
    spoil(made)
    with pytest.raises(Refused) as caught:
        breaker(made)
    assert caught.value.path == f'typed_per_filter_config["f"].config.breakers[0].{path}'


def test_bulkheads() -> None:
    made = BulkheadMessage(
        name="default/web", clusters=["a"], max_concurrent=10, max_per_caller=5, queue=2, max_wait=Duration(seconds=1)
    )
    wanted = Bulkhead(
        name="default/web", clusters=frozenset({"a"}), most=10, most_per_caller=5, queue=2, max_wait_s=1.0
    )  # fmt: skip
    assert read(BulkheadPerRoute(bulkheads=[made])) == Bulkheads(bulkheads=(wanted,))
    for name, value in (("name", ""), ("max_concurrent", 0), ("max_per_caller", 0), ("queue", 100_001)):
        bad = BulkheadMessage()
        bad.CopyFrom(made)
        setattr(bad, name, value)
        with pytest.raises(Refused, match=name):
            read(BulkheadPerRoute(bulkheads=[bad]))
