"""What can be done with objects: the one set of operations behind REST and the gRPC control API.

Owns:   get, list, watch; create, replace, patch, delete, apply and delete of a batch, history and rollback, as changes.
Not:    HTTP and gRPC (rest_objects, control_service), what one object becomes (changes), the transaction (writes).
Source: design section 3; decisions 4, 16, 17, 19, 23.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controlplane.api import changes
from controlplane.api.changes import Planned, Stamp, Write, admit_manifest
from controlplane.api.documents import Document, admit_all, deletions
from controlplane.api.history import History
from controlplane.api.object_watch import ObjectWatch, WatchEvent, WatchRequest
from controlplane.api.selectors import Selector
from controlplane.api.served import Manifest, Preconditions, group_statuses, serve
from controlplane.api.view import Dependencies
from controlplane.api.watch_hub import WatchHub
from controlplane.api.writes import BatchResult, Caller, Writer, plan_all
from controlplane.policy.kinds import KindInfo
from controlplane.store.keys import OBJECTS, STATUS, ObjectKey, objects_prefix
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE, ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Objects of a list. `next` continues it at the same revision; empty = complete. `remaining` after this page."""

    revision: int
    items: tuple[Manifest, ...]
    next: str = ""
    remaining: int = 0


class Operations:
    """The operations on stored objects. One per process."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._store = dependencies.store
        self._clock = dependencies.clock
        self._writer = Writer(dependencies)
        self.history = History(dependencies.store)
        self.hub = WatchHub(dependencies.store)

    # --- reading ------------------------------------------------------------------------------------------------

    async def get(self, kind: KindInfo, namespace: str, name: str, version: str = "") -> Manifest:
        """One object with its status. Raises NOT_FOUND."""
        key = ObjectKey(kind.group, kind.plural, namespace, name)
        entry, statuses = await asyncio.gather(self._store.get(key.object_key()), self._store.list(key.status_prefix()))
        if entry is None:
            raise changes.not_found(ObjectRef(kind.group, kind.kind, namespace, name))
        return serve(entry, statuses.entries, kind, version)

    async def list(
        self,
        kind: KindInfo,
        namespace: str = "",
        *,
        version: str = "",
        selector: Selector | None = None,
        limit: int = 0,
        continue_: str = "",
    ) -> Page:
        """A page of the objects of a kind, sorted by namespace and name. Raises COMPACTED for an old `continue_`."""
        revision, after = _parse_continue(continue_)
        prefix = objects_prefix(kind.group, kind.plural, namespace)
        listing = await self._store.list(prefix, at_revision=revision)
        listed = await self._store.list(STATUS + prefix.removeprefix(OBJECTS), at_revision=listing.revision)
        statuses = group_statuses(listed.entries)
        found: list[Manifest] = []
        keys: list[str] = []
        for entry in listing.entries:
            key = ObjectKey.find(entry.key)
            if key is None or entry.key <= after:
                continue
            manifest = serve(entry, statuses.get(key, []), kind, version)
            if (selector or Selector()).selects(manifest):
                found.append(manifest)
                keys.append(entry.key)
        if not limit or len(found) <= limit:
            return Page(revision=listing.revision, items=tuple(found))
        return Page(
            revision=listing.revision,
            items=tuple(found[:limit]),
            next=_continue(listing.revision, keys[limit - 1]),
            remaining=len(found) - limit,
        )

    def watch(self, request: WatchRequest) -> AsyncGenerator[WatchEvent, None]:
        """Events until the consumer closes it. Raises COMPACTED at its first step, UNAVAILABLE at the end."""
        return ObjectWatch(self._store, self.hub, request).events()

    # --- writing ------------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, manifest: Mapping[str, Any], *, namespace: str) -> BatchResult:
        """Raises ALREADY_EXISTS, INVALID."""
        write = self._write(caller, manifest, namespace, may_replace=False)
        return await self._writer.commit(caller, [write])

    async def replace(self, caller: Caller, manifest: Mapping[str, Any], *, namespace: str) -> BatchResult:
        """Raises NOT_FOUND, CONFLICT when metadata.resourceVersion is not the present one, INVALID."""
        write = self._write(caller, manifest, namespace, may_create=False)
        return await self._writer.commit(caller, [write])

    async def patch(
        self,
        caller: Caller,
        kind: KindInfo,
        namespace: str,
        name: str,
        change: Callable[[Manifest], Manifest],
    ) -> BatchResult:
        """Change the present object by a function. Raises NOT_FOUND, CONFLICT, INVALID."""
        key = ObjectKey(kind.group, kind.plural, namespace, name)
        ref = ObjectRef(kind.group, kind.kind, namespace, name)
        return await self._writer.commit(caller, [changes.Patch(key=key, ref=ref, patch=change, strict=caller.strict)])

    async def delete(
        self,
        caller: Caller,
        kind: KindInfo,
        namespace: str,
        name: str,
        preconditions: Preconditions | None = None,
    ) -> BatchResult:
        """Raises NOT_FOUND, CONFLICT."""
        key = ObjectKey(kind.group, kind.plural, namespace, name)
        ref = ObjectRef(kind.group, kind.kind, namespace, name)
        delete = changes.Delete(key=key, ref=ref, preconditions=preconditions or Preconditions())
        return await self._writer.commit(caller, [delete])

    async def apply(
        self, caller: Caller, documents: Sequence[Document], *, namespace: str = DEFAULT_NAMESPACE
    ) -> BatchResult:
        """Create or replace every object in one transaction. InvalidObjects has every problem of all of them."""
        return await self._writer.commit(caller, self._writes(caller, documents, namespace))

    async def delete_batch(
        self,
        caller: Caller,
        documents: Sequence[Document],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        missing_ok: bool = False,
    ) -> BatchResult:
        """Delete every object that the documents name in one transaction. NOT_FOUND names all that are not there."""
        return await self._writer.commit(caller, deletions(documents, namespace, missing_ok=missing_ok))

    async def rollback(self, caller: Caller, revision: int) -> BatchResult:
        """Make every object what it was as of `revision`, in one transaction; the results are those that differ.

        Raises COMPACTED when the history does not reach so far, UNREADABLE for a revision that is yet to come.
        """
        caller = replace(caller, reason=f"rollback to {revision}")
        done = await self._writer.commit_latest(caller, lambda: self.history.restores(revision))
        return replace(done, results=tuple(item for item in done.results if item.action != changes.UNCHANGED))

    async def plan(
        self, caller: Caller, documents: Sequence[Document], *, namespace: str = DEFAULT_NAMESPACE
    ) -> Sequence[Planned]:
        """What `apply` would do now, in the order of the documents; nothing is written."""
        writes = self._writes(caller, documents, namespace)
        return plan_all(writes, await self._writer.read([write.key for write in writes]))

    def _writes(self, caller: Caller, documents: Sequence[Document], namespace: str) -> Sequence[Write]:
        stamp = self._stamp()
        return [
            Write(admission=admission, stamp=stamp)
            for admission in admit_all(documents, namespace, strict=caller.strict)
        ]

    def _write(
        self,
        caller: Caller,
        manifest: Mapping[str, Any],
        namespace: str,
        *,
        may_create: bool = True,
        may_replace: bool = True,
    ) -> Write:
        admission = admit_manifest(manifest, namespace=namespace, strict=caller.strict)
        return Write(admission=admission, stamp=self._stamp(), may_create=may_create, may_replace=may_replace)

    def _stamp(self) -> Stamp:
        return Stamp(self._clock.wall(), lambda: str(uuid.uuid4()))


def _continue(revision: int, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([revision, key]).encode()).decode()


def _parse_continue(token: str) -> tuple[int, str]:
    if not token:
        return 0, ""
    try:
        revision, key = json.loads(base64.urlsafe_b64decode(token.encode()))
        return int(revision), str(key)
    except (ValueError, TypeError) as error:
        raise MeshError(ErrorCode.UNREADABLE, "found a continue token that is not ours", subject="continue") from error
