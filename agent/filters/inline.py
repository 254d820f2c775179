"""The operators that nearly every log line has, as Python expressions: a line of them is then one function.

Owns:   how a JSON line's record is built from its format strings.
Not:    where the facts are found (agent.proxy.log_facts), what operators mean: each expression says the same as the
        function of its name in agent.filters.operators, which a test holds it to; all other operators are called.
Why:    a line of 27 operators is 27 calls otherwise, an eighth of the worker's time per request.
Differs: bytes that are not UTF-8 raise UnicodeDecodeError, and repeated fields are not looked at: for those requests
        the functions are called (access_log).
Invariant: nothing of a request is ever compiled; what a configuration gives is only put in as a quoted literal.
"""

import re
from collections.abc import Callable

from agent.filters.formats import value_format
from agent.filters.subject import Value

Facts = tuple[object, ...]  # of one subject, in the order of FACTS; gathering them raises UnicodeDecodeError
Record = Callable[..., dict[str, Value]]  # of Facts

_FIELD = re.compile(r"%(REQ|RESP)\((?!(?i:host)\))([^():?]+)\)%")
_CALL = "CALL"
_TEXT = "v.decode()"
# `v` is free; the other names are those of FACTS.
_EXPRESSIONS = {
    "%BYTES_RECEIVED%": "received",
    "%BYTES_SENT%": "sent",
    "%CONNECTION_TERMINATION_DETAILS%": "None",
    "%DOWNSTREAM_LOCAL_ADDRESS%": "local or None",
    "%DOWNSTREAM_REMOTE_ADDRESS%": "CALL if get(b'x-forwarded-for') is not None else peer or None",
    "%DOWNSTREAM_PEER_URI_SAN%": "','.join(sorted(uris)) if uris else None",
    "%DURATION%": "took_ms",
    "%PROTOCOL%": "'HTTP/1.1' if minor == 1 else 'HTTP/1.0' if minor == 0 else None",
    "%REQ(:AUTHORITY)%": "authority or None",
    "%REQ(:METHOD)%": "method or None",
    "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%": (
        "(v.decode() if (v := get(b'x-envoy-original-path')) is not None else path) or None"
    ),
    "%REQUESTED_SERVER_NAME%": "None",
    "%RESPONSE_CODE%": "status",
    "%RESPONSE_CODE_DETAILS%": "details or None",
    "%RESPONSE_FLAGS%": "flags or '-'",
    "%ROUTE_NAME%": "route or None",
    "%UPSTREAM_CLUSTER%": "cluster",
    "%UPSTREAM_HOST%": "host",
    "%UPSTREAM_LOCAL_ADDRESS%": "source or None",
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT%": "attempts",
    "%UPSTREAM_TRANSPORT_FAILURE_REASON%": "failure or None",
}
# `s` is the subject, `get` looks up a field of its head by lower-case name, `answer` one of the answer. They are
# gathered before, all at once: compiled code reads attributes at a fraction of what they cost the interpreter, which
# evaluates the expressions in both builds.
FACTS = (
    "s, get, answer, attempts, authority, cluster, details, failure, flags, host, local, method, minor, path, peer, "
    "received, route, sent, source, status, took_ms, uris"
)


def record_of(fields: tuple[tuple[str, str], ...]) -> Record:
    """A function that gives key -> value for (key, format string) pairs. Raises FormatError."""
    called = {f"f{place}": value_format(text) for place, (_, text) in enumerate(fields)}
    pairs = [f"{key!r}: {expression(text).replace(_CALL, f'f{place}(s)')}" for place, (key, text) in enumerate(fields)]
    record: Record = eval(f"lambda {FACTS}: {{{', '.join(pairs)}}}", called)
    return record


def expression(text: str) -> str:
    """What a format string says; _CALL in it stands for the call of its function."""
    found = _FIELD.fullmatch(text)
    if found is None:
        return _EXPRESSIONS.get(text, _CALL)
    name = found[2].lower().encode()
    if found[1] == "RESP":
        return f"{_TEXT} if answer is not None and (v := answer({name!r})) is not None else None"
    return f"{_TEXT} if (v := get({name!r})) is not None else None"
