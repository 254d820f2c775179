"""Circuit breakers, played from transcripts: the supervisor's state and the gates of two workers joined together.

Commands (one a line; the output is what changes, in order):
  breaker [SETTING=VALUE...]   a new breaker; settings are fields of agent.model.circuit_breaker.CircuitBreaker,
                               `size=N` is a window of the last N requests, `window=S` one of S seconds in ten buckets
  set SETTING=VALUE...         its policy changes; `forced=OPEN`, `forced=DISABLED`, `forced=NONE`
  WORKER ask [NAME]            a request comes to worker a or b; it is let pass (and known by NAME) or refused
  WORKER good|bad|slow|gone    so many requests come, and end so: `a bad 3`; or the one of that NAME ends: `a bad x`
  tell                         both workers tell what they know, and hear what was decided
  at TIME                      time passes (seconds, from 0)
  lost                         a worker is lost
  state                        the state, since when, why, and what counts
"""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.cluster.breaker_gate import REFUSED, Gate
from agent.cluster.circuit_breaker import Breaker
from agent.model.circuit_breaker import CANCELLED, FAILED, GOOD, SLOW, CircuitBreaker, Forced, Phase, Window
from tests.support import transcripts

HERE = Path(__file__).parent
OUTCOMES = {"good": GOOD, "bad": FAILED, "slow": SLOW, "gone": CANCELLED}
POLICY = CircuitBreaker(name="default/web", volume=4)


class Play:
    """One breaker, two workers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.policy = POLICY
        self.breaker = Breaker(POLICY, 0.0)
        self.gates = {name: Gate("default/web", "") for name in "ab"}
        self.asked: dict[str, int] = {}
        self.permits = 0

    def execute(self, text: str) -> str:
        lines: list[str] = []
        for line in text.splitlines():
            verb, *words = line.split()
            if verb in self.gates:
                lines += self._request(self.gates[verb], words)
            else:
                lines += getattr(self, f"do_{verb}")(words)
        return "\n".join(lines)

    def do_breaker(self, words: list[str]) -> list[str]:
        self.__init__()  # type: ignore[misc]
        self.policy = _with(POLICY, words)
        self.breaker = Breaker(self.policy, 0.0)
        return self._say() if self.breaker.phase is not Phase.CLOSED else []

    def do_set(self, words: list[str]) -> list[str]:
        self.policy = _with(self.policy, words)
        return self._said(self.breaker.configure(self.policy, self.now))

    def do_tell(self, words: list[str]) -> list[str]:
        lines: list[str] = []
        for gate in self.gates.values():
            news = gate.take()
            if news is not None:
                if news.begun:
                    self.breaker.begun(news.epoch, self.now)
                lines += self._said(bool(news.outcomes) and self.breaker.record(news.epoch, news.outcomes, self.now))
        for gate in self.gates.values():
            gate.set_state(self.breaker.phase, self.breaker.epoch, self._take)
        return lines

    def do_at(self, words: list[str]) -> list[str]:
        self.now = float(words[0])
        return self._said(self.breaker.tick(self.now))

    def do_lost(self, words: list[str]) -> list[str]:
        return self._said(self.breaker.lost(self.now))

    def do_state(self, words: list[str]) -> list[str]:
        total, failed, slow = self.breaker.counted(self.now)
        why = f": {self.breaker.why}" if self.breaker.why else ""
        since = f"{self.breaker.phase.name} since {self.breaker.since:g}{why}"
        return [f"{since}; {total} requests, {failed} failed, {slow} slow"]

    def _request(self, gate: Gate, words: list[str]) -> list[str]:
        what, name = words[0], words[1] if len(words) > 1 else ""
        if what == "ask":
            epoch = gate.admit()
            if name:
                self.asked[name] = epoch
            return [f"{name or 'it'} is {'refused' if epoch == REFUSED else 'let pass'}"]
        if name in self.asked:
            gate.record(self.asked.pop(name), OUTCOMES[what])
            return []
        epochs = [gate.admit() for _ in range(int(name or 1))]
        for epoch in epochs:
            if epoch != REFUSED:
                gate.record(epoch, OUTCOMES[what])
        refused = epochs.count(REFUSED)
        return [f"{refused} refused"] if refused else []

    def _take(self) -> bool:
        self.permits -= 1
        return self.permits >= 0

    def _said(self, changed: bool) -> list[str]:
        return self._say() if changed else []

    def _say(self) -> list[str]:
        self.permits = self.breaker.probes
        return [f"{self.breaker.phase.name}: {self.breaker.why}"]


def _with(policy: CircuitBreaker, words: list[str]) -> CircuitBreaker:
    for name, _, value in (word.partition("=") for word in words):
        if name == "forced":
            policy = replace(policy, forced=Forced[value])
        elif name == "size":
            policy = replace(policy, window=Window(size=int(value)))
        elif name == "window":
            policy = replace(policy, window=Window(duration_s=float(value)))
        else:
            known = type(getattr(policy, name))
            policy = replace(policy, **{name: value == "true" if known is bool else known(value)})
    return policy


@pytest.mark.parametrize("path", transcripts.cases(HERE / "circuit_breaker"), ids=lambda path: path.stem)
def test_circuit_breaker(path: Path) -> None:
    transcripts.run(path, Play().execute)
