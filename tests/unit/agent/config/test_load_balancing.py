"""lb_policy and its options."""

from typing import Any

import pytest

from agent.model.cluster import Hashing, LbPolicy, SlowStart
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
        ({"lb_policy": "RING_HASH"}, LbPolicy.RING_HASH, 2),
        ({"lb_policy": "MAGLEV"}, LbPolicy.MAGLEV, 2),
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
    assert cluster_value(common_lb_config={"update_merge_window": "1s"}) == cluster_value()
    hashing = {"consistent_hashing_lb_config": {"hash_balance_factor": 150}}
    assert cluster_value(common_lb_config=hashing) == cluster_value(), "it does not hash"


def test_localities_have_weights_where_it_is_asked_for() -> None:
    assert not cluster_value().locality_weighted
    assert cluster_value(common_lb_config={"locality_weighted_lb_config": {}}).locality_weighted


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"lb_policy": "RING_HASH"}, Hashing()),
        (
            {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 10, "maximum_ring_size": 20}},
            Hashing(minimum_ring_size=10, maximum_ring_size=20),
        ),
        ({"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 13}}, Hashing(maglev_table_size=13)),
        (
            {
                "lb_policy": "MAGLEV",
                "common_lb_config": {
                    "consistent_hashing_lb_config": {"use_hostname_for_hashing": True, "hash_balance_factor": 150}
                },
            },
            Hashing(use_hostname=True, balance_factor_percent=150),
        ),
    ],
    ids=str,
)
def test_hashing(fields: dict[str, Any], expected: Hashing) -> None:
    assert cluster_value(**fields).hashing == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"round_robin_lb_config": {"slow_start_config": {}}}, None),
        ({"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "10s"}}}, SlowStart(window_s=10.0)),
        (
            {
                "lb_policy": "LEAST_REQUEST",
                "least_request_lb_config": {
                    "slow_start_config": {
                        "slow_start_window": "2s",
                        "aggression": {"default_value": 1.5, "runtime_key": "k"},
                        "min_weight_percent": {"value": 20},
                    }
                },
            },
            SlowStart(window_s=2.0, aggression=1.5, min_weight_ratio=0.2),
        ),
        (
            {
                "lb_policy": "RANDOM",
                "round_robin_lb_config": {"slow_start_config": {"slow_start_window": "10s"}},
            },
            None,
        ),
    ],
    ids=str,
)
def test_slow_start(fields: dict[str, Any], expected: SlowStart | None) -> None:
    assert cluster_value(**fields).slow_start == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"lb_policy": "CLUSTER_PROVIDED"},
            "lb_policy: found CLUSTER_PROVIDED, expected ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH or MAGLEV: "
            "the agent does not enforce it",
        ),
        (
            {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2"}},
            "ring_hash_lb_config.hash_function: found MURMUR_HASH_2, expected XX_HASH: the agent does not enforce it",
        ),
        (
            {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 20, "maximum_ring_size": 10}},
            "ring_hash_lb_config.minimum_ring_size: found 20, expected at most maximum_ring_size, 10",
        ),
        (
            {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 12}},
            "maglev_lb_config.table_size: found 12, expected a prime number",
        ),
        (
            {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 5000023}},
            "maglev_lb_config.table_size: found 5000023, expected at most 5000011",
        ),
        (
            {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 8388609}},
            "ring_hash_lb_config.minimum_ring_size: found 8388609, expected at most 8388608",
        ),
        (
            {"lb_policy": "RING_HASH", "common_lb_config": {"consistent_hashing_lb_config": {
                "hash_balance_factor": 99}}},
            "common_lb_config.consistent_hashing_lb_config.hash_balance_factor: found 99, expected at least 100",
        ),
        (
            {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"active_request_bias": {
                "default_value": 0.5, "runtime_key": "k"}}},
            "least_request_lb_config.active_request_bias: found 0.5, expected 1: the agent does not enforce it",
        ),
        (
            {"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "1s", "aggression": {
                "default_value": 0.0, "runtime_key": "k"}}}},
            "round_robin_lb_config.slow_start_config.aggression.default_value: found 0.0, expected more than 0",
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
