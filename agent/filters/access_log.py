"""One line per request, compiled once from its configuration.

Owns:   the line's bytes, its newline included.
Not:    what the operators stand for (operators), files (agent.stats.access_log).
Source: envoy/config/core/v3/substitution_format_string.proto; data-plane.md 1.11.
"""

from collections.abc import Callable

import orjson

from agent.filters.formats import text_format
from agent.filters.inline import record_of
from agent.filters.operators import Subject
from agent.model.listener import AccessLog

Line = Callable[[Subject], bytes]
DEFAULT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" '
    '"%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"\n'
)


def line_of(config: AccessLog) -> Line:
    """The formatter that `config` asks for. Raises FormatError that names the field."""
    return _json_line(config.json_fields) if config.json_fields else _text_line(config.text_format or DEFAULT)


def _json_line(fields: tuple[tuple[str, str], ...]) -> Line:
    record = record_of(fields)
    dumps, newline = orjson.dumps, orjson.OPT_APPEND_NEWLINE

    def line(subject: Subject) -> bytes:
        head = subject.head
        return dumps(record(subject, head, head.headers.index.get), None, newline)

    return line


def _text_line(text: str) -> Line:
    form = text_format(text)
    return lambda subject: form(subject).encode("utf-8", "replace")
