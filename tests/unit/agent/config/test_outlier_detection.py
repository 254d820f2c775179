"""Outlier detection."""

from typing import Any

import pytest

from agent.model.cluster import OutlierDetection
from tests.support.decoding import cluster_refusal, cluster_value


def read(**fields: Any) -> OutlierDetection:
    found: OutlierDetection = cluster_value(outlier_detection=fields).outlier_detection
    return found


def test_unset_is_off_and_empty_is_envoys_default() -> None:
    assert cluster_value().outlier_detection is None
    assert read() == OutlierDetection()


def test_everything() -> None:
    numbers = {
        "consecutive_5xx": 1, "enforcing_consecutive_5xx": 2, "consecutive_gateway_failure": 3,
        "enforcing_consecutive_gateway_failure": 4, "consecutive_local_origin_failure": 5,
        "enforcing_consecutive_local_origin_failure": 6, "max_ejection_percent": 7, "success_rate_minimum_hosts": 8,
        "success_rate_request_volume": 9, "success_rate_stdev_factor": 10, "enforcing_success_rate": 11,
        "failure_percentage_threshold": 12, "failure_percentage_minimum_hosts": 13,
        "failure_percentage_request_volume": 14, "enforcing_failure_percentage": 15,
    }  # fmt: skip
    found = read(
        **numbers,
        split_external_local_origin_errors=True,
        interval="1s",
        base_ejection_time="2s",
        max_ejection_time="3s",
        max_ejection_time_jitter="4s",
        always_eject_one_host=True,
        successful_active_health_check_uneject_host=False,
    )
    assert found == OutlierDetection(
        **numbers,
        split_external_local_origin_errors=True,
        interval_s=1.0,
        base_ejection_time_s=2.0,
        max_ejection_time_s=3.0,
        max_ejection_time_jitter_s=4.0,
        always_eject_one_host=True,
        successful_active_health_check_uneject_host=False,
    )


def test_zero_is_not_unset() -> None:
    assert read(consecutive_5xx=0, enforcing_consecutive_5xx=0).enforcing_consecutive_5xx == 0


def test_the_longest_ejection_is_at_least_the_base() -> None:
    assert read(base_ejection_time="400s").max_ejection_time_s == 400.0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"base_ejection_time": "2s", "max_ejection_time": "1s"},
            "max_ejection_time: found 1.0, expected at least base_ejection_time, 2 s",
        ),
        ({"max_ejection_percent": 101}, "max_ejection_percent: found 101, expected at most 100"),
        ({"interval": "0s"}, "interval: found 0s, expected more than 0s"),
        (
            {"enforcing_local_origin_success_rate": 101},
            "enforcing_local_origin_success_rate: found 101, expected at most 100",
        ),
        ({"monitors": [{"name": "m"}]}, "monitors[0].typed_config: found unset, expected a value"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(fields: dict[str, Any], expected: str) -> None:
    assert cluster_refusal(outlier_detection=fields) == f"outlier_detection.{expected}"
