"""/mesh/v1 over HTTP: the state views, batches of objects, rollbacks, diffs, join tokens.

Owns:   paths, methods and status codes below /mesh/v1.
Not:    what the views say (state_views), what a batch does (operations), its JSON (history_json).
Source: design section 3; decisions 13, 19, 23.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from controlplane.api.certificates_view import rotation_json
from controlplane.api.diffs import Differ, DiffQuestion
from controlplane.api.exchange import AUTHOR, answer, caller_of, flag, read_documents, read_manifest
from controlplane.api.history_json import batch_json, rollback_json
from controlplane.api.operations import Operations
from controlplane.api.rest_waiting import wait_of, waited_for, written
from controlplane.api.state_catalog import VIEWS
from controlplane.api.state_views import StateViews
from controlplane.api.token_requests import create_token
from controlplane.api.view import Dependencies
from controlplane.api.writes import BatchResult, Caller
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE

ROOT = "/mesh/v1"


class StateRoutes:
    """The handlers of /mesh/v1; `close` when the server stops."""

    def __init__(self, dependencies: Dependencies, operations: Operations) -> None:
        self._views = StateViews(dependencies, operations)
        self.revisions = self._views.revisions
        self._operations = operations
        self._tokens = dependencies.tokens
        self._roots_pem = dependencies.roots_pem
        self._rotations = dependencies.rotations
        self._differ = Differ(dependencies.view, operations, self._views.peers)

    def routes(self) -> list[web.RouteDef]:
        """One GET for each view, and what changes something."""
        views = [web.get(f"{ROOT}/{view.path}", self._viewer(name)) for name, view in VIEWS.items()]
        return [
            web.get(ROOT, self.index),
            *views,
            web.get(f"{ROOT}/certificates/bundle", self.bundle),
            web.post(f"{ROOT}/certificates/rotation", self.begin_rotation),
            web.delete(f"{ROOT}/certificates/rotation", self.abort_rotation),
            web.post(f"{ROOT}/tokens", self.create_token),
            web.delete(f"{ROOT}/tokens/{{id}}", self.revoke_token),
            web.post(f"{ROOT}/batch", self.batch),
            web.post(f"{ROOT}/delete", self.delete),
            web.post(f"{ROOT}/rollback", self.rollback),
            web.post(f"{ROOT}/diff", self.diff),
        ]

    async def close(self) -> None:
        """Close what was opened towards other replicas."""
        await self._views.close()

    def _viewer(self, name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def view(request: web.Request) -> web.Response:
            parameters = {**request.query, **request.match_info}
            authorization = request.headers.get("Authorization", "")
            return answer(request, await self._views.answer(name, parameters, authorization))

        return view

    async def index(self, request: web.Request) -> web.Response:
        """GET /mesh/v1: what there is."""
        views = {f"{ROOT}/{view.path}": view.summary for view in VIEWS.values()}
        return answer(request, {"views": views, "documentation": "/docs"})

    async def bundle(self, _: web.Request) -> web.Response:
        """GET /mesh/v1/certificates/bundle: the roots, as PEM."""
        return web.Response(body=self._roots_pem(), content_type="application/x-pem-file")

    async def begin_rotation(self, request: web.Request) -> web.Response:
        """POST /mesh/v1/certificates/rotation: 201; a new root beside the present one, which it will replace."""
        begun = await self._rotations.begin(request[AUTHOR])
        return answer(request, rotation_json(begun), status=201)

    async def abort_rotation(self, request: web.Request) -> web.Response:
        """DELETE /mesh/v1/certificates/rotation: drop the new root, as long as it does not sign."""
        return answer(request, rotation_json(await self._rotations.abort()))

    async def create_token(self, request: web.Request) -> web.Response:
        """POST /mesh/v1/tokens: 201 with the token's text, which is shown this once."""
        made = await create_token(self._tokens, await read_manifest(request), request[AUTHOR])
        return answer(request, made, status=201, headers={"Cache-Control": "no-store"})

    async def revoke_token(self, request: web.Request) -> web.Response:
        """DELETE /mesh/v1/tokens/{id}. Nodes that joined with it stay."""
        await self._tokens.revoke(request.match_info["id"])
        return answer(request, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    async def batch(self, request: web.Request) -> web.Response:
        """POST /mesh/v1/batch: create or replace every object in one transaction, or none."""
        caller, seconds = caller_of(request), wait_of(request)
        documents = await read_documents(request)
        done = await self._operations.apply(caller, documents, namespace=_namespace(request))
        return await self._done(request, batch_json(done, dry_run=caller.dry_run), done, caller, seconds)

    async def delete(self, request: web.Request) -> web.Response:
        """POST /mesh/v1/delete: delete every object that the manifests name in one transaction, or none."""
        caller, seconds = caller_of(request), wait_of(request)
        documents = await read_documents(request)
        missing_ok = flag(request, "ignoreNotFound")
        done = await self._operations.delete_batch(
            caller, documents, namespace=_namespace(request), missing_ok=missing_ok
        )
        return await self._done(request, batch_json(done, dry_run=caller.dry_run), done, caller, seconds)

    async def rollback(self, request: web.Request) -> web.Response:
        """POST /mesh/v1/rollback {"revision": 42}: every object as it was then, in one transaction."""
        caller, seconds = caller_of(request), wait_of(request)
        revision = _asked_revision(await read_manifest(request))
        done = await self._operations.rollback(caller, revision)
        body = rollback_json(done, revision, dry_run=caller.dry_run)
        return await self._done(request, body, done, caller, seconds)

    async def _done(
        self, request: web.Request, body: dict[str, Any], done: BatchResult, caller: Caller, seconds: float
    ) -> web.Response:
        waited = await waited_for(request, self.revisions, caller, done, seconds)
        if waited is not None:
            body = {**body, "wait": waited.as_json()}
        warnings = [warning for result in done.results for warning in result.warnings]
        return written(request, body, done, waited, warnings=warnings)

    async def diff(self, request: web.Request) -> web.Response:
        """POST /mesh/v1/diff: what a batch would change at each proxy; nothing is stored."""
        question = DiffQuestion(
            documents=await read_documents(request),
            namespace=_namespace(request),
            authorization=request.headers.get("Authorization", ""),
            local=flag(request, "local"),
        )
        return answer(request, await self._differ.diff(caller_of(request), question))


def _asked_revision(body: dict[str, Any]) -> int:
    unknown = sorted(body.keys() - {"revision"})
    if unknown:
        raise MeshError(ErrorCode.UNREADABLE, "found an unknown field, expected revision alone", subject=unknown[0])
    revision = body.get("revision")
    if not isinstance(revision, int) or isinstance(revision, bool) or not 0 < revision < 1 << 63:
        raise MeshError(ErrorCode.UNREADABLE, f"found {revision!r}, expected a revision"[:128], subject="revision")
    return revision


def _namespace(request: web.Request) -> str:
    """The namespace of objects that name none."""
    return request.query.get("namespace", "") or DEFAULT_NAMESPACE
