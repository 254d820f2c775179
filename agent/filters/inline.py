"""The operators that nearly every log line has, as Python expressions: a line of them is then one function.

Owns:   how a JSON line's record is built from its format strings.
Not:    what operators mean: each expression says the same as the function of its name in agent.filters.operators,
        which a test holds it to; all other operators are called.
Why:    a line of 27 operators is 27 calls otherwise, an eighth of the worker's time per request.
Differs: bytes that are not UTF-8 raise UnicodeDecodeError, and repeated fields are not looked at: for those requests
        the functions are called (access_log).
Invariant: nothing of a request is ever compiled; what a configuration gives is only put in as a quoted literal.
"""

import re
from collections.abc import Callable
from typing import Any

from agent.filters.formats import value_format
from agent.filters.subject import Subject, Value

Record = Callable[[Subject, Any, Any], dict[str, Value]]  # of the request, its head, and `get` of the head's index

_FIELD = re.compile(r"%(REQ|RESP)\((?!(?i:host)\))([^():?]+)\)%")
_CALL = "CALL"
_TEXT = "v.decode()"
# `s` is the request, `head` its head, `get` looks a field up by lower-case name, `v` and `r` are free.
_EXPRESSIONS = {
    "%BYTES_RECEIVED%": "s.received_bytes",
    "%BYTES_SENT%": "s.sent_bytes",
    "%CONNECTION_TERMINATION_DETAILS%": "None",
    "%DOWNSTREAM_LOCAL_ADDRESS%": "s.connection.local_address or None",
    "%DOWNSTREAM_REMOTE_ADDRESS%": "CALL if get(b'x-forwarded-for') is not None else s.connection.peer_address or None",
    "%DOWNSTREAM_PEER_URI_SAN%": "','.join(sorted(v)) if (v := s.connection.peer_uris) else None",
    "%DURATION%": "int((s.ended - s.started) * 1000) if s.started and s.ended else None",
    "%PROTOCOL%": "'HTTP/1.1' if (v := head.version_minor) == 1 else 'HTTP/1.0' if v == 0 else None",
    "%REQ(:AUTHORITY)%": "head.authority.decode() or None",
    "%REQ(:METHOD)%": "head.method.decode() or None",
    "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%": (
        "(v if (v := get(b'x-envoy-original-path')) is not None else head.path).decode() or None"
    ),
    "%REQUESTED_SERVER_NAME%": "None",
    "%RESPONSE_CODE%": "s.status",
    "%RESPONSE_CODE_DETAILS%": "s.details or None",
    "%RESPONSE_FLAGS%": "s.flags or '-'",
    "%ROUTE_NAME%": "v.route.name or None if (v := s.match) is not None else None",
    "%UPSTREAM_CLUSTER%": "v.cluster if (v := s.choice) is not None else None",
    "%UPSTREAM_HOST%": "v.key if (v := s.host) is not None else None",
    "%UPSTREAM_LOCAL_ADDRESS%": "v.local_address or None if (v := s.carrier) is not None else None",
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT%": "s.attempts",
    "%UPSTREAM_TRANSPORT_FAILURE_REASON%": "s.transport_failure or None",
}


def record_of(fields: tuple[tuple[str, str], ...]) -> Record:
    """A function that gives key -> value for (key, format string) pairs. Raises FormatError."""
    called = {f"f{place}": value_format(text) for place, (_, text) in enumerate(fields)}
    pairs = [f"{key!r}: {expression(text).replace(_CALL, f'f{place}(s)')}" for place, (key, text) in enumerate(fields)]
    record: Record = eval(f"lambda s, head, get: {{{', '.join(pairs)}}}", called)
    return record


def expression(text: str) -> str:
    """What a format string says; _CALL in it stands for the call of its function."""
    found = _FIELD.fullmatch(text)
    if found is None:
        return _EXPRESSIONS.get(text, _CALL)
    name = found[2].lower().encode()
    if found[1] == "RESP":
        value = f"({_TEXT} if (v := r.headers.index.get({name!r})) is not None else None)"
        return f"{value} if (r := s.response) is not None else None"
    return f"{_TEXT} if (v := get({name!r})) is not None else None"
