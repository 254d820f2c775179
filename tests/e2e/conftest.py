"""One mesh for the tests of a module: a control plane with embedded etcd, three nodes, five services."""

from collections.abc import Iterator

import pytest

from controlplane.cli.local_mesh import LocalMesh
from tests.support import meshes


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """node-2 and node-3 run user-service v1 and v2, node-4 runs order-service and is the caller."""
    with meshes.local_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.start_control_plane()
        for number in (2, 3):
            for service in (meshes.USER_V1, meshes.USER_V2):
                mesh.start_service(service, number)
            mesh.start_agent(f"node-{number}", number, (meshes.USER_V1, meshes.USER_V2))
        mesh.start_service(meshes.ORDERS, 4, mesh_port=meshes.CALLER_PORT)
        mesh.start_agent("node-4", 4, (meshes.ORDERS,))
        revision = mesh.apply(meshes.documents(meshes.SERVICE, meshes.SUBSETS, meshes.virtual_service(90, 10)))
        mesh.wait_revision(revision)
        yield mesh


@pytest.fixture
def caller(mesh: LocalMesh):  # type: ignore[no-untyped-def]
    """Calls `host` as order-service does: through its own outbound port."""

    def call(host: str = "user-service", path: str = "/users/1", **headers: str):  # type: ignore[no-untyped-def]
        return mesh.agents["node-4"].call(host, path, port=meshes.CALLER_PORT, **headers)

    return call
