"""Format strings with %OPERATORS%, compiled once into functions of the request.

Owns:   the syntax `%NAME%`, `%NAME(ARGUMENT)%`, `%NAME(ARGUMENT):LENGTH%`, `%%`.
Not:    what an operator stands for (operators).
Source: Envoy's substitution formatter; data-plane.md 1.11. LENGTH is in bytes. Missing values are "-" in text, null in
        JSON, nothing in header fields.
"""

import re
from collections.abc import Callable

from agent.filters.operators import operator
from agent.filters.subject import FormatError, Operator, Subject, Value, bytes_of

MISSING = "-"
_TOKEN = re.compile(r"%(?:%|([A-Z][A-Z0-9_]*)(?:\(([^()]*)\))?(?::([0-9]{1,9}))?%)")

Text = Callable[[Subject], str]
_Part = str | Operator


def value_format(text: str) -> Operator:
    """For JSON: a lone operator keeps its type and may be None; everything else is text. Raises FormatError."""
    parts = _parsed(text)
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    return text_format(text)


def text_format(text: str, missing: str = MISSING) -> Text:
    """For text. Raises FormatError."""
    parts = _parsed(text)
    if all(isinstance(part, str) for part in parts):
        constant = "".join(part for part in parts if isinstance(part, str))
        return lambda subject: constant
    if len(parts) == 1 and not isinstance(parts[0], str):
        return _lone(parts[0], missing)

    def joined(subject: Subject) -> str:
        return "".join([part if isinstance(part, str) else _text(part(subject), missing) for part in parts])

    return joined


def constant_of(text: str) -> str | None:
    """The text of a format without operators, else None. Raises FormatError."""
    parts = _parsed(text)
    return "".join(part for part in parts if isinstance(part, str)) if all(isinstance(p, str) for p in parts) else None


def _lone(part: Operator, missing: str) -> Text:
    return lambda subject: _text(part(subject), missing)


def _text(value: Value, missing: str) -> str:
    return missing if value is None else value if isinstance(value, str) else str(value)


def _parsed(text: str) -> list[_Part]:
    parts: list[_Part] = []
    at = 0
    for found in _TOKEN.finditer(text):
        _add_literal(parts, text[at : found.start()], text)
        at = found.end()
        if found[0] == "%%":
            parts.append("%")
        else:
            part = operator(found[1], found[2] or "")
            parts.append(part if found[3] is None else _cut(part, int(found[3])))
    _add_literal(parts, text[at:], text)
    return parts


def _add_literal(parts: list[_Part], literal: str, text: str) -> None:
    if "%" in literal:
        raise FormatError(f"found {literal!r} in {text!r}, expected %NAME%, %NAME(ARGUMENT)% or %%")
    if literal:
        parts.append(literal)


def _cut(part: Operator, length: int) -> Operator:
    def cut(subject: Subject) -> Value:
        value = part(subject)
        if not isinstance(value, str) or len(value) <= length // 4:
            return value
        return bytes_of(value)[:length].decode("utf-8", "surrogateescape")

    return cut
