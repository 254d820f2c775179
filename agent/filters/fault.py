"""Which requests are delayed and aborted, and how: a Fault, ready to be asked.

Owns:   the conditions, the dice, what a request may ask for itself.
Not:    waiting, answering, counting, how many are under way (agent.proxy.fault).
Source: data-plane.md 1.8; Envoy's fault filter: the delay first, then the abort, each with dice of its own; a request
        may ask for a smaller percentage than the configured one, never for a larger.
"""

from agent.codec.head import RequestHead
from agent.model.fault import NO_GRPC, Abort, Delay, Fault
from agent.model.shares import MILLION, falls
from agent.router.matchers import CompiledHeader
from mesh.resilience.backoff import Rng

_NODE = b"x-envoy-downstream-service-node"
_DELAY_MS = b"x-envoy-fault-delay-request"
_ABORT = b"x-envoy-fault-abort-request"
_ABORT_GRPC = b"x-envoy-fault-abort-grpc-request"
_PERCENTAGE = b"-percentage"
_OK = 200
_MAX_GRPC = 16
Injected = tuple[int, int]  # HTTP status, gRPC status or NO_GRPC


class FaultInjector:
    """One per Fault. Raises re2.error for a matcher with a bad regex."""

    __slots__ = ("_headers", "config")

    def __init__(self, config: Fault) -> None:
        self.config = config
        self._headers = tuple(CompiledHeader(matcher) for matcher in config.headers)

    def applies_to(self, head: RequestHead, cluster: str) -> bool:
        """Whether the request, which goes to `cluster` ("" = to none), is one that the faults are for."""
        config = self.config
        if config.cluster and config.cluster != cluster:
            return False
        if config.nodes:
            node = head.headers.index.get(_NODE)
            if node is None or node.decode("utf-8", "replace") not in config.nodes:
                return False
        return all(matcher.matches(head) for matcher in self._headers)

    def delay_s(self, head: RequestHead, rng: Rng) -> float:
        """How long the request waits, 0 = not at all."""
        delay = self.config.delay
        if delay is None or not _hit(delay, head, _DELAY_MS, rng):
            return 0.0
        return _number(head, _DELAY_MS, 0) / 1000 if delay.by_header else delay.seconds

    def abort(self, head: RequestHead, rng: Rng) -> Injected | None:
        """The answer that the request gets, None = it goes on."""
        abort = self.config.abort
        if abort is None or not _hit(abort, head, _ABORT, rng):
            return None
        status, grpc_status = (_asked(head)) if abort.by_header else (abort.status, abort.grpc_status)
        if status:
            return status, NO_GRPC
        return (_OK, grpc_status) if grpc_status != NO_GRPC else None


def _asked(head: RequestHead) -> Injected:
    status = _number(head, _ABORT, 0)
    grpc_status = _number(head, _ABORT_GRPC, NO_GRPC)
    return status if 200 <= status < 600 else 0, grpc_status if grpc_status <= _MAX_GRPC else NO_GRPC


def _hit(share: Delay | Abort, head: RequestHead, asking: bytes, rng: Rng) -> bool:
    wanted = share.per_million
    if share.by_header:
        wanted = min(_number(head, asking + _PERCENTAGE, MILLION) * share.unit, wanted)
    return falls(wanted, rng)


def _number(head: RequestHead, name: bytes, default: int) -> int:
    value = head.headers.index.get(name)
    return int(value) if value is not None and value.isdigit() and len(value) < 10 else default
