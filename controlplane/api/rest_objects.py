"""Objects over HTTP as Kubernetes has them: collections, items, patches, deletes.

Owns:   paths -> operations, matching body and path, lists and Tables, status codes.
Not:    watches' streams (rest_watch), what the operations do (operations).
Source: design section 3; decisions 17, 23, 25; Kubernetes API conventions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from controlplane.api import patch
from controlplane.api.errors import ANSWERS, InvalidObjects, status_object
from controlplane.api.exchange import answer, caller_of, flag, number, preferred, read_manifest, read_value
from controlplane.api.operations import Operations, Page
from controlplane.api.rest_waiting import wait_of, waited_for, written
from controlplane.api.rest_watch import WatchStream
from controlplane.api.revisions import Revisions
from controlplane.api.selectors import parse_selector
from controlplane.api.served import Manifest, Preconditions, parse_resource_version
from controlplane.api.table import as_table
from controlplane.api.view import Dependencies
from controlplane.api.writes import BatchResult, Caller
from controlplane.policy.kinds import KINDS, KindInfo
from mesh.errors import ErrorCode, MeshError

_PATCH_TYPES = (patch.MERGE, patch.STRATEGIC, patch.JSON)


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names. `name` is empty for a collection, `namespace` for all of them and for kinds without."""

    kind: KindInfo
    version: str
    namespace: str
    name: str


def target_of(request: web.Request) -> Target:
    """Raises NOT_FOUND for what is not served."""
    info = request.match_info
    group, version, plural = info.get("group", ""), info["version"], info["plural"]
    kind = KINDS.by_resource(group, plural)
    namespace, name = info.get("namespace", ""), info.get("name", "")
    if kind is None or version not in kind.versions or (namespace and not kind.namespaced):
        raise _unserved(request)
    if name and kind.namespaced and not namespace:
        raise _unserved(request)
    return Target(kind, version, namespace, name)


def _unserved(request: web.Request) -> MeshError:
    return MeshError(
        ErrorCode.NOT_FOUND,
        "the server does not serve this resource",
        subject=request.path,
        hint="GET /apis lists them",
    )


