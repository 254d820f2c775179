"""Real Envoys attached over delta and over SotW ADS enforce the same posted policies as our agents."""

import json
from collections.abc import Iterator

import pytest

from controlplane.cli.local_mesh import LocalMesh, LocalService, request, wait_until
from tests.support import envoys, meshes

pytestmark = [pytest.mark.e2e, pytest.mark.envoy]

BILLING = LocalService(name="billing", version="v1", port=3005)
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture(scope="module", params=["delta", "sotw"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """Two nodes with our agents run user-service; an Envoy on node-6 runs billing; STRICT mTLS everywhere."""
    with meshes.local_mesh(tmp_path_factory.mktemp("envoy")) as mesh:
        mesh.start_control_plane()
        for number in (2, 3):
            for service in (meshes.USER_V1, meshes.USER_V2):
                mesh.start_service(service, number)
            mesh.start_agent(f"node-{number}", number, (meshes.USER_V1, meshes.USER_V2))
        mesh.apply(meshes.documents(meshes.SERVICE, meshes.SUBSETS, meshes.virtual_service(90, 10), STRICT))
        mesh.start_service(BILLING, 6)
        envoys.start_envoy(
            mesh, "node-6", 6,
            f"name=billing,namespace=default,service-account=billing,port=3005,address={mesh.address(6)},"
            "inbound-port=20000,labels.app=billing,labels.version=v1",
            sotw=request.param == "sotw",
        )  # fmt: skip
        wait_until("user-service through the Envoy", lambda: ask(mesh).status == 200, timeout_s=30)
        yield mesh


def ask(mesh: LocalMesh, path: str = "/users/1"):  # type: ignore[no-untyped-def]
    """A request through the Envoy's outbound port."""
    return request(f"{mesh.address(6)}:15001", "GET", path, headers={"Host": "user-service"})


def apply(mesh: LocalMesh, *texts: str) -> None:
    mesh.wait_revision(mesh.apply(meshes.documents(*texts)))


def test_split_through_envoy(mesh: LocalMesh) -> None:
    """The Envoy splits as the policy says, before and after a shift."""
    meshes.assert_share(meshes.shares(lambda: ask(mesh).json["version"], 600), "v1", 0.9)
    apply(mesh, meshes.virtual_service(20, 80))
    meshes.assert_share(meshes.shares(lambda: ask(mesh).json["version"], 600), "v1", 0.2)


def test_mtls_from_envoy_to_our_agents(mesh: LocalMesh) -> None:
    """Our agents' STRICT inbound accepts the Envoy and sees its workload's identity."""
    seen = ask(mesh).json["headers"]["x-forwarded-client-cert"]
    assert "URI=spiffe://cluster.local/ns/default/sa/billing" in seen


def test_mtls_from_our_agent_to_envoy(mesh: LocalMesh) -> None:
    """The Envoy's STRICT inbound accepts our agent, and the application behind it sees who called."""
    agent = mesh.agents["node-2"]
    reply = wait_until(
        "billing through our agent",
        lambda: (reply := agent.call("billing", "/bill/1")).status == 200 and reply,
        timeout_s=20,
    )
    certificate = reply.json["headers"]["x-forwarded-client-cert"]
    assert "URI=spiffe://cluster.local/ns/default/sa/user-service" in certificate


def test_ejection_through_envoy(mesh: LocalMesh) -> None:
    """The same outlierDetection makes the Envoy eject the failing instance."""
    outlier = meshes.SUBSETS.replace(
        "  subsets:",
        "  trafficPolicy:\n    outlierDetection:\n      consecutive5xxErrors: 3\n      interval: 1s\n"
        "      baseEjectionTime: 30s\n  subsets:",
    )
    apply(mesh, outlier, meshes.virtual_service(100, 0, extra="    retries: {attempts: 0}\n"))
    mesh.behave(2, 3001, status=500)
    try:
        wait_until("ten good answers in a row", lambda: [ask(mesh).status for _ in range(10)] == [200] * 10)
        clusters = json.loads(request(f"{mesh.address(6)}:15000", "GET", "/clusters?format=json").body)
        (subset,) = [c for c in clusters["cluster_statuses"] if "|v1|user-service" in c["name"]]
        ejected = [h for h in subset["host_statuses"] if h["health_status"].get("failed_outlier_check")]
        assert len(ejected) == 1
    finally:
        mesh.behave(2, 3001)


def test_envoy_is_in_sync_and_visible(mesh: LocalMesh) -> None:
    """REST shows the Envoy as a proxy with every type acknowledged."""

    def synced() -> bool:
        items = mesh.rest("GET", "/mesh/v1/proxies").json["items"]
        (envoy,) = [item for item in items if item["node"] == "node-6"]
        assert envoy["dialect"] == "envoy"
        return all(state["state"] == "synced" for state in envoy["types"].values())

    wait_until("the Envoy in sync", synced, timeout_s=20)
