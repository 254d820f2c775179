"""/mesh/v1 over HTTP: the state views, batches of objects, diffs, join tokens.

Owns:   paths, methods and status codes below /mesh/v1.
Not:    what the views say (state_views), what a batch does (operations).
Source: design section 3; decisions 13, 19, 23.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from controlplane.api.diffs import Differ
from controlplane.api.exchange import AUTHOR, answer, caller_of, read_documents, read_manifest
from controlplane.api.operations import Operations
from controlplane.api.state_catalog import VIEWS
from controlplane.api.state_views import StateViews
from controlplane.api.token_requests import create_token
from controlplane.api.view import Dependencies
from controlplane.api.writes import BatchResult, ObjectResult
from mesh.vocabulary import DEFAULT_NAMESPACE

ROOT = "/mesh/v1"


class StateRoutes:
    """The handlers of /mesh/v1; `close` when the server stops."""

    def __init__(self, dependencies: Dependencies, operations: Operations) -> None:
        self._views = StateViews(dependencies, operations)
        self._operations = operations
        self._tokens = dependencies.tokens
        self._roots_pem = dependencies.roots_pem
        self._differ = Differ(dependencies.view, operations)

    def routes(self) -> list[web.RouteDef]:
        """One GET for each view, and what changes something."""
        views = [web.get(f"{ROOT}/{view.path}", self._viewer(name)) for name, view in VIEWS.items()]
        return [
            web.get(ROOT, self.index),
            *views,
            web.get(f"{ROOT}/certificates/bundle", self.bundle),
            web.post(f"{ROOT}/tokens", self.create_token),
            web.delete(f"{ROOT}/tokens/{{id}}", self.revoke_token),
            web.post(f"{ROOT}/batch", self.batch),
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
        caller = caller_of(request)
        documents = await read_documents(request)
        done = await self._operations.apply(caller, documents, namespace=_namespace(request))
        warnings = [warning for result in done.results for warning in result.warnings]
        body = batch_json(done, dry_run=caller.dry_run)
        return answer(request, body, warnings=warnings, headers={"Gossamer-Revision": str(done.revision)})

    async def diff(self, request: web.Request) -> web.Response:
        """POST /mesh/v1/diff: what a batch would change at each proxy of this replica; nothing is stored."""
        documents = await read_documents(request)
        return answer(request, await self._differ.diff(caller_of(request), documents, namespace=_namespace(request)))


def _namespace(request: web.Request) -> str:
    """The namespace of objects that name none."""
    return request.query.get("namespace", "") or DEFAULT_NAMESPACE


def batch_json(done: BatchResult, *, dry_run: bool) -> dict[str, Any]:
    """What became of a batch, in the order of the request."""
    return {"revision": done.revision, "dry_run": dry_run, "results": [_result_json(item) for item in done.results]}


def _result_json(result: ObjectResult) -> dict[str, Any]:
    metadata = result.manifest["metadata"]
    return {
        "object": str(result.ref),
        "group": result.ref.group,
        "kind": result.ref.kind,
        "namespace": result.ref.namespace,
        "name": result.ref.name,
        "action": result.action,
        "generation": metadata.get("generation", 0),
        "resource_version": metadata.get("resourceVersion", ""),
        "warnings": list(result.warnings),
    }
