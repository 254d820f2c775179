"""/mesh/v1/rollouts over HTTP: what changes a rollout. Looking at them is among the state views (state_catalog).

Owns:   paths, methods and status codes.
Not:    what they do (rollouts), the shapes (rollout_json).
Source: decision 24.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from controlplane.api.exchange import AUTHOR, answer, caller_of, read_documents
from controlplane.api.rollout_json import begun_json, plan_of, rollout_json
from controlplane.api.rollouts import Rollouts
from controlplane.api.view import Dependencies
from controlplane.store.rollouts import Stored
from mesh.vocabulary import DEFAULT_NAMESPACE

PATH = "/mesh/v1/rollouts"


class RolloutRoutes:
    """The handlers."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._rollouts = Rollouts(dependencies)

    def routes(self) -> list[web.RouteDef]:
        """Begin, promote, abort."""
        return [
            web.post(PATH, self.begin),
            web.post(f"{PATH}/{{id}}/promote", self._mover(self._rollouts.promote)),
            web.post(f"{PATH}/{{id}}/abort", self._mover(self._rollouts.abort)),
        ]

    async def begin(self, request: web.Request) -> web.Response:
        """POST: 201 when it has begun, 200 after a dry run or when nothing differs from what is stored."""
        caller, plan = caller_of(request), plan_of(request.query)
        namespace = request.query.get("namespace", "") or DEFAULT_NAMESPACE
        begun = await self._rollouts.begin(caller, await read_documents(request), plan, namespace=namespace)
        body = begun_json(begun, dry_run=caller.dry_run)
        warnings = [warning for own in begun.warnings for warning in own]
        return answer(request, body, status=200 if begun.stored is None else 201, warnings=warnings)

    def _mover(self, move: Callable[[str, str], Awaitable[Stored]]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            stored = await move(request[AUTHOR], request.match_info["id"])
            return answer(request, rollout_json(stored, await self._rollouts.seen(stored[0])))

        return handle
