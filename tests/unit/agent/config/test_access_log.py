"""Access logs."""

from typing import Any

import pytest

from agent.model.listener import AccessLog
from tests.support.decoding import manager_refusal, manager_value, typed

BEYOND = "expected it unset: the agent does not enforce it"


def log(**fields: Any) -> dict[str, Any]:
    return {"name": "any", "typed_config": typed("access_loggers.file.v3.FileAccessLog", path="/dev/stdout", **fields)}


@pytest.mark.parametrize(
    ("log_format", "expected"),
    [
        ({}, AccessLog(path="/dev/stdout")),
        (
            {"log_format": {"json_format": {"b": "%PROTOCOL%", "a": "x %REQ(:METHOD)%"}, "content_type": "x"}},
            AccessLog(path="/dev/stdout", json_fields=(("a", "x %REQ(:METHOD)%"), ("b", "%PROTOCOL%"))),
        ),
        (
            {"log_format": {"text_format_source": {"inline_string": "%RESPONSE_CODE%\n"}}},
            AccessLog(path="/dev/stdout", text_format="%RESPONSE_CODE%\n"),
        ),
        (
            {"log_format": {"text_format": "%START_TIME(%s)% 100%%"}},
            AccessLog(path="/dev/stdout", text_format="%START_TIME(%s)% 100%%"),
        ),
    ],
    ids=str,
)
def test_formats(log_format: dict[str, Any], expected: AccessLog) -> None:
    assert manager_value(access_log=[log(**log_format)]).access_logs == (expected,)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            {"name": "a", "typed_config": typed("filters.http.router.v3.Router")},
            "typed_config: found envoy.extensions.filters.http.router.v3.Router, "
            "expected envoy.extensions.access_loggers.file.v3.FileAccessLog: the agent does not enforce it",
        ),
        (
            {"name": "a"},
            "typed_config: found no logger, "
            "expected envoy.extensions.access_loggers.file.v3.FileAccessLog: the agent does not enforce it",
        ),
        ({**log(), "filter": {"not_health_check_filter": {}}}, f"filter: found a value, {BEYOND}"),
        (log(log_format={"json_format": {"a": 1}}), "json_format[\"a\"]: found 'number_value', expected a string"),
        (log(log_format={"json_format": {"a": {"b": "c"}}}), "json_format[\"a\"]: found 'struct_value', expected"),
        (log(log_format={"json_format": {}}), "json_format: found {}, expected at least one key"),
        (log(log_format={"json_format": {"a": "%NOPE%"}}), 'json_format["a"]: found %NOPE%, expected one of '),
        (log(log_format={"text_format": "50%"}), "text_format: found '50%' in '50%', expected %NAME%, "),
        (
            log(log_format={"text_format_source": {"filename": "/x"}}),
            "text_format_source: found filename, expected inline_string: the agent does not enforce it",
        ),
        (
            log(log_format={"text_format_source": {"inline_string": ""}}),
            "text_format_source: found '', expected a format",
        ),
        (
            log(log_format={"text_format": "a", "omit_empty_values": True}),
            f"omit_empty_values: found True, {BEYOND}",
        ),
        (log(typed_json_format={"a": "b"}), f"typed_json_format: found a value, {BEYOND}"),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_refused(made: dict[str, Any], expected: str) -> None:
    text = manager_refusal(access_log=[log(), made]).removeprefix("access_log[1].")
    assert text.removeprefix("typed_config.").removeprefix("log_format.").startswith(expected)
