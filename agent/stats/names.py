"""Envoy's names for what we count, and their places in a group's list.

Source: Envoy's cluster_stats, http_conn_man/stats and listeners/stats; data-plane.md 1.11. A ":" in a name part is "_".
Invariant: the places of a group follow its names, in their order, from 0. Each is Final with its number, since mypyc
        then puts the number in the place of the name, and looks up the name at every use otherwise.
"""

from typing import Final

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
CX_TOTAL: Final = 0
CX_ACTIVE: Final = 1
CX_CONNECT_FAIL: Final = 2
CX_CONNECT_TIMEOUT: Final = 3
CX_OVERFLOW: Final = 4
CX_IDLE_TIMEOUT: Final = 5
CX_MAX_REQUESTS: Final = 6
CX_PROTOCOL_ERROR: Final = 7
CX_DESTROY: Final = 8
CX_RX_BYTES: Final = 9
CX_TX_BYTES: Final = 10
RQ_TOTAL: Final = 11
RQ_ACTIVE: Final = 12
RQ_PENDING_TOTAL: Final = 13
RQ_PENDING_ACTIVE: Final = 14
RQ_PENDING_OVERFLOW: Final = 15
RQ_PENDING_FAILURE_EJECT: Final = 16
RQ_CANCELLED: Final = 17
RQ_TIMEOUT: Final = 18
RQ_PER_TRY_TIMEOUT: Final = 19
RQ_RX_RESET: Final = 20
RQ_TX_RESET: Final = 21
RQ_RETRY: Final = 22
RQ_RETRY_SUCCESS: Final = 23
RQ_RETRY_OVERFLOW: Final = 24
RQ_RETRY_LIMIT_EXCEEDED: Final = 25
RQ_RETRY_BACKOFF: Final = 26
CX_NONE_HEALTHY: Final = 27
LB_HEALTHY_PANIC: Final = 28
SSL_HANDSHAKE: Final = 29
SSL_CONNECTION_ERROR: Final = 30
SSL_FAIL_VERIFY_SAN: Final = 31
SSL_SESSION_REUSED: Final = 32
RQ_ACTIVE_OVERFLOW: Final = 33
RETRY_OR_SHADOW_ABANDONED: Final = 34
RQ_RETRY_BACKOFF_RATELIMITED: Final = 35
RQ_PER_TRY_IDLE_TIMEOUT: Final = 36
# Places in `histograms`.
RQ_TIME: Final = 0
CX_CONNECT_MS: Final = 1
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
DOWN_CX_TOTAL: Final = 0
DOWN_CX_ACTIVE: Final = 1
DOWN_CX_DESTROY_REMOTE_ACTIVE_RQ: Final = 2
DOWN_CX_PROTOCOL_ERROR: Final = 3
DOWN_CX_IDLE_TIMEOUT: Final = 4
DOWN_CX_DRAIN_CLOSE: Final = 5
DOWN_CX_UPGRADES: Final = 6
DOWN_CX_RX_BYTES: Final = 7
DOWN_CX_TX_BYTES: Final = 8
DOWN_RQ_TOTAL: Final = 9
DOWN_RQ_ACTIVE: Final = 10
DOWN_RQ_HTTP1_TOTAL: Final = 11
DOWN_RQ_IDLE_TIMEOUT: Final = 12
DOWN_RQ_TIMEOUT: Final = 13
DOWN_RQ_HEADER_TIMEOUT: Final = 14
DOWN_RQ_MAX_DURATION: Final = 15
DOWN_RQ_TOO_LARGE: Final = 16
DOWN_RQ_RX_RESET: Final = 17
DOWN_RQ_UPGRADE_REFUSED: Final = 18
DOWN_PAUSED_READING: Final = 19
NO_ROUTE: Final = 20
NO_CLUSTER: Final = 21
RQ_DIRECT_RESPONSE: Final = 22
RQ_REDIRECT: Final = 23
HTTP_RQ_TOTAL: Final = 24
DOWN_RQ_TIME: Final = 0
HTTP = Layout(
    _HTTP,
    gauges=frozenset({DOWN_CX_ACTIVE, DOWN_RQ_ACTIVE}),
    histograms=("downstream_rq_time",),
    codes="downstream_rq_",
    completed=True,
)

_FAULT = ("aborts_injected", "delays_injected", "faults_overflow", "response_rl_injected", "active_faults")
FAULT_ABORTS: Final = 0
FAULT_DELAYS: Final = 1
FAULT_OVERFLOW: Final = 2
FAULT_RATE_LIMITS: Final = 3
FAULT_ACTIVE: Final = 4
FAULT = Layout(_FAULT, gauges=frozenset({FAULT_ACTIVE}))

