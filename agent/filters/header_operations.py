"""Configured header operations, compiled: what is added, set and removed.

Owns:   applying one level's operations (removals first), values with %OPERATORS%.
Not:    the order of levels (agent.router.table), rewrites of path and host.
Source: envoy/config/core/v3/base.proto HeaderValueOption; Envoy's HeaderParser; data-plane.md 1.9.
Differs: operations on framing and connection fields do nothing, since the codec writes those.
Invariant: an empty value adds nothing unless keep_empty_value is on, also when its operators have no value.
"""

import re
from collections.abc import Callable

from agent.codec.head import Headers
from agent.filters import hop_by_hop
from agent.filters.formats import constant_of, text_format
from agent.filters.subject import FormatError, Subject, bytes_of
from agent.model.route import HeaderAction, HeaderOps

_OURS = hop_by_hop.FIELDS | {b"host", b"content-length"}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_APPEND, _ADD_IF_ABSENT, _OVERWRITE = HeaderAction.APPEND, HeaderAction.ADD_IF_ABSENT, HeaderAction.OVERWRITE


class _Addition:
    """One field that is added or set."""

    __slots__ = ("_action", "_constant", "_format", "_keep_empty", "_lower", "_name")

    def __init__(self, name: str, text: str, action: HeaderAction, keep_empty: bool) -> None:
        self._name = name.encode()
        self._lower = self._name.lower()
        self._action = action
        self._keep_empty = keep_empty
        if not _TOKEN.fullmatch(self._name) or not _VALUE.fullmatch(text):
            raise FormatError(
                f"found the field {name!r}: {text!r}, expected a token and a value without control characters"
            )
        constant = constant_of(text)
        self._constant = constant.encode() if constant is not None else b""
        self._format: Callable[[Subject], str] | None = text_format(text, "") if constant is None else None

    @property
    def lower(self) -> bytes:
        return self._lower

    def apply(self, headers: Headers, subject: Subject) -> None:
        value = self._constant if self._format is None else bytes_of(self._format(subject))
        if not value and not self._keep_empty:
            return
        there = self._lower in headers.index
        action = self._action
        if action is _APPEND or (not there and action in (_ADD_IF_ABSENT, _OVERWRITE)):
            headers.append(self._name, value)
        elif there and action is not _ADD_IF_ABSENT:
            headers.set(self._name, value)


class Operations:
    """The operations of one level."""

    __slots__ = ("_additions", "_removals")

    def __init__(self, config: HeaderOps) -> None:
        """Raises FormatError that names the field."""
        removals = frozenset(name.lower().encode() for name in config.remove)
        self._removals = removals - _OURS
        kept = config.keep_empty
        additions = [_Addition(*option, place in kept) for place, option in enumerate(config.add)]
        self._additions = tuple(addition for addition in additions if addition.lower not in _OURS)

    def apply(self, headers: Headers, subject: Subject) -> None:
        """Change `headers`; `subject` gives the operators their values."""
        if self._removals and not self._removals.isdisjoint(headers.index):
            headers.remove_all(self._removals)
        for addition in self._additions:
            addition.apply(headers, subject)
