"""The one gate of circuit breakers: workers tell what became of requests, this decides for all of them.

Owns:   a breaker per policy, and per caller where the policy asks for it; who is told of states, what is shown,
        counted and reported.
Not:    the rules (agent.cluster.circuit_breaker), counting outcomes (workers), sharing out probes (agent.ipc.permits).
Source: design section 1: workers count, the supervisor decides.
Invariants: every worker is told the same states in the same order; no two states have the same epoch, a policy that
        went and came again included; of callers at most MAX_CALLERS have a breaker each, the others have none.
Differs: a new supervisor begins with every breaker CLOSED.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.cluster.circuit_breaker import Breaker
from agent.ipc.messages import BreakerNews, BreakerState, Config
from agent.model.circuit_breaker import CircuitBreaker, CircuitBreakers, Phase
from agent.model.reports import ShownBreaker
from agent.stats.gossamer import CIRCUIT_BREAKER_OPENED, CIRCUIT_BREAKER_REQUESTS, CIRCUIT_BREAKER_STATE, series
from agent.supervisor.route_filters import RouteFilters
from mesh.clock import Clock
from mesh.logs import get_logger

_log = get_logger(__name__)

MAX_CALLERS = 1000  # of one policy
Tell = Callable[[BreakerState, int], None]  # (state, how many probes)
Key = tuple[str, str]  # breaker, caller


@dataclass(slots=True)
class _Known:
    breaker: Breaker
    since_ms: int


class Breakers:
    """All circuit breakers of this agent."""

    def __init__(
        self,
        *,
        tell: Tell,
        forget: Callable[[str], None],
        changed: Callable[[], None],
        count: Callable[[str, int], None],
        gauge: Callable[[str, int | None], None],
        clock: Clock,
    ) -> None:
        """`tell`: every worker; `forget`: a policy is gone; `changed`: what `shown` gives is different; `count` and
        `gauge`: a statistic by name, and its increase or its value (None = it has none any more)."""
        self._tell = tell
        self._forget = forget
        self._changed = changed
        self._count = count
        self._gauge = gauge
        self._clock = clock
        self._policies: dict[str, CircuitBreaker] = {}
        self._known: dict[Key, _Known] = {}
        self._epoch = 0  # the highest of all that are gone
        self._said = RouteFilters(CircuitBreakers)

    def shown(self) -> tuple[ShownBreaker, ...]:
        """All, by name and caller."""
        return tuple(
            ShownBreaker(
                breaker=name,
                caller=caller,
                phase=known.breaker.phase,
                since_ms=known.since_ms,
                why=known.breaker.why,
                opened=known.breaker.opened,
            )
            for (name, caller), known in sorted(self._known.items())
        )

    def windows(self) -> Mapping[Key, tuple[int, int, int]]:
        """(requests, failed, slow) that count now."""
        now = self._clock.monotonic()
        return {key: known.breaker.counted(now) for key, known in sorted(self._known.items())}

    # --- configuration ----------------------------------------------------------------------------------------

    def follow(self, tables: Mapping[str, Mapping[str, Config]]) -> None:
        """Have exactly those that the served routes name."""
        policies = {policy.name: policy for said in self._said.of(tables) for policy in said.breakers}
        before, self._policies = self._policies, policies
        for name in before.keys() - policies.keys():
            self._drop(name)
        for name, policy in policies.items():
            was = before.get(name)
            if was is None or was.per_caller != policy.per_caller:
                self._drop(name)
                if not policy.per_caller:
                    self._make(name, "", policy)
            elif was != policy:
                self._configure(name, policy)

    def _make(self, name: str, caller: str, policy: CircuitBreaker) -> _Known:
        # An epoch that no worker has seen, so that what it still has of an earlier breaker of this name counts nothing.
        made = Breaker(policy, self._clock.monotonic(), self._epoch)
        known = self._known[name, caller] = _Known(made, self._wall_ms())
        if made.epoch or made.phase is not Phase.CLOSED:
            self._say(name, caller, known)
        self._gauge(series(CIRCUIT_BREAKER_STATE, (name, caller)), int(made.phase))
        self._changed()
        return known

    def _configure(self, name: str, policy: CircuitBreaker) -> None:
        for (own, caller), known in self._known.items():
            if own == name and known.breaker.configure(policy, self._clock.monotonic()):
                self._news(own, caller, known)

    def _drop(self, name: str) -> None:
        gone = [key for key in self._known if key[0] == name]
        for key in gone:
            self._epoch = max(self._epoch, self._known.pop(key).breaker.epoch + 1)
            self._gauge(series(CIRCUIT_BREAKER_STATE, key), None)
        if gone:
            self._forget(name)
            self._changed()

    # --- what happens -----------------------------------------------------------------------------------------

    def news(self, news: BreakerNews) -> None:
        """A worker tells of its requests."""
        policy = self._policies.get(news.breaker)
        if policy is None or (news.caller != "") != policy.per_caller:
            return
        known = self._known.get((news.breaker, news.caller)) or self._admit(news, policy)
        if known is None:
            return
        self._note(news)
        now = self._clock.monotonic()
        if news.begun:
            known.breaker.begun(news.epoch, now)
        if news.outcomes and known.breaker.record(news.epoch, news.outcomes, now):
            self._news(news.breaker, news.caller, known)

    def _admit(self, news: BreakerNews, policy: CircuitBreaker) -> _Known | None:
        """A caller's first request."""
        if sum(1 for name, _ in self._known if name == news.breaker) >= MAX_CALLERS:
            return None
        return self._make(news.breaker, news.caller, policy)

    def worker_gone(self) -> None:
        """A worker is lost, and what it was doing."""
        now = self._clock.monotonic()
        self._step(lambda breaker: breaker.lost(now))

    def tick(self) -> None:
        """Several times a second."""
        now = self._clock.monotonic()
        self._step(lambda breaker: breaker.tick(now))

    def _step(self, step: Callable[[Breaker], bool]) -> None:
        for (name, caller), known in self._known.items():
            if step(known.breaker):
                self._news(name, caller, known)

    # --- who is told ------------------------------------------------------------------------------------------

    def _news(self, name: str, caller: str, known: _Known) -> None:
        """Its state has changed."""
        breaker = known.breaker
        known.since_ms = self._wall_ms()
        state = breaker.phase.name
        _log.warning("circuit breaker", breaker=name, caller=caller, state=state, why=breaker.why, epoch=breaker.epoch)
        self._say(name, caller, known)
        self._gauge(series(CIRCUIT_BREAKER_STATE, (name, caller)), int(breaker.phase))
        if breaker.phase is Phase.OPEN:
            self._count(series(CIRCUIT_BREAKER_OPENED, (name, caller)), 1)
        self._changed()

    def _say(self, name: str, caller: str, known: _Known) -> None:
        breaker = known.breaker
        probes = breaker.probes if breaker.phase is Phase.HALF_OPEN else 0
        self._tell(BreakerState(name, caller, breaker.phase, breaker.epoch), probes)

    def _note(self, news: BreakerNews) -> None:
        for what, count in (
            ("admitted", len(news.outcomes)),
            ("refused", news.refused),
            ("fallback", news.fallbacks),
        ):
            if count:
                self._count(series(CIRCUIT_BREAKER_REQUESTS, (news.breaker, news.caller, what)), count)

    def _wall_ms(self) -> int:
        return int(self._clock.wall() * 1000)
