"""Why a try upstream ended without a whole response. The texts are those of Envoy's access log details.

Source: Envoy's StreamResetReason and its names in `upstream_reset_before_response_started{...}`; data-plane.md 1.5 and
        1.11.
"""

CONNECT_FAILURE = "remote_connection_failure"
LOCAL_CONNECT_FAILURE = "local_connection_failure"
CONNECT_TIMEOUT = "connection_timeout"
CONNECTION_TERMINATION = "connection_termination"
PROTOCOL_ERROR = "protocol_error"
OVERFLOW = "overflow"
LOCAL_RESET = "local_reset"
REMOTE_RESET = "remote_reset"
REFUSED_STREAM = "remote_refused_stream_reset"
PER_TRY_TIMEOUT = "per_try_timeout"  # ours: Envoy answers it as a local timeout, not as a reset
PER_TRY_IDLE_TIMEOUT = "per_try_idle_timeout"

NEVER_CONNECTED = frozenset({CONNECT_FAILURE, LOCAL_CONNECT_FAILURE, CONNECT_TIMEOUT})
TIMEOUTS = frozenset({PER_TRY_TIMEOUT, PER_TRY_IDLE_TIMEOUT})
