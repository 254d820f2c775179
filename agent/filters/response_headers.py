"""The fields of an answer on its way to the client.

Owns:   what ends here of a host's answer; server, date, x-envoy-upstream-service-time.
Not:    configured operations (header_operations), framing (agent.codec), Connection: close (agent.proxy.exchange).
Source: data-plane.md 1.9 and 2.2: server is overwritten (but for PASS_THROUGH), date is added where there is none.
"""

from datetime import UTC, datetime
from typing import Final

from agent.codec.head import ResponseHead
from agent.filters import hop_by_hop
from agent.filters.envoy_headers import SERVICE_TIME

SERVER: Final = b"server"
DATE: Final = b"date"
CONNECTION: Final = b"connection"
NO_CONTENT: Final = frozenset({204, 304})
_REPLACED: Final = hop_by_hop.RESPONSE_FIELDS | {SERVER, SERVICE_TIME}
_REPLACED_BUT_SERVER: Final = _REPLACED - {SERVER}


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(wall: float) -> bytes:
    """Seconds since the epoch as an IMF-fixdate, RFC 9110 5.6.7. In English, whatever the locale is."""
    at = datetime.fromtimestamp(wall, UTC)
    return f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at:%Y %H:%M:%S} GMT".encode()


def take_over(head: ResponseHead, keep_server: bool, service_time_ms: int) -> None:
    """Make a host's answer ours. `service_time_ms`: how long the host has taken, -1 = not told."""
    headers = head.headers
    replaced = _REPLACED_BUT_SERVER if keep_server else _REPLACED
    if not replaced.isdisjoint(headers.index):
        headers.remove_all(replaced if CONNECTION not in headers.index else hop_by_hop.dropped_from(head, replaced))
    if service_time_ms >= 0:
        headers.add(SERVICE_TIME, b"%d" % service_time_ms)


def frame_like_get(head: ResponseHead) -> None:
    """An answer to HEAD without length: GET's would come in chunks, and HEAD's says the same (as Envoy)."""
    if b"content-length" not in head.headers.index and head.status not in NO_CONTENT:
        head.headers.lines.append(b"transfer-encoding: chunked")


def finish(head: ResponseHead, server: bytes, date: bytes) -> None:
    """What every answer says, after all configured operations. `server` empty = the host's own passes."""
    headers = head.headers
    index = headers.index
    if server:
        if SERVER in index:
            headers.remove(SERVER)
        headers.add(SERVER, server)
    if DATE not in index:
        headers.add(DATE, date)
