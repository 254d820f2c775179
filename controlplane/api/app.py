"""The two doors of the API: REST and the gRPC control service over the same operations.

Owns:   building them from `Dependencies`.
Not:    binding ports and their life (controlplane.ports), Identity and Reports (their own servicers).

    runner = web.AppRunner(build_rest_app(dependencies), access_log=None, handler_cancellation=True)
    control_pb2_grpc.add_ControlServicer_to_server(ControlService(dependencies), grpc_server)
"""

from aiohttp import web

from controlplane.api.control_service import ControlService
from controlplane.api.operations import Operations
from controlplane.api.rest import make_application
from controlplane.api.view import Dependencies

__all__ = ["ControlService", "build_rest_app"]


def build_rest_app(dependencies: Dependencies) -> web.Application:
    """The aiohttp application. Its `on_shutdown` ends open watches, so that the server's stop does not wait."""
    return make_application(dependencies, Operations(dependencies))
