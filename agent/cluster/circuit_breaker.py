"""The circuit breaker: refuse the requests to what keeps failing, then let a few through to see.

Owns:   the state of one breaker, since when and why; what outcomes and time do to it.
Not:    who is told of it and how probes are shared out (agent.supervisor.breakers), what a worker does with a request
        (breaker_gate, agent.proxy), capping concurrency (thresholds, bulkhead), ejecting hosts (outlier_detection).
Source: data-plane.md 1.4: Hystrix, and resilience4j where it has more (slow requests, count windows, several probes).

              volume reached, and percent failed or slow              open_s is over
    CLOSED --------------------------------------------------> OPEN ------------------> HALF_OPEN
       ^                                                        ^                         |   |
       |                                                        +-- a probe fails, or is -+   |
       |                                                            given up, or takes        |
       |                                                            too long                  |
       +------------------------------------------------------ every probe is good -----------+
    FORCED_OPEN and DISABLED are entered and left by configuration alone; CLOSED follows.

Invariants: each change of state raises `epoch`, and an outcome counts only in the epoch whose state admitted its
        request, so nothing that was under way before can close it or open it again; what was refused is no outcome;
        HALF_OPEN is left after at most `probes` outcomes.
Differs: with several probes Hystrix's single verdict holds for each of them, unless the policy asks for resilience4j's,
        which judges their percentages when all are over. A probe that its client gives up opens the breaker again.
"""

from agent.cluster.rolling_window import RollingWindow, counted_outcomes, window_of
from agent.model.circuit_breaker import CANCELLED, CircuitBreaker, Forced, Phase

_CANCELLED = bytes((CANCELLED,))
_FORCED = {Forced.OPEN: Phase.FORCED_OPEN, Forced.DISABLED: Phase.DISABLED}


class Breaker:
    """One breaker. Times: monotonic seconds, never going back. `since`: when it came to its `phase`, and `why`."""

    def __init__(self, policy: CircuitBreaker, now: float, epoch: int = 0) -> None:
        self.policy = policy
        self.phase = _FORCED.get(policy.forced, Phase.CLOSED)
        self.epoch = epoch + (self.phase is not Phase.CLOSED)  # who knows nothing yet takes `epoch` for CLOSED
        self.since = now
        self.why = _order(policy.forced)
        self.opened = 0  # how often
        self.probes = policy.probes  # of this HALF_OPEN
        self._window: RollingWindow = window_of(policy.window)
        self._probed = b""  # the outcomes of this HALF_OPEN
        self._probing_since: float | None = None

    # --- what happens -----------------------------------------------------------------------------------------

    def configure(self, policy: CircuitBreaker, now: float) -> bool:
        """Obey this from now on. Whether the state changed."""
        before, self.policy = self.policy, policy
        if policy.window != before.window:
            self._window = window_of(policy.window)
        if policy.forced is before.forced:
            return False
        return self._become(_FORCED.get(policy.forced, Phase.CLOSED), _order(policy.forced) or "no longer forced", now)

    def begun(self, epoch: int, now: float) -> None:
        """A probe has been sent."""
        if epoch == self.epoch and self.phase is Phase.HALF_OPEN and self._probing_since is None:
            self._probing_since = now

    def record(self, epoch: int, outcomes: bytes, now: float) -> bool:
        """Requests admitted in `epoch` are over, a byte each: GOOD or a sum of the others. Whether that changed it."""
        if epoch != self.epoch:
            return False
        if self.phase is Phase.CLOSED:
            return self._judge(outcomes.replace(_CANCELLED, b""), now)
        if self.phase is Phase.HALF_OPEN:
            return self._judge_probes(outcomes, now)
        return False

    def lost(self, now: float) -> bool:
        """A worker is gone, and with it perhaps a probe. Whether the state changed."""
        if self.phase is not Phase.HALF_OPEN:
            return False
        return self._become(Phase.OPEN, "a worker was lost while it was probed", now)

    def tick(self, now: float) -> bool:
        """Time has passed. Whether the state changed."""
        if self.phase is Phase.OPEN and now - self.since >= self.policy.open_s:
            return self._become(Phase.HALF_OPEN, f"{self.policy.open_s:g} s are over", now)
        wait_s, since = self.policy.probe_wait_s, self._probing_since
        if self.phase is Phase.HALF_OPEN and wait_s and since is not None and now - since >= wait_s:
            return self._become(Phase.OPEN, f"no answer to a probe within {wait_s:g} s", now)
        return False

    def counted(self, now: float) -> tuple[int, int, int]:
        """(requests, failed, slow) in the window."""
        self._window.forget(now)
        return self._window.total, self._window.failed, self._window.slow

    # --- what follows -----------------------------------------------------------------------------------------

    def _judge(self, outcomes: bytes, now: float) -> bool:
        self._window.add(outcomes, now)
        total, failed, slow = self.counted(now)
        if total < self.policy.volume:
            return False
        why = self._reason(total, failed, slow)
        return bool(why) and self._become(Phase.OPEN, why, now)

    def _judge_probes(self, outcomes: bytes, now: float) -> bool:
        policy = self.policy
        self._probed += outcomes
        if any(one & CANCELLED for one in outcomes):
            return self._become(Phase.OPEN, "a probe was given up by its client", now)
        failed, slow = counted_outcomes(self._probed)
        if policy.any_failure and (failed or slow):
            return self._become(Phase.OPEN, "a probe failed" if failed else "a probe was slow", now)
        if len(self._probed) < self.probes:
            return False
        why = self._reason(len(self._probed), failed, slow)
        if why:
            return self._become(Phase.OPEN, f"of the probes {why}", now)
        return self._become(Phase.CLOSED, f"{_times(self.probes, 'probe')} answered well", now)

    def _reason(self, total: int, failed: int, slow: int) -> str:
        """Why so many open it; nothing when they do not."""
        policy = self.policy
        if failed and failed * 100 >= policy.error_percent * total:
            return f"{failed} of {_times(total, 'request')} failed, {policy.error_percent:g} % open it"
        if slow and slow * 100 >= policy.slow_percent * total:
            percent = policy.slow_percent
            return f"{slow} of {_times(total, 'request')} took {policy.slow_s:g} s or more, {percent:g} % open it"
        return ""

    def _become(self, phase: Phase, why: str, now: float) -> bool:
        self.phase, self.why, self.since = phase, why, now
        self.epoch += 1
        self.opened += phase is Phase.OPEN
        self._window.clear()
        self._probed = b""
        self.probes = self.policy.probes
        self._probing_since = None
        return True


def _order(forced: Forced) -> str:
    return "" if forced is Forced.NONE else f"forced: {forced.name}"


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
