"""Which limits the descriptors of a request name, and what they come to. Pure.

Owns:   reading descriptors, finding RateLimits, the fields that tell clients where they stand.
Source: envoy/service/ratelimit/v3/rls.proto; compiler.filters.rate_limit (what descriptors hold); RFC 9110 10.2.3;
        draft-ietf-httpapi-ratelimit-headers (RateLimit, RateLimit-Policy).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from controlplane.model.mesh_state import MeshState
from controlplane.policy.kinds import RATE_LIMIT
from controlplane.policy.objects import PolicyObject
from controlplane.policy.rate_limit import Limit, LimitHeaders, Rate, RateLimit, Reach, Window
from controlplane.policy.selector import selects
from controlplane.ratelimit.windows import Counter
from mesh.vocabulary import ObjectRef
from mesh.xds.rate_limits import LIMIT_KEY

Entries = tuple[tuple[str, str], ...]
_UNITS = {
    Window.SECOND: RateLimitResponse.RateLimit.SECOND,
    Window.MINUTE: RateLimitResponse.RateLimit.MINUTE,
    Window.HOUR: RateLimitResponse.RateLimit.HOUR,
    Window.DAY: RateLimitResponse.RateLimit.DAY,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One descriptor: the limit, whose client it is, and how many requests. `rule` None: there is no such limit."""

    name: str
    entries: Entries
    hits: int
    rule: PolicyObject | None = None
    limit: Limit | None = None

    @property
    def shadow(self) -> bool:
        """Whether nothing is refused."""
        return self.rule is not None and self.rule.spec_as(RateLimit).shadow

    @property
    def rates(self) -> tuple[Rate, ...]:
        """In order."""
        return self.limit.rates if self.limit is not None else ()


@dataclass(frozen=True, slots=True)
class Judged:
    """A descriptor with its counters, in the order of the rates; `over`: one of them can give no more."""

    asked: Asked
    counters: tuple[Counter, ...]
    over: bool


def asked(request: RateLimitRequest, mesh: MeshState) -> tuple[Asked, ...]:
    """What the descriptors are about."""
    return tuple(_asked(one, request.hits_addend or 1, mesh) for one in request.descriptors)


def _asked(descriptor: RateLimitDescriptor, hits: int, mesh: MeshState) -> Asked:
    entries = tuple((entry.key, entry.value) for entry in descriptor.entries)
    own = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else hits
    key, name = entries[0] if entries else ("", "")
    parts = name.split("/")
    if key != LIMIT_KEY or len(parts) != 3:
        return Asked(name, entries, own)
    rule = mesh.objects.get(ObjectRef(RATE_LIMIT.group, RATE_LIMIT.kind, parts[0], parts[1]))
    if rule is None or rule.spec_as(RateLimit).scope is not Reach.GLOBAL:
        return Asked(name, entries, own)
    limit = next((item for item in rule.spec_as(RateLimit).limits if item.name == parts[2]), None)
    return Asked(name, entries[1:], own, rule if limit is not None else None, limit)


def concerns(rule: PolicyObject, node: str, mesh: MeshState) -> bool:
    """Whether a node has a workload that the rule selects: nobody else may count for it."""
    everywhere = rule.metadata.namespace == mesh.settings.root_namespace
    wanted = rule.spec_as(RateLimit).selected
    return any(
        (everywhere or item.namespace == rule.metadata.namespace) and selects(wanted, item.labels)
        for item in mesh.instances_of(node)
    )


# --- answers


def answer(judged: Sequence[Judged], now: float) -> RateLimitResponse:
    """What the proxy is told. `now`: seconds since the epoch."""
    response = RateLimitResponse(overall_code=RateLimitResponse.OK)
    for item in judged:
        refused = item.over and not item.asked.shadow
        status = response.statuses.add(code=RateLimitResponse.OVER_LIMIT if refused else RateLimitResponse.OK)
        if refused:
            response.overall_code = RateLimitResponse.OVER_LIMIT
        counter = _tightest(item)
        if counter is not None:
            _tell(status, item, counter, now)
    for name, value in _fields(judged, now):
        response.response_headers_to_add.add(key=name, value=value)
    return response


def _tightest(item: Judged) -> Counter | None:
    """The rate that leaves least; of those that leave nothing, the one that stays so longest."""
    return min(item.counters, key=lambda own: (own.remaining, -own.rate.window.seconds), default=None)


def _tell(status: RateLimitResponse.DescriptorStatus, item: Judged, counter: Counter, now: float) -> None:
    status.current_limit.name = item.asked.name
    status.current_limit.requests_per_unit = counter.rate.requests
    status.current_limit.unit = _UNITS[counter.rate.window]
    status.limit_remaining = counter.remaining
    status.duration_until_reset.FromSeconds(math.ceil(counter.reset_s(now)))


def _fields(judged: Sequence[Judged], now: float) -> Iterator[tuple[str, str]]:
    waits = [
        math.ceil(counter.reset_s(now))
        for item in judged
        if item.over and not item.asked.shadow
        for counter in item.counters
        if not counter.can_give(item.asked.hits)
    ]
    if waits:
        yield "retry-after", str(max(waits))
    shown = [item for item in judged if _shows_policy(item.asked)]
    if shown:
        yield "ratelimit-policy", ", ".join(_policies(shown))
        yield "ratelimit", ", ".join(_states(shown, now))


def _shows_policy(item: Asked) -> bool:
    return item.rule is not None and item.rule.spec_as(RateLimit).headers is LimitHeaders.RATELIMIT


def _policies(shown: Iterable[Judged]) -> Iterator[str]:
    for item in shown:
        for rate in item.asked.rates:
            yield f'"{_policy_name(item.asked, rate)}";q={rate.requests};w={rate.window.seconds}'


def _states(shown: Iterable[Judged], now: float) -> Iterator[str]:
    for item in shown:
        for counter in item.counters:
            name = _policy_name(item.asked, counter.rate)
            yield f'"{name}";r={counter.remaining};t={math.ceil(counter.reset_s(now))}'


def _policy_name(item: Asked, rate: Rate) -> str:
    assert item.limit is not None
    return f"{item.limit.name}-{rate.window.lower()}" if len(item.rates) > 1 else item.limit.name
