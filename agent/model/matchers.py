"""Matchers of strings, headers and query parameters.

Source: envoy/type/matcher/v3/string.proto, envoy/config/route/v3/route_components.proto.
"""

from dataclasses import dataclass
from enum import IntEnum


class MatchKind(IntEnum):
    """How `value` is compared. REGEX is a full match by RE2. PRESENT ignores `value`."""

    EXACT = 0
    PREFIX = 1
    SUFFIX = 2
    CONTAINS = 3
    REGEX = 4
    PRESENT = 5
    RANGE = 6  # integer in [low, high); headers only


@dataclass(frozen=True, slots=True, kw_only=True)
class StringMatcher:
    kind: MatchKind
    value: str = ""
    ignore_case: bool = False
    low: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMatcher:
    """`name` lower-case; `:method`, `:authority`, `:path`, `:scheme` are the pseudo headers.

    `invert` flips the answer; a missing header never matches, so it matches when inverted (Envoy), unless
    `missing_as_empty`.
    """

    name: str
    matcher: StringMatcher
    invert: bool = False
    missing_as_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryMatcher:
    """A query parameter; the first of several with one name counts."""

    name: str
    matcher: StringMatcher
