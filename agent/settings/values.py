"""How one value of the settings is read, from TOML or from text.

Owns:   the forms of values and their limits.
Not:    which key has which (keys), tables (tables).
Invariant: each raises ValueError that says what was found and what was expected.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

MAX_WORKERS = 256
MAX_LABELS = 64
MAX_LABEL_CHARS = 512
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"found {value!r}, expected text")
    return value


def matching(pattern: re.Pattern[str], expected: str) -> Callable[[Any], str]:
    """Text of a form."""

    def parse(value: Any) -> str:
        if not pattern.fullmatch(text(value)):
            raise ValueError(f"found {value!r}, expected {expected}")
        return str(value)

    return parse


def integer(low: int, high: int) -> Callable[[Any], int]:
    """A whole number, also as text (from the environment)."""

    def parse(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(f"found {value!r}, expected a whole number from {low} to {high}")
        return number

    return parse


def one_of(*values: str) -> Callable[[Any], str]:
    """One of a few words."""

    def parse(value: Any) -> str:
        if value not in values:
            raise ValueError(f"found {value!r}, expected {' or '.join(repr(v) for v in values if v)}")
        return str(value)

    return parse


def boolean(value: Any) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    found = known.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError(f"found {value!r}, expected true or false")
    return found


def duration_s(value: Any) -> float:
    """Seconds from `10s`, `1m30s`, `500ms` or a number of seconds. Above 0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(min(value, 1e9))  # tomllib reads whole numbers of any size
    else:
        parts = _DURATION.fullmatch(text(value))
        if parts is None or not value:
            raise ValueError(f"found {value!r}, expected a duration as 10s, 1m30s or 500ms")
        scales = (3600.0, 60.0, 1.0, 0.001)
        seconds = sum(float(part) * scale for part, scale in zip(parts.groups(), scales, strict=True) if part)
    if not 0 < seconds <= 7 * 86400:
        raise ValueError(f"found {value!r}, expected a duration above 0 and up to a week")
    return seconds


def address(value: Any) -> str:
    """A host with nothing else: an IP address or a name."""
    if not text(value) or len(value) > 253 or any(char.isspace() or char in "/@" for char in value):
        raise ValueError(f"found {value!r}, expected an IP address or a host name")
    return str(value)


def host_port(value: Any) -> tuple[str, int]:
    """`host:port`; IPv6 in brackets."""
    host, _, port = text(value).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"found {value!r}, expected host:port")
    return address(host.strip("[]")), int(port)


def port_range(value: Any) -> tuple[int, int]:
    """`20000-20999`, both included."""
    low, _, high = text(value).partition("-")
    digits = value.isascii() and low.isdigit() and high.isdigit()
    if not (digits and 0 < int(low) <= int(high) < 65536):
        raise ValueError(f"found {value!r}, expected a range of ports as 20000-20999")
    return int(low), int(high)


def workers(value: Any) -> int:
    """A number, or `auto` = the cores that this process may use."""
    if value == "auto":
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    return integer(1, MAX_WORKERS)(value)


def labels(value: Any) -> tuple[tuple[str, str], ...]:
    """A table of texts, as sorted pairs."""
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise ValueError(f"found {value!r}, expected a table of texts")
    if len(value) > MAX_LABELS or any(len(part) > MAX_LABEL_CHARS for pair in value.items() for part in pair):
        raise ValueError(f"found {len(value)} labels, expected at most 64 of at most {MAX_LABEL_CHARS} characters")
    return tuple(sorted(value.items()))


def http_url(value: Any) -> str:
    """An `http://host[:port]/path` URL: health checks are made in plain text to the local application."""
    if not re.fullmatch(r"http://[^/\s@]+(/[^\s]*)?", text(value)):
        raise ValueError(f"found {value!r}, expected http://host:port/path")
    return str(value)


def tcp_target(value: Any) -> str:
    host_port(value)
    return str(value)
