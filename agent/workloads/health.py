"""Active health checks of local services: from results to HEALTHY or UNHEALTHY. Pure.

Owns:   thresholds, the first result, time-to-live checks, when the next check is due.
Not:    making a check (probes), who is told (registry).
Source: data-plane.md 1.7 (Envoy's health_checker_base_impl.cc); Consul's check types for time-to-live.

    PENDING --first result--> HEALTHY or UNHEALTHY, whatever the thresholds
    HEALTHY --unhealthy_threshold network failures or timeouts in a row--> UNHEALTHY
            --one answer that is not expected--> UNHEALTHY
    UNHEALTHY --healthy_threshold successes in a row--> HEALTHY

Invariants: a success zeroes the run of failures and the other way round; `since` changes only with the health.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from mesh.vocabulary import HealthStatus

NOT_CHECKED = "not checked yet"
JITTER_RATIO = 0.1  # added to every interval, so that checks of many services spread
INITIAL_JITTER_S = 0.2


class Outcome(IntEnum):
    """REFUSED = an answer that is not the expected one; FAILED = no answer: connect failure, timeout, reset."""

    PASSED = 0
    FAILED = 1
    REFUSED = 2


@dataclass(frozen=True, slots=True)
class Result:
    """One check. `reason` is a sentence for people, empty when it passed."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    unhealthy: int = 2
    healthy: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`decided`: a first result has come. `run`: results in a row that speak against `healthy`."""

    healthy: bool = False
    decided: bool = False
    run: int = 0
    reason: str = NOT_CHECKED

    @property
    def status(self) -> HealthStatus:
        return HealthStatus.HEALTHY if self.healthy else HealthStatus.UNHEALTHY


PENDING = Health()
UNCHECKED = Health(healthy=True, decided=True, reason="")  # a service without a check


def step(state: Health, result: Result, thresholds: Thresholds) -> Health:
    """The health after one more result."""
    passed = result.outcome is Outcome.PASSED
    if not state.decided:
        return Health(healthy=passed, decided=True, reason=result.reason)
    if passed == state.healthy:
        # An agreeing result ends the run; an unhealthy service's newest reason is the one to show.
        return replace(state, run=0, reason=result.reason)
    needed = thresholds.healthy if passed else thresholds.unhealthy
    if result.outcome is Outcome.REFUSED or state.run + 1 >= needed:
        return Health(healthy=passed, decided=True, reason=result.reason)
    return replace(state, run=state.run + 1)


def next_delay_s(interval_s: float, rng: Callable[[], float]) -> float:
    """Seconds until the next check."""
    return interval_s * (1 + JITTER_RATIO * rng())


@dataclass(frozen=True, slots=True, kw_only=True)
class TtlHealth:
    """A time-to-live check: the application says how it is at least every `ttl_s`. Consul: it begins critical."""

    status: str = "critical"  # passing, warning, critical
    note: str = NOT_CHECKED
    until: float = 0.0  # monotonic; the said status holds until then

    def said(self, status: str, note: str, now: float, ttl_s: float) -> "TtlHealth":
        """The application has said how it is."""
        return TtlHealth(status=status, note=note, until=now + ttl_s)

    def at(self, now: float) -> Health:
        """How the service is at `now`. A warning serves on, as in Consul."""
        if self.until == 0.0:
            return PENDING
        if now >= self.until:
            return Health(healthy=False, decided=True, reason="nothing was heard within the time to live")
        if self.status == "critical":
            return Health(healthy=False, decided=True, reason=self.note or "the application says critical")
        return Health(healthy=True, decided=True, reason=f"warning: {self.note}" if self.status == "warning" else "")