_CORS = ("origin_valid", "origin_invalid")
CORS_VALID: Final = 0
CORS_INVALID: Final = 1
CORS = Layout(_CORS)

_LOCAL_LIMIT = ("enabled", "enforced", "ok", "rate_limited")
LIMIT_ENABLED: Final = 0
LIMIT_ENFORCED: Final = 1
LIMIT_OK: Final = 2
LIMIT_LIMITED: Final = 3
LOCAL_LIMIT = Layout(_LOCAL_LIMIT)

_GLOBAL_LIMIT = ("ok", "error", "over_limit", "failure_mode_allowed")
GLOBAL_OK: Final = 0
GLOBAL_ERROR: Final = 1
GLOBAL_OVER: Final = 2
GLOBAL_ALLOWED: Final = 3
GLOBAL_LIMIT = Layout(_GLOBAL_LIMIT)

_RBAC = ("allowed", "denied")
RBAC_ALLOWED: Final = 0
RBAC_DENIED: Final = 1
RBAC = Layout(_RBAC)
RBAC_SHADOW = Layout(tuple(f"shadow_{name}" for name in _RBAC))

_JWT = ("allowed", "denied", "cors_preflight_bypassed", "jwt_cache_hit", "jwt_cache_miss")
JWT_ALLOWED: Final = 0
JWT_DENIED: Final = 1
JWT_BYPASSED: Final = 2
JWT_CACHE_HIT: Final = 3
JWT_CACHE_MISS: Final = 4
JWT = Layout(_JWT)

_EXT_AUTHZ = ("ok", "denied", "error", "disabled", "failure_mode_allowed", "invalid")
EXT_OK: Final = 0
EXT_DENIED: Final = 1
EXT_ERROR: Final = 2
EXT_DISABLED: Final = 3
EXT_FAILURE_ALLOWED: Final = 4
EXT_INVALID: Final = 5
EXT_AUTHZ = Layout(_EXT_AUTHZ)

_TCP = (
    "downstream_cx_total",
    "downstream_cx_no_route",
    "downstream_cx_rx_bytes_total",
    "downstream_cx_tx_bytes_total",
    "downstream_flow_control_paused_reading_total",
    "idle_timeout",
)
TCP_CX_TOTAL: Final = 0
TCP_NO_ROUTE: Final = 1
TCP_RX_BYTES: Final = 2
TCP_TX_BYTES: Final = 3
TCP_PAUSED_READING: Final = 4
TCP_IDLE_TIMEOUT: Final = 5
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
LISTENER_CX_TOTAL: Final = 0
LISTENER_CX_ACTIVE: Final = 1
LISTENER_CX_DESTROY: Final = 2
LISTENER_CX_OVERFLOW: Final = 3
LISTENER_NO_FILTER_CHAIN: Final = 4
LISTENER_FILTER_TIMEOUT: Final = 5
LISTENER_SSL_HANDSHAKE: Final = 6
LISTENER_SSL_ERROR: Final = 7
LISTENER_SSL_NO_CERT: Final = 8
LISTENER_SSL_VERIFY_ERROR: Final = 9
LISTENER_SSL_VERIFY_SAN: Final = 10
LISTENER_SSL_REUSED: Final = 11
LISTENER = Layout(_LISTENER, gauges=frozenset({LISTENER_CX_ACTIVE}))

_WORKER = ("access_log.dropped", "access_log.write_failed", "access_log.written")
LOG_DROPPED: Final = 0
LOG_WRITE_FAILED: Final = 1
LOG_WRITTEN: Final = 2
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


def local_limit_group(stat_prefix: str) -> Group:
    return Group(LOCAL_LIMIT, f"{_part(stat_prefix)}.http_local_rate_limit.")


def global_limit_group(cluster: str) -> Group:
    return Group(GLOBAL_LIMIT, f"cluster.{_part(cluster)}.ratelimit.")


def rbac_group(prefix: str) -> Group:
    """`prefix`: the whole of it, with its dot."""
    return Group(RBAC, _part(prefix))


def rbac_shadow_group(prefix: str) -> Group:
    """`prefix`: the whole of it, with its dot."""
    return Group(RBAC_SHADOW, _part(prefix))


def jwt_group(stat_prefix: str) -> Group:
    return Group(JWT, f"http.{_part(stat_prefix)}.jwt_authn.")


def ext_authz_group(prefix: str) -> Group:
    """`prefix`: the whole of it, with its dot."""
    return Group(EXT_AUTHZ, _part(prefix))


def tcp_group(stat_prefix: str) -> Group:
    return Group(TCP, f"tcp.{_part(stat_prefix)}.")


def listener_group(address: str, port: int) -> Group:
    return Group(LISTENER, f"listener.{_part(address)}_{port}.")


def worker_group() -> Group:
    return Group(WORKER, "worker.")
