"""`?watch=1`: a stream of JSON lines, as kubectl and informers read it.

Owns:   framing, Tables, bookmarks, the time limit and the number of open watches.
Not:    which events there are (object_watch).
Source: Kubernetes API concepts, "Efficient detection of changes"; decision 25 (sendInitialEvents).

Invariants:
  Before the first event nothing is sent, so that an old resourceVersion is answered HTTP 410, not in the stream.
  At most `limits.watches` are open; each ends after `timeoutSeconds`, at most `limits.watch_s`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from controlplane.api.errors import status_object
from controlplane.api.exchange import dumps, flag, number, preferred
from controlplane.api.object_watch import BOOKMARK, WatchEvent, WatchRequest
from controlplane.api.operations import Operations
from controlplane.api.selectors import parse_selector
from controlplane.api.served import parse_resource_version
from controlplane.api.table import as_table
from controlplane.api.view import Dependencies
from controlplane.policy.kinds import KindInfo
from mesh.errors import MeshError

_INITIAL_END = "k8s.io/initial-events-end"


@dataclass(slots=True)
class _Writer:
    """How this client wants its events."""

    request: web.Request
    kind: KindInfo
    version: str
    now: float
    table: bool
    bookmarks: bool
    initial: bool  # sendInitialEvents
    lines: int = 0

    def line(self, event: WatchEvent) -> bytes:
        """One JSON line; empty for a bookmark that the client did not ask for."""
        if event.type == BOOKMARK:
            if not self.bookmarks and not (self.initial and event.initial_end):
                return b""
            value: dict[str, Any] = self._bookmark(event)
        elif self.table:
            value = as_table(
                self.kind.group_kind,
                [event.manifest],
                now=self.now,
                metadata={"resourceVersion": str(event.revision)},
                include=self.request.query.get("includeObject", "Metadata") or "Metadata",
                with_columns=self.lines == 0,
            )
        else:
            value = event.manifest
        self.lines += 1
        return (dumps({"type": event.type, "object": value}) + "\n").encode()

    def _bookmark(self, event: WatchEvent) -> dict[str, Any]:
        metadata: dict[str, Any] = {"resourceVersion": str(event.revision), "creationTimestamp": None}
        if event.initial_end and self.initial:
            metadata["annotations"] = {_INITIAL_END: "true"}
        if self.table:
            return as_table(self.kind.group_kind, [], now=self.now, metadata=metadata, with_columns=self.lines == 0)
        return {"kind": self.kind.kind, "apiVersion": self.kind.api_version(self.version), "metadata": metadata}


class WatchStream:
    """Serves watches."""

    def __init__(self, dependencies: Dependencies, operations: Operations) -> None:
        self._operations = operations
        self._limits = dependencies.limits
        self._clock = dependencies.clock
        self._open = 0

    async def serve(self, request: web.Request, kind: KindInfo, version: str, namespace: str) -> web.StreamResponse:
        """Stream until the client leaves, the time is over or the server stops. Raises COMPACTED."""
        if self._open >= self._limits.watches:
            raise web.HTTPTooManyRequests(text=f"{self._open} watches are open", headers={"Retry-After": "5"})
        wanted = self._wanted(request, kind, version, namespace)
        writer = _Writer(
            request,
            kind,
            version,
            now=self._clock.wall(),
            table=preferred(request).table,
            bookmarks=flag(request, "allowWatchBookmarks"),
            initial=flag(request, "sendInitialEvents"),
        )
        self._open += 1
        try:
            # An async generator that is not closed would keep its subscription until it is collected.
            async with contextlib.aclosing(self._operations.watch(wanted)) as events:
                first = await anext(events)
                response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-store"})
                await response.prepare(request)
                await response.write(writer.line(first))
                await self._pump(request, response, writer, events)
                return response
        finally:
            self._open -= 1

    def _wanted(self, request: web.Request, kind: KindInfo, version: str, namespace: str) -> WatchRequest:
        selector = parse_selector(request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
        initial = flag(request, "sendInitialEvents")
        revision = 0 if initial else parse_resource_version(request.query.get("resourceVersion"))
        return WatchRequest(kind=kind, version=version, namespace=namespace, selector=selector, from_revision=revision)

    async def _pump(
        self, request: web.Request, response: web.StreamResponse, writer: _Writer, events: AsyncIterator[WatchEvent]
    ) -> None:
        seconds = min(number(request, "timeoutSeconds") or self._limits.watch_s, self._limits.watch_s)
        try:
            async with asyncio.timeout(seconds):
                async for event in events:
                    writer.now = self._clock.wall()
                    line = writer.line(event)
                    if line:
                        await response.write(line)
        except TimeoutError:
            pass  # as announced by timeoutSeconds: the client resumes by its last resourceVersion
        except MeshError as error:
            await response.write((dumps({"type": "ERROR", "object": status_object(error)}) + "\n").encode())
        except ConnectionResetError:
            return  # the client left
        with contextlib.suppress(ConnectionResetError):
            await response.write_eof()
