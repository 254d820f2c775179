"""The circuit breakers of one worker: their gates by policy and caller, and what the supervisor is told.

Owns:   the gates, the permits of their probes, when news go out, the good answers that are kept.
Not:    admission itself (agent.cluster.breaker_gate), what a request does with it (circuit_breaker).
Invariants: outcomes go out REPORT_S after the first of them at the latest, those of a probe and its beginning at once;
        of callers of one policy at most MAX_CALLERS have a gate.
"""

from collections.abc import Callable

from agent.cluster.breaker_gate import REPORT_S, Gate
from agent.filters.last_good import LastGoodAnswers
from agent.ipc.messages import BreakerNews, BreakerState
from agent.ipc.permits import Permits
from agent.model.circuit_breaker import CircuitBreaker, LastGood
from agent.upstream.wheel import NEVER, Timed, TimerWheel

MAX_CALLERS = 1000

Send = Callable[[BreakerNews], None]


class BreakerBook(Timed):
    """One per worker. `send`: to the supervisor."""

    __slots__ = ("_clock", "_gates", "_last_good", "_permits", "_send", "_talking", "_wheel")

    def __init__(self, wheel: TimerWheel, clock: Callable[[], float], send: Send) -> None:
        super().__init__()
        self._wheel = wheel
        self._clock = clock
        self._send = send
        self._gates: dict[str, dict[str, Gate]] = {}  # by policy, then caller
        self._permits: dict[tuple[str, str], Permits] = {}
        self._last_good: dict[str, LastGoodAnswers] = {}
        self._talking: dict[Gate, None] = {}  # those with news

    def gate(self, policy: CircuitBreaker, caller: str) -> Gate | None:
        """The gate of a policy for the requests of `caller`; None for one caller too many."""
        own = caller if policy.per_caller else ""
        gates = self._gates.setdefault(policy.name, {})
        found = gates.get(own)
        if found is None and len(gates) < MAX_CALLERS:
            found = gates[own] = Gate(policy.name, own)
        return found

    def last_good(self, name: str, limits: LastGood) -> LastGoodAnswers:
        """The answers that are kept for a policy."""
        found = self._last_good.get(name)
        if found is None or found.limits != limits:
            found = self._last_good[name] = LastGoodAnswers(limits)
        return found

    def set_state(self, state: BreakerState, descriptor: int) -> None:
        """The supervisor's word. Takes the descriptor over; -1 = none."""
        key = (state.breaker, state.caller)
        before = self._permits.pop(key, None)
        if before is not None:
            before.close()
        gate = self._gates.setdefault(state.breaker, {}).setdefault(state.caller, Gate(state.breaker, state.caller))
        self._talk(gate)  # of what was before
        if descriptor < 0:
            gate.set_state(state.phase, state.epoch)
        else:
            permits = self._permits[key] = Permits(descriptor)
            gate.set_state(state.phase, state.epoch, permits.take)

    def forget(self, breaker: str) -> None:
        """There is no such policy any more."""
        self._last_good.pop(breaker, None)
        for gate in self._gates.pop(breaker, {}).values():
            self._talking.pop(gate, None)
        for key in [key for key in self._permits if key[0] == breaker]:
            self._permits.pop(key).close()

    def note(self, gate: Gate, *, at_once: bool = False) -> None:
        """A gate has news."""
        if at_once:
            self._talk(gate)
            return
        self._talking[gate] = None
        if self.deadline == NEVER:
            self._wheel.arm(self, self._clock() + REPORT_S)

    def on_deadline(self, now: float) -> None:
        talking, self._talking = self._talking, {}
        for gate in talking:
            self._talk(gate)

    def _talk(self, gate: Gate) -> None:
        self._talking.pop(gate, None)
        news = gate.take()
        if news is not None:
            self._send(news)
