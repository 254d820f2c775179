"""Mirrors of a route."""

from typing import Any

import pytest

from agent.model.route import Mirror
from tests.support.decoding import action_refusal, action_value


def test_mirrors() -> None:
    found = action_value(
        request_mirror_policies=[
            {"cluster": "m"},
            {"cluster": "half", "runtime_fraction": {"default_value": {"numerator": 50}}},
            {"cluster": "never", "runtime_fraction": {"default_value": {}}},
            {"cluster": "plain", "disable_shadow_host_suffix_append": True, "trace_sampled": False},
            {"cluster": "named", "host_rewrite_literal": "h"},
        ]
    )
    assert found.mirrors == (
        Mirror(cluster="m"),
        Mirror(cluster="half", per_million=500_000),
        Mirror(cluster="plain", host_suffix=False),
        Mirror(cluster="named", host_rewrite="h"),
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, "cluster: found '', expected the name of a cluster"),
        ({"cluster_header": "x"}, "cluster_header: found 'x', expected it unset: the agent does not enforce it"),
        (
            {"cluster": "m", "request_headers_mutations": [{"remove": "x"}]},
            "request_headers_mutations: found an entry, expected it unset: the agent does not enforce it",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused(policy: dict[str, Any], expected: str) -> None:
    assert action_refusal(request_mirror_policies=[policy]) == f"request_mirror_policies[0].{expected}"
