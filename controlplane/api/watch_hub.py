"""One watch of the store for all watches of clients: the present objects and statuses, and who wants to know.

Owns:   the view of all object and status keys, in the store's order; telling subscribers which objects changed.
Not:    what a client is told (object_watch), compiling (controlplane.reconcile has a watch of its own).
Source: decision 18.

Invariants:
  The view is exactly the store's as of `revision`. Objects and their statuses come by one ordered watch: with two,
  a client that resumes from an object's event could miss an older status change.
  A subscriber holds a set of changed keys, not a queue of events: it is bounded by the number of objects, a slow
  client costs nobody else anything and skips intermediate values.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from controlplane.store.keys import OBJECTS, ROOT, ObjectKey
from controlplane.store.protocol import Changes, ConfigStore, Entry
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn

_START_S = 10.0
_CATCH_UP_S = 1.0


class Subscription:
    """What changed in one kind since the last `take`."""

    __slots__ = ("_dirty", "_namespace", "_plural", "_wake", "failed")

    def __init__(self, plural: tuple[str, str], namespace: str) -> None:
        self._plural = plural
        self._namespace = namespace
        self._dirty: set[ObjectKey] = set()
        self._wake = asyncio.Event()
        self.failed: MeshError | None = None

    def wants(self, key: ObjectKey) -> bool:
        return (key.group, key.plural) == self._plural and self._namespace in ("", key.namespace)

    def touch(self, key: ObjectKey) -> None:
        self._dirty.add(key)
        self._wake.set()

    def fail(self, error: MeshError) -> None:
        self.failed = error
        self._wake.set()

    async def take(self, timeout_s: float) -> set[ObjectKey]:
        """The keys that changed; waits for one at most `timeout_s`, then the set is empty. Raises what failed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return set()
        if self.failed is not None:
            raise self.failed
        self._wake.clear()
        taken, self._dirty = self._dirty, set()
        return taken


class WatchHub:
    """The shared watch. It starts with the first subscriber and runs until `close`."""

    def __init__(self, store: ConfigStore) -> None:
        self._store = store
        self._objects: dict[ObjectKey, Entry] = {}
        self._statuses: dict[ObjectKey, dict[str, Entry]] = {}
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self.revision = 0

    async def reach(self, revision: int) -> None:
        """Wait until the view is there and not older than `revision`. Raises UNAVAILABLE without a first view.

        A revision above every change of ours (somebody else writes to the same etcd) is waited for only briefly:
        then the view is current as it stands.
        """
        if self._task is None or self._task.done():
            self._task = spawn("watch hub", self._run(), on_failure=self._failed)
        if not self.revision:
            await self._wait(1, _START_S)
        if not self.revision:
            raise MeshError(ErrorCode.UNAVAILABLE, f"no answer within {_START_S:g} s", subject="store")
        await self._wait(revision, _CATCH_UP_S)

    @contextmanager
    def subscribe(self, group: str, plural: str, namespace: str = "") -> Iterator[Subscription]:
        """Be told of changes while the context lasts."""
        subscription = Subscription((group, plural), namespace)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def keys(self, subscription: Subscription) -> list[ObjectKey]:
        """The present objects that a subscription is about."""
        return [key for key in self._objects if subscription.wants(key)]

    def find(self, key: ObjectKey) -> tuple[Entry | None, list[Entry]]:
        """An object and its statuses by replica."""
        return self._objects.get(key), [entry for _, entry in sorted(self._statuses.get(key, {}).items())]

    async def close(self) -> None:
        """End every subscription, so that open requests end, and the watch."""
        for subscription in self._subscriptions:
            subscription.fail(MeshError(ErrorCode.UNAVAILABLE, "the server is stopping", subject="watch"))
        await cancel_and_wait(self._task)

    async def _run(self) -> None:
        async for changes in self._store.watch(ROOT):
            for key in self._take(changes):
                for subscription in self._subscriptions:
                    if subscription.wants(key):
                        subscription.touch(key)
            self.revision = changes.revision
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
        raise MeshError(ErrorCode.UNAVAILABLE, "the store ended the watch", subject="store")

    def _failed(self, error: BaseException) -> None:
        self.revision = 0
        for subscription in self._subscriptions:
            subscription.fail(MeshError(ErrorCode.UNAVAILABLE, f"the watch of the store failed: {error}"))

    async def _wait(self, revision: int, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while self.revision < revision:
                    await self._moved.wait()
        except TimeoutError:
            return

    def _take(self, changes: Changes) -> set[ObjectKey]:
        touched: set[ObjectKey] = set()
        if changes.full:
            touched.update(self._objects)
            self._objects.clear()
            self._statuses.clear()
        for name in changes.deletes:
            if (key := ObjectKey.find(name)) is not None:
                touched.add(key)
                self._drop(name, key)
        for entry in changes.puts:
            if (key := ObjectKey.find(entry.key)) is not None:
                touched.add(key)
                self._put(entry, key)
        return touched

    def _put(self, entry: Entry, key: ObjectKey) -> None:
        if entry.key.startswith(OBJECTS):
            self._objects[key] = entry
        else:
            self._statuses.setdefault(key, {})[entry.key] = entry

    def _drop(self, name: str, key: ObjectKey) -> None:
        if name.startswith(OBJECTS):
            self._objects.pop(key, None)
            return
        statuses = self._statuses.get(key, {})
        statuses.pop(name, None)
        if not statuses:
            self._statuses.pop(key, None)
