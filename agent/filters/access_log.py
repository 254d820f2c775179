"""One line per request, compiled once from its configuration.

Owns:   the line's bytes, its newline included.
Not:    what the operators stand for (operators), files (agent.stats.access_log).
Source: envoy/config/core/v3/substitution_format_string.proto; data-plane.md 1.11.
"""

from collections.abc import Callable

import orjson

from agent.codec.head import RequestHead, ResponseHead
from agent.filters.formats import text_format, value_format
from agent.filters.inline import Facts, record_of
from agent.filters.repeated import is_plain
from agent.filters.subject import Subject, bytes_of, readable
from agent.model.listener import AccessLog

Line = Callable[[Subject], bytes]
FactsOf = Callable[[Subject], Facts]
DEFAULT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" '
    '"%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"\n'
)


def line_of(config: AccessLog, facts_of: FactsOf) -> Line:
    """The formatter that `config` asks for; `facts_of` gathers what a line is about.

    Raises FormatError that names the field.
    """
    return _json_line(config.json_fields, facts_of) if config.json_fields else _text_line(config.text_format or DEFAULT)


def _json_line(fields: tuple[tuple[str, str], ...], facts_of: FactsOf) -> Line:
    record = record_of(fields)
    called = [(key, value_format(text)) for key, text in fields]
    dumps, newline = orjson.dumps, orjson.OPT_APPEND_NEWLINE

    def line(subject: Subject) -> bytes:
        head: RequestHead = subject.head
        response: ResponseHead | None = subject.response
        if is_plain(head.headers) and (response is None or is_plain(response.headers)):
            try:
                return dumps(record(*facts_of(subject)), None, newline)
            except (UnicodeDecodeError, orjson.JSONEncodeError):
                pass  # a value that is no text
        return dumps({key: readable(form(subject)) for key, form in called}, None, newline)

    return line


def _text_line(text: str) -> Line:
    form = text_format(text)
    return lambda subject: bytes_of(form(subject))
