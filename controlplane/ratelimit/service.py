"""Envoy's rate limit service: who may ask, counting, answering.

Owns:   the gRPC method, what happens while the store is asked, the metrics.
Not:    windows (windows), descriptors (limits), sharing between replicas (shares).
Source: envoy/service/ratelimit/v3/rls.proto; decision 13 (a node is its certificate).
Invariants: a request passes when all of its limits let it, and is counted by all of them or by none; a refused one is
        not counted. A failure here is an error to the proxy, which lets pass or refuses as its RateLimit says.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import grpc
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric

from controlplane.ca.peers import require_node
from controlplane.model.mesh_state import MeshState
from controlplane.policy.rate_limit import Rate
from controlplane.ratelimit.limits import Asked, Judged, answer, asked, concerns
from controlplane.ratelimit.shares import PART, Shares
from controlplane.ratelimit.windows import Book, Counter
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.tasks import spawn
from mesh.xds.rate_limits import DOMAIN

_log = get_logger(__name__)

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
MAX_COUNTERS = 100_000
MAX_RESERVING = 1_000
MAX_DESCRIPTORS = 64
MAX_ENTRY = 4096  # characters of one value
ANSWER_S = 2.0
_ROUNDS = 2 * PART  # each reserves a part at least, until nothing is left
_Context = grpc.aio.ServicerContext[Any, Any]
_STATUS = {
    ErrorCode.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
}


class LimitMetrics:
    """One per process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = Metric(
            "gossamer_rate_limit_decisions",
            "Requests that the rate limit service has decided on: ok, over, or shadow (over, and let pass).",
            ["limit", "verdict"],
            registry=registry,
        )
        self.errors = Metric(
            "gossamer_rate_limit_errors", "Questions to the rate limit service without an answer.", registry=registry
        )


@dataclass(slots=True)
class _Wanted:
    """A counter that a request needs, and where it is in the store."""

    key: tuple[Any, ...]
    counter: Counter
    rate: Rate
    hits: int


