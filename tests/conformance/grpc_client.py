"""A proxyless gRPC client as its own process: calls Health/Check at xds:///TARGET COUNT times, prints a JSON line each.

GRPC_XDS_BOOTSTRAP must be set before grpc is imported, hence the process of its own.
"""

import json
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main() -> None:
    target, count = sys.argv[1], int(sys.argv[2])
    with grpc.insecure_channel(f"xds:///{target}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(count):
            answer, call = stub.Check.with_call(
                health_pb2.HealthCheckRequest(service=""), timeout=20, wait_for_ready=True
            )
            print(json.dumps({"status": answer.status, "peer": dict(call.initial_metadata()).get("server-version")}))


if __name__ == "__main__":
    main()
