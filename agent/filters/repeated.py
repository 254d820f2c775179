"""The one value of a field that may have come in several lines, as operators show it.

Source: Envoy's header map: fields that it knows (its inline headers) are one line with a comma, of all others the first
        line counts. Recorded from Envoy 1.40.
"""

from agent.codec.head import Headers, may_be_joined, values_of

_BOTH = frozenset({b"cache-control", b"content-encoding", b"content-type", b"via", b"x-request-id"})
OF_REQUESTS = _BOTH | {
    b"accept", b"accept-encoding", b"access-control-request-headers", b"access-control-request-method",
    b"authorization", b"expect", b"grpc-accept-encoding", b"grpc-timeout", b"if-match", b"if-modified-since",
    b"if-none-match", b"if-range", b"if-unmodified-since", b"origin", b"pragma", b"referer", b"user-agent",
    b"x-client-trace-id", b"x-envoy-original-path", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port",
    b"x-forwarded-proto",
}  # fmt: skip
OF_ANSWERS = _BOTH | {
    b"access-control-allow-credentials", b"access-control-allow-headers", b"access-control-allow-methods",
    b"access-control-allow-origin", b"access-control-expose-headers", b"access-control-max-age", b"age", b"date",
    b"etag", b"expires", b"grpc-message", b"grpc-status", b"last-modified", b"location", b"server", b"vary",
}  # fmt: skip


def shown(headers: Headers, lower: bytes, joined: frozenset[bytes] = OF_REQUESTS) -> bytes | None:
    """The value by lower-case name, None when there is no such field. `joined`: the names whose lines are."""
    value = headers.index.get(lower)
    if value is None or not may_be_joined(value):
        return value
    values = values_of(headers, lower)
    if len(values) < 2:
        return value
    return b",".join(values) if lower in joined else values[0]


def is_plain(headers: Headers) -> bool:
    """No field has come twice: the index says what `shown` says."""
    return len(headers.lines) == len(headers.index)
