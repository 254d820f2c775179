"""Configured header operations, compiled: what is added, set and removed.

Owns:   applying one level's operations (removals first, then what overwrites, then what adds), values with %OPERATORS%.
Not:    the order of levels (agent.router.table), rewrites of path and host.
Source: envoy/config/core/v3/base.proto HeaderValueOption; Envoy's HeaderParser; data-plane.md 1.9.
Differs: operations on framing and connection fields do nothing, since the codec writes those.
Invariants: an empty value adds nothing unless keep_empty_value is on, also when its operators have no value; every
        value and condition of a level sees the head as it was before that level's additions.
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
_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_APPEND, _ADD_IF_ABSENT = HeaderAction.APPEND, HeaderAction.ADD_IF_ABSENT
_OVERWRITE, _OVERWRITE_IF_EXISTS = HeaderAction.OVERWRITE, HeaderAction.OVERWRITE_IF_EXISTS


def is_field(name: bytes, value: bytes) -> bool:
    """Whether they can be sent as a field."""
    return bool(_TOKEN.fullmatch(name)) and not _UNSENDABLE.search(value)


class _Addition:
    """One field that is added or set."""

    __slots__ = ("_action", "_constant", "_format", "_keep_empty", "lower", "name")

    def __init__(self, name: str, text: str, action: HeaderAction, keep_empty: bool) -> None:
        self.name = name.encode()
        self.lower = self.name.lower()
        self._action = action
        self._keep_empty = keep_empty
        if not _TOKEN.fullmatch(self.name) or not _VALUE.fullmatch(text):
            raise FormatError(
                f"found the field {name!r}: {text!r}, expected a token and a value without control characters"
            )
        constant = constant_of(text)
        self._constant = constant.encode() if constant is not None else b""
        self._format: Callable[[Subject], str] | None = text_format(text, "") if constant is None else None

    def value(self, subject: Subject) -> bytes | None:
        """What it adds to a request; None = nothing."""
        value = self._constant if self._format is None else bytes_of(self._format(subject))
        return value if value or self._keep_empty else None

    def overwrites(self, there: bool) -> bool:
        """Whether it replaces the field; `there`: the head has it already."""
        return self._action is _OVERWRITE or (there and self._action is _OVERWRITE_IF_EXISTS)

    def adds(self, there: bool) -> bool:
        return self._action is _APPEND or (not there and self._action is _ADD_IF_ABSENT)


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
        overwritten: list[tuple[bytes, bytes]] = []
        added: list[tuple[bytes, bytes]] = []
        for addition in self._additions:
            value = addition.value(subject)
            if value is None:
                continue
            there = addition.lower in headers.index
            if addition.overwrites(there):
                overwritten.append((addition.name, value))
            elif addition.adds(there):
                added.append((addition.name, value))
        for name, value in overwritten:
            headers.set(name, value)
        for name, value in added:
            headers.append(name, value)
