"""The scalar fields of a policy: protobuf's JSON mapping as Kubernetes' manifests use it.

Owns:   parsing one value, and saying what was found and expected.
Not:    rules between fields (controlplane.policy.rules).
Source: protobuf's JSON mapping (integers may be strings; 5.0 is an integer; durations are strings);
        Go's time.ParseDuration for durations, since Istio's manifests write `1m30s` and `100ms`.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from controlplane.policy.frozen import FrozenMap

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(
    r"(?P<sign>[-+]?)(?P<parts>(?:(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII
)
_INTEGER = re.compile(r"-?\d{1,20}", re.ASCII)
# google.protobuf.Duration reaches 315,576,000,000 s; a century is beyond any use and keeps milliseconds exact.
MAX_DURATION_S = 100 * 365 * 86400.0
_SHOWN = 80


def shown(value: object) -> str:
    """A value for a message: JSON, cut at 80 characters; a container by its kind."""
    match value:
        case None:
            return "nothing"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case int() if not isinstance(value, bool) and abs(value) >= 1 << 64:
            return "a number of more than 64 bits"
        case str():
            text = json.dumps(value if len(value) <= _SHOWN else value[:_SHOWN] + "...", ensure_ascii=False)
            return text.encode("utf-8", "backslashreplace").decode()
        case bool() | int() | float():
            return json.dumps(value)
    return f"a {type(value).__name__}"


def found_expected(value: object, expected: str) -> str:
    """The one form of every violation's message."""
    return f"found {shown(value)}, expected {expected}"


def refuse(value: object, expected: str) -> PydanticCustomError:
    """The error of a field's validator; the message is complete."""
    return PydanticCustomError("policy", "{text}", {"text": found_expected(value, expected)})


def parse_duration(text: str) -> float | None:
    """Seconds of a Go duration (`1.5s`, `1m30s`, `-5ms`, `0`), or None when it is not one."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    # Nanoseconds are summed as integers, so that 0.1s and 100ms are the same value.
    nanos = sum(round(float(amount) * _UNIT_S[unit] * 1e9) for amount, unit in _DURATION_PART.findall(match["parts"]))
    return (-nanos if match["sign"] == "-" else nanos) / 1e9


def _duration(value: object) -> float:
    if isinstance(value, str):
        seconds = parse_duration(value)
        if seconds is not None and abs(seconds) <= MAX_DURATION_S:
            return seconds
    raise refuse(value, 'a duration with its unit, such as "5s", "1m30s" or "100ms"')


def _within(value: object, low: int, high: int) -> int:
    number: int | None = None
    match value:
        case bool():
            pass
        case int():
            number = value
        case float() if math.isfinite(value) and value.is_integer():
            number = int(value)
        case str() if _INTEGER.fullmatch(value):
            number = int(value)
    if number is None or not low <= number <= high:
        raise refuse(value, f"an integer from {low} to {high}")
    return number


def _int32(value: object) -> int:
    return _within(value, -(2**31), 2**31 - 1)


def _uint32(value: object) -> int:
    return _within(value, 0, 2**32 - 1)


def _uint64(value: object) -> int:
    return _within(value, 0, 2**64 - 1)


def _double(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", value, re.ASCII):
        return float(value)
    raise refuse(value, "a number")


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise refuse(value, "true or false")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    hint = f' (write it in quotes: "{shown(value)}")' if isinstance(value, bool | int | float) else ""
    raise refuse(value, f"a string{hint}")


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise refuse(value, "base64") from error
    raise refuse(value, "a string of base64")


def _port_or_name(value: object) -> int | str:
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        return value
    return _within(value, 1, 65535)


def enum_parser(choices: type[StrEnum]) -> BeforeValidator:
    """A validator that takes the names of `choices`, exactly as written there."""
    names = ", ".join(choices)

    def parse(value: object) -> StrEnum:
        if isinstance(value, str) and value in choices.__members__.values():
            return choices(value)
        raise refuse(value, f"one of {names}")

    return BeforeValidator(parse)


T = TypeVar("T")


def _frozen(value: Mapping[Any, T]) -> FrozenMap[Any, T]:
    return FrozenMap(value)


Duration = Annotated[float, BeforeValidator(_duration, json_schema_input_type=str)]  # seconds; a string on the wire
Int32 = Annotated[int, BeforeValidator(_int32)]
UInt32 = Annotated[int, BeforeValidator(_uint32)]
UInt64 = Annotated[int, BeforeValidator(_uint64)]
Double = Annotated[float, BeforeValidator(_double)]
Boolean = Annotated[bool, BeforeValidator(_boolean)]
Text = Annotated[str, BeforeValidator(_text)]
Bytes = Annotated[bytes, BeforeValidator(_bytes)]
PortOrName = Annotated[int | str, BeforeValidator(_port_or_name)]
FREEZE = AfterValidator(_frozen)
TextMap = Annotated[Mapping[str, Text], FREEZE]
