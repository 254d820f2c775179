"""Operators of time: when a request came, how long its parts took.

Source: Envoy access_log/usage; data-plane.md 1.11. Durations are whole milliseconds.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime

from agent.filters.subject import Operator, Subject, Value

_FRACTIONS = re.compile(r"%([1-9])f")


def _start_time(argument: str) -> Operator:
    if not argument:
        return _StartTime()
    return lambda subject: _formatted(subject.started + subject.chain.wall_offset_s, argument)


def _emit_time(argument: str) -> Operator:
    """When the line is written, which is when the request is over."""
    form = argument or "%Y-%m-%dT%H:%M:%S.%3fZ"
    return lambda subject: _formatted((subject.ended or subject.started) + subject.chain.wall_offset_s, form)


def _formatted(at: float, form: str) -> str:
    fraction = f"{int(at % 1 * 10**9):09d}"
    form = form.replace("%s", str(int(at)))
    form = _FRACTIONS.sub(lambda found: fraction[: int(found[1])], form)
    return datetime.fromtimestamp(at, UTC).strftime(form.replace("%f", fraction))


class _StartTime:
    """ISO 8601 with milliseconds: made once a millisecond, and what is before them once a second."""

    __slots__ = ("_millisecond", "_prefix", "_second", "_text")

    def __init__(self) -> None:
        self._millisecond = self._second = -1
        self._prefix = self._text = ""

    def __call__(self, subject: Subject) -> Value:
        millisecond = int((subject.started + subject.chain.wall_offset_s) * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._text = f"{self._prefix}.{rest:03d}Z"
        return self._text


def _duration(subject: Subject) -> Value:
    return _between(subject.started, subject.ended)


def _request_duration(subject: Subject) -> Value:
    return _between(subject.started, subject.request_done_at)


def _response_duration(subject: Subject) -> Value:
    return _between(subject.started, subject.response_at)


def _response_tx_duration(subject: Subject) -> Value:
    return _between(subject.response_at, subject.ended)


def _between(begun: float, ended: float) -> int | None:
    return int((ended - begun) * 1000) if begun and ended else None


PLAIN: dict[str, Operator] = {
    "DURATION": _duration,
    "REQUEST_DURATION": _request_duration,
    "REQUEST_TX_DURATION": _request_duration,
    "RESPONSE_DURATION": _response_duration,
    "RESPONSE_TX_DURATION": _response_tx_duration,
    "ROUNDTRIP_DURATION": lambda subject: None,  # of QUIC
}
WITH_ARGUMENT: dict[str, Callable[[str], Operator]] = {"EMIT_TIME": _emit_time, "START_TIME": _start_time}
