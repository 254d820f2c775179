"""A staged rollout of configuration: the plan, how far it is, and when it goes on, ends or is aborted. Pure.

Owns:   the transitions and the words that say why.
Not:    who is staged and what proxies report (rollout_observation), the stored form (rollout_record), the overlay
        (rollout_overlay), reading and writing the store (reconcile.rollouts).
Source: decision 24.

    SPREADING   the stage's proxies are being given the candidate
    WATCHING    all of them have it; the pause runs, their errors are compared with the others'
    FINISHING   the last stage has passed; the objects are being written

    SPREADING --every staged proxy has it--> WATCHING --pause over, enough requests--> SPREADING of the next stage
        ^                                       |                                  or  FINISHING --written--> FINISHED
        +------- the staged proxies left -------+
    SPREADING, WATCHING, FINISHING --refused, more errors, inconclusive, requested, objects changed--> ABORTED

Invariants:
  `limit` only grows: a proxy that has the candidate keeps it until the rollout ends.
  `epoch` grows with everything that replicas must act on; what a replica says of an earlier epoch is not counted.
  `now` is seconds since the epoch, since a replica goes on with what another began; it may jump by the clocks'
  difference, and then a pause is so much longer or shorter.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from controlplane.model.rollout_observation import NO_COUNTS, SPACE, Counts, Observation, Stage, wanted_limit

MAX_STAGES = 20
_LOG_LINES = 40
_SHOWN = 3


class Phase(StrEnum):
    """See the diagram."""

    SPREADING = "Spreading"
    WATCHING = "Watching"
    FINISHING = "Finishing"
    FINISHED = "Finished"
    ABORTED = "Aborted"


class Reason(StrEnum):
    """Why a rollout was aborted."""

    NONE = ""
    REJECTED = "Rejected"  # a proxy refused the candidate
    ERRORS = "ErrorRate"  # the staged proxies see more errors than the others
    INCONCLUSIVE = "Inconclusive"  # too few requests, or a proxy that does not answer
    REQUESTED = "Requested"
    CONFLICT = "Conflict"  # the objects were changed past the rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the user asked for. `max_error_points`: how far, in percent points, the staged proxies' share of 5xx may lie
    above the others'; decided on at least `min_requests` (0 = errors are watched, but none are waited for). `wait_s`:
    how long is waited for acknowledgements, and beyond the pause for requests."""

    stages: tuple[Stage, ...]
    pause_s: float = 30.0
    min_requests: int = 100
    max_error_points: float = 5.0
    wait_s: float = 300.0


