"""Durations of the wire as seconds, never negative. Source: google/protobuf/duration.proto for the range."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from agent.config.fields import Refused, within

MAX_S = 315_576_000_000  # 10,000 years
_NANOS = 1_000_000_000


def seconds(message: Duration, path: str) -> float:
    """The seconds, at least 0."""
    whole, nanos = message.seconds, message.nanos
    if whole < 0 or nanos < 0:
        raise Refused(path, f"found {text(message)}, expected at least 0s")
    if whole > MAX_S or nanos >= _NANOS:
        raise Refused(path, f"found {text(message)}, expected at most {MAX_S}s and less than {_NANOS} nanos")
    return whole + nanos / _NANOS


def optional_seconds(message: Message, name: str, path: str) -> float | None:
    """The seconds in field `name`, None when it is unset."""
    return seconds(getattr(message, name), within(path, name)) if message.HasField(name) else None


def seconds_or(message: Message, name: str, path: str, default: float) -> float:
    """The seconds in field `name`, or the default when it is unset."""
    return seconds(getattr(message, name), within(path, name)) if message.HasField(name) else default


def text(message: Duration) -> str:
    """As a reason shows it."""
    nanos = f" {message.nanos} nanos" if message.nanos else ""
    return f"{message.seconds}s{nanos}"
