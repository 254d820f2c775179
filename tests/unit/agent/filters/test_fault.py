"""Which requests are hit by a fault, and how."""

from collections.abc import Callable

import pytest

from agent.codec.head import Headers, RequestHead
from agent.filters.fault import FaultInjector
from agent.model.fault import NO_GRPC, Abort, Delay, Fault
from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher

MILLION = 1_000_000
CANARY = HeaderMatcher(name="x-user", matcher=StringMatcher(kind=MatchKind.EXACT, value="tester"))


def head(**fields: str) -> RequestHead:
    headers = Headers()
    for name, value in fields.items():
        headers.append(name.replace("_", "-").encode(), value.encode())
    return RequestHead(b"GET", b"/", b"a", headers)


def dice(*values: float) -> Callable[[], float]:
    """Each value once; asking for more fails."""
    return iter(values).__next__


def never() -> float:
    raise AssertionError("no random number is needed")


def test_all_and_none_cost_no_random_number() -> None:
    both = FaultInjector(Fault(delay=Delay(seconds=2, per_million=MILLION), abort=Abort(status=503, per_million=0)))
    assert both.delay_s(head(), never) == 2
    assert both.abort(head(), never) is None


@pytest.mark.parametrize(("rolled", "hit"), [(0.0, True), (0.249999, True), (0.25, False), (0.999999, False)])
def test_a_share_of_requests(rolled: float, hit: bool) -> None:
    injector = FaultInjector(
        Fault(delay=Delay(seconds=1, per_million=250_000), abort=Abort(status=500, per_million=250_000))
    )
    assert injector.delay_s(head(), dice(rolled)) == (1 if hit else 0)
    assert injector.abort(head(), dice(rolled)) == ((500, NO_GRPC) if hit else None)


def test_delay_and_abort_have_dice_of_their_own() -> None:
    injector = FaultInjector(
        Fault(delay=Delay(seconds=1, per_million=500_000), abort=Abort(status=500, per_million=500_000))
    )
    rng = dice(0.1, 0.9)
    assert injector.delay_s(head(), rng) == 1
    assert injector.abort(head(), rng) is None


def test_grpc_status() -> None:
    assert FaultInjector(Fault(abort=Abort(grpc_status=14, per_million=MILLION))).abort(head(), never) == (200, 14)


def test_nothing_configured_does_nothing() -> None:
    injector = FaultInjector(Fault())
    assert injector.delay_s(head(), never) == 0
    assert injector.abort(head(), never) is None


@pytest.mark.parametrize(
    ("fault", "fields", "cluster", "expected"),
    [
        (Fault(), {}, "", True),
        (Fault(headers=(CANARY,)), {"x_user": "tester"}, "c", True),
        (Fault(headers=(CANARY,)), {"x_user": "other"}, "c", False),
        (Fault(headers=(CANARY,)), {}, "c", False),
        (Fault(cluster="c"), {}, "c", True),
        (Fault(cluster="c"), {}, "d", False),
        (Fault(cluster="c"), {}, "", False),
        (Fault(nodes=frozenset({"n"})), {"x_envoy_downstream_service_node": "n"}, "c", True),
        (Fault(nodes=frozenset({"n"})), {"x_envoy_downstream_service_node": "m"}, "c", False),
        (Fault(nodes=frozenset({"n"})), {}, "c", False),
    ],
)
def test_for_whom(fault: Fault, fields: dict[str, str], cluster: str, expected: bool) -> None:
    assert FaultInjector(fault).applies_to(head(**fields), cluster) is expected


BY_HEADER = FaultInjector(
    Fault(
        delay=Delay(by_header=True, per_million=500_000),
        abort=Abort(by_header=True, per_million=500_000),
    )
)


@pytest.mark.parametrize(
    ("fields", "rolled", "expected"),
    [
        ({}, 0.0, 0),
        ({"x_envoy_fault_delay_request": "1500"}, 0.49, 1.5),
        ({"x_envoy_fault_delay_request": "1500"}, 0.5, 0),
        ({"x_envoy_fault_delay_request": "-1"}, 0.0, 0),
        ({"x_envoy_fault_delay_request": "soon"}, 0.0, 0),
        # a smaller share may be asked for, never a larger one
        ({"x_envoy_fault_delay_request": "100", "x_envoy_fault_delay_request_percentage": "10"}, 0.11, 0),
        ({"x_envoy_fault_delay_request": "100", "x_envoy_fault_delay_request_percentage": "100"}, 0.5, 0),
        ({"x_envoy_fault_delay_request": "100", "x_envoy_fault_delay_request_percentage": "x"}, 0.49, 0.1),
    ],
)
def test_delays_that_requests_ask_for(fields: dict[str, str], rolled: float, expected: float) -> None:
    assert BY_HEADER.delay_s(head(**fields), dice(rolled)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"x_envoy_fault_abort_request": "418"}, (418, NO_GRPC)),
        ({"x_envoy_fault_abort_request": "199"}, None),
        ({"x_envoy_fault_abort_request": "600"}, None),
        ({"x_envoy_fault_abort_grpc_request": "0"}, (200, 0)),
        ({"x_envoy_fault_abort_request": "600", "x_envoy_fault_abort_grpc_request": "14"}, (200, 14)),
        ({"x_envoy_fault_abort_grpc_request": "17"}, None),
    ],
)
def test_aborts_that_requests_ask_for(fields: dict[str, str], expected: tuple[int, int] | None) -> None:
    assert BY_HEADER.abort(head(**fields), dice(0.1)) == expected


def test_requests_ask_for_nothing_where_they_may_not() -> None:
    fixed = FaultInjector(Fault(delay=Delay(seconds=1, per_million=0), abort=Abort(status=503, per_million=MILLION)))
    asking = head(x_envoy_fault_delay_request="5000", x_envoy_fault_abort_request="418")
    assert fixed.delay_s(asking, never) == 0
    assert fixed.abort(asking, never) == (503, NO_GRPC)
