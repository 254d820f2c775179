"""Options of HTTP/1.1, which both sides have."""

from typing import Any

import pytest

from tests.support.decoding import manager_refusal, manager_value

FORMATTERS = "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3"
BEYOND = "expected it unset: the agent does not enforce it"


@pytest.mark.parametrize(
    "options",
    [
        {"allow_absolute_url": True, "accept_http_10": True},
        {"override_stream_error_on_invalid_http_message": False},
    ],
    ids=str,
)
def test_what_makes_no_difference(options: dict[str, Any]) -> None:
    assert manager_value(http_protocol_options=options) == manager_value()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"allow_absolute_url": False},
            "allow_absolute_url: found False, expected True: the agent does not enforce it",
        ),
        ({"enable_trailers": True}, f"enable_trailers: found True, {BEYOND}"),
        ({"allow_chunked_length": True}, f"allow_chunked_length: found True, {BEYOND}"),
        ({"default_host_for_http_10": "h"}, f"default_host_for_http_10: found 'h', {BEYOND}"),
        (
            {"header_key_format": {"proper_case_words": {}}},
            f"header_key_format.proper_case_words: found a value, {BEYOND}",
        ),
        ({"header_key_format": {}}, "header_key_format.header_format: found none, expected one of proper_case_words, "),
        (
            {"override_stream_error_on_invalid_http_message": True},
            f"override_stream_error_on_invalid_http_message: found True, {BEYOND}",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(options: dict[str, Any], expected: str) -> None:
    assert manager_refusal(http_protocol_options=options).startswith(f"http_protocol_options.{expected}")
