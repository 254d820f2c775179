"""x-envoy-*: what a client may not say, and what hosts are told about time and tries.

Owns:   which control fields are taken from requests, x-envoy-expected-rq-timeout-ms, x-envoy-attempt-count.
Not:    what control fields would ask for (agent.cluster.retries).
Source: data-plane.md 1.5 and 1.9 (4). Since Envoy 1.33 no address is internal by default, and the agent has no setting
        for it, so every request is external.
Invariant: other x-envoy-* fields pass.
"""

from functools import lru_cache
from typing import Final

from agent.codec.head import RequestHead

EXPECTED_TIMEOUT: Final = b"x-envoy-expected-rq-timeout-ms"
ATTEMPT_COUNT: Final = b"x-envoy-attempt-count"
ORIGINAL_PATH: Final = b"x-envoy-original-path"
ORIGINAL_HOST: Final = b"x-envoy-original-host"
SERVICE_TIME: Final = b"x-envoy-upstream-service-time"
INTERNAL: Final = b"x-envoy-internal"

CONTROL: Final = frozenset(
    {
        INTERNAL,
        EXPECTED_TIMEOUT,
        b"x-envoy-force-trace",
        b"x-envoy-hedge-on-per-try-timeout",
        b"x-envoy-ip-tags",
        b"x-envoy-max-retries",
        b"x-envoy-original-url",
        b"x-envoy-retriable-header-names",
        b"x-envoy-retriable-status-codes",
        b"x-envoy-retry-grpc-on",
        b"x-envoy-retry-on",
        b"x-envoy-upstream-alt-stat-name",
        b"x-envoy-upstream-rq-per-try-timeout-ms",
        b"x-envoy-upstream-rq-timeout-alt-response",
        b"x-envoy-upstream-rq-timeout-ms",
        b"x-envoy-upstream-stream-duration-ms",
    }
)
# At an edge (use_remote_address) these go too.
EDGE_CONTROL: Final = CONTROL | {
    b"x-envoy-decorator-operation",
    b"x-envoy-downstream-service-cluster",
    b"x-envoy-downstream-service-node",
}


@lru_cache(maxsize=256)  # a route's limit is the same for nearly all its requests
def _milliseconds(limit_s: float) -> bytes:
    return b"%d" % max(round(limit_s * 1000), 1)


def _put(head: RequestHead, name: bytes, value: bytes) -> None:
    headers = head.headers
    if name in headers.index:
        headers.set(name, value)
    else:
        headers.add(name, value)


def expect_within(head: RequestHead, timeout_s: float, per_try_s: float, elapsed_s: float) -> None:
    """Tell the host how long its answer is waited for. 0 = without limit; at least 1 ms when there is a limit."""
    limit_s = per_try_s or timeout_s
    if not limit_s:
        return
    if timeout_s:
        limit_s = min(limit_s, timeout_s - elapsed_s)
    _put(head, EXPECTED_TIMEOUT, _milliseconds(limit_s))


def count_attempt(head: RequestHead, attempts: int) -> None:
    """Tell the host which try this is, from 1."""
    _put(head, ATTEMPT_COUNT, b"%d" % attempts)
