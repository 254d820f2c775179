"""The way of one request past the HTTP filters that its route or its connection manager has put there.

Owns:   the order of filters, what they keep of a request until it is over.
Not:    what a filter is (stages), which there are (filter_stages), mirrored requests (mirror).
Source: Envoy's filter manager: filters before the router in their order, each told by the most specific level of
        routes; those of each try below it.
Invariant: a request that no filter is for, and that nobody mirrors, has no passage.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agent.cluster.hosts import Host
from agent.codec.head import ResponseHead
from agent.filters.fault import FaultInjector
from agent.filters.rbac import Asking
from agent.model.ext_authz import ExternalAuthorization
from agent.model.http_filters import HttpFilter
from agent.model.listener import HttpConnectionManager
from agent.model.route import Forward
from agent.proxy import deadlines
from agent.proxy.attempt import Attempt
from agent.proxy.fault import Faults, FaultStage, FaultyTry
from agent.proxy.filter_stages import default_stage, route_stage
from agent.proxy.mirror import MirroredRequest
from agent.proxy.stages import BodyReader, Guard, Kept, Stage
from agent.router.table import Match
from agent.stats.groups import Group
from agent.stats.registry import Registry

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

MAX_STAGES: Final = 1000  # of one route
_NO_STAGES: tuple[Stage, ...] = ()


class ChainFilters:
    """The filters of one connection manager. `always`: they do something also where a route says nothing."""

    __slots__ = ("_before", "_default_stages", "_defaults", "_groups", "_prefix", "_stats", "_tries", "always")

    def __init__(self, hcm: HttpConnectionManager, stats: Registry) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self._prefix = hcm.stat_prefix
        self._stats = stats
        self._groups: dict[str, Group] = {}
        self._tries = hcm.upstream_filters
        self._defaults = {one.name: default_stage(one) for one in hcm.upstream_filters}
        # Several filters may bear one name, as Istio's of authorization do: these are told apart by their place.
        placed = [default_stage(one) for one in hcm.filters]
        self._default_stages = tuple(one for one in placed if one is not None)
        self._before = tuple(zip(hcm.filters, placed, map(_key_of, hcm.filters), strict=True))
        self.always = bool(self._default_stages) or any(one is not None for one in self._defaults.values())

    def group(self, key: str, make: Callable[[str], Group]) -> Group:
        """The statistics of a filter, `http.<prefix>.<key>`; `make`: from the prefix to the group."""
        group = self._groups.get(key)
        if group is None:
            prefix = self._prefix
            group = self._groups[key] = self._stats.get(f"http.{prefix}.{key}", lambda: make(prefix))
        return group

    def before_router(self, match: Match | None) -> tuple[Stage, ...]:
        """Those that a request of the route passes, in order; None = a request without a route."""
        if match is None or match.filters is None:
            return self._default_stages
        found = (_stage_for(one, default, key, match) for one, default, key in self._before)
        return tuple(one for one in found if one is not None)

    def of_tries(self, match: Match | None) -> FaultInjector | None:
        """What happens to its tries."""
        if match is None or not self._tries:
            return None
        found = (_stage_for(one, self._defaults[one.name], one.name, match) for one in self._tries)
        return next((one.injector for one in found if isinstance(one, FaultStage)), None)


def _key_of(own: HttpFilter) -> object:
    """Under which a route's stages are kept: chains share routes, and what some filters do depends on the chain too."""
    return object() if isinstance(own.config, ExternalAuthorization) else own.name


def _stage_for(own: HttpFilter, default: Stage | None, key: object, match: Match) -> Stage | None:
    name = own.name
    if match.filters is None or name not in match.filters:
        return default
    working: dict[object, Stage | None] = match.working
    if key not in working:
        if len(working) >= MAX_STAGES:  # of chains that are gone
            working.clear()
        working[key] = route_stage(own, match.filters[name])
    return working[key]


