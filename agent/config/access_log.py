"""Access logs: lines of text or JSON into a file.

Source: envoy/extensions/access_loggers/file/v3, substitution_format_string.proto.
Differs: JSON keys are in alphabetical order, since the wire does not order them.
"""

from collections.abc import Iterable

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog as LogMessage
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from google.protobuf.struct_pb2 import Struct

from agent.config import rules
from agent.config.fields import beyond, item, only, refuse, type_of, unpacked, within
from agent.config.formats import format_string
from agent.model.listener import AccessLog

_FORMAT = frozenset({"text_format", "text_format_source", "json_format", "content_type", "json_format_options"})


def access_logs(messages: Iterable[LogMessage], path: str, name: str = "access_log") -> tuple[AccessLog, ...]:
    """All loggers of a filter."""
    return tuple(_access_log(message, item(path, name, index)) for index, message in enumerate(messages))


def _access_log(message: LogMessage, path: str) -> AccessLog:
    only(message, path, frozenset({"name", "typed_config"}))
    own = within(path, "typed_config")
    kind = type_of(message.typed_config)
    if kind != FileAccessLog.DESCRIPTOR.full_name:
        raise beyond(own, kind or "no logger", FileAccessLog.DESCRIPTOR.full_name)
    file = unpacked(message.typed_config, FileAccessLog, own)
    rules.check(file, own)
    return _formatted(file, own)


def _formatted(message: FileAccessLog, path: str) -> AccessLog:
    only(message, path, frozenset({"path", "log_format"}))
    if not message.HasField("log_format"):
        return AccessLog(path=message.path)  # Envoy's default format
    log_format, own = message.log_format, within(path, "log_format")
    only(log_format, own, _FORMAT)
    if log_format.WhichOneof("format") == "json_format":
        return AccessLog(path=message.path, json_fields=_json(log_format.json_format, within(own, "json_format")))
    return AccessLog(path=message.path, text_format=_text(log_format, own))


def _text(message: SubstitutionFormatString, path: str) -> str:
    text, own = message.text_format, within(path, "text_format")
    if message.WhichOneof("format") == "text_format_source":
        source, own = message.text_format_source, within(path, "text_format_source")
        if source.WhichOneof("specifier") != "inline_string":
            raise beyond(own, str(source.WhichOneof("specifier")), "inline_string")
        text = source.inline_string
    if not text:
        raise refuse(own, text, "a format")
    return format_string(text, own)


def _json(fields: Struct, path: str) -> tuple[tuple[str, str], ...]:
    found = []
    for key in sorted(fields.fields):
        value, own = fields.fields[key], f'{path}["{key}"]'
        if value.WhichOneof("kind") != "string_value":
            raise refuse(own, value.WhichOneof("kind"), "a string")
        found.append((key, format_string(value.string_value, own)))
    if not found:
        raise refuse(path, {}, "at least one key")
    return tuple(found)
