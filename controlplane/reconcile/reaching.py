"""Counts, for every object, the proxies of this replica that use it, and what they said about its present form.

Owns:   which objects a proxy uses (the sources of its resources), the counts.
Not:    the words and the condition (distribution.reach), when to count (status_writer).
Source: design section 2 ("a proxy has revision R when nothing that R changes for it is unacknowledged"); decision 16.

The present form of an object came with the revision that last wrote it. A proxy that uses the object is `pending`
while something that this revision changes for it is unanswered, `rejected` while it refuses a resource that the object
is a source of, else it has acknowledged. A client that names its resources (gRPC) uses what it has named; a fresh
stream is pending, an idle one uses nothing (stream_sync).

Cost: proxies of one scope share their sources, and pending spans are counted as ranges over the objects sorted by
revision: O(proxies + scopes * objects), and nothing while nothing happens.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from controlplane.compiler.types import Compiled
from controlplane.distribution.ledger import Connection, DistributionLedger
from controlplane.distribution.reach import Reach
from controlplane.distribution.stream_sync import Span, StreamSync
from controlplane.snapshot.view import View
from mesh.vocabulary import Dialect, ObjectRef

Refs = frozenset[ObjectRef]
Ranges = Sequence[tuple[int, int]]  # half-open, of places among the objects


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


class _Group:
    """The proxies of one scope that follow it whole. `edges`: how many ranges of pending objects open less close at
    each place; their running sum is how many proxies are pending for the object there."""

    __slots__ = ("edges", "nodes", "refs")

    def __init__(self, refs: Refs, size: int) -> None:
        self.refs = refs
        self.nodes = 0
        self.edges = [0] * (size + 1)


class _Count:
    """One count. `interested` and `pending` are whole after `close`."""

    def __init__(self, objects: "_Objects", index: SourceIndex, published: int) -> None:
        self._objects = objects
        self._index = index
        # What is not published yet may still be for anybody.
        self._unpublished = Span(published, _NEVER)
        self._everywhere = objects.ranges([self._unpublished])
        self._groups: dict[int, _Group] = {}
        self.interested: Counter[ObjectRef] = Counter()
        self.pending: Counter[ObjectRef] = Counter()
        self.ranges: dict[str, Ranges] = {}  # by node

    def follows(self, node: str, sync: StreamSync, view: View) -> None:
        """A proxy that uses everything in its view: the scope's part is counted with the scope."""
        group = self._groups.get(id(view.shared))
        if group is None:
            group = self._groups[id(view.shared)] = _Group(self._index.of(view.shared), len(self._objects.refs))
        group.nodes += 1
        ranges = self._ranges(node, sync)
        for low, high in ranges:
            group.edges[low] += 1
            group.edges[high] -= 1
        for ref in self._index.of(view.own):
            if ref not in group.refs:
                self._add(ref, ranges)

    def uses(self, node: str, refs: Iterable[ObjectRef], ranges: Ranges) -> None:
        """A proxy that uses `refs`."""
        self.ranges[node] = ranges
        for ref in refs:
            self._add(ref, ranges)

    def joined(self, syncs: Iterable[StreamSync]) -> Ranges:
        """The pending ranges of several streams."""
        return self._objects.ranges([self._unpublished, *(span for sync in syncs for span in sync.open_spans())])

    def close(self) -> None:
        """Add what was counted with the scopes."""
        for group in self._groups.values():
            counts = dict(zip(self._objects.refs, accumulate(group.edges), strict=False))
            for ref in group.refs:
                self.interested[ref] += group.nodes
                self.pending[ref] += counts.get(ref, 0)

    def _add(self, ref: ObjectRef, ranges: Ranges) -> None:
        self.interested[ref] += 1
        if ranges:
            self.pending[ref] += self._objects.within(ref, ranges)

    def _ranges(self, node: str, sync: StreamSync) -> Ranges:
        spans = list(sync.open_spans())
        ranges = self._objects.ranges([self._unpublished, *spans]) if spans else self._everywhere
        self.ranges[node] = ranges
        return ranges


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
            self._last = self._counted(views, revisions)
            self._index.keep(compiled for view in views.values() for compiled in (view.shared, view.own))
            self._seen = seen
        return self._last

    def _counted(self, views: Mapping[int, View], revisions: Mapping[ObjectRef, int]) -> Mapping[ObjectRef, Reach]:
        objects = _Objects.sorted(revisions)
        count = _Count(objects, self._index, self._ledger.published)
        several: dict[str, list[tuple[Connection, StreamSync, View]]] = {}
        streams = [
            (connection, sync, views[connection.stream])
            for connection, sync in self._ledger.streams()
            if connection.stream in views and not sync.idle
        ]
        of_node = Counter(connection.node for connection, _, _ in streams)
        for connection, sync, view in streams:
            if connection.dialect is Dialect.GRPC or of_node[connection.node] > 1:
                several.setdefault(connection.node, []).append((connection, sync, view))
            else:
                count.follows(connection.node, sync, view)
        for node, found in several.items():
            refs = frozenset().union(*(self._used(connection, sync, view) for connection, sync, view in found))
            count.uses(node, refs, count.joined(sync for _, sync, _ in found))
        count.close()
        rejected = self._rejecting(count, objects)
        return {
            ref: _reach(interested, count.pending[ref], rejected[ref])
            for ref, interested in count.interested.items()
            if ref in revisions
        }

    def _used(self, connection: Connection, sync: StreamSync, view: View) -> Refs:
        if connection.dialect is Dialect.GRPC:
            return _named(sync, view)
        return self._index.of(view.shared) | self._index.of(view.own)

    def _rejecting(self, count: _Count, objects: "_Objects") -> Counter[ObjectRef]:
        """The proxies that refuse a resource of the object; they are taken off the pending ones."""
        found = {
            (source.ref, node) for node, rejection in self._ledger.rejections() for source in rejection.sources
        }  # fmt: skip
        for ref, node in found:
            if objects.within(ref, count.ranges.get(node, ())):
                count.pending[ref] -= 1
        return Counter(ref for ref, _ in found)


_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class _Objects:
    """The objects sorted by the revision that last wrote them."""

    refs: Sequence[ObjectRef]
    revisions: Sequence[int]
    places: Mapping[ObjectRef, int]

    @classmethod
    def sorted(cls, revisions: Mapping[ObjectRef, int]) -> "_Objects":
        order = sorted(revisions.items(), key=lambda item: item[1])
        refs = [ref for ref, _ in order]
        return cls(refs, [revision for _, revision in order], {ref: place for place, ref in enumerate(refs)})

    def ranges(self, spans: Iterable[Span]) -> Ranges:
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

    def within(self, ref: ObjectRef, ranges: Ranges) -> bool:
        """Whether the object is in one of the ranges."""
        place = self.places.get(ref)
        return place is not None and any(low <= place < high for low, high in ranges)


def _reach(interested: int, pending: int, rejected: int) -> Reach:
    # A refusal of what the proxy shall not have any more is counted, though its view does not name the object.
    pending = max(pending, 0)
    return Reach(max(interested - pending - rejected, 0), pending, rejected)


def _named(sync: StreamSync, view: View) -> Refs:
    """The objects behind the resources that a client has named."""
    found: set[ObjectRef] = set()
    for type_url, types in sync.types.items():
        unanswered = (name for sent in types.outstanding.values() for name in sent.resources)
        names = {*types.accepted, *types.held, *types.rejected, *unanswered}
        resources = (view.get(type_url, name) for name in names)
        found.update(source.ref for resource in resources if resource is not None for source in resource.sources)
    return frozenset(found)
