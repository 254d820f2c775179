"""A gRPC server that gets its Listener by xDS, as its own process: Health on ADDRESS, named VERSION.

Prints a line for each change of its serving state: {"address", "serving"}. GRPC_XDS_BOOTSTRAP must be set before grpc
is imported.
"""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):
    """Answers SERVING and says which version it is and who calls."""

    def __init__(self, version: str) -> None:
        self._version = version

    def Check(self, request: object, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        peer = ",".join(value.decode() for value in context.auth_context().get("peer_spiffe_id", ()))
        context.send_initial_metadata((("server-version", f"{self._version} {peer}".strip()),))
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def main() -> None:
    address, version = sys.argv[1:3]
    server = grpc.server(ThreadPoolExecutor(4), xds=True)
    health_pb2_grpc.add_HealthServicer_to_server(Health(version), server)
    credentials = grpc.xds_server_credentials(grpc.insecure_server_credentials())
    server.add_secure_port(address, credentials)
    server.start()
    print(json.dumps({"address": address}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
