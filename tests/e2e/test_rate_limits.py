"""Two replicas of the control plane over one etcd give a global limit once, not twice."""

import shutil
from collections.abc import Iterator

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from controlplane.cli.local_mesh import LocalMesh, wait_until
from mesh.xds.rate_limits import DOMAIN, LIMIT_KEY
from tests.support import meshes

pytestmark = pytest.mark.e2e

LIMIT = 40
RULE = f"""\
apiVersion: gossamer.mesh/v1
kind: RateLimit
metadata: {{name: users}}
spec:
  scope: GLOBAL
  limits:
  - {{name: per-user, keys: [{{header: x-user}}], rates: [{{requests: {LIMIT}, per: DAY}}]}}
"""


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Where the two serve plaintext gRPC."""
    with meshes.local_mesh(tmp_path_factory.mktemp("replicas")) as mesh:
        mesh.start_control_plane("--xds-plaintext", f"{mesh.address(1)}:18010")
        first = dict(mesh.ready)
        _start_second(mesh)
        second, mesh.ready = dict(mesh.ready), first
        wait_until(
            "both replicas know each other", lambda: len(mesh.rest("GET", "/mesh/v1/replicas").json["items"]) == 2
        )
        mesh.wait_revision(mesh.apply(RULE))
        yield first["xds_plaintext"], second["xds_plaintext"]


def _start_second(mesh: LocalMesh) -> None:
    other, state = mesh.address(9), mesh.root / "controlplane-2"
    state.mkdir(mode=0o700)
    shutil.copy2(mesh.root / "controlplane" / "ca-encryption.key", state)
    mesh.start_control_plane(
        "--rest", f"{other}:8080", "--grpc-mtls", f"{other}:18000", "--grpc-tls", f"{other}:18001",
        "--xds-plaintext", f"{other}:18010", name="controlplane-2", etcd=str(mesh.ready["etcd"]),
    )  # fmt: skip


def asking(address: str, user: str) -> Iterator[int]:
    """The verdicts of a replica, one after another."""
    request = RateLimitRequest(domain=DOMAIN)
    descriptor = request.descriptors.add()
    for key, value in ((LIMIT_KEY, "default/users/per-user"), ("header.x-user", user)):
        descriptor.entries.add(key=key, value=value)
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )
        while True:
            yield ask(request, timeout=10).overall_code


def _knows_the_rule(address: str) -> bool:
    """A limit that is not known lets everything pass."""
    asked = asking(address, address)
    return RateLimitResponse.OVER_LIMIT in [next(asked) for _ in range(LIMIT + 1)]


def test_counters_are_shared(replicas: tuple[str, str]) -> None:
    """In turns, then at one alone: the limit in all, and no more at either."""
    for address in replicas:
        wait_until(f"{address} knows the rule", lambda address=address: _knows_the_rule(address))
    first, second = (asking(address, "a") for address in replicas)
    passed = [next(first) for _ in range(10)] + [next(second) for _ in range(10)]
    assert passed == [RateLimitResponse.OK] * 20
    rest = [next(first) for _ in range(LIMIT)]
    given = 20 + rest.count(RateLimitResponse.OK)
    assert LIMIT - 2 <= given <= LIMIT, "what the other has reserved and not used is at most a twentieth"
    end = [next(second) for _ in range(LIMIT)]
    assert given + end.count(RateLimitResponse.OK) <= LIMIT
    assert end[-1] == RateLimitResponse.OVER_LIMIT