@dataclass(frozen=True, slots=True)
class LogLine:
    """What happened at `at`, seconds since the epoch."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`stage`: index in the plan. `since`: when the phase began. `limit`: nodes whose place is below are staged.
    `others`: what was last counted, in numbers that tell something, of proxies without the candidate."""

    phase: Phase = Phase.SPREADING
    stage: int = 0
    since: float = 0.0
    limit: int = 0
    epoch: int = 0
    others: Counts = NO_COUNTS
    reason: Reason = Reason.NONE
    message: str = ""
    log: tuple[LogLine, ...] = ()

    @property
    def active(self) -> bool:
        """Whether proxies have, or may get, the candidate."""
        return self.phase not in (Phase.FINISHED, Phase.ABORTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout."""

    id: str
    author: str
    plan: Plan
    state: State


# --- events


@dataclass(frozen=True, slots=True)
class Observed:
    """What all replicas' proxies say now."""

    observation: Observation


@dataclass(frozen=True, slots=True)
class Promoted:
    """`by` wants the next stage now, whatever the pause and the requests say."""

    by: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """`by` wants it aborted."""

    by: str


@dataclass(frozen=True, slots=True)
class Written:
    """The objects and this end of the rollout are being written in one transaction."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The objects could not be written, and trying again will not help."""

    reason: str


Event = Observed | Promoted | Stopped | Written | Refused


# --- effects


@dataclass(frozen=True, slots=True)
class WriteObjects:
    """Write the objects and the end of the rollout in one transaction, then report Written or Refused."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Something that people should read."""

    text: str


Effect = WriteObjects | Tell
Step = tuple[Rollout, tuple[Effect, ...]]


def begin(id_: str, author: str, plan: Plan, now: float) -> Rollout:
    """A rollout in its first stage."""
    idle = Rollout(id=id_, author=author, plan=plan, state=State())
    return _entered(idle, 0, now, f"{author} begins")[0]


def step(rollout: Rollout, event: Event, now: float) -> Step:
    """The next state and what is to be done. Nothing moves a rollout that has ended."""
    if not rollout.state.active:
        return rollout, ()
    match event:
        case Observed(observation):
            return _observed(rollout, observation, now)
        case Promoted(by):
            return _promoted(rollout, by, now)
        case Stopped(by):
            return _aborted(rollout, Reason.REQUESTED, f"{by} aborts it", now)
        case Written():
            return _moved(rollout, now, "finished: the objects are stored", phase=Phase.FINISHED)
        case Refused(reason):
            return _aborted(rollout, Reason.CONFLICT, reason, now)


# --- what proxies say


def _observed(rollout: Rollout, seen: Observation, now: float) -> Step:
    if rollout.state.phase is Phase.FINISHING:
        return rollout, (WriteObjects(),)
    if seen.rejected:
        return _aborted(rollout, Reason.REJECTED, _refusals(seen), now)
    limit = max(rollout.state.limit, wanted_limit(_stage(rollout), seen.lowest))
    if limit > rollout.state.limit:
        # The clock of the phase runs on: a limit that grows for ever must not keep a rollout from ending.
        since = rollout.state.since if rollout.state.phase is Phase.SPREADING else now
        grown = replace(
            rollout.state, phase=Phase.SPREADING, limit=limit, since=since, epoch=rollout.state.epoch + 1
        )  # fmt: skip
        return replace(rollout, state=grown), ()
    if rollout.state.phase is Phase.SPREADING:
        return _spreading(rollout, seen, now)
    return _watching(rollout, seen, now)


def _spreading(rollout: Rollout, seen: Observation, now: float) -> Step:
    if not seen.missing and not seen.pending and seen.staged:
        return _moved(rollout, now, f"acknowledged by {_proxies(seen.staged)}", phase=Phase.WATCHING)
    if now - rollout.state.since < rollout.plan.wait_s:
        return rollout, ()
    who = "no proxy is connected that it concerns" if not seen.staged else f"not acknowledged by {_names(seen.pending)}"
    if seen.missing:
        who = f"no report from replica {_names(seen.missing)}"
    return _aborted(rollout, Reason.INCONCLUSIVE, f"{who} within {rollout.plan.wait_s:g} s", now)


def _watching(rollout: Rollout, seen: Observation, now: float) -> Step:
    plan, state = rollout.plan, rollout.state
    enough = seen.own.requests >= plan.min_requests
    known = _comparable(rollout, seen)
    if enough and seen.own.ratio - known.ratio > plan.max_error_points / 100:
        return _aborted(rollout, Reason.ERRORS, _errors(rollout, seen.own, known), now)
    if now - state.since < plan.pause_s:
        return rollout, ()
    if enough and not seen.missing:
        following = replace(rollout, state=replace(state, others=known))
        return _entered(following, state.stage + 1, now, f"stage {_stage(rollout)} passed ({seen.own})")
    if now - state.since < plan.pause_s + plan.wait_s:
        return rollout, ()
    why = f"found {seen.own.requests} requests of the staged proxies, expected at least {plan.min_requests}"
    if seen.missing:
        why = f"no report from replica {_names(seen.missing)}"
    return _aborted(rollout, Reason.INCONCLUSIVE, f"{why}, within {plan.pause_s + plan.wait_s:g} s", now)


def _comparable(rollout: Rollout, seen: Observation) -> Counts:
    """What the staged proxies are compared with: the others now, or as last known when they are too few by now."""
    return seen.others if seen.others.requests >= max(rollout.plan.min_requests, 1) else rollout.state.others


def _promoted(rollout: Rollout, by: str, now: float) -> Step:
    if rollout.state.phase is Phase.FINISHING:
        return rollout, ()
    return _entered(rollout, rollout.state.stage + 1, now, f"{by} promotes it past stage {_stage(rollout)}")


# --- moves


def _entered(rollout: Rollout, stage: int, now: float, text: str) -> Step:
    """Into a stage; behind the last one the objects are written."""
    stages = rollout.plan.stages
    if stage >= len(stages):
        finishing, told = _moved(rollout, now, f"{text}; writing the objects", phase=Phase.FINISHING, limit=SPACE)
        return finishing, (*told, WriteObjects())
    limit = max(rollout.state.limit, wanted_limit(stages[stage], ()))
    text = f"{text}; stage {stage + 1} of {len(stages)}: {stages[stage]}"
    return _moved(rollout, now, text, phase=Phase.SPREADING, stage=stage, limit=limit)


def _aborted(rollout: Rollout, reason: Reason, message: str, now: float) -> Step:
    return _moved(rollout, now, f"aborted, {reason}: {message}", phase=Phase.ABORTED, reason=reason, message=message)


def _moved(
    rollout: Rollout,
    now: float,
    text: str,
    *,
    phase: Phase,
    stage: int | None = None,
    limit: int | None = None,
    reason: Reason = Reason.NONE,
    message: str = "",
) -> Step:
    state = rollout.state
    moved = replace(
        state,
        phase=phase,
        stage=state.stage if stage is None else stage,
        since=now,
        limit=state.limit if limit is None else limit,
        epoch=state.epoch + 1,
        reason=reason,
        message=message,
        log=(*state.log, LogLine(now, text))[-_LOG_LINES:],
    )
    return replace(rollout, state=moved), (Tell(text),)


# --- words


def _stage(rollout: Rollout) -> Stage:
    return rollout.plan.stages[rollout.state.stage]


def _refusals(seen: Observation) -> str:
    shown = "; ".join(f"{item.node} refuses {item.resource}: {item.reason}" for item in seen.rejected[:_SHOWN])
    return shown + _more(len(seen.rejected))


def _errors(rollout: Rollout, own: Counts, others: Counts) -> str:
    return (
        f"of the staged proxies' requests {own.ratio:.1%} failed ({own}), of the others' {others.ratio:.1%} "
        f"({others}): more than {rollout.plan.max_error_points:g} points above"
    )


def _proxies(count: int) -> str:
    return f"{count} {'proxy' if count == 1 else 'proxies'}"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + _more(len(names))


def _more(count: int) -> str:
    return f" and {count - _SHOWN} more" if count > _SHOWN else ""
