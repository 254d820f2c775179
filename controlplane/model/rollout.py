"""A staged rollout of configuration: the plan, the state, what happens to it and what it asks for. Pure values.

Not:    the transitions (rollout_steps), who is staged and what proxies report (rollout_observation), the stored form
        (rollout_record), the overlay (rollout_overlay).
Source: decision 24.
"""

from dataclasses import dataclass
from enum import StrEnum

from controlplane.model.rollout_observation import NO_COUNTS, Counts, Observation, Stage

MAX_STAGES = 20


class Phase(StrEnum):
    """See the diagram of rollout_steps. The last two are ends."""

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
