"""The rollout's state machine, played from transcripts.

Commands (one a line; each prints the state and what is to be done):
  begin STAGES [SETTING=VALUE...]   at time 0; settings are fields of controlplane.model.rollout.Plan
  at TIME                           from now on, in seconds
  seen [FIELD=VALUE...]             what proxies say: lowest=1;2 staged=1 pending=a,b missing=cp-2
                                    own=REQUESTS/ERRORS others=REQUESTS/ERRORS rejected=NODE
  promote WHO   stop WHO   written   refused WHY
  log                               everything that was told, with its time
"""

from pathlib import Path
from typing import Any

import pytest

from controlplane.model.rollout import (
    MAX_STAGES,
    Event,
    Observed,
    Plan,
    Promoted,
    Refused,
    Rollout,
    Stopped,
    Tell,
    WriteObjects,
    Written,
)
from controlplane.model.rollout_observation import SPACE, Counts, Observation, Refusal, parse_stages
from controlplane.model.rollout_steps import begin, step
from tests.support import transcripts

HERE = Path(__file__).parent


class Play:
    """One rollout."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rollout: Rollout | None = None

    def execute(self, text: str) -> str:
        return "\n".join(line for command in text.splitlines() for line in self._command(*command.split()))

    def _command(self, verb: str, *words: str) -> list[str]:
        lines: list[str] = getattr(self, f"do_{verb}")(*words)
        return lines

    def do_begin(self, stages: str, *settings: str) -> list[str]:
        self.now = 0.0
        values: dict[str, Any] = {
            name: int(value) if name == "min_requests" else float(value) for name, value in map(_pair, settings)
        }
        plan = Plan(stages=parse_stages(stages, most=MAX_STAGES), **values)
        self.rollout = begin("r", "ann", plan, self.now)
        return self._shown(())

    def do_at(self, time: str) -> list[str]:
        self.now = float(time)
        return []

    def do_seen(self, *words: str) -> list[str]:
        return self._step(Observed(_observation(dict(map(_pair, words)))))

    def do_promote(self, who: str) -> list[str]:
        return self._step(Promoted(who))

    def do_stop(self, who: str) -> list[str]:
        return self._step(Stopped(who))

    def do_written(self) -> list[str]:
        return self._step(Written())

    def do_refused(self, *why: str) -> list[str]:
        return self._step(Refused(" ".join(why)))

    def do_log(self) -> list[str]:
        assert self.rollout is not None
        return [f"{line.at:g} {line.text}" for line in self.rollout.state.log]

    def _step(self, event: Event) -> list[str]:
        assert self.rollout is not None
        before = self.rollout
        self.rollout, effects = step(before, event, self.now)
        told = tuple(_effect(effect) for effect in effects)
        return ["unchanged", *told] if self.rollout is before else self._shown(told)

    def _shown(self, told: tuple[str, ...]) -> list[str]:
        assert self.rollout is not None
        state = self.rollout.state
        share = "all" if state.limit == SPACE else "none" if not state.limit else f"{state.limit}"
        return [f"{state.phase} stage={state.stage + 1} limit={share} epoch={state.epoch} since={state.since:g}", *told]


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def _effect(effect: object) -> str:
    match effect:
        case Tell(text):
            return f"  tell: {text}"
        case WriteObjects():
            return "  write the objects"
    raise AssertionError(effect)


def _observation(words: dict[str, str]) -> Observation:
    pending = tuple(words.get("pending", "").split(",")) if words.get("pending") else ()
    lowest = tuple(int(place) for place in words.get("lowest", "").split(";") if place)
    return Observation(
        missing=tuple(words["missing"].split(",")) if "missing" in words else (),
        interested=len(lowest),
        lowest=lowest,
        staged=int(words.get("staged", "0")),
        pending=pending,
        pending_count=len(pending),
        rejected=tuple(
            Refusal(node, "CDS outbound|80||a", "bad value") for node in words.get("rejected", "").split(",") if node
        ),
        own=_counts(words.get("own", "0/0")),
        others=_counts(words.get("others", "0/0")),
    )


def _counts(text: str) -> Counts:
    requests, errors = text.split("/")
    return Counts(int(requests), int(errors))


@pytest.mark.parametrize("path", transcripts.cases(HERE / "rollout"), ids=lambda path: path.stem)
def test_rollout(path: Path) -> None:
    transcripts.run(path, Play().execute)