class Passage:
    """Made for a request that a filter is for, or that is mirrored; `begin`, then the rest as things happen.

    `metadata`: what filters tell those behind them, by filter (Envoy's dynamic metadata). `guard`: sees answers first.
    `asking`: what authorization knows of the request. `reader`: waits for the body; nothing behind it has begun.
    """

    __slots__ = (
        "_at",
        "_exchange",
        "_faults",
        "_injector",
        "_kept",
        "_stages",
        "_then",
        "asking",
        "guard",
        "metadata",
        "mirrors",
        "reader",
    )

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._faults: Faults | None = None
        self._injector: FaultInjector | None = None
        self._stages = _NO_STAGES
        self._at = 0
        self._then: Callable[[], None] | None = None
        self._kept: list[Kept] = []
        self.guard: Guard | None = None
        self.reader: BodyReader | None = None
        self.asking: Asking | None = None
        self.metadata: dict[str, dict[str, Any]] = {}
        self.mirrors: list[MirroredRequest] = []

    def begin(self, then: Callable[[], None]) -> None:
        """Pass the filters before the router; `then` is called if and when the request has passed them."""
        exchange = self._exchange
        filters, match = exchange.chain.filters, exchange.match
        self._injector = filters.of_tries(match)
        self._stages = filters.before_router(match)
        self._then = then
        self._go_on()

    def _go_on(self) -> None:
        stages, exchange = self._stages, self._exchange
        while self._at < len(stages):
            stage = stages[self._at]
            self._at += 1
            if not stage.begin(exchange, self._resume):
                self._hold()
                return
        then, self._then = self._then, None
        if then is not None:
            then()

    def _hold(self) -> None:
        """Unless a filter has answered the request, it waits, within the limits of its route."""
        match = self._exchange.match
        if self._then is not None and match is not None and isinstance(match.route.action, Forward):
            deadlines.hold(self._exchange, match.route.action)

    def _resume(self) -> None:
        """A pause is over: for the router the request comes only now."""
        if self._then is None:
            return  # the request has ended meanwhile
        exchange = self._exchange
        if exchange.request_complete:
            exchange.request_done_at = exchange.chain.clock()
        self._go_on()

    def keep(self, kept: Kept) -> None:
        """For the rest of the request."""
        self._kept.append(kept)

    @property
    def faults(self) -> Faults:
        """What is injected into the request and its tries."""
        if self._faults is None:
            self._faults = Faults(self._exchange)
            self._kept.append(self._faults)
        return self._faults

    # --- what happens to the request --------------------------------------------------------------------------

    def attempt(self, host: Host) -> Attempt:
        """A try of the request."""
        if self._injector is None:
            return Attempt(self._exchange, host)
        return FaultyTry(self._exchange, host, self.faults, self._injector)

    def on_request_body(self, data: bytes) -> None:
        if self.reader is not None:
            self.reader.on_body()
            return
        for mirror in self.mirrors:
            mirror.on_request_body(data)

    def on_request_end(self) -> None:
        if self.reader is not None:
            self.reader.on_body()
            return
        attempt = self._exchange.attempt
        if isinstance(attempt, FaultyTry):
            attempt.on_request_end()
        for mirror in self.mirrors:
            mirror.on_request_end()

    def on_answer(self, attempt: Attempt, head: ResponseHead, body: bytes, end_stream: bool) -> bool:
        """A host's answer would go to the client. Whether something else does."""
        return self.guard is not None and self.guard.on_answer(attempt, head, body, end_stream)

    def on_answer_body(self, data: bytes) -> None:
        if self.guard is not None:
            self.guard.on_answer_body(data)

    def on_answer_end(self) -> None:
        if self.guard is not None:
            self.guard.on_answer_end()

    def mark_answer(self, head: ResponseHead) -> None:
        """An answer, a host's or our own, goes to the client."""
        for kept in self._kept:
            kept.mark_answer(head)

    def end(self) -> None:
        """The request is over."""
        self._then = self.reader = None
        for kept in self._kept:
            kept.end()
        for mirror in self.mirrors:
            mirror.on_request_over()
        self.mirrors.clear()
