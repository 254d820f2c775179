"""Routes that are switched together with the clusters that they need, under load: no request fails on any proxy.

One of our agents, an Envoy by delta and an Envoy by SotW carry the load. Each switch is one batch: a DestinationRule
with a new subset in place of the old one, and the VirtualService that leads there. SWITCH_REQUESTS sets the load.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from controlplane.cli.local_mesh import LocalMesh, request, wait_until
from tests.support import envoys, meshes
from tests.support.steady_load import SteadyLoad

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.timeout(300)]

REQUESTS = int(os.environ.get("SWITCH_REQUESTS", "51000"))
RPS = 500.0
PORT = 3001
HOST = "user-service"
ORIGINS = {"v1": 7, "v2": 8}


def fixed(mesh: LocalMesh) -> str:
    """The service and its two instances, which stand outside the mesh."""
    entries = [
        f"""\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: user-{version}}}
spec: {{address: {mesh.address(number)}, labels: {{app: user-service, version: {version}}}}}
"""
        for version, number in ORIGINS.items()
    ]
    return meshes.documents(meshes.SERVICE, *entries)


def switch(number: int) -> str:
    """The batch of the `number`th switch: subset s<number> is v1 or v2 in turn; the subset before it goes."""
    version = sorted(ORIGINS)[number % 2]
    return f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: user-service}}
spec: {{host: user-service, subsets: [{{name: s{number}, labels: {{version: {version}}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: user-service}}
spec: {{hosts: [user-service], http: [{{route: [{{destination: {{host: user-service, subset: s{number}}}}}]}}]}}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with meshes.local_mesh(tmp_path_factory.mktemp("switch")) as mesh:
        mesh.start_control_plane()
        mesh.apply(meshes.documents(fixed(mesh), switch(0)))
        mesh.start_agent("node-2", 2)
        envoys.start_envoy(mesh, "node-3", 3)
        envoys.start_envoy(mesh, "node-4", 4, sotw=True)
        yield mesh


def proxies(mesh: LocalMesh) -> list[str]:
    return [f"{mesh.address(number)}:15001" for number in (2, 3, 4)]


def load(mesh: LocalMesh, *, rps: float = 0.0) -> SteadyLoad:
    origins = [(mesh.address(number), PORT, version) for version, number in ORIGINS.items()]
    return SteadyLoad(origins, proxies(mesh), HOST, rps=rps)


def begin(mesh: LocalMesh, running: SteadyLoad) -> None:
    """Every proxy answers; then the load."""
    for proxy in proxies(mesh):
        wait_until(f"{proxy} answers", lambda own=proxy: request(own, "GET", "/", headers={"Host": HOST}).status == 200)
    running.begin()


def assert_none_failed(mesh: LocalMesh, running: SteadyLoad) -> None:
    assert dict(running.failures) == {}
    for proxy in proxies(mesh):
        for version in ORIGINS:
            assert running.answers[proxy, version] > 0, (proxy, version)  # each was switched to and fro


def test_switches_under_load_fail_no_request(mesh: LocalMesh) -> None:
    """Issue: posting a VirtualService and the DestinationRule that it needs never yields a 503 NC on any proxy."""
    switches = 0
    with load(mesh) as running:
        begin(mesh, running)
        while running.total < REQUESTS or switches < 10:
            switches += 1
            revision = mesh.apply(switch(switches))
            # Now and then without waiting: a change that overtakes the one before it.
            if switches % 3:
                mesh.wait_revision(revision)
            running.wait(200)
    assert_none_failed(mesh, running)
    assert running.total >= REQUESTS


def test_a_killed_control_plane_fails_no_request(mesh: LocalMesh) -> None:
    """kill -9 in the middle of switches, at 500 requests a second; it comes back on the same etcd and goes on."""
    switches = 0
    with load(mesh, rps=RPS) as running:
        begin(mesh, running)
        for _ in range(3):
            for _ in range(3):
                switches += 1
                mesh.apply(switch(switches))
                running.wait(50)
            switches += 1
            mesh.apply(switch(switches))  # and while it is on its way:
            (control_plane,) = [p for p in mesh.processes if p.name == "controlplane" and p.running]
            control_plane.stop(signal.SIGKILL)
            running.wait(250)
            mesh.start_control_plane()
            running.wait(500)
            switches += 1
            revision = mesh.apply(switch(switches))
            wait_until("all are back", lambda: len(mesh.rest("GET", "/mesh/v1/proxies").json["items"]) == 3)
            mesh.wait_revision(revision)
            running.wait(100)
    assert_none_failed(mesh, running)
