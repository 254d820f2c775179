"""Matchers of strings, header fields and query parameters.

Source: envoy/type/matcher/v3/string.proto, envoy/config/route/v3/route_components.proto; Envoy's HeaderUtility: a
        matcher of nothing looks at presence.
"""

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher as HeaderMessage
from envoy.config.route.v3.route_components_pb2 import QueryParameterMatcher as QueryMessage
from envoy.type.matcher.v3.string_pb2 import StringMatcher as StringMessage

from agent.config.fields import beyond, only, within
from agent.config.regexes import regex
from agent.model.matchers import HeaderMatcher, MatchKind, QueryMatcher, StringMatcher

PRESENT = StringMatcher(kind=MatchKind.PRESENT)
_KINDS = {
    "exact": MatchKind.EXACT,
    "prefix": MatchKind.PREFIX,
    "suffix": MatchKind.SUFFIX,
    "contains": MatchKind.CONTAINS,
}
# The older names of a header's matchers, which still come from older servers.
_OLDER = {
    "exact_match": MatchKind.EXACT,
    "prefix_match": MatchKind.PREFIX,
    "suffix_match": MatchKind.SUFFIX,
    "contains_match": MatchKind.CONTAINS,
}


def string_matcher(message: StringMessage, path: str) -> StringMatcher:
    """The matcher. A regular expression says itself whether case counts."""
    which = message.WhichOneof("match_pattern") or ""
    if which == "safe_regex":
        pattern = regex(message.safe_regex, within(path, "safe_regex"))
        return StringMatcher(kind=MatchKind.REGEX, value=pattern)
    if which not in _KINDS:
        raise beyond(within(path, which), "a value", "exact, prefix, suffix, contains or safe_regex")
    return StringMatcher(kind=_KINDS[which], value=getattr(message, which), ignore_case=message.ignore_case)


def header_matcher(message: HeaderMessage, path: str) -> HeaderMatcher:
    """The matcher of one field or pseudo header."""
    which = message.WhichOneof("header_match_specifier")
    # `present_match: false` is the old way to invert the test of presence.
    inverts = which == "present_match" and not message.present_match
    return HeaderMatcher(
        name=message.name.lower(),
        matcher=_value_matcher(message, which, path),
        invert=message.invert_match != inverts,
        missing_as_empty=message.treat_missing_header_as_empty,
    )


def _value_matcher(message: HeaderMessage, which: str | None, path: str) -> StringMatcher:
    match which:
        case None | "present_match":
            return PRESENT
        case "string_match":
            return string_matcher(message.string_match, within(path, which))
        case "safe_regex_match":
            return StringMatcher(kind=MatchKind.REGEX, value=regex(message.safe_regex_match, within(path, which)))
        case "range_match":
            bounds = message.range_match
            return StringMatcher(kind=MatchKind.RANGE, low=bounds.start, high=bounds.end)
    return StringMatcher(kind=_OLDER[which], value=getattr(message, which))


def query_matcher(message: QueryMessage, path: str) -> QueryMatcher:
    """The matcher of one parameter."""
    only(message, path, frozenset({"name", "string_match", "present_match"}))
    if message.WhichOneof("query_parameter_match_specifier") == "string_match":
        return QueryMatcher(
            name=message.name, matcher=string_matcher(message.string_match, within(path, "string_match"))
        )
    if message.WhichOneof("query_parameter_match_specifier") == "present_match" and not message.present_match:
        raise beyond(within(path, "present_match"), "False", "True")
    return QueryMatcher(name=message.name, matcher=PRESENT)
