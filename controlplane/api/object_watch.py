"""A watch of the objects of one kind: what a client that saw revision N must be told to see what the store holds.

Owns:   ADDED, MODIFIED, DELETED, BOOKMARK; resuming from a revision.
Not:    the store's watch (watch_hub), HTTP framing and Tables (rest_objects), gRPC (control_service).
Source: Kubernetes API concepts, "Efficient detection of changes", "Streaming lists"; decisions 17, 18.

Invariant: `_seen` is exactly what the client has been told. An event is what differs from it, so nothing is told
twice, and a value that came and went in between may be skipped but is never left standing (decision 18).
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from controlplane.api.selectors import Selector
from controlplane.api.served import Manifest, group_statuses, serve
from controlplane.api.watch_hub import WatchHub
from controlplane.policy.kinds import KindInfo
from controlplane.store.keys import OBJECTS, STATUS, ObjectKey, objects_prefix
from controlplane.store.protocol import ConfigStore
from mesh.errors import ErrorCode, MeshError

ADDED, MODIFIED, DELETED, BOOKMARK = "ADDED", "MODIFIED", "DELETED", "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`manifest` is the object, for DELETED its last state; for BOOKMARK it is empty. `revision`: resume from here.

    `initial_end` marks the bookmark after the last of the objects that were there at the start.
    """

    type: str
    manifest: Manifest
    revision: int
    initial_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """What to watch. `from_revision` 0 = begin with everything that is there as ADDED."""

    kind: KindInfo
    version: str = ""
    namespace: str = ""
    selector: Selector = Selector()
    from_revision: int = 0
    bookmark_s: float = 30.0  # a bookmark after so long without an event


@dataclass(slots=True)
class _Seen:
    """What the client knows of one object; `create_revision` tells an object from its successor of the same name."""

    manifest: Manifest
    create_revision: int


class ObjectWatch:
    """One watch; iterate `events`. It ends when the consumer closes it, or with an error."""

    def __init__(self, store: ConfigStore, hub: WatchHub, request: WatchRequest) -> None:
        self._store = store
        self._hub = hub
        self._request = request
        self._seen: dict[ObjectKey, _Seen] = {}

    async def events(self) -> AsyncGenerator[WatchEvent, None]:
        """Raises COMPACTED when `from_revision` is no longer kept, UNAVAILABLE when the server or the store stops."""
        request = self._request
        if request.from_revision:
            await self._remember(request.from_revision)
        await self._hub.reach(request.from_revision)
        with self._hub.subscribe(request.kind.group, request.kind.plural, request.namespace) as subscription:
            for event in self._compare_all({*self._hub.keys(subscription), *self._seen}):
                yield event
            yield WatchEvent(BOOKMARK, {}, self._hub.revision, initial_end=True)
            while True:
                changed = await subscription.take(request.bookmark_s)
                events = self._compare_all(changed)
                for event in events:
                    yield event
                # After a deletion too: its event has an old revision, a client shall not resume from that.
                if not changed or any(event.type == DELETED for event in events):
                    yield WatchEvent(BOOKMARK, {}, self._hub.revision)

    async def _remember(self, revision: int) -> None:
        """Take what the client saw at `revision`."""
        kind = self._request.kind
        prefix = objects_prefix(kind.group, kind.plural, self._request.namespace)
        try:
            objects = await self._store.list(prefix, at_revision=revision)
            listed = await self._store.list(STATUS + prefix.removeprefix(OBJECTS), at_revision=revision)
        except MeshError as error:
            if error.code is ErrorCode.COMPACTED:
                message = f"too old resource version: {error.message}"
                raise MeshError(ErrorCode.COMPACTED, message, hint="list again") from error
            raise
        statuses = group_statuses(listed.entries)
        for entry in objects.entries:
            key = ObjectKey.find(entry.key)
            if key is None:
                continue
            manifest = serve(entry, statuses.get(key, []), kind, self._request.version)
            if self._request.selector.selects(manifest):
                self._seen[key] = _Seen(manifest, entry.create_revision)

    def _compare_all(self, keys: set[ObjectKey]) -> list[WatchEvent]:
        """In order of their revisions, so that a client that stops in between can resume."""
        events = [event for key in sorted(keys) for event in self._compare(key)]
        return sorted(events, key=lambda event: event.revision)

    def _compare(self, key: ObjectKey) -> list[WatchEvent]:
        """The events that bring the client's view of one object up to date."""
        seen = self._seen.get(key)
        entry, statuses = self._hub.find(key)
        manifest = serve(entry, statuses, self._request.kind, self._request.version) if entry is not None else None
        if entry is None or manifest is None or not self._request.selector.selects(manifest):
            return [self._deleted(key, seen)] if seen is not None else []
        events = []
        if seen is not None and seen.create_revision != entry.create_revision:
            events.append(self._deleted(key, seen))
            seen = None
        if seen is None or seen.manifest != manifest:
            revision = int(manifest["metadata"]["resourceVersion"])
            events.append(WatchEvent(ADDED if seen is None else MODIFIED, manifest, revision))
            self._seen[key] = _Seen(manifest, entry.create_revision)
        return events

    def _deleted(self, key: ObjectKey, seen: _Seen) -> WatchEvent:
        """The last state that the client knew. Its revision is not the deletion's, which is not known: a client that
        resumes from it is told of the deletion again, never not at all."""
        del self._seen[key]
        return WatchEvent(DELETED, seen.manifest, int(seen.manifest["metadata"]["resourceVersion"]))
