"""What filters tell those behind them, tested.

Source: envoy/type/matcher/v3 metadata.proto, value.proto. What is not there fits no test, of presence or null neither.
"""

from collections.abc import Callable
from typing import Any, Final

from agent.model.matchers import MatchKind
from agent.model.rbac import (
    BoolValue,
    EitherValue,
    ListValue,
    MetadataIs,
    NullValue,
    PresentValue,
    TextValue,
    ValueTest,
)
from agent.router.matchers import TextMatcher

_ABSENT: Final = object()
Metadata = dict[str, dict[str, Any]]
Value = Callable[[Any], bool]


def metadata_test(config: MetadataIs) -> Callable[[Metadata], bool]:
    """Whether metadata fits. Raises re2.error for a bad regex."""
    fits, name, keys, invert = _value(config.value), config.filter, config.path, config.invert

    def test(metadata: Metadata) -> bool:
        value: Any = metadata.get(name, _ABSENT)
        for key in keys:
            value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
        return (value is not _ABSENT and fits(value)) != invert

    return test


def _value(config: ValueTest) -> Value:
    match config:
        case TextValue():
            return _text(config)
        case BoolValue():
            return _boolean(config.value)
        case PresentValue():
            return _present(config.value)
        case NullValue():
            return _is_null
        case ListValue():
            return _list(_value(config.one_of))
        case EitherValue():
            return _either(tuple(_value(one) for one in config.tests))


def _text(config: TextValue) -> Value:
    if config.matcher.kind is MatchKind.EXACT and not config.matcher.ignore_case:
        wanted = config.matcher.value
        return lambda value: isinstance(value, str) and value == wanted
    matcher = TextMatcher(config.matcher)
    return lambda value: isinstance(value, str) and matcher.matches(value.encode("utf-8", "surrogatepass"))


def _boolean(wanted: bool) -> Value:
    return lambda value: value is wanted


def _present(wanted: bool) -> Value:
    return lambda value: wanted and value is not None


def _is_null(value: Any) -> bool:
    return value is None


def _list(fits: Value) -> Value:
    return lambda value: isinstance(value, list) and any(map(fits, value))


def _either(tests: tuple[Value, ...]) -> Value:
    def test(value: Any) -> bool:
        for one in tests:  # noqa: SIM110 - a generator would be made for every request
            if one(value):
                return True
        return False

    return test
