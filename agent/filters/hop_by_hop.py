"""Fields that are for one connection only: they end here, in both directions.

Owns:   Connection and what it nominates, Keep-Alive, Proxy-Connection, TE, Upgrade, Transfer-Encoding.
Not:    framing (agent.codec writes it anew), whether an upgrade is allowed (agent.proxy.switched).
Source: RFC 9110 7.6.1 and 10.1.4; Envoy's sanitizeConnectionHeader; data-plane.md 1.9.
Differs: nominated fields are removed from answers too (Envoy leaves them).
Invariants: Host is never removed; a request whose Content-Length is nominated goes on in chunks, never without length.
"""

from typing import Final

from agent.codec.head import CHUNKED, NO_BODY, RequestHead, ResponseHead

REJECTED: Final = "http1.connection_header_rejected"
MAX_NOMINATED: Final = 10
FIELDS: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"})
RESPONSE_FIELDS: Final = FIELDS - {b"te"}
_NEVER_NOMINATED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})
# Methods whose requests say nothing when they have no body; all others say Content-Length: 0 (RFC 9110 8.6).
BODILESS: Final = frozenset({b"GET", b"HEAD", b"DELETE", b"TRACE", b"CONNECT"})
_KEPT: Final = frozenset({b"", b"host", b"close", b"keep-alive", b"te"})  # "te" is decided by its value


def _nominated(connection: bytes) -> list[bytes]:
    return [token.strip(b" \t").lower() for token in connection.split(b",")]


def strip_request(head: RequestHead, dropped: set[bytes]) -> str:
    """Add to `dropped` what has to go, in lower case; the caller removes it. Returns why the head is refused, or ""."""
    index = head.headers.index
    connection = index.get(b"connection")
    if connection is not None:
        names = _nominated(connection)
        if len(names) >= MAX_NOMINATED or any(name in _NEVER_NOMINATED or name[:1] == b":" for name in names):
            return REJECTED
        dropped.update(name for name in names if name not in _KEPT)
        if b"content-length" in dropped and b"content-length" in index:
            head.content_length = CHUNKED if index[b"content-length"] != b"0" else NO_BODY
    dropped |= FIELDS
    if b"te" in index and b"trailers" in _nominated(index[b"te"]):
        dropped.discard(b"te")
        if index[b"te"] != b"trailers":
            head.headers.set(b"te", b"trailers")
    return ""


def ask_for_upgrade(head: RequestHead) -> None:
    """The request goes on as one to switch protocols; its own Connection and Upgrade are gone."""
    head.headers.add(b"connection", b"Upgrade")
    head.headers.add(b"upgrade", head.upgrade)


def dropped_from(head: ResponseHead, always: frozenset[bytes]) -> frozenset[bytes]:
    """What goes from an answer that has a Connection field. A 101 keeps what says that protocols are switched."""
    nominated = _nominated(head.headers.index[b"connection"])
    dropped = always.union(name for name in nominated if name not in _KEPT and name != b"content-length")
    return dropped - {b"connection", b"upgrade"} if head.status == 101 else dropped
