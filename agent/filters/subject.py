"""What an operator is asked about, and what it answers.

Owns:   the types, text of bytes that may be none.
Invariant: bytes that are not UTF-8 are kept as lone surrogates (PEP 383): `line_bytes` gives them back as they came.
"""

from collections.abc import Callable
from typing import Any

# Who is asked: an Exchange or a TcpConnection of agent.proxy. Untyped, since the data path is above the filters. Both
# have a head; that of a TCP connection is empty, with version_minor -1.
Subject = Any
Value = str | int | None
Operator = Callable[[Subject], Value]


class FormatError(ValueError):
    """A format string cannot be used; the text says what was found and expected."""


def text_of(value: bytes | None) -> str | None:
    """A field's value as text."""
    if value is None:
        return None
    try:
        return value.decode()  # without arguments it takes half the time
    except UnicodeDecodeError:
        return value.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes that a text was made of."""
    return text.encode("utf-8", "surrogateescape")


def readable(value: Value) -> Value:
    """For JSON, which has no bytes: a text that is not UTF-8 is read as Latin-1, all of it, as Envoy does."""
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return bytes_of(value).decode("latin-1")
    return value
