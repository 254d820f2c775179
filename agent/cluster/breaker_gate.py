"""A worker's half of a circuit breaker: who may go on now, and what became of those who did.

Owns:   admission in the present state, outcomes that the supervisor has not been told yet.
Not:    the state itself (agent.cluster.circuit_breaker, in the supervisor), requests (agent.proxy).
Invariants: in HALF_OPEN a request goes on only when it has taken one of the permits that all workers share, and each
        is taken once; an outcome of an earlier epoch is dropped; a probe always has an outcome.
Differs: between a decision of the supervisor and its arrival here requests are still admitted as before: outcomes are
        told at most REPORT_S after they are known, and decisions arrive a turn of the loop later.
"""

from collections.abc import Callable
from typing import Final

from agent.ipc.messages import BreakerNews
from agent.model.circuit_breaker import Phase

REPORT_S: Final = 0.02
REFUSED: Final = -1
_MAX_KEPT: Final = 65536  # outcomes, while the supervisor does not read


def _none() -> bool:
    return False


class Gate:
    """One breaker for one caller (`caller` is empty when it is for all). A new one is CLOSED, in epoch 0."""

    __slots__ = ("_outcomes", "_take_permit", "begun", "caller", "epoch", "fallbacks", "name", "phase", "refused")

    def __init__(self, name: str, caller: str) -> None:
        self.name = name
        self.caller = caller
        self.phase = int(Phase.CLOSED)
        self.epoch = 0
        self.begun = False  # a probe has been sent that the supervisor does not know of
        self.refused = 0  # requests, and those answered by a fallback, that it does not know of either
        self.fallbacks = 0
        self._outcomes = bytearray()
        self._take_permit: Callable[[], bool] = _none

    def set_state(self, phase: Phase, epoch: int, take_permit: Callable[[], bool] = _none) -> None:
        """The supervisor's word. `take_permit`: one of the probes of HALF_OPEN, False when all are taken."""
        if epoch == self.epoch and phase == self.phase:
            return  # it was said again
        self.phase = int(phase)
        self.epoch = epoch
        self.begun = False
        self._outcomes.clear()
        self._take_permit = take_permit

    def admit(self) -> int:
        """The epoch in which a request goes on, or REFUSED."""
        if self.phase == Phase.CLOSED or self.phase == Phase.DISABLED:
            return self.epoch
        if self.phase != Phase.HALF_OPEN or not self._take_permit():
            self.refused += 1
            return REFUSED
        self.begun = True
        return self.epoch

    @property
    def probing(self) -> bool:
        """What is admitted now is a probe: the supervisor should hear of it at once."""
        return self.phase == Phase.HALF_OPEN

    def record(self, epoch: int, outcome: int) -> bool:
        """A request that was admitted in `epoch` is over. Whether there is something to tell."""
        if epoch != self.epoch or self.phase == Phase.DISABLED:
            return False
        if len(self._outcomes) < _MAX_KEPT:
            self._outcomes.append(outcome)
        return True

    def take(self) -> BreakerNews | None:
        """What has happened since the last call; None when that is nothing."""
        if not (self._outcomes or self.begun or self.refused or self.fallbacks):
            return None
        news = BreakerNews(
            self.name, self.caller, self.epoch, bytes(self._outcomes), self.begun, self.refused, self.fallbacks
        )
        self._outcomes.clear()
        self.begun = False
        self.refused = self.fallbacks = 0
        return news
