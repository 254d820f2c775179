"""Which requests a route is for."""

from typing import Any

import pytest

from agent.model.route import PathKind, RouteMatch
from tests.support.decoding import host_refusal, host_value, match_refusal, match_value, route


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"prefix": "/a"}, RouteMatch(path_kind=PathKind.PREFIX, path="/a")),
        ({"prefix": ""}, RouteMatch(path_kind=PathKind.PREFIX, path="")),
        ({"path": "/a"}, RouteMatch(path_kind=PathKind.EXACT, path="/a")),
        ({"path_separated_prefix": "/a"}, RouteMatch(path_kind=PathKind.SEPARATED_PREFIX, path="/a")),
        ({"safe_regex": {"regex": "/a+"}}, RouteMatch(path_kind=PathKind.REGEX, path="/a+")),
        (
            {"safe_regex": {"google_re2": {}, "regex": "/a+"}, "case_sensitive": False},
            RouteMatch(path_kind=PathKind.REGEX, path="/a+"),
        ),
        (
            {"prefix": "/a", "case_sensitive": False},
            RouteMatch(path_kind=PathKind.PREFIX, path="/a", ignore_case=True),
        ),
        ({"prefix": "/a", "case_sensitive": True}, RouteMatch(path_kind=PathKind.PREFIX, path="/a")),
    ],
    ids=str,
)
def test_paths(match: dict[str, Any], expected: RouteMatch) -> None:
    assert host_value(route(match=match)).routes[0].match == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ({"numerator": 10}, 100_000),
        ({"numerator": 25, "denominator": "TEN_THOUSAND"}, 2_500),
        ({"numerator": 7, "denominator": "MILLION"}, 7),
        ({"numerator": 250}, 1_000_000),
        ({}, 0),
    ],
    ids=str,
)
def test_runtime_fractions(share: dict[str, Any], expected: int) -> None:
    """Without a runtime the default counts."""
    found = match_value(runtime_fraction={"default_value": share, "runtime_key": "k"})
    assert found.runtime_per_million == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"grpc": {}}, "grpc: found a value, expected it unset: the agent does not enforce it"),
        ({"tls_context": {}}, "tls_context: found a value, expected it unset: the agent does not enforce it"),
        (
            {"dynamic_metadata": [{"filter": "f", "path": [{"key": "k"}], "value": {"present_match": True}}]},
            "dynamic_metadata: found an entry, expected it unset: the agent does not enforce it",
        ),
        (
            {"runtime_fraction": {"default_value": {"denominator": 99}}},
            "runtime_fraction.default_value.denominator: found 99, expected a DenominatorType",
        ),
        ({"runtime_fraction": {}}, "runtime_fraction.default_value: found unset, expected a value"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused(fields: dict[str, Any], expected: str) -> None:
    assert match_refusal(**fields) == expected


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"safe_regex": {"regex": "a{2000}"}}, "safe_regex.regex: found 'a{2000}', expected an RE2 pattern "),
        ({"safe_regex": {"regex": r"\1"}}, r"safe_regex.regex: found '\\1', expected an RE2 pattern "),
        ({"connect_matcher": {}}, "connect_matcher: found a value, expected it unset: the agent does not enforce it"),
        ({"headers": [{"name": "x"}]}, "path_specifier: found none, expected one of prefix, path, safe_regex, "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_paths(match: dict[str, Any], expected: str) -> None:
    assert host_refusal(route(match=match)).startswith(f"routes[0].match.{expected}")
