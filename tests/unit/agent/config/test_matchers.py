"""Matchers of header fields and query parameters."""

from typing import Any

import pytest

from agent.model.matchers import HeaderMatcher, MatchKind, QueryMatcher, StringMatcher
from tests.support.decoding import match_refusal, match_value

EXACT = StringMatcher(kind=MatchKind.EXACT, value="v")
PRESENT = StringMatcher(kind=MatchKind.PRESENT)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"string_match": {"exact": "v"}}, EXACT),
        ({"string_match": {"prefix": "v"}}, StringMatcher(kind=MatchKind.PREFIX, value="v")),
        ({"string_match": {"suffix": "v"}}, StringMatcher(kind=MatchKind.SUFFIX, value="v")),
        ({"string_match": {"contains": "v"}}, StringMatcher(kind=MatchKind.CONTAINS, value="v")),
        (
            {"string_match": {"exact": "v", "ignore_case": True}},
            StringMatcher(kind=MatchKind.EXACT, value="v", ignore_case=True),
        ),
        ({"string_match": {"safe_regex": {"regex": "v+"}}}, StringMatcher(kind=MatchKind.REGEX, value="v+")),
        (
            {"string_match": {"safe_regex": {"regex": "v+"}, "ignore_case": True}},
            StringMatcher(kind=MatchKind.REGEX, value="v+"),
        ),
        ({"exact_match": "v"}, EXACT),
        ({"prefix_match": "v"}, StringMatcher(kind=MatchKind.PREFIX, value="v")),
        ({"suffix_match": "v"}, StringMatcher(kind=MatchKind.SUFFIX, value="v")),
        ({"contains_match": "v"}, StringMatcher(kind=MatchKind.CONTAINS, value="v")),
        ({"safe_regex_match": {"regex": "v"}}, StringMatcher(kind=MatchKind.REGEX, value="v")),
        ({"range_match": {"start": -1, "end": 5}}, StringMatcher(kind=MatchKind.RANGE, low=-1, high=5)),
        ({"present_match": True}, PRESENT),
        ({}, PRESENT),
    ],
    ids=str,
)
def test_values(fields: dict[str, Any], expected: StringMatcher) -> None:
    (found,) = match_value(headers=[{"name": "X-Name", **fields}]).headers
    assert found == HeaderMatcher(name="x-name", matcher=expected)


@pytest.mark.parametrize(
    ("fields", "invert"),
    [
        ({"present_match": True, "invert_match": True}, True),
        ({"present_match": False}, True),
        ({"present_match": False, "invert_match": True}, False),
        ({"string_match": {"exact": "v"}, "invert_match": True}, True),
    ],
    ids=str,
)
def test_inverted(fields: dict[str, Any], invert: bool) -> None:
    (found,) = match_value(headers=[{"name": "x", **fields}]).headers
    assert found.invert is invert


def test_missing_as_empty() -> None:
    (found,) = match_value(headers=[{"name": "x", "treat_missing_header_as_empty": True}]).headers
    assert found.missing_as_empty


def test_query_parameters() -> None:
    found = match_value(
        query_parameters=[{"name": "Debug", "string_match": {"exact": "v"}}, {"name": "b", "present_match": True}]
    )
    assert found.query == (QueryMatcher(name="Debug", matcher=EXACT), QueryMatcher(name="b", matcher=PRESENT))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"headers": [{"name": "x"}, {"name": "y", "string_match": {"safe_regex": {"regex": "("}}}]},
            "headers[1].string_match.safe_regex.regex: found '(', expected an RE2 pattern (missing ): ()",
        ),
        (
            {"headers": [{"name": "x", "safe_regex_match": {"regex": "(?=a)"}}]},
            "headers[0].safe_regex_match.regex: found '(?=a)', expected an RE2 pattern "
            "(invalid perl operator: (?=)",
        ),
        (
            {"headers": [{"name": "x", "string_match": {}}]},
            "headers[0].string_match.match_pattern: found none, "
            "expected one of exact, prefix, suffix, safe_regex, contains, custom",
        ),
        (
            {"headers": [{"name": "x", "string_match": {"custom": {"name": "n", "typed_config": {
                "@type": "type.googleapis.com/google.protobuf.Empty"}}}}]},
            "headers[0].string_match.custom: found a value, "
            "expected exact, prefix, suffix, contains or safe_regex: the agent does not enforce it",
        ),
        ({"headers": [{}]}, "headers[0].name: found '', expected at least 1 characters"),
        (
            {"query_parameters": [{"name": "a", "present_match": False}]},
            "query_parameters[0].present_match: found False, expected True: the agent does not enforce it",
        ),
        ({"query_parameters": [{"name": ""}]}, "query_parameters[0].name: found '', expected at least 1 characters"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_refused(fields: dict[str, Any], expected: str) -> None:
    assert match_refusal(**fields) == expected
