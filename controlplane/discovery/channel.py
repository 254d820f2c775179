"""The options of the gRPC servers that serve ADS.

Source: libraries.md E; control-plane.md 5, rule 26.
"""

# C-core refuses by the thousands when a whole fleet reconnects at once, unless told otherwise (libraries.md E).
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    # A dead peer is noticed within 50 s. The time-out is TCP_USER_TIMEOUT too: with 10 s the kernel cut off who was
    # slow to read a change of every cluster, long before the `send_timeout_s` of streams.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)
# Of a stream's age limit: the connection is told to take no new streams (GOAWAY; C-core spreads it by 10 %) before the
# stream ends, so that the next one makes a new connection, which a load balancer may give to another replica.
_CONNECTION_SHARE = 0.8


def server_options(max_stream_age_s: float = 0.0) -> tuple[tuple[str, int], ...]:
    """The options of a server that serves ADS. A connection's other streams may stay on it as long as they like."""
    if not max_stream_age_s:
        return SERVER_OPTIONS
    return (*SERVER_OPTIONS, ("grpc.max_connection_age_ms", int(max_stream_age_s * _CONNECTION_SHARE * 1000)))
