"""What one stream was sent and what it said about it: the nonce ledger of one proxy's connection. Pure.

Owns:   nonce -> (revisions, names, versions) of every response not yet answered; which names the client accepted;
        which it rejected and why; which are held back, and what they wait for; whether its first state is whole.
Not:    what to send (controlplane.discovery sessions), counting over proxies (distribution.ledger).
Source: decisions 20 and 21; design section 2 ("an ACK is matched by nonce, since hashes can repeat").

Revisions: a change that came with the revisions in (after, revision] is written as `Span(after, revision)`; several
revisions are one span when they were merged. A stream is pending for R while an unanswered response, a held name or
a queued view has R in its span. What no span holds, the proxy has at once, but for a stream that has just begun: what
it has not asked for yet cannot be unanswered.

    FRESH     pending for every revision, until the client has asked for all that its first state consists of and has
      |       answered it (discovery.first_state says when)
      v
    CURRENT   pending for what its spans hold

    IDLE      it has asked for nothing at all for long: it is not waited for, and not counted, until it does
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from controlplane.compiler.types import Resource, Source
from controlplane.model.layered import LayeredSet


class Span(NamedTuple):
    """The revisions (after, revision]: exclusive below, inclusive above."""

    after: int
    revision: int

    def holds(self, revision: int) -> bool:
        return self.after < revision <= self.revision

    def joined(self, other: "Span | None") -> "Span":
        if other is None:
            return self
        return Span(min(self.after, other.after), max(self.revision, other.revision))


@dataclass(slots=True)
class Sent:
    """One unanswered response. `resources`: name -> what was sent, None = removed; `changed`: the names among them
    that the client did not have in that version before (a SotW response repeats the others)."""

    span: Span
    resources: dict[str, Resource | None]
    changed: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A resource that the client refused. `certain` is False when its NACK did not say which one it meant."""

    type_url: str
    name: str
    version: str
    sources: tuple[Source, ...]
    reason: str
    span: Span
    certain: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A name that is not sent yet; `waits_for` says what must be acknowledged before ("CDS outbound|80||a")."""

    span: Span
    waits_for: str


@dataclass(slots=True)
class TypeSync:
    """One resource type on one stream."""

    outstanding: dict[str, Sent] = field(default_factory=dict)  # by nonce, oldest first
    accepted: LayeredSet = field(default_factory=LayeredSet)  # names that the client holds
    rejected: dict[str, Rejection] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    version: str = ""  # of the last acknowledged response
    revision: int = 0
    error: str = ""  # of the last NACK, until a later ACK
    changes: int = 0  # grows with everything that may change what the client has accepted or refused

    def state(self) -> str:
        """`rejected`, `pending` or `synced`."""
        if self.rejected or self.error:
            return "rejected"
        return "pending" if self.outstanding or self.held else "synced"

    def answered(self, nonce: str) -> tuple[Sent | None, set[str]]:
        """Take an answered response out; with it the names that a later one, not answered yet, has taken away."""
        later = itertools.islice(itertools.dropwhile(lambda own: own != nonce, self.outstanding), 1, None)
        leaving = {
            name
            for sent in [self.outstanding[own] for own in later]
            for name, resource in sent.resources.items()
            if resource is None
        }
        return self.outstanding.pop(nonce, None), leaving

    def settle(self, name: str, resource: Resource | None) -> None:
        """The client has taken `resource`, or its removal."""
        self.changes += 1
        self.rejected.pop(name, None)
        if resource is None:
            self.accepted.discard(name)
        else:
            self.accepted.add(name)

    def spans(self) -> Iterable[Span]:
        yield from (sent.span for sent in self.outstanding.values())
        yield from (held.span for held in self.held.values())


UNKNOWN = ("", "")
_EVER = Span(0, 1 << 62)


class StreamSync:
    """The nonce ledger of one stream. The session writes it, the DistributionLedger reads it."""

    __slots__ = ("events", "idle", "queued", "types", "unasked")

    def __init__(self) -> None:
        self.types: dict[str, TypeSync] = {}
        self.queued: Span | None = None  # a newer view waits for the session
        # (type, name) that the client needs for its first state and has not asked for; the name is empty for all of
        # the type, UNKNOWN while its answers have to show it. None: the stream is not fresh any more.
        self.unasked: tuple[str, str] | None = UNKNOWN
        self.idle = False
        self.events = 0  # grows with everything that happens: whoever counts can skip what stands still

    def of(self, type_url: str) -> TypeSync:
        """The type's ledger; made on first use."""
        sync = self.types.get(type_url)
        if sync is None:
            sync = self.types[type_url] = TypeSync()
        return sync

    def sent(self, type_url: str, nonce: str, sent: Sent) -> None:
        """A response went out. A changed name leaves its earlier rejection behind."""
        self.events += 1
        sync = self.of(type_url)
        sync.outstanding[nonce] = sent
        for name in sent.changed:
            sync.rejected.pop(name, None)
            if sent.resources.get(name) is None:
                sync.accepted.discard(name)

    def ack(self, type_url: str, nonce: str, version: str = "") -> bool:
        """The client accepted the response. False when the nonce is unknown or was answered before."""
        self.events += 1
        sync = self.of(type_url)
        sent, leaving = sync.answered(nonce)
        if sent is None:
            return False
        for name, resource in sent.resources.items():
            if name not in leaving:
                sync.settle(name, resource)
        sync.error = ""
        sync.version = version or sync.version
        sync.revision = max(sync.revision, sent.span.revision)
        return True

    def nack(self, type_url: str, nonce: str, reason: str, named: Mapping[str, str]) -> tuple[Rejection, ...]:
        """The client refused resources of the response: `named` (name -> reason), or when empty any changed one.

        Clients apply the valid rest (rule 27), so the names that are not meant count as accepted. Gives the new
        rejections; none when the nonce is unknown.
        """
        self.events += 1
        sync = self.of(type_url)
        sent, leaving = sync.answered(nonce)
        if sent is None:
            return ()
        guilty = {name: why for name, why in named.items() if sent.resources.get(name) is not None}
        certain = bool(guilty)
        if not certain:
            guilty = {name: reason for name in sent.changed if sent.resources.get(name) is not None}
        if sent.resources or not sent.changed:  # else it is about names that the client has given up since
            sync.error = reason
        for name, resource in sent.resources.items():
            # What was refused before and only repeated here stays refused, unless the client says what it means.
            if name in guilty or name in leaving:
                continue
            if certain or resource is None or name not in sync.rejected:
                sync.settle(name, resource)
        found = []
        for name, why in guilty.items():
            resource = sent.resources[name]
            if resource is None or (name not in sent.changed and name in sync.rejected):
                continue  # refused before, and this response only repeated it
            rejection = Rejection(
                type_url=type_url,
                name=name,
                version=resource.version,
                sources=resource.sources,
                reason=why,
                span=sent.span,
                certain=certain,
            )
            sync.rejected[name] = rejection
            sync.changes += 1
            found.append(rejection)
        return tuple(found)

    def forget(self, type_url: str, name: str) -> None:
        """The client does not want the name any more: it holds it no longer."""
        self.events += 1
        sync = self.of(type_url)
        sync.changes += 1
        sync.accepted.discard(name)
        sync.rejected.pop(name, None)
        if not sync.rejected:
            sync.error = ""
        for sent in sync.outstanding.values():
            sent.resources.pop(name, None)  # its answer, still under way, says nothing about what the client keeps

    def begin(self, unasked: tuple[str, str] | None, *, idle: bool = False) -> None:
        """What the client's first state still lacks, None = it is whole; `idle`: it is not waited for."""
        if (unasked, idle) != (self.unasked, self.idle):
            self.events += 1
            self.unasked, self.idle = unasked, idle

    def queue(self, span: Span) -> None:
        """A newer view waits for the session."""
        self.events += 1
        self.queued = span.joined(self.queued)

    def take_queued(self, otherwise: Span) -> Span:
        """The session has taken the newest view: gives the span that it brings."""
        self.events += 1
        span, self.queued = self.queued or otherwise, None
        return span

    def pending_for(self, revision: int) -> bool:
        """Is something that `revision` changes for this stream unanswered?"""
        return any(span.holds(revision) for span in self.open_spans())

    def open_spans(self) -> Iterator[Span]:
        """The revisions that the client is still to answer."""
        if self.unasked is not None and not self.idle:
            yield _EVER
        yield from self._under_way()

    def _under_way(self) -> Iterator[Span]:
        """What is queued, unanswered or held back."""
        if self.queued is not None:
            yield self.queued
        for sync in self.types.values():
            yield from sync.spans()

    @property
    def at_rest(self) -> bool:
        """Is nothing queued, unanswered or held back?"""
        return next(self._under_way(), None) is None

    def waiting_for(self, revision: int) -> Iterator[tuple[str, str, str]]:
        """(type, name, what it waits for) of everything that `revision` changes and that is unanswered; the name is
        empty for a view that the session has not taken yet, and what a fresh stream lacks comes last."""
        if self.queued is not None and self.queued.holds(revision):
            yield "", "", "being sent"
        for type_url, sync in self.types.items():
            for name, held in sync.held.items():
                if held.span.holds(revision):
                    yield type_url, name, held.waits_for
            for sent in sync.outstanding.values():
                if sent.span.holds(revision):
                    yield from ((type_url, name, "acknowledgement") for name in sorted(sent.changed) or ("",))
        if self.unasked is not None and not self.idle and (self.unasked != UNKNOWN or self.at_rest):
            yield *self.unasked, "the proxy's request"

    def rejections(self) -> tuple[Rejection, ...]:
        """What the client refuses at present."""
        return tuple(rejection for sync in self.types.values() for rejection in sync.rejected.values())
