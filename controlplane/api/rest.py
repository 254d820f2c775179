"""The HTTP application: which handlers stand at which paths, and what begins and ends with it.

Not:    the handlers themselves.
"""

from aiohttp import web

from controlplane.api import rest_discovery, rest_pages
from controlplane.api.middleware import make_middlewares
from controlplane.api.operations import Operations
from controlplane.api.rest_analyses import AnalysisRoutes
from controlplane.api.rest_objects import ObjectRoutes
from controlplane.api.rest_rollouts import RolloutRoutes
from controlplane.api.rest_state import StateRoutes
from controlplane.api.server_log import quiet_bad_requests
from controlplane.api.view import Dependencies


def make_application(dependencies: Dependencies, operations: Operations) -> web.Application:
    """The application over `operations`, whose watch hub it closes at its shutdown."""
    quiet_bad_requests()
    application = web.Application(
        middlewares=make_middlewares(dependencies), client_max_size=dependencies.limits.body_bytes
    )
    application.add_routes(rest_pages.PageRoutes(dependencies).routes())
    application.add_routes(rest_discovery.routes())
    state = StateRoutes(dependencies, operations)
    application.add_routes(state.routes())
    application.add_routes(RolloutRoutes(dependencies).routes())
    application.add_routes(AnalysisRoutes(dependencies, operations).routes())
    application.add_routes(ObjectRoutes(dependencies, operations, state.revisions).routes())

    async def stop(_: web.Application) -> None:
        await operations.hub.close()
        await state.close()

    application.on_shutdown.append(stop)
    return application
