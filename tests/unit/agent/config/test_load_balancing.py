"""lb_policy and its options."""

from typing import Any

import pytest

from agent.model.cluster import LbPolicy
from tests.support.decoding import cluster_refusal, cluster_value

BEYOND = "expected it unset: the agent does not enforce it"


@pytest.mark.parametrize(
    ("fields", "policy", "choices"),
    [
        ({}, LbPolicy.ROUND_ROBIN, 2),
        ({"lb_policy": "LEAST_REQUEST"}, LbPolicy.LEAST_REQUEST, 2),
        (
            {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"choice_count": 4}},
            LbPolicy.LEAST_REQUEST,
            4,
        ),
        (
            {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"active_request_bias": {
                "default_value": 1.0, "runtime_key": "k"}}},
            LbPolicy.LEAST_REQUEST,
            2,
        ),
        ({"lb_policy": "RANDOM"}, LbPolicy.RANDOM, 2),
        # the options of another policy do nothing
        ({"lb_policy": "RANDOM", "least_request_lb_config": {"choice_count": 4}}, LbPolicy.RANDOM, 2),
        ({"ring_hash_lb_config": {}}, LbPolicy.ROUND_ROBIN, 2),
    ],
    ids=str,
)  # fmt: skip
def test_policies(fields: dict[str, Any], policy: LbPolicy, choices: int) -> None:
    found = cluster_value(**fields)
    assert (found.lb_policy, found.choice_count) == (policy, choices)


@pytest.mark.parametrize(
    ("common", "percent"),
    [({}, 50.0), ({"healthy_panic_threshold": {}}, 0.0), ({"healthy_panic_threshold": {"value": 20.5}}, 20.5)],
    ids=str,
)
def test_panic(common: dict[str, Any], percent: float) -> None:
    assert cluster_value(common_lb_config=common).healthy_panic_threshold_percent == percent


def test_what_makes_no_difference() -> None:
    common = {"update_merge_window": "1s", "locality_weighted_lb_config": {}}
    assert cluster_value(common_lb_config=common) == cluster_value()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"lb_policy": "RING_HASH"},
            "lb_policy: found RING_HASH, expected ROUND_ROBIN, LEAST_REQUEST or RANDOM: the agent does not enforce it",
        ),
        (
            {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"active_request_bias": {
                "default_value": 0.5, "runtime_key": "k"}}},
            "least_request_lb_config.active_request_bias: found 0.5, expected 1: the agent does not enforce it",
        ),
        (
            {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"slow_start_config": {}}},
            f"least_request_lb_config.slow_start_config: found a value, {BEYOND}",
        ),
        (
            {"round_robin_lb_config": {"slow_start_config": {}}},
            f"round_robin_lb_config.slow_start_config: found a value, {BEYOND}",
        ),
        (
            {"least_request_lb_config": {"choice_count": 1}},
            "least_request_lb_config.choice_count: found 1, expected at least 2",
        ),
        (
            {"common_lb_config": {"zone_aware_lb_config": {}}},
            f"common_lb_config.zone_aware_lb_config: found a value, {BEYOND}",
        ),
        (
            {"common_lb_config": {"ignore_new_hosts_until_first_hc": True}},
            f"common_lb_config.ignore_new_hosts_until_first_hc: found True, {BEYOND}",
        ),
        (
            {"common_lb_config": {"healthy_panic_threshold": {"value": -1}}},
            "common_lb_config.healthy_panic_threshold.value: found -1.0, expected at least 0.0",
        ),
        (
            {"load_balancing_policy": {"policies": []}},
            f"load_balancing_policy: found a value, {BEYOND}",
        ),
        ({"lb_subset_config": {"fallback_policy": "NO_FALLBACK"}}, f"lb_subset_config: found a value, {BEYOND}"),
    ],
    ids=lambda value: str(value)[:70],
)  # fmt: skip
def test_refused(fields: dict[str, Any], expected: str) -> None:
    assert cluster_refusal(**fields) == expected
