"""Operators that show fields of the request or answer, its path and query, and gRPC's status.

Source: Envoy access_log/usage; data-plane.md 1.11.
"""

import re
from collections.abc import Callable

from agent.codec.head import RequestHead
from agent.filters.local_replies import is_grpc
from agent.filters.repeated import OF_ANSWERS, shown
from agent.filters.subject import FormatError, Operator, Subject, Value, text_of
from agent.router.matchers import header_value, query_parameters

_PSEUDO = frozenset({b":method", b":path", b":authority", b":scheme", b"host"})
_GRPC_CODES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
    "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip
_ORIGINAL_PATH = b"x-envoy-original-path"


def _names(argument: str, operator_name: str) -> tuple[bytes, bytes]:
    first, mark, other = argument.lower().partition("?")
    if not first or (mark and not other):
        raise FormatError(f"found %{operator_name}({argument})%, expected a field's name, or two with ? between them")
    return first.encode(), other.encode()


def _of_request(head: RequestHead, name: bytes) -> bytes | None:
    return header_value(head, name) if name in _PSEUDO else shown(head.headers, name)


def _request_field(argument: str) -> Operator:
    first, other = _names(argument, "REQ")
    if not other and first not in _PSEUDO:

        def plain(subject: Subject) -> Value:
            return text_of(shown(subject.head.headers, first))

        return plain

    def either(subject: Subject) -> Value:
        value = _of_request(subject.head, first)
        if value is None and other:
            value = _of_request(subject.head, other)
        # A request that could not be read has no method, path or authority.
        return text_of(value or None)

    return either


def _response_field(argument: str) -> Operator:
    first, other = _names(argument, "RESP")

    def field(subject: Subject) -> Value:
        response = subject.response
        if response is None:
            return None
        value = shown(response.headers, first, OF_ANSWERS)
        if value is None and other:
            value = shown(response.headers, other, OF_ANSWERS)
        return text_of(value)

    return field


def _trailer(argument: str) -> Operator:
    _names(argument, "TRAILER")
    return lambda subject: None  # trailers of HTTP/1 end at the agent


# --- the target -------------------------------------------------------------------------------------------------------


def _query_parameter(argument: str) -> Operator:
    name = argument.encode()
    return lambda subject: text_of(query_parameters(subject.head.path).get(name))


def _path(argument: str) -> Operator:
    """`WQ` or `NQ`: with the query or without; `PATH`: as it is now, `ORIG`: as it came if that is known."""
    query, _, which = argument.partition(":")
    if query not in ("", "WQ", "NQ") or which not in ("", "ORIG", "PATH", "ORIG_OR_PATH"):
        raise FormatError(f"found %PATH({argument})%, expected WQ or NQ, then nothing, :ORIG, :PATH or :ORIG_OR_PATH")

    def path(subject: Subject) -> Value:
        head = subject.head
        value = None if which == "PATH" else shown(head.headers, _ORIGINAL_PATH)
        if value is None and which != "ORIG":
            value = head.path
        if value and query == "NQ":
            value = value.partition(b"?")[0]
        return text_of(value or None)

    return path


def query_string(subject: Subject) -> Value:
    """What stands behind the question mark, None when there is none."""
    _, mark, query = subject.head.path.partition(b"?")
    return text_of(query) if mark else None


# --- gRPC -------------------------------------------------------------------------------------------------------------


def _grpc_code(subject: Subject) -> int | None:
    response = subject.response if is_grpc(subject.head) else None
    value = shown(response.headers, b"grpc-status", OF_ANSWERS) if response is not None else None
    return int(value[:9]) if value is not None and value.isdigit() else None


def _grpc_status(argument: str) -> Operator:
    if argument not in ("", "CAMEL_STRING", "SNAKE_STRING", "NUMBER"):
        raise FormatError(f"found %GRPC_STATUS({argument})%, expected CAMEL_STRING, SNAKE_STRING or NUMBER")
    if argument == "NUMBER":
        return _grpc_code

    def status(subject: Subject) -> Value:
        code = _grpc_code(subject)
        if code is None or code >= len(_GRPC_CODES):
            return code
        name = _GRPC_CODES[code]
        return name if argument != "SNAKE_STRING" else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()

    return status


PLAIN: dict[str, Operator] = {"GRPC_STATUS_NUMBER": _grpc_code, "QUERY_PARAMS": query_string}
WITH_ARGUMENT: dict[str, Callable[[str], Operator]] = {
    "GRPC_STATUS": _grpc_status,
    "PATH": _path,
    "QUERY_PARAM": _query_parameter,
    "REQ": _request_field,
    "RESP": _response_field,
    "TRAILER": _trailer,
}
