"""Single messages where a value matters: outlier detection, retries, time-outs, the access log."""

from typing import Any

import pytest

from controlplane.compiler.access_log import FIELDS
from controlplane.compiler.outlier_detection import outlier_detection
from controlplane.compiler.retries import retry_policy
from controlplane.policy.http_route import HTTPRetry, HTTPRoute
from controlplane.policy.traffic_policy import OutlierDetection
from mesh.vocabulary import Dialect


def outlier(dialect: Dialect = Dialect.GOSSAMER, *, istio: bool = False, **fields: Any) -> Any:
    return outlier_detection(OutlierDetection.model_validate(fields), dialect, istio=istio)


def test_one_host_is_always_ejected_unless_a_percent_is_given() -> None:
    """Decision 3."""
    assert outlier().always_eject_one_host.value
    assert outlier().max_ejection_percent.value == 10
    assert not outlier(maxEjectionPercent=20).HasField("always_eject_one_host")
    assert outlier(maxEjectionPercent=20).max_ejection_percent.value == 20
    assert not outlier(istio=True).HasField("always_eject_one_host")


def test_consecutive_errors() -> None:
    """Istio's default of 5; 0 switches off; gateway errors are off unless said (2.4.6)."""
    default, off, gateway = outlier(), outlier(consecutive5xxErrors=0), outlier(consecutiveGatewayErrors=3)
    assert (default.consecutive_5xx.value, default.enforcing_consecutive_5xx.value) == (5, 100)
    assert default.enforcing_consecutive_gateway_failure.value == 0
    assert off.enforcing_consecutive_5xx.value == 0
    assert (gateway.consecutive_gateway_failure.value, gateway.enforcing_consecutive_gateway_failure.value) == (3, 100)
    assert default.enforcing_success_rate.value == 0


def test_split_errors() -> None:
    split = outlier(splitExternalLocalOriginErrors=True, consecutiveLocalOriginFailures=2)
    assert split.split_external_local_origin_errors
    assert split.consecutive_local_origin_failure.value == 2


def test_grpc_gets_a_failure_percentage() -> None:
    """gRFC A50 knows nothing else (decision 22)."""
    message = outlier(Dialect.GRPC, consecutive5xxErrors=7)
    assert message.enforcing_failure_percentage.value == 100
    assert message.failure_percentage_request_volume.value == 7
    assert not message.HasField("consecutive_5xx")
    assert outlier(Dialect.GRPC, consecutive5xxErrors=0).enforcing_failure_percentage.value == 0


def retries(dialect: Dialect = Dialect.ENVOY, *, sticky: bool = False, **fields: Any) -> Any:
    route = HTTPRoute(retries=HTTPRetry.model_validate(fields)) if fields else HTTPRoute()
    return retry_policy(route.retry_settings, dialect, sticky=sticky)


def test_default_retries() -> None:
    """2.3.9: two, without 503, on another host."""
    policy = retries()
    assert policy.num_retries.value == 2
    assert "503" not in policy.retry_on
    assert policy.retry_on.startswith("connect-failure,refused-stream")
    assert policy.retry_host_predicate[0].name == "envoy.retry_host_predicates.previous_hosts"
    assert policy.host_selection_retry_max_attempts == 5
    assert not retries(sticky=True).retry_host_predicate


def test_retries_off() -> None:
    assert retries(attempts=0) is None


@pytest.mark.parametrize(("retry_on", "words"), [("unavailable,5xx", "unavailable"), ("5xx", None)])
def test_grpc_retries(retry_on: str, words: str | None) -> None:
    """Only its own codes, at most four (gRFC A44)."""
    policy = retries(Dialect.GRPC, attempts=9, retryOn=retry_on, perTryTimeout="1s")
    assert (policy.retry_on if policy is not None else None) == words
    if policy is not None:
        assert policy.num_retries.value == 4
        assert not policy.HasField("per_try_timeout")


def test_access_log_fields() -> None:
    """What operators of a mesh look for is in every line."""
    assert {
        "response_flags", "response_code_details", "upstream_host", "upstream_cluster", "route_name", "duration",
        "bytes_sent", "bytes_received", "method", "path", "protocol", "authority", "user_agent", "request_id",
        "x_forwarded_for", "traceparent", "downstream_peer_uri_san",
    } <= FIELDS.keys()  # fmt: skip
    assert all(value.startswith("%") and value.endswith("%") for value in FIELDS.values())
