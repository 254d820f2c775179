"""Envoy's names for what we count, and their places in a group's list.

Source: Envoy's cluster_stats, http_conn_man/stats and listeners/stats; data-plane.md 1.11. A ":" in a name part is "_".
"""

from agent.stats.groups import Group, Layout

_CLUSTER = (
    "upstream_cx_total",
    "upstream_cx_active",
    "upstream_cx_connect_fail",
    "upstream_cx_connect_timeout",
    "upstream_cx_overflow",
    "upstream_cx_idle_timeout",
    "upstream_cx_max_requests",
    "upstream_cx_protocol_error",
    "upstream_cx_destroy",
    "upstream_cx_rx_bytes_total",
    "upstream_cx_tx_bytes_total",
    "upstream_rq_total",
    "upstream_rq_active",
    "upstream_rq_pending_total",
    "upstream_rq_pending_active",
    "upstream_rq_pending_overflow",
    "upstream_rq_pending_failure_eject",
    "upstream_rq_cancelled",
    "upstream_rq_timeout",
    "upstream_rq_per_try_timeout",
    "upstream_rq_rx_reset",
    "upstream_rq_tx_reset",
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_retry_overflow",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_backoff_exponential",
    "upstream_cx_none_healthy",
    "lb_healthy_panic",
    "ssl.handshake",
    "ssl.connection_error",
    "ssl.fail_verify_san",
    "ssl.session_reused",
    "upstream_rq_active_overflow",
    "retry_or_shadow_abandoned",
    "upstream_rq_retry_backoff_ratelimited",
    "upstream_rq_per_try_idle_timeout",
)
(
    CX_TOTAL,
    CX_ACTIVE,
    CX_CONNECT_FAIL,
    CX_CONNECT_TIMEOUT,
    CX_OVERFLOW,
    CX_IDLE_TIMEOUT,
    CX_MAX_REQUESTS,
    CX_PROTOCOL_ERROR,
    CX_DESTROY,
    CX_RX_BYTES,
    CX_TX_BYTES,
    RQ_TOTAL,
    RQ_ACTIVE,
    RQ_PENDING_TOTAL,
    RQ_PENDING_ACTIVE,
    RQ_PENDING_OVERFLOW,
    RQ_PENDING_FAILURE_EJECT,
    RQ_CANCELLED,
    RQ_TIMEOUT,
    RQ_PER_TRY_TIMEOUT,
    RQ_RX_RESET,
    RQ_TX_RESET,
    RQ_RETRY,
    RQ_RETRY_SUCCESS,
    RQ_RETRY_OVERFLOW,
    RQ_RETRY_LIMIT_EXCEEDED,
    RQ_RETRY_BACKOFF,
    CX_NONE_HEALTHY,
    LB_HEALTHY_PANIC,
    SSL_HANDSHAKE,
    SSL_CONNECTION_ERROR,
    SSL_FAIL_VERIFY_SAN,
    SSL_SESSION_REUSED,
    RQ_ACTIVE_OVERFLOW,
    RETRY_OR_SHADOW_ABANDONED,
    RQ_RETRY_BACKOFF_RATELIMITED,
    RQ_PER_TRY_IDLE_TIMEOUT,
) = range(len(_CLUSTER))
RQ_TIME, CX_CONNECT_MS = range(2)  # places in `histograms`
CLUSTER = Layout(
    _CLUSTER,
    gauges=frozenset({CX_ACTIVE, RQ_ACTIVE, RQ_PENDING_ACTIVE}),
    histograms=("upstream_rq_time", "upstream_cx_connect_ms"),
    codes="upstream_rq_",
    single_codes=True,
    completed=True,
)