class ObjectRoutes:
    """The handlers of /api and /apis below the discovery documents."""

    def __init__(self, dependencies: Dependencies, operations: Operations, revisions: Revisions) -> None:
        self._operations = operations
        self._revisions = revisions
        self._clock = dependencies.clock
        self._watches = WatchStream(dependencies, operations)

    def routes(self) -> list[web.RouteDef]:
        """Collections and items, with and without a namespace, of the core and of named groups."""
        found = []
        for root in ("/api/{version:v1}", "/apis/{group}/{version}"):
            for scope in ("", "/namespaces/{namespace}"):
                collection = f"{root}{scope}/{{plural}}"
                found += [
                    web.get(collection, self.list_or_watch),
                    web.post(collection, self.create),
                    web.get(f"{collection}/{{name}}", self.get),
                    web.put(f"{collection}/{{name}}", self.replace),
                    web.patch(f"{collection}/{{name}}", self.patch),
                    web.delete(f"{collection}/{{name}}", self.delete),
                ]
        return found

    async def list_or_watch(self, request: web.Request) -> web.StreamResponse:
        """GET of a collection; `?watch=1` streams."""
        target = target_of(request)
        if flag(request, "watch"):
            return await self._watches.serve(request, target.kind, target.version, target.namespace)
        selector = parse_selector(request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
        page = await self._operations.list(
            target.kind,
            target.namespace,
            version=target.version,
            selector=selector,
            limit=number(request, "limit"),
            continue_=request.query.get("continue", ""),
        )
        return self._listed(request, target, page)

    def _listed(self, request: web.Request, target: Target, page: Page) -> web.Response:
        metadata: dict[str, Any] = {"resourceVersion": str(page.revision)}
        if page.next:
            metadata.update({"continue": page.next, "remainingItemCount": page.remaining})
        if preferred(request).table:
            return answer(request, self._table(request, target, page.items, metadata))
        return answer(
            request,
            {
                "kind": target.kind.list_kind,
                "apiVersion": target.kind.api_version(target.version),
                "metadata": metadata,
                "items": page.items,
            },
        )

    def _table(
        self, request: web.Request, target: Target, items: Sequence[Manifest], metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        include = request.query.get("includeObject", "Metadata") or "Metadata"
        return as_table(target.kind.group_kind, items, now=self._clock.wall(), metadata=metadata, include=include)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET of an item."""
        target = target_of(request)
        manifest = await self._operations.get(target.kind, target.namespace, target.name, target.version)
        if preferred(request).table:
            metadata = {"resourceVersion": manifest["metadata"]["resourceVersion"]}
            return answer(request, self._table(request, target, [manifest], metadata))
        return answer(request, manifest)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST to a collection: 201, or 409 when it exists."""
        target, caller, seconds = target_of(request), caller_of(request), wait_of(request)
        manifest = _matched(await read_manifest(request), target)
        try:
            done = await self._operations.create(caller, manifest, namespace=target.namespace or "default")
        except InvalidObjects as error:
            return _invalid(error, target, manifest)
        return await self._written(request, done, target, caller, seconds, status=201)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        """PUT of an item that exists."""
        target, caller, seconds = target_of(request), caller_of(request), wait_of(request)
        manifest = _matched(await read_manifest(request), target)
        try:
            done = await self._operations.replace(caller, manifest, namespace=target.namespace)
        except InvalidObjects as error:
            return _invalid(error, target, manifest)
        return await self._written(request, done, target, caller, seconds)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """PATCH of an item: merge, strategic merge, JSON patch."""
        target, caller, seconds = target_of(request), caller_of(request), wait_of(request)
        media_type = request.content_type
        if media_type not in _PATCH_TYPES:
            raise web.HTTPUnsupportedMediaType(text=f"found {media_type}, expected one of {', '.join(_PATCH_TYPES)}")
        body = await read_value(request)
        try:
            done = await self._operations.patch(
                caller,
                target.kind,
                target.namespace,
                target.name,
                lambda present: patch.apply_patch(media_type, present, body),
            )
        except InvalidObjects as error:
            return _invalid(error, target, {})
        return await self._written(request, done, target, caller, seconds)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """DELETE of an item; DeleteOptions with preconditions are honoured."""
        target, seconds = target_of(request), wait_of(request)
        options = await read_manifest(request) if request.can_read_body and await request.read() else {}
        demanded = options.get("preconditions") or {}
        preconditions = Preconditions(
            parse_resource_version(demanded.get("resourceVersion")), str(demanded.get("uid") or "")
        )
        caller = caller_of(request, options)
        done = await self._operations.delete(caller, target.kind, target.namespace, target.name, preconditions)
        (result,) = done.results
        details = {
            "name": target.name,
            "group": target.kind.group,
            "kind": target.kind.plural,
            "uid": result.manifest["metadata"].get("uid", ""),
        }
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        waited = await waited_for(request, self._revisions, caller, done, seconds)
        return written(request, body, done, waited)

    async def _written(
        self,
        request: web.Request,
        done: BatchResult,
        target: Target,
        caller: Caller,
        seconds: float,
        *,
        status: int = 200,
    ) -> web.Response:
        (result,) = done.results
        waited = await waited_for(request, self._revisions, caller, done, seconds)
        manifest = result.in_version(target.version)
        return written(request, manifest, done, waited, status=status, warnings=result.warnings)


def _matched(manifest: dict[str, Any], target: Target) -> dict[str, Any]:
    """The manifest with what the path says filled in. Raises UNREADABLE when they contradict each other."""
    kind = target.kind
    found = (
        manifest.setdefault("apiVersion", kind.api_version(target.version)),
        manifest.setdefault("kind", kind.kind),
    )
    if found[1] != kind.kind or found[0] not in kind.api_versions:
        raise _mismatch(
            "apiVersion and kind", " ".join(map(str, found)), f"{kind.api_version(target.version)} {kind.kind}"
        )
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        return manifest  # admission says what is missing
    for field, wanted in (("name", target.name), ("namespace", target.namespace)):
        if wanted and not metadata.get(field):
            metadata[field] = wanted
        elif wanted and metadata[field] != wanted:
            raise _mismatch(f"metadata.{field}", metadata[field], wanted)
    return manifest


def _mismatch(field: str, found: object, expected: str) -> MeshError:
    return MeshError(
        ErrorCode.UNREADABLE, f"found {found!r} in the body, expected {expected!r} as in the path", subject=field
    )


def _invalid(error: InvalidObjects, target: Target, manifest: Mapping[str, Any]) -> web.Response:
    metadata = manifest.get("metadata")
    name = target.name or (str(metadata.get("name") or "") if isinstance(metadata, Mapping) else "")
    body = status_object(error, details={"name": name, "group": target.kind.group, "kind": target.kind.kind})
    return web.json_response(body, status=ANSWERS[error.code].http)
