"""Compiled matchers of strings, header fields and query parameters.

Owns:   the comparison of bytes with what agent.model.matchers says.
Not:    paths and virtual hosts (agent.router.table).
Source: Envoy HeaderUtility::matchHeaders and the texts of route_components.proto: a missing field matches nothing, also
        when the matcher is inverted, unless `missing_as_empty`; PRESENT alone looks at presence itself.
        Query parameters are compared as they came, without percent-decoding; the first of several counts.
        Each line of a repeated field is compared by itself: one that fits is enough.
"""

import re

import re2

from agent.codec.head import Headers, RequestHead, may_be_joined, values_of
from agent.model.matchers import HeaderMatcher, MatchKind, QueryMatcher, StringMatcher

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_INTEGER = re.compile(rb"[+-]?[0-9]{1,19}")
_NO_BYTES = b""


def compile_regex(pattern: str) -> "re2._Regexp[bytes]":
    """An RE2 for bytes. Raises re2.error. The whole text has to match: use `fullmatch`."""
    return re2.compile(pattern.encode(), _OPTIONS)


class TextMatcher:
    """A StringMatcher, ready to be asked."""

    __slots__ = ("_any", "_fold", "_high", "_kind", "_low", "_regex", "_value")

    def __init__(self, config: StringMatcher) -> None:
        self._kind = int(config.kind)
        self._fold = config.ignore_case and config.kind != MatchKind.REGEX
        value = config.value.encode()
        self._value = value.lower() if self._fold else value
        self._regex = compile_regex(config.value) if config.kind == MatchKind.REGEX else None
        self._any = config.kind == MatchKind.REGEX and config.value == ".+"  # how policies ask for presence
        self._low = config.low
        self._high = config.high

    def matches(self, text: bytes) -> bool:
        """Does `text` fit? PRESENT fits every text."""
        kind = self._kind
        if self._fold:
            text = text.lower()
        if kind == 0:
            return text == self._value
        if kind == 1:
            return text.startswith(self._value)
        if kind == 2:
            return text.endswith(self._value)
        if kind == 3:
            return self._value in text
        if self._regex is not None:
            if self._any and text.isascii():
                return text != _NO_BYTES and b"\n" not in text
            return self._regex.fullmatch(text) is not None
        if kind == 6:
            return self._in_range(text)
        return True

    def _in_range(self, text: bytes) -> bool:
        return _INTEGER.fullmatch(text) is not None and self._low <= int(text) < self._high


class CompiledHeader:
    """A HeaderMatcher, ready to be asked."""

    __slots__ = ("_invert", "_matcher", "_missing_as_empty", "_name", "_present")

    def __init__(self, config: HeaderMatcher) -> None:
        self._name = config.name.encode()
        self._matcher = TextMatcher(config.matcher)
        self._present = config.matcher.kind == MatchKind.PRESENT
        self._invert = config.invert
        self._missing_as_empty = config.missing_as_empty

    def matches_value(self, value: bytes | None) -> bool:
        """Does a field with this value fit? None = the field is missing."""
        if self._present:
            return (value is not None or self._missing_as_empty) != self._invert
        if value is None:
            if not self._missing_as_empty:
                return False
            value = _NO_BYTES
        return self._matcher.matches(value) != self._invert

    def matches(self, head: RequestHead) -> bool:
        """Does the request have a field (or pseudo header) that fits?"""
        value = header_value(head, self._name)
        if value is not None and may_be_joined(value):
            return self._matches_each(head.headers, value)
        return self.matches_value(value)

    def matches_fields(self, headers: Headers) -> bool:
        """The same for the fields of a response."""
        value = headers.index.get(self._name)
        return self.matches_value(None) if value is None else self._matches_each(headers, value)

    def _matches_each(self, headers: Headers, value: bytes) -> bool:
        """A `value` that may be joined from several lines."""
        values = values_of(headers, self._name)
        if self._present or len(values) < 2:
            return self.matches_value(value)
        return any(self._matcher.matches(one) for one in values) != self._invert


def header_value(head: RequestHead, name: bytes) -> bytes | None:
    """The value of a field by lower-case name, or of a pseudo header (`:method`, `:path`, `:authority`, `:scheme`)."""
    if name == b":method":
        return head.method
    if name == b":path":
        return head.path
    if name == b":authority" or name == b"host":
        return head.authority
    if name == b":scheme":
        return head.scheme
    return head.headers.index.get(name)


class CompiledQuery:
    """A QueryMatcher, ready to be asked."""

    __slots__ = ("_matcher", "_name")

    def __init__(self, config: QueryMatcher) -> None:
        self._name = config.name.encode()
        self._matcher = TextMatcher(config.matcher)

    def matches(self, parameters: dict[bytes, bytes]) -> bool:
        """Do the parameters (see `query_parameters`) have one that fits?"""
        value = parameters.get(self._name)
        return value is not None and self._matcher.matches(value)


def query_parameters(path: bytes) -> dict[bytes, bytes]:
    """Name -> first value of the query in `path`, as they came. A parameter without `=` has an empty value."""
    found: dict[bytes, bytes] = {}
    _, mark, query = path.partition(b"?")
    if mark:
        for pair in query.partition(b"#")[0].split(b"&"):
            name, _, value = pair.partition(b"=")
            found.setdefault(name, value)
    return found