_HTTP = (
    "downstream_cx_total",
    "downstream_cx_active",
    "downstream_cx_destroy_remote_active_rq",
    "downstream_cx_protocol_error",
    "downstream_cx_idle_timeout",
    "downstream_cx_drain_close",
    "downstream_cx_upgrades_total",
    "downstream_cx_rx_bytes_total",
    "downstream_cx_tx_bytes_total",
    "downstream_rq_total",
    "downstream_rq_active",
    "downstream_rq_http1_total",
    "downstream_rq_idle_timeout",
    "downstream_rq_timeout",
    "downstream_rq_header_timeout",
    "downstream_rq_max_duration_reached",
    "downstream_rq_too_large",
    "downstream_rq_rx_reset",
    "downstream_rq_ws_on_non_ws_route",
    "downstream_flow_control_paused_reading_total",
    "no_route",
    "no_cluster",
    "rq_direct_response",
    "rq_redirect",
    "rq_total",
)
(
    DOWN_CX_TOTAL,
    DOWN_CX_ACTIVE,
    DOWN_CX_DESTROY_REMOTE_ACTIVE_RQ,
    DOWN_CX_PROTOCOL_ERROR,
    DOWN_CX_IDLE_TIMEOUT,
    DOWN_CX_DRAIN_CLOSE,
    DOWN_CX_UPGRADES,
    DOWN_CX_RX_BYTES,
    DOWN_CX_TX_BYTES,
    DOWN_RQ_TOTAL,
    DOWN_RQ_ACTIVE,
    DOWN_RQ_HTTP1_TOTAL,
    DOWN_RQ_IDLE_TIMEOUT,
    DOWN_RQ_TIMEOUT,
    DOWN_RQ_HEADER_TIMEOUT,
    DOWN_RQ_MAX_DURATION,
    DOWN_RQ_TOO_LARGE,
    DOWN_RQ_RX_RESET,
    DOWN_RQ_UPGRADE_REFUSED,
    DOWN_PAUSED_READING,
    NO_ROUTE,
    NO_CLUSTER,
    RQ_DIRECT_RESPONSE,
    RQ_REDIRECT,
    HTTP_RQ_TOTAL,
) = range(len(_HTTP))
DOWN_RQ_TIME = 0
HTTP = Layout(
    _HTTP,
    gauges=frozenset({DOWN_CX_ACTIVE, DOWN_RQ_ACTIVE}),
    histograms=("downstream_rq_time",),
    codes="downstream_rq_",
    completed=True,
)

_FAULT = ("aborts_injected", "delays_injected", "faults_overflow", "response_rl_injected", "active_faults")
FAULT_ABORTS, FAULT_DELAYS, FAULT_OVERFLOW, FAULT_RATE_LIMITS, FAULT_ACTIVE = range(len(_FAULT))
FAULT = Layout(_FAULT, gauges=frozenset({FAULT_ACTIVE}))

_CORS = ("origin_valid", "origin_invalid")
CORS_VALID, CORS_INVALID = range(len(_CORS))
CORS = Layout(_CORS)

_TCP = (
    "downstream_cx_total",
    "downstream_cx_no_route",
    "downstream_cx_rx_bytes_total",
    "downstream_cx_tx_bytes_total",
    "downstream_flow_control_paused_reading_total",
    "idle_timeout",
)
TCP_CX_TOTAL, TCP_NO_ROUTE, TCP_RX_BYTES, TCP_TX_BYTES, TCP_PAUSED_READING, TCP_IDLE_TIMEOUT = range(len(_TCP))
TCP = Layout(_TCP)

_LISTENER = (
    "downstream_cx_total",
    "downstream_cx_active",
    "downstream_cx_destroy",
    "downstream_cx_overflow",
    "no_filter_chain_match",
    "downstream_listener_filter_timeout",
    "ssl.handshake",
    "ssl.connection_error",
    "ssl.fail_verify_no_cert",
    "ssl.fail_verify_error",
    "ssl.fail_verify_san",
    "ssl.session_reused",
)
(
    LISTENER_CX_TOTAL,
    LISTENER_CX_ACTIVE,
    LISTENER_CX_DESTROY,
    LISTENER_CX_OVERFLOW,
    LISTENER_NO_FILTER_CHAIN,
    LISTENER_FILTER_TIMEOUT,
    LISTENER_SSL_HANDSHAKE,
    LISTENER_SSL_ERROR,
    LISTENER_SSL_NO_CERT,
    LISTENER_SSL_VERIFY_ERROR,
    LISTENER_SSL_VERIFY_SAN,
    LISTENER_SSL_REUSED,
) = range(len(_LISTENER))
LISTENER = Layout(_LISTENER, gauges=frozenset({LISTENER_CX_ACTIVE}))

_WORKER = ("access_log.dropped", "access_log.write_failed", "access_log.written")
LOG_DROPPED, LOG_WRITE_FAILED, LOG_WRITTEN = range(len(_WORKER))
WORKER = Layout(_WORKER)


def _part(name: str) -> str:
    return name.replace(":", "_")


def cluster_group(name: str) -> Group:
    return Group(CLUSTER, f"cluster.{_part(name)}.")


def http_group(stat_prefix: str) -> Group:
    return Group(HTTP, f"http.{_part(stat_prefix)}.")


def fault_group(stat_prefix: str) -> Group:
    return Group(FAULT, f"http.{_part(stat_prefix)}.fault.")


def cors_group(stat_prefix: str) -> Group:
    return Group(CORS, f"http.{_part(stat_prefix)}.cors.")


def tcp_group(stat_prefix: str) -> Group:
    return Group(TCP, f"tcp.{_part(stat_prefix)}.")


def listener_group(address: str, port: int) -> Group:
    return Group(LISTENER, f"listener.{_part(address)}_{port}.")


def worker_group() -> Group:
    return Group(WORKER, "worker.")
