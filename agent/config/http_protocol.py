"""Options of HTTP/1.1 on both sides. Source: envoy/config/core/v3/protocol.proto.

Not refused, since it cannot make a difference here: accept_http_10 (the agent always takes HTTP/1.0),
use_balsa_parser (there is one parser), a header_key_format that keeps the case (the agent always does).
"""

from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions

from agent.config.fields import beyond, only, type_of, value_or, within

_PRESERVE_CASE = "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
_KNOWN = frozenset({"allow_absolute_url", "accept_http_10", "use_balsa_parser", "header_key_format"})
_OFF = frozenset({"override_stream_error_on_invalid_http_message"})


def check_http1(message: Http1ProtocolOptions, path: str) -> None:
    """Refuse what changes how HTTP/1.1 is read or written."""
    only(message, path, _KNOWN, _OFF)
    if not value_or(message, "allow_absolute_url", True):
        raise beyond(within(path, "allow_absolute_url"), "False", "True")
    if message.HasField("header_key_format"):
        own = within(path, "header_key_format")
        only(message.header_key_format, own, frozenset({"stateful_formatter"}))
        formatter = type_of(message.header_key_format.stateful_formatter.typed_config)
        if formatter != _PRESERVE_CASE:
            raise beyond(own, formatter or "no formatter", _PRESERVE_CASE)
