"""What of a request is hashed to choose its host, and the cookie that makes a client come back to one.

Owns:   the hash of each kind of policy, how several make one, the cookie for a client that has none.
Not:    hosts (agent.cluster.hashing), which clusters hash.
Source: Envoy's http/hash_policy.cc and thread_aware_lb_impl.cc: each value by xxHash64, and then
        hash = (hash rotated by 1) ^ next. Lines of a repeated field are hashed in the order of their bytes, each with
        the hash so far as its seed.
Invariant: the hash is Envoy's for the same request; a made cookie is the same for all requests of a connection.
"""

from collections.abc import Callable, Sequence
from typing import Any

from agent.codec.head import Headers, RequestHead, may_be_joined, values_of
from agent.filters.address_operators import downstream_address, downstream_host
from agent.filters.subject import Subject
from agent.model.route import HashKind, HashPolicy
from agent.router.matchers import header_value, query_parameters
from agent.router.xxhash64 import xxh64

_COOKIE = b"cookie"
_ALL = 0xFFFFFFFFFFFFFFFF
_Hash = Callable[[Subject], int | None]


class HashPolicies:
    """Those of a route, one at least. `gives_cookies`: a client without its cookie may get one."""

    __slots__ = ("_made", "_parts", "gives_cookies")

    def __init__(self, policies: Sequence[HashPolicy]) -> None:
        self._parts = [(_hasher(policy), policy.terminal) for policy in policies]
        self._made = [policy for policy in policies if policy.ttl_s is not None]
        self.gives_cookies = bool(self._made)

    def hash_of(self, subject: Subject) -> int | None:
        """0 to 2**64 - 1; None when the request has nothing that is hashed."""
        found: int | None = None
        for hasher, terminal in self._parts:
            own = hasher(subject)
            if own is not None:
                found = own if found is None else (found << 1 & _ALL | found >> 63) ^ own
            if terminal and found is not None:
                break
        return found

    def cookie_for(self, subject: Subject) -> bytes:
        """The set-cookie field for a client that lacks what is hashed, or b"". Of several the last one."""
        for policy in reversed(self._made):
            if not cookie_value(subject.head.headers, policy.name.encode()):
                return _set_cookie(policy, _made_value(subject))
        return b""


def _hasher(policy: HashPolicy) -> _Hash:
    name = policy.name.encode()
    match policy.kind:
        case HashKind.HEADER:
            return lambda subject: _of_header(subject.head, name)
        case HashKind.COOKIE:
            return lambda subject: _of_cookie(subject, name, policy.ttl_s is not None)
        case HashKind.QUERY_PARAMETER:
            return lambda subject: _of(query_parameters(subject.head.path).get(name))
        case HashKind.SOURCE_IP:
            return _of_source


def _of(value: bytes | None) -> int | None:
    return xxh64(value) if value is not None else None


def _of_header(head: RequestHead, name: bytes) -> int | None:
    value = header_value(head, name)
    if value is not None and may_be_joined(value):
        values = values_of(head.headers, name)
        if len(values) > 1:
            return _of_lines(sorted(values))
    return _of(value)


def _of_lines(values: Sequence[bytes]) -> int:
    found = 0
    for value in values:
        found = xxh64(value, found)
    return found


def _of_cookie(subject: Subject, name: bytes, makes: bool) -> int | None:
    value = cookie_value(subject.head.headers, name)
    if not value and not makes:
        return None
    return xxh64(value or _made_value(subject))


def _of_source(subject: Subject) -> int | None:
    host = downstream_host(subject)
    return xxh64(host.encode()) if host else None


# --- cookies ----------------------------------------------------------------------------------------------------------


def cookie_value(headers: Headers, name: bytes) -> bytes:
    """The value of a cookie of the request, without quotes; b"" when it is missing."""
    for pair in headers.index.get(_COOKIE, b"").split(b";"):
        own, mark, value = pair.lstrip(b" ").partition(b"=")
        if mark and own == name:
            quoted = len(value) >= 2 and value[:1] == value[-1:] == b'"'
            return value[1:-1] if quoted else value
    return b""


def _made_value(subject: Any) -> bytes:
    connection = subject.connection
    return b"%016x" % xxh64(f"{downstream_address(subject)}{connection.local_address}".encode())


def _set_cookie(policy: HashPolicy, value: bytes) -> bytes:
    made = b'%b="%b"' % (policy.name.encode(), value)
    if policy.ttl_s:
        made += b"; Max-Age=%d" % policy.ttl_s
    if policy.path:
        made += b"; Path=" + policy.path.encode()
    for name, attribute in policy.attributes:
        made += f"; {name}={attribute}".encode() if attribute else f"; {name}".encode()
    return made + b"; HttpOnly"
