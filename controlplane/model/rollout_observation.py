"""Who is staged in a rollout, and what proxies say about the candidate: by replica, and all replicas together. Pure.

Owns:   places, stages and limits; the report of one replica; joining reports.
Not:    what follows from them (rollout_steps), finding them out (snapshot.staging, reconcile.rollout_reports).
Source: decision 24: hash(rollout, node) < percent, at least one of those interested.

A node has a place in [0, SPACE) that depends on the rollout and its name alone, so every replica agrees on it. Staged
are the places below a limit, which the leader raises until the stage has its proxies: `10%` is SPACE / 10, or what
takes in one interested proxy; `3` is what takes in the three interested proxies with the lowest places. Where some of
them have traffic that the candidate concerns, only those count: a proxy that sends nothing can prove nothing.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SPACE = 1 << 32
MAX_COUNT = 100  # of a stage that counts proxies: so many lowest places each replica reports
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Stage:
    """A share of the proxies: `percent` above 0 up to 100, or with 0 a `count` of at least one."""

    percent: float = 0.0
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "Stage":
        """`10%` or `3`. Raises ValueError."""
        digits = text.strip().removesuffix("%")
        is_percent = text.strip().endswith("%")
        plain = digits.replace(".", "", 1) if is_percent else digits
        if plain.isascii() and plain.isdecimal() and len(digits) <= 8:
            if is_percent and 0 < float(digits) <= 100:
                return cls(percent=float(digits))
            if not is_percent and 0 < int(digits) <= MAX_COUNT:
                return cls(count=int(digits))
        raise ValueError(f"found {text[:40]!r}, expected a number of proxies (1 to {MAX_COUNT}) or a share such as 10%")

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent else str(self.count)


def parse_stages(text: str, *, most: int) -> tuple[Stage, ...]:
    """`1,10%,100%`: counts, then shares, both growing, up to 100%. Raises ValueError."""
    stages = tuple(Stage.parse(part) for part in text.split(","))
    if len(stages) > most:
        raise ValueError(f"found {len(stages)} stages, expected at most {most}")
    sizes = [(stage.percent, stage.count) for stage in stages]
    if any(after <= before for before, after in pairwise(sizes)):
        raise ValueError(f"found {text[:80]!r}, expected numbers of proxies, then shares, each larger than the last")
    if stages[-1].percent != 100:
        raise ValueError(f"found {stages[-1]} as the last stage, expected 100%")
    return stages


def place_of(rollout: str, node: str) -> int:
    """The node's place in the rollout: 0 <= place < SPACE."""
    return int.from_bytes(hashlib.blake2b(f"{rollout}/{node}".encode(), digest_size=4).digest())


def wanted_limit(stage: Stage, lowest: Sequence[int]) -> int:
    """The limit that stages what the stage wants. `lowest`: the lowest places of interested proxies, ascending."""
    if stage.percent:
        share = math.ceil(SPACE * stage.percent / 100)
        return max(share, lowest[0] + 1) if lowest else share
    known = lowest[: stage.count]
    return known[-1] + 1 if known else 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests that have ended, and how many of them with an error of 5xx or without an answer."""

    requests: int = 0
    errors: int = 0

    @property
    def ratio(self) -> float:
        """Of errors, 0..1; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.requests + other.requests, self.errors + other.errors)

    def __str__(self) -> str:
        return f"{self.errors} of {self.requests} requests"


NO_COUNTS = Counts()


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """A proxy that refuses a resource of the candidate. `resource`: `CDS outbound|80||a`."""

    node: str
    resource: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one replica knows of its own proxies, as of `epoch` of the rollout's state.

    Interested is a proxy whose configuration the candidate changes; busy one of them that has sent requests which
    it may change. `staged` counts the interested ones that have the candidate or shall have it. Of the pending
    ones some are named, `pending_count` counts all.
    """

    rollout: str
    replica: str
    epoch: int
    interested: int = 0
    lowest: tuple[int, ...] = ()
    busy: tuple[int, ...] = ()
    staged: int = 0
    pending: tuple[str, ...] = ()
    pending_count: int = 0
    rejected: tuple[Refusal, ...] = ()
    own: Counts = NO_COUNTS
    others: Counts = NO_COUNTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All replicas together. `missing`: replicas that have not acted on the present epoch yet. `lowest`: places of busy
    proxies, or when none is busy of all that are interested."""

    missing: tuple[str, ...] = ()
    interested: int = 0
    lowest: tuple[int, ...] = ()
    staged: int = 0
    pending: tuple[str, ...] = ()
    pending_count: int = 0
    rejected: tuple[Refusal, ...] = ()
    own: Counts = NO_COUNTS
    others: Counts = NO_COUNTS


def joined(
    reports: Iterable[Report], replicas: Iterable[str], rollout: str, epoch: int, *, late_too: bool = False
) -> Observation:
    """What the reports say of `epoch` of the rollout; refusals count whatever their epoch is. `replicas`: those alive.

    `late_too`: with what replicas say that have not acted on the epoch yet, for people to look at.
    A node that is connected to two replicas is counted by both, which moves a stage by one proxy at most.
    """
    known = sorted((report for report in reports if report.rollout == rollout), key=lambda report: report.replica)
    current = [report for report in known if report.epoch == epoch]
    missing = set(replicas) - {report.replica for report in current}
    current = known if late_too else current
    busy = {place for report in current for place in report.busy}
    return Observation(
        missing=tuple(sorted(missing)),
        interested=sum(report.interested for report in current),
        lowest=tuple(sorted(busy or {place for report in current for place in report.lowest})),
        staged=sum(report.staged for report in current),
        pending=tuple(name for report in current for name in report.pending),
        pending_count=sum(report.pending_count for report in current),
        rejected=tuple(sorted(item for report in known for item in report.rejected)),
        own=sum((report.own for report in current), NO_COUNTS),
        others=sum((report.others for report in current), NO_COUNTS),
    )


def named(names: Iterable[str]) -> tuple[str, ...]:
    """Some of the names, in order."""
    return tuple(sorted(names)[:_MOST_NAMED])
