"""OutlierDetection as the supervisor enforces it.

Source: envoy/config/cluster/v3/outlier_detection.proto; data-plane.md 1.1.
"""

from typing import Any

from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection as DetectionMessage

from agent.config.durations import seconds_or
from agent.config.fields import only, refuse, value_or, within
from agent.model.cluster import OutlierDetection

_NUMBERS = (
    "consecutive_5xx", "enforcing_consecutive_5xx", "consecutive_gateway_failure",
    "enforcing_consecutive_gateway_failure", "consecutive_local_origin_failure",
    "enforcing_consecutive_local_origin_failure", "max_ejection_percent", "success_rate_minimum_hosts",
    "success_rate_request_volume", "success_rate_stdev_factor", "enforcing_success_rate",
    "failure_percentage_threshold", "failure_percentage_minimum_hosts", "failure_percentage_request_volume",
    "enforcing_failure_percentage", "enforcing_local_origin_success_rate", "enforcing_failure_percentage_local_origin",
)  # fmt: skip
_FLAGS = ("always_eject_one_host", "successful_active_health_check_uneject_host")
_KNOWN = frozenset(
    {
        *_NUMBERS, *_FLAGS, "split_external_local_origin_errors", "interval", "base_ejection_time",
        "max_ejection_time", "max_ejection_time_jitter",
    }
)  # fmt: skip
DEFAULTS = OutlierDetection()


def outlier_detection(message: DetectionMessage, path: str) -> OutlierDetection:
    """The settings."""
    only(message, path, _KNOWN)
    numbers: dict[str, Any] = {name: value_or(message, name, getattr(DEFAULTS, name)) for name in _NUMBERS}
    flags: dict[str, Any] = {name: value_or(message, name, getattr(DEFAULTS, name)) for name in _FLAGS}
    base_s = seconds_or(message, "base_ejection_time", path, DEFAULTS.base_ejection_time_s)
    return OutlierDetection(
        split_external_local_origin_errors=message.split_external_local_origin_errors,
        interval_s=seconds_or(message, "interval", path, DEFAULTS.interval_s),
        base_ejection_time_s=base_s,
        max_ejection_time_s=_max_ejection_time(message, path, base_s),
        max_ejection_time_jitter_s=seconds_or(message, "max_ejection_time_jitter", path, 0.0),
        **numbers,
        **flags,
    )


def _max_ejection_time(message: DetectionMessage, path: str, base_s: float) -> float:
    found = seconds_or(message, "max_ejection_time", path, max(DEFAULTS.max_ejection_time_s, base_s))
    if found < base_s:
        raise refuse(within(path, "max_ejection_time"), found, f"at least base_ejection_time, {base_s:g} s")
    return found
