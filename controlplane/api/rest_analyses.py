"""POST /mesh/v1/analyze over HTTP: the findings about the mesh, with the objects in the body laid over it.

Not:    what is found (compiler.analysis), joining it (analyses).
"""

from aiohttp import web

from controlplane.api.analyses import Analyst
from controlplane.api.exchange import answer, caller_of, read_documents
from controlplane.api.operations import Operations
from controlplane.api.view import Dependencies
from mesh.vocabulary import DEFAULT_NAMESPACE

PATH = "/mesh/v1/analyze"


class AnalysisRoutes:
    """The handler."""

    def __init__(self, dependencies: Dependencies, operations: Operations) -> None:
        self._analyst = Analyst(dependencies.view, operations)

    def routes(self) -> list[web.RouteDef]:
        """One."""
        return [web.post(PATH, self.analyse)]

    async def analyse(self, request: web.Request) -> web.Response:
        """POST: manifests, or nothing for the mesh as it is. Nothing is stored."""
        documents = await read_documents(request)
        namespace = request.query.get("namespace", "") or DEFAULT_NAMESPACE
        return answer(request, await self._analyst.analyse(caller_of(request), documents, namespace=namespace))
