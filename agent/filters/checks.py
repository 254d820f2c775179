"""What an authorization service over gRPC is shown of a request, and what its answer changes.

Owns:   the header fields that it sees; its changes of headers and query, and which of them nobody can make.
Not:    asking (agent.proxy.ext_authz_grpc, agent.supervisor.authorizers), services over HTTP (ext_authz).
Source: envoy/service/auth/v3/external_auth.proto; Envoy's check_request_utils.cc and ext_authz.cc.
Differs: fields that frame the message or belong to its connection cannot be changed: the codec writes those.
"""

import re
from typing import Final

from agent.codec.head import Headers, RequestHead, ResponseHead, name_of, value_of
from agent.codec.plain import AUTHORITY
from agent.filters.ext_authz import PARTIAL_BODY, Fields, Selection
from agent.filters.header_operations import is_field
from agent.filters.hop_by_hop import FIELDS
from agent.model.ext_authz import Change, CheckAnswer, ExternalAuthorization, HeaderChange

_HOST: Final = b"host"
_EXPECT: Final = b"expect"  # of an interim answer: we give it
_FRAMING: Final = FIELDS | {b"content-length", _EXPECT, b"trailer"}
_PATH: Final = re.compile(rb"/[!\"$-~]*|\*")
_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMED: Final = frozenset({b"HEAD", b"CONNECT"})  # the client would read another answer than the host gives
# What Envoy takes for encoded parts of a query when it validates, and what can be sent at all.
_ENCODED: Final = re.compile(rb"[A-Za-z0-9*._-]*")
_QUERY: Final = re.compile(rb"[A-Za-z0-9._~!$'()*+,;:@/?%-]*")
_TO_ABSENT: Final = frozenset({Change.ADD, Change.ADD_IF_ABSENT, Change.SET})
_PSEUDO: Final = {b":authority": _HOST}


class Shown:
    """The fields of one filter's questions."""

    __slots__ = ("_all", "_hidden", "_shown")

    def __init__(self, config: ExternalAuthorization) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self._all = config.request_headers is None
        self._shown = Selection(config.request_headers or ())
        self._hidden = Selection(config.disallowed_headers)

    def fields(self, request: RequestHead, partial: bytes) -> Fields:
        """Each lower-case name once, several lines of it joined; the parts of the start line as HTTP/2 names them.

        `partial`: whether the body that is shown is not all of it, as the service is told; b"" = none is shown.
        """
        found: dict[bytes, bytes] = {}
        pseudo = (
            (b":authority", request.authority),
            (b":path", request.path),
            (b":method", request.method),
            (b":scheme", request.scheme),
        )
        for name, value in (*pseudo, *((name_of(line), value_of(line)) for line in request.headers.lines)):
            if name in (_HOST, PARTIAL_BODY) or (name == _EXPECT and request.expect_continue):
                continue
            if self._shows(name):
                found[name] = found[name] + b"," + value if name in found else value
        if partial:
            found[PARTIAL_BODY] = partial
        return tuple(found.items())

    def _shows(self, name: bytes) -> bool:
        return (self._all or self._shown.has(name)) and not self._hidden.has(name)


def change_request(
    request: RequestHead, answer: CheckAnswer, max_fields: int, max_bytes: int, *, strict: bool
) -> bool:  # fmt: skip
    """Change the request as an answer that allows it says. False: that cannot be done; the request must not go on.

    What is set is set before what is joined to it. `strict`: as Envoy validates.
    """
    headers = request.headers
    joined = [change for change in answer.request if change.change is Change.JOIN]
    for change in (*(one for one in answer.request if one.change is not Change.JOIN), *joined):
        if not _change(request, change):
            return False
    for name in answer.removed:
        lower = name.lower()
        if lower != _HOST and lower not in _FRAMING:
            headers.remove(lower)
    if answer.query or answer.query_removed:
        sendable = _ENCODED if strict else _QUERY
        if not all(sendable.fullmatch(part) for pair in answer.query for part in pair):
            return False
        request.path = with_query(request.path, answer.query, answer.query_removed)
    return len(headers.lines) <= max_fields and sum(map(len, headers.lines)) + len(request.path) <= max_bytes


def is_sound(change: HeaderChange) -> bool:
    """Whether it can be sent at all."""
    return is_field(change.name, change.value)


def _change(request: RequestHead, change: HeaderChange) -> bool:
    name, value = change.name.lower(), change.value
    match _PSEUDO.get(name, name):
        case b"host":
            if not AUTHORITY.fullmatch(value):
                return False
            request.authority = value
            request.headers.set(_HOST, value)
        case b":path":
            if not _PATH.fullmatch(value):
                return False
            request.path = value
        case b":method":
            if value != request.method and not _METHOD.fullmatch(value):
                return False
            if value != request.method and (value in _FRAMED or request.method in _FRAMED):
                return False
            request.method = value
        case b":scheme":
            if value.lower() not in (b"http", b"https"):
                return False
            request.scheme = value.lower()
        case _:
            if not is_sound(change):
                return False
            if name not in _FRAMING:
                apply(request.headers, name, change)
    return True


def apply(headers: Headers, lower: bytes, change: HeaderChange) -> None:
    """Set or add one field."""
    before, kind = headers.index.get(lower), change.change
    if before is None:
        if kind in _TO_ABSENT:
            headers.add(lower, change.value)
    elif kind is Change.ADD:
        headers.append(lower, change.value)
    elif kind is Change.JOIN:
        headers.set(lower, before + b"," + change.value)
    elif kind is not Change.ADD_IF_ABSENT:
        headers.set(lower, change.value)


def change_answer(head: ResponseHead, changes: tuple[HeaderChange, ...]) -> None:
    """Change an answer to the client as an answer that allows its request says."""
    for change in changes:
        lower = change.name.lower()
        if lower not in _FRAMING:
            apply(head.headers, lower, change)


def denial_fields(changes: tuple[HeaderChange, ...]) -> Fields:
    """The fields of an answer that denies. As in Envoy, all that are not joined to others are new."""
    kept = (change for change in changes if change.change is not Change.JOIN)
    return tuple((one.name.lower(), one.value) for one in kept if one.name.lower() not in _FRAMING)


def with_query(path: bytes, changes: Fields, removed: tuple[bytes, ...]) -> bytes:
    """A path whose query has these parameters and not those. As Envoy writes it: sorted by name."""
    plain, _, query = path.partition(b"?")
    found: dict[bytes, list[bytes]] = {}
    for part in query.split(b"&") if query else ():
        name, _, value = part.partition(b"=")
        found.setdefault(name, []).append(value)
    for name, value in changes:
        found[name] = [value]
    for name in removed:
        found.pop(name, None)
    written = b"&".join(b"%b=%b" % (name, value) for name in sorted(found) for value in found[name])
    return plain + b"?" + written if written else plain
