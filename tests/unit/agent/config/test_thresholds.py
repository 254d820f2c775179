"""Concurrency caps."""

from typing import Any

import pytest

from agent.model.cluster import Thresholds
from tests.support.decoding import cluster_refusal, cluster_value

BEYOND = "expected it unset: the agent does not enforce it"


def read(*entries: dict[str, Any]) -> tuple[Thresholds, Thresholds]:
    found = cluster_value(circuit_breakers={"thresholds": list(entries)})
    return found.thresholds, found.thresholds_high


def test_defaults_are_envoys() -> None:
    expected = Thresholds(max_connections=1024, max_pending_requests=1024, max_requests=1024, max_retries=3)
    assert read() == (expected, expected)
    assert read({}) == (expected, expected)


def test_each_priority_has_its_own_and_the_first_entry_counts() -> None:
    default, high = read(
        {"max_connections": 1, "max_pending_requests": 2, "max_requests": 3, "max_retries": 4, "track_remaining": True},
        {"priority": "HIGH", "max_requests": 0},
        {"max_connections": 9},
    )
    assert default == Thresholds(max_connections=1, max_pending_requests=2, max_requests=3, max_retries=4)
    assert high == Thresholds(max_requests=0)


@pytest.mark.parametrize(
    ("budget", "percent", "least"),
    [
        ({}, 20.0, 3),
        ({"budget_percent": {"value": 12.5}, "min_retry_concurrency": 0}, 12.5, 0),
        ({"budget_percent": {}}, 0.0, 3),
    ],
    ids=str,
)
def test_retry_budgets(budget: dict[str, Any], percent: float, least: int) -> None:
    default, _ = read({"retry_budget": budget})
    assert (default.retry_budget_percent, default.retry_budget_min_concurrency) == (percent, least)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"per_host_thresholds": [{}]}, f"per_host_thresholds: found an entry, {BEYOND}"),
        ({"thresholds": [{"max_connection_pools": 1}]}, f"thresholds[0].max_connection_pools: found 1, {BEYOND}"),
        ({"thresholds": [{}, {"priority": 99}]}, "thresholds[1].priority: found 99, expected a RoutingPriority"),
        (
            {"thresholds": [{"retry_budget": {"budget_percent": {"value": 101}}}]},
            "thresholds[0].retry_budget.budget_percent.value: found 101.0, expected at most 100.0",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(fields: dict[str, Any], expected: str) -> None:
    assert cluster_refusal(circuit_breakers=fields) == f"circuit_breakers.{expected}"
