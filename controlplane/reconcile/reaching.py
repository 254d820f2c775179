"""Counts, for every object, the proxies of this replica that use it, and what they said about its present form.

Owns:   which objects a proxy uses (the sources of its resources), the counts.
Not:    the words and the condition (distribution.reach), when to count (status_writer).
Source: design section 2 ("a proxy has revision R when nothing that R changes for it is unacknowledged"); decision 16.

The present form of an object came with the revision that last wrote it. A proxy that uses the object is `pending`
while something that this revision changes for it is unanswered, `rejected` while it refuses a resource that the object
is a source of, else it has acknowledged. A client that names its resources (gRPC) uses what it has named.

Cost: proxies of one scope share their sources, and pending spans are counted as ranges over the objects sorted by
revision: O(proxies + scopes * objects), and nothing while nothing happens.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from controlplane.compiler.types import Compiled
from controlplane.distribution.ledger import DistributionLedger
from controlplane.distribution.reach import Reach
from controlplane.distribution.stream_sync import Span, StreamSync
from controlplane.snapshot.view import View
from mesh.vocabulary import Dialect, ObjectRef

Refs = frozenset[ObjectRef]


class SourceIndex:
    """The objects that the resources of a compilation came from, remembered while the compilation is used."""

    def __init__(self) -> None:
        # The values hold the compilations: an id is not reused while it is known here.
        self._known: dict[int, tuple[Compiled, Refs]] = {}

    def of(self, compiled: Compiled) -> Refs:
        known = self._known.get(id(compiled))
        if known is None:
            resources = (item for by_name in compiled.resources.values() for item in by_name.values())
            refs = frozenset(source.ref for resource in resources for source in resource.sources)
            known = self._known[id(compiled)] = (compiled, refs)
        return known[1]

    def keep(self, used: Iterable[Compiled]) -> None:
        """Forget all others."""
        wanted = {id(compiled) for compiled in used}
        self._known = {key: item for key, item in self._known.items() if key in wanted}


@dataclass(slots=True)
class _Node:
    """One proxy: all streams of a node. `named`: what clients use that name their resources."""

    shared: list[Compiled] = field(default_factory=list)
    own: list[Compiled] = field(default_factory=list)
    named: set[ObjectRef] = field(default_factory=set)
    spans: list[Span] = field(default_factory=list)


class _Group:
    """The proxies of one scope that follow it whole. `edges`: how many ranges of pending objects open less close at
    each place; their running sum is how many proxies are pending for the object there."""

    __slots__ = ("edges", "nodes")

    def __init__(self, size: int) -> None:
        self.nodes = 0
        self.edges = [0] * (size + 1)


class Reaching:
    """Counts when something happened since the last time."""

    def __init__(self, ledger: DistributionLedger) -> None:
        self._ledger = ledger
        self._index = SourceIndex()
        self._seen: tuple[int, ...] = ()
        self._last: Mapping[ObjectRef, Reach] = {}

    def reaches(self, views: Mapping[int, View], revisions: Mapping[ObjectRef, int]) -> Mapping[ObjectRef, Reach]:
        """By object, those only that some proxy uses. `revisions`: which revision wrote each object last."""
        seen = (*self._ledger.fingerprint(), len(revisions), max(revisions.values(), default=0))
        if seen != self._seen:
            self._last = self._count(views, revisions)
            self._index.keep(compiled for view in views.values() for compiled in (view.shared, view.own))
            self._seen = seen
        return self._last

    def _count(self, views: Mapping[int, View], revisions: Mapping[ObjectRef, int]) -> Mapping[ObjectRef, Reach]:
        order = sorted(revisions.items(), key=lambda item: item[1])
        refs = [ref for ref, _ in order]
        places = {ref: place for place, ref in enumerate(refs)}
        objects = _Objects(refs, [revision for _, revision in order], places)
        interested: Counter[ObjectRef] = Counter()
        pending: Counter[ObjectRef] = Counter()
        groups: dict[int, tuple[Compiled, _Group]] = {}
        nodes = self._nodes(views)
        for node in nodes.values():
            ranges = objects.ranges(node.spans)
            if len(node.shared) == 1 and not node.named:
                (shared,) = node.shared
                _, group = groups.setdefault(id(shared), (shared, _Group(len(order))))
                group.nodes += 1
                for low, high in ranges:
                    group.edges[low] += 1
                    group.edges[high] -= 1
                single = self._refs(node.own) - self._index.of(shared)
            else:  # several streams, or one that names what it uses
                single = self._refs([*node.shared, *node.own]) | node.named
            for ref in single:
                interested[ref] += 1
                pending[ref] += objects.within(ref, ranges)
        for shared, group in groups.values():
            counts = dict(zip(objects.refs, accumulate(group.edges), strict=False))
            for ref in self._index.of(shared):
                interested[ref] += group.nodes
                pending[ref] += counts.get(ref, 0)
        rejected = self._rejecting(nodes, objects, pending)
        return {
            ref: _reach(count, pending[ref], rejected[ref]) for ref, count in interested.items() if ref in revisions
        }  # fmt: skip

    def _nodes(self, views: Mapping[int, View]) -> dict[str, _Node]:
        nodes: dict[str, _Node] = {}
        for connection, sync in self._ledger.streams():
            view = views.get(connection.stream)
            if view is None:
                continue
            node = nodes.setdefault(connection.node, _Node())
            node.spans += self._spans(sync)
            if connection.dialect is Dialect.GRPC:
                node.named |= _named(sync, view)
            else:
                node.shared += [] if any(view.shared is known for known in node.shared) else [view.shared]
                node.own.append(view.own)
        return nodes

    def _spans(self, sync: StreamSync) -> list[Span]:
        """What is unanswered; what is not published yet may still be for it."""
        return [*sync.open_spans(), Span(self._ledger.published, _NEVER)]

    def _refs(self, compilations: Iterable[Compiled]) -> Refs:
        return frozenset().union(*(self._index.of(compiled) for compiled in compilations))

    def _rejecting(
        self, nodes: Mapping[str, _Node], objects: "_Objects", pending: Counter[ObjectRef]
    ) -> Counter[ObjectRef]:
        """The proxies that refuse a resource of the object; they are taken off the pending ones."""
        found = {
            (source.ref, node) for node, rejection in self._ledger.rejections() for source in rejection.sources
        }  # fmt: skip
        for ref, node in found:
            if node in nodes and objects.within(ref, objects.ranges(nodes[node].spans)):
                pending[ref] -= 1
        return Counter(ref for ref, _ in found)


_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class _Objects:
    """The objects sorted by the revision that last wrote them."""

    refs: Sequence[ObjectRef]
    revisions: Sequence[int]
    places: Mapping[ObjectRef, int]

    def ranges(self, spans: Iterable[Span]) -> list[tuple[int, int]]:
        """The half-open index ranges of objects that the spans hold, joined where they overlap."""
        found = sorted(
            (bisect_right(self.revisions, span.after), bisect_right(self.revisions, span.revision)) for span in spans
        )
        joined: list[tuple[int, int]] = []
        for low, high in found:
            if low >= high:
                continue
            if joined and low <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        return joined

    def within(self, ref: ObjectRef, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether the object is in one of the ranges."""
        place = self.places.get(ref)
        return place is not None and any(low <= place < high for low, high in ranges)


def _reach(interested: int, pending: int, rejected: int) -> Reach:
    # A refusal of what the proxy shall not have any more is counted, though its view does not name the object.
    pending = max(pending, 0)
    return Reach(max(interested - pending - rejected, 0), pending, rejected)


def _named(sync: StreamSync, view: View) -> set[ObjectRef]:
    """The objects behind the resources that a client has named."""
    found: set[ObjectRef] = set()
    for type_url, types in sync.types.items():
        unanswered = (name for sent in types.outstanding.values() for name in sent.resources)
        names = {*types.accepted, *types.held, *types.rejected, *unanswered}
        resources = (view.get(type_url, name) for name in names)
        found.update(source.ref for resource in resources if resource is not None for source in resource.sources)
    return found
