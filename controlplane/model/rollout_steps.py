"""When a staged rollout goes on, ends or is aborted: the transitions. Sans-io.

Owns:   the transitions and the words that say why.
Not:    the values (rollout), who is staged and what proxies report (rollout_observation), performing what is asked for
        (reconcile.rollouts).
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

from dataclasses import replace

from controlplane.model.rollout import (
    Effect,
    Event,
    LogLine,
    Observed,
    Phase,
    Plan,
    Promoted,
    Reason,
    Refused,
    Rollout,
    State,
    Stopped,
    Tell,
    WriteObjects,
    Written,
)
from controlplane.model.rollout_observation import SPACE, Counts, Observation, Stage, wanted_limit

_LOG_LINES = 40
_SHOWN = 3

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
    return _spreading(rollout, seen, now) if rollout.state.phase is Phase.SPREADING else _watching(rollout, seen, now)


def _spreading(rollout: Rollout, seen: Observation, now: float) -> Step:
    limit = _larger_limit(rollout, seen)
    if limit:
        # The phase's clock runs on: a limit that grows again and again must not keep a rollout from ending.
        return _grown(rollout, limit, rollout.state.since)
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
    limit = _larger_limit(rollout, seen)
    if limit:  # those that had it have left; not before the pause is over, since a proxy may only be restarting
        return _grown(rollout, limit, now)
    if now - state.since < plan.pause_s + plan.wait_s:
        return rollout, ()
    why = f"found {seen.own.requests} requests of the staged proxies, expected at least {plan.min_requests}"
    if seen.missing:
        why = f"no report from replica {_names(seen.missing)}"
    return _aborted(rollout, Reason.INCONCLUSIVE, f"{why}, within {plan.pause_s + plan.wait_s:g} s", now)


def _larger_limit(rollout: Rollout, seen: Observation) -> int:
    """The limit that the stage needs to have its proxies; 0 when it has them, or nobody can know."""
    limit = wanted_limit(_stage(rollout), seen.lowest)
    return limit if limit > rollout.state.limit and not seen.missing else 0


def _grown(rollout: Rollout, limit: int, since: float) -> Step:
    grown = replace(
        rollout.state, phase=Phase.SPREADING, limit=limit, since=since, epoch=rollout.state.epoch + 1
    )  # fmt: skip
    return replace(rollout, state=grown), ()


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
