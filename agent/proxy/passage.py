"""The way of one request past the HTTP filters that its route or its connection manager has put there.

Owns:   the order of filters, what they keep of a request until it is over, CORS on requests and answers.
Not:    what a filter decides (agent.filters.cors, agent.filters.fault), faults (fault), mirrored requests (mirror).
Source: Envoy's filter manager: filters before the router in their order, each told by the most specific level of
        routes; those of each try below it.
Invariant: a request that no filter is for, and that nobody mirrors, has no passage.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.codec.head import ResponseHead
from agent.filters.cors import ORIGIN, Cors, is_preflight
from agent.filters.fault import FaultInjector
from agent.model.cors import CorsPolicy
from agent.model.fault import Fault
from agent.model.http_filters import HttpFilter
from agent.model.listener import HttpConnectionManager
from agent.proxy import answers
from agent.proxy.attempt import Attempt
from agent.proxy.fault import Faults, FaultyTry
from agent.proxy.mirror import MirroredRequest
from agent.router.table import Match
from agent.stats import names
from agent.stats.groups import Group
from agent.stats.names import cors_group, fault_group
from agent.stats.registry import Registry

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

Working = Cors | FaultInjector


class ChainFilters:
    """The filters of one connection manager. `always`: they do something also where a route says nothing."""

    __slots__ = ("_before", "_defaults", "_tries", "always", "cors_stats", "fault_stats")

    def __init__(self, hcm: HttpConnectionManager, stats: Registry) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        prefix = hcm.stat_prefix
        self.fault_stats: Group = stats.get(f"http.{prefix}.fault", lambda: fault_group(prefix))
        self.cors_stats: Group = stats.get(f"http.{prefix}.cors", lambda: cors_group(prefix))
        self._before = hcm.filters
        self._tries = hcm.upstream_filters
        self._defaults = {one.name: _default(one) for one in (*hcm.filters, *hcm.upstream_filters)}
        self.always = any(one is not None for one in self._defaults.values())

    def before_router(self, match: Match) -> tuple[Working, ...]:
        """Those that a request of the route passes, in order."""
        found = (self._working(one, match) for one in self._before)
        return tuple(one for one in found if one is not None)

    def of_tries(self, match: Match) -> FaultInjector | None:
        """What happens to its tries."""
        found = (self._working(one, match) for one in self._tries)
        return next((one for one in found if isinstance(one, FaultInjector)), None)

    def _working(self, own: HttpFilter, match: Match) -> Working | None:
        name = own.name
        if match.filters is None or name not in match.filters:
            return self._defaults[name]
        working: dict[str, Working | None] = match.working
        if name not in working:
            working[name] = _compiled(own, match)
        return working[name]


def _default(own: HttpFilter) -> Working | None:
    config = own.config
    useful = isinstance(config, Fault) and (config.delay is not None or config.abort is not None)
    return FaultInjector(config) if useful and isinstance(config, Fault) and not own.disabled else None


def _compiled(own: HttpFilter, match: Match) -> Working | None:
    assert match.filters is not None
    levels = match.filters[own.name]
    if levels[0] is None:
        return None
    if isinstance(own.config, CorsPolicy):
        policies = tuple(one for one in levels if isinstance(one, CorsPolicy))
        return Cors(policies) if policies else None
    return FaultInjector(levels[0]) if isinstance(levels[0], Fault) else None


class Passage:
    """Made for a request that a filter is for, or that is mirrored; `begin`, then the rest as things happen."""

    __slots__ = ("_at", "_cors", "_exchange", "_faults", "_filters", "_injector", "_origin", "_then", "mirrors")

    def __init__(self, exchange: "Exchange", filters: ChainFilters) -> None:
        self._exchange = exchange
        self._filters = filters
        self._faults = Faults(exchange, filters.fault_stats)
        self._injector: FaultInjector | None = None
        self._at = 0
        self._then: Callable[[], None] | None = None
        self._cors: Cors | None = None
        self._origin = b""  # which may read the answer
        self.mirrors: list[MirroredRequest] = []

    def begin(self, then: Callable[[], None]) -> None:
        """Pass the filters before the router; `then` is called if and when the request has passed them."""
        exchange = self._exchange
        self._injector = self._filters.of_tries(exchange.match)
        self._then = then
        self._go_on()

    def _go_on(self) -> None:
        working = self._filters.before_router(self._exchange.match)
        while self._at < len(working):
            one = working[self._at]
            self._at += 1
            if not (self._check_origin(one) if isinstance(one, Cors) else self._faults.inject(one, self._resume)):
                return
        then, self._then = self._then, None
        if then is not None:
            then()

    def _resume(self) -> None:
        """A pause is over: for the router the request comes only now."""
        exchange = self._exchange
        if exchange.request_complete:
            exchange.request_done_at = exchange.chain.clock()
        self._go_on()

    def _check_origin(self, cors: Cors) -> bool:
        exchange = self._exchange
        head, rng = exchange.head, exchange.chain.rng
        enabled = cors.enabled(rng)
        origin = head.headers.index.get(ORIGIN)
        if exchange.choice is None or not origin or not (enabled or cors.counted(rng)):
            return True
        allowed = cors.allows(origin)
        self._filters.cors_stats.counts[names.CORS_VALID if allowed else names.CORS_INVALID] += 1
        if not enabled:
            return True
        if allowed:
            self._cors, self._origin = cors, origin
        if not is_preflight(head) or (not allowed and cors.forwards_unmatched):
            return True
        answers.preflight(exchange, cors.preflight_fields(head, self._origin))
        return False

    # --- what happens to the request --------------------------------------------------------------------------

    def attempt(self, host: Host) -> Attempt:
        """A try of the request."""
        if self._injector is None:
            return Attempt(self._exchange, host)
        return FaultyTry(self._exchange, host, self._faults, self._injector)

    def on_request_body(self, data: bytes) -> None:
        for mirror in self.mirrors:
            mirror.on_request_body(data)

    def on_request_end(self) -> None:
        attempt = self._exchange.attempt
        if isinstance(attempt, FaultyTry):
            attempt.on_request_end()
        for mirror in self.mirrors:
            mirror.on_request_end()

    def mark_answer(self, head: ResponseHead) -> None:
        """An answer, a host's or our own, goes to the client."""
        if self._cors is not None:
            self._cors.mark_answer(head.headers, self._origin)

    def end(self) -> None:
        """The request is over."""
        self._then = None
        self._faults.end()
        for mirror in self.mirrors:
            mirror.on_request_over()
        self.mirrors.clear()
