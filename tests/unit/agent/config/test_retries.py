"""Retry policies."""

from typing import Any

import pytest

from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher
from agent.model.route import RetryPolicy
from tests.support.decoding import action_refusal, action_value, host_value

PREVIOUS = {
    "name": "any",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    },
}


def priorities(update_frequency: int) -> dict[str, Any]:
    return {
        "name": "any",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "update_frequency": update_frequency,
        },
    }


def policy(**fields: Any) -> RetryPolicy:
    found: RetryPolicy = action_value(retry_policy=fields).retry
    return found


def test_defaults_are_envoys() -> None:
    assert policy(retry_on="5xx") == RetryPolicy(
        retry_on=frozenset({"5xx"}),
        num_retries=1,
        per_try_timeout_s=0.0,
        back_off_base_s=0.025,
        back_off_max_s=0.25,
        host_selection_max_attempts=1,
    )


def test_everything() -> None:
    found = policy(
        retry_on="5xx, gateway-error,no-such-word,retriable-headers",
        num_retries=3,
        per_try_timeout="0.5s",
        per_try_idle_timeout="2s",
        retriable_status_codes=[429, 409],
        retry_back_off={"base_interval": "0.05s", "max_interval": "1s"},
        retriable_headers=[{"name": "X-Retry", "present_match": True}],
        retriable_request_headers=[{"name": ":method", "string_match": {"exact": "GET"}}],
        retry_host_predicate=[PREVIOUS],
        host_selection_retry_max_attempts=5,
        rate_limited_retry_back_off={
            "reset_headers": [{"name": "Retry-After"}, {"name": "x-reset", "format": "UNIX_TIMESTAMP"}],
            "max_interval": "60s",
        },
        retry_priority=priorities(2),
    )
    present, get = StringMatcher(kind=MatchKind.PRESENT), StringMatcher(kind=MatchKind.EXACT, value="GET")
    assert found == RetryPolicy(
        retry_on=frozenset({"5xx", "gateway-error", "retriable-headers"}),
        num_retries=3,
        per_try_timeout_s=0.5,
        per_try_idle_timeout_s=2.0,
        back_off_base_s=0.05,
        back_off_max_s=1.0,
        retriable_status_codes=frozenset({429, 409}),
        retriable_headers=(HeaderMatcher(name="x-retry", matcher=present),),
        retriable_request_headers=(HeaderMatcher(name=":method", matcher=get),),
        previous_hosts=True,
        host_selection_max_attempts=5,
        reset_headers=(("retry-after", False), ("x-reset", True)),
        reset_max_s=60.0,
        priority_updates=2,
    )


def test_hedging_is_the_routes_or_its_hosts() -> None:
    hedging = {"hedge_on_per_try_timeout": True}
    assert action_value(hedge_policy=hedging).hedge is True
    assert action_value(hedge_policy={}).hedge is False, "the route's own policy counts, whatever the host's says"
    assert action_value().hedge is None
    assert host_value(hedge_policy=hedging).hedge
    assert not host_value().hedge


def test_the_longest_pause_is_ten_bases() -> None:
    assert policy(retry_back_off={"base_interval": "0.1s"}).back_off_max_s == pytest.approx(1.0)


def test_a_pause_is_at_least_a_millisecond() -> None:
    assert policy(retry_back_off={"base_interval": "0.0001s"}).back_off_base_s == 0.001


def test_no_retries_is_not_the_default() -> None:
    assert policy(num_retries=0).num_retries == 0


def test_the_older_way_to_name_a_predicate() -> None:
    assert policy(retry_host_predicate=[{"name": "envoy.retry_host_predicates.previous_hosts"}]).previous_hosts


def test_of_a_virtual_host() -> None:
    found = host_value(retry_policy={"retry_on": "reset"})
    assert found.retry.retry_on == {"reset"}
    assert found.routes[0].action.retry is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"retry_back_off": {"base_interval": "1s", "max_interval": "0.5s"}},
            "retry_back_off.max_interval: found 0.5, expected at least base_interval, 1 s",
        ),
        (
            {"host_selection_retry_max_attempts": -1},
            "host_selection_retry_max_attempts: found -1, expected 0 to 1000",
        ),
        (
            {"host_selection_retry_max_attempts": 1001},
            "host_selection_retry_max_attempts: found 1001, expected 0 to 1000",
        ),
        (
            {"retry_host_predicate": [{"name": "envoy.retry_host_predicates.omit_canary_hosts"}]},
            "retry_host_predicate[0]: found envoy.retry_host_predicates.omit_canary_hosts, "
            "expected envoy.retry_host_predicates.previous_hosts: the agent does not enforce it",
        ),
        (
            {"retry_priority": {"name": "p"}},
            "retry_priority: found p, expected envoy.retry_priorities.previous_priorities: "
            "the agent does not enforce it",
        ),
        (
            {"retry_priority": priorities(0)},
            "retry_priority.typed_config.update_frequency: found 0, expected at least 1",
        ),
        (
            {"rate_limited_retry_back_off": {}},
            "rate_limited_retry_back_off.reset_headers: found 0 entries, expected at least 1",
        ),
        (
            {"retriable_headers": [{"name": "x", "string_match": {"safe_regex": {"regex": "["}}}]},
            "retriable_headers[0].string_match.safe_regex.regex: found '[', expected an RE2 pattern (missing ]: [)",
        ),
        ({"num_retries": 1, "per_try_timeout": "-1s"}, "per_try_timeout: found -1s, expected at least 0s"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(fields: dict[str, Any], expected: str) -> None:
    assert action_refusal(retry_policy=fields) == f"retry_policy.{expected}"
