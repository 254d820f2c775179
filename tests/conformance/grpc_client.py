"""A proxyless gRPC client as its own process: calls Health/Check at xds:///TARGET COUNT times (0 = until it is ended).

Prints a JSON line for each call: {"status", "peer"}, or {"error"} with the code's name. Options: --mtls for
certificates of the mesh, --pause SECONDS between calls, --timeout SECONDS, --fail-fast for calls that do not wait.
GRPC_XDS_BOOTSTRAP must be set before grpc is imported, hence the process of its own.
"""

import argparse
import json
import time
from itertools import count

import grpc
import grpc.experimental
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("count", type=int)
    parser.add_argument("--mtls", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--timeout", type=float, default=20.0)
    parser.add_argument("--fail-fast", action="store_true")
    options = parser.parse_args()
    with channel(f"xds:///{options.target}", mtls=options.mtls) as opened:
        stub = health_pb2_grpc.HealthStub(opened)
        for _ in range(options.count) if options.count else count():
            print(json.dumps(call(stub, options)), flush=True)
            time.sleep(options.pause)


def channel(target: str, *, mtls: bool) -> grpc.Channel:
    if not mtls:
        return grpc.insecure_channel(target)
    fallback = grpc.experimental.insecure_channel_credentials()
    return grpc.secure_channel(target, grpc.xds_channel_credentials(fallback))


def call(stub: health_pb2_grpc.HealthStub, options: argparse.Namespace) -> dict[str, object]:
    try:
        answer, made = stub.Check.with_call(
            health_pb2.HealthCheckRequest(service=""), timeout=options.timeout, wait_for_ready=not options.fail_fast
        )
    except grpc.RpcError as error:
        return {"error": error.code().name, "details": error.details()[:300]}
    return {"status": answer.status, "peer": dict(made.initial_metadata()).get("server-version")}


if __name__ == "__main__":
    main()