class RateLimitService:
    """RLS for all ports of the process. `replicas`: how many are alive."""

    def __init__(
        self,
        shares: Shares,
        *,
        mesh: Callable[[], MeshState],
        replicas: Callable[[], int],
        metrics: LimitMetrics,
        trust_domain: str,
        clock: Clock,
        size: int = MAX_COUNTERS,
    ) -> None:
        self._shares = shares
        self._mesh = mesh
        self._replicas = replicas
        self._metrics = metrics
        self._trust_domain = trust_domain
        self._clock = clock
        self._book = Book(size)
        self._reserving: dict[tuple[Any, ...], asyncio.Task[str]] = {}

    def handler(self, *, authenticated: bool) -> "grpc.GenericRpcHandler[Any, Any]":
        """The gRPC method; `authenticated`: the node is the certificate's, and asks for its own limits only."""

        async def should(request: RateLimitRequest, context: _Context) -> RateLimitResponse:
            return await self._answer(request, context, authenticated=authenticated)

        method = grpc.unary_unary_rpc_method_handler(
            should,
            request_deserializer=RateLimitRequest.FromString,
            response_serializer=RateLimitResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"ShouldRateLimit": method})

    async def _answer(
        self, request: RateLimitRequest, context: _Context, *, authenticated: bool
    ) -> RateLimitResponse:  # fmt: skip
        try:
            node = require_node(context.auth_context(), self._trust_domain) if authenticated else None
            return await self.decide(request, node)
        except MeshError as error:
            self._metrics.errors.inc()
            _log.warning("a rate limit is not decided", peer=context.peer(), reason=str(error))
            await context.abort(_STATUS.get(error.code, grpc.StatusCode.UNAVAILABLE), str(error))

    async def decide(self, request: RateLimitRequest, node: str | None) -> RateLimitResponse:
        """Count a request of a proxy, `node` None = of whomever. Raises MeshError."""
        mesh = self._mesh()
        items = _checked(request, mesh, node)
        for _ in range(_ROUNDS):
            now = self._clock.wall()
            wanted = [self._wanted(item, now) for item in items]
            short = [own for group in wanted for own in group if _is_short(own)]
            if not short:
                break
            for own in short:
                await self._reserve(own, now)
        return self._judge(items, wanted, now)

    def _wanted(self, item: Asked, now: float) -> list[_Wanted]:
        keys = [(item.name, item.entries, rate.window) for rate in item.rates]
        return [
            _Wanted(key, self._book.counter(key, rate, now), rate, item.hits)
            for key, rate in zip(keys, item.rates, strict=True)
        ]

    def _judge(self, items: Sequence[Asked], wanted: Sequence[list[_Wanted]], now: float) -> RateLimitResponse:
        judged = [
            Judged(item, tuple(own.counter for own in group), any(not own.counter.can_give(own.hits) for own in group))
            for item, group in zip(items, wanted, strict=True)
        ]
        refused = any(item.over and not item.asked.shadow for item in judged)
        for item in judged:
            self._count(item, counted=not refused and not item.over)
        return answer(judged, now)

    def _count(self, item: Judged, *, counted: bool) -> None:
        if counted:
            for counter in item.counters:
                counter.give(item.asked.hits)
        if item.asked.rule is not None:
            verdict = "ok" if not item.over else "shadow" if item.asked.shadow else "over"
            self._metrics.decisions.labels(item.asked.name, verdict).inc()

    async def _reserve(self, own: _Wanted, now: float) -> None:
        """See that the counter has something to give. The store is asked once at a time, and to the end, also when the
        proxy does not wait so long: those that come later have it then."""
        counter, rate = own.counter, own.rate
        if self._replicas() <= 1:
            counter.reserve(rate.requests - counter.reserved, rate.requests)
            return
        running = self._reserving.get(own.key)
        if running is None:
            if len(self._reserving) >= MAX_RESERVING:
                raise MeshError(ErrorCode.UNAVAILABLE, "too many reservations at once", subject="rate limit")
            running = spawn("rate limit reservation", self._ask_store(own, now), on_failure=lambda _: None)
            self._reserving[own.key] = running
        counter.waiting += own.hits
        try:
            done, _ = await asyncio.wait([running], timeout=ANSWER_S)
        finally:
            counter.waiting -= own.hits
        if not done or running.result():
            reason = running.result() if done else f"nothing within {ANSWER_S:g} s"
            raise MeshError(ErrorCode.UNAVAILABLE, f"the store does not answer: {reason}", subject="rate limit")

    async def _ask_store(self, own: _Wanted, now: float) -> str:
        """Why nothing was reserved, or ""."""
        counter, rate = own.counter, own.rate
        index = counter.turn(rate, now)
        short = max(counter.waiting, own.hits) - counter.left
        try:
            found = await self._shares.reserve(_digest(own.key), rate.window.seconds, index, rate.requests, short)
        except MeshError as error:
            return str(error)
        finally:
            del self._reserving[own.key]
        counter.reserve_in(index, rate, *found)
        return ""


def _is_short(own: _Wanted) -> bool:
    return not own.counter.can_give(own.hits) and not own.counter.exhausted


def _checked(request: RateLimitRequest, mesh: MeshState, node: str | None) -> tuple[Asked, ...]:
    if request.domain != DOMAIN:
        raise MeshError(ErrorCode.INVALID, f"found {request.domain[:64]!r}, expected {DOMAIN}", subject="domain")
    if len(request.descriptors) > MAX_DESCRIPTORS:
        raise MeshError(
            ErrorCode.INVALID, f"found {len(request.descriptors)}, expected at most {MAX_DESCRIPTORS}",
            subject="descriptors",
        )  # fmt: skip
    items = asked(request, mesh)
    if len({(item.name, item.entries) for item in items}) < len(items):
        raise MeshError(ErrorCode.INVALID, "found a descriptor twice, expected each once", subject="descriptors")
    if any(len(value) > MAX_ENTRY for value in _values(items)):
        raise MeshError(ErrorCode.INVALID, f"found a longer value, expected {MAX_ENTRY} characters at most",
                        subject="descriptors")  # fmt: skip
    for item in items:
        if node is not None and item.rule is not None and not concerns(item.rule, node, mesh):
            raise MeshError(
                ErrorCode.PERMISSION_DENIED, f"no workload of node {node} is selected by {item.rule.ref}",
                subject="descriptors",
            )  # fmt: skip
    return items


def _values(items: Iterable[Asked]) -> Iterable[str]:
    return (value for item in items for _, value in item.entries)


def _digest(key: tuple[Any, ...]) -> str:
    return blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
