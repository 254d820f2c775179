"""What clients tell a real control plane, our agent and Envoy alike: load (LRS) and the status of resources (CSDS).

Two callers, an agent in eu/a and an Envoy, send to user-service in two versions on two nodes in two localities. The
reports are read as an operator would: by REST, and by a plain CSDS client.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse, ConfigStatus

from controlplane.cli.local_mesh import LocalMesh, LocalService, request, wait_until
from controlplane.store.etcd.options import EtcdOptions
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.keys import ca_root_key
from controlplane.store.protocol import Delete, Put
from tests.support import envoys, meshes
from tests.support.certificates import self_signed

pytestmark = [pytest.mark.e2e, pytest.mark.envoy]

HOST = "user-service.default.svc.cluster.local"
BILLING = LocalService(name="billing", version="v1", port=3005)
CSDS = "envoy.service.status.v3.ClientStatusDiscoveryService"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with meshes.local_mesh(tmp_path_factory.mktemp("reports")) as mesh:
        mesh.start_control_plane("--xds-plaintext", f"{mesh.address(1)}:18002")
        for number, service, place, protocol in (
            (2, meshes.USER_V1, "eu/a", "delta"),
            (3, meshes.USER_V2, "us/b", "sotw"),
        ):
            mesh.start_service(service, number)
            agent = mesh.write_agent_config(f"node-{number}", number, (service,))
            text = agent.config.read_text()
            head = f'locality = "{place}"\n[control_plane]\nprotocol = "{protocol}"'
            agent.config.write_text(text.replace("[control_plane]", head, 1))
            mesh.agents[agent.name] = mesh.run_agent(agent)
        mesh.apply(
            meshes.documents(
                meshes.SERVICE, meshes.SUBSETS, meshes.virtual_service(50, 50, extra="    retries: {attempts: 0}\n")
            )
        )
        mesh.start_service(BILLING, 6)
        envoys.start_envoy(
            mesh, "node-6", 6,
            f"name=billing,namespace=default,service-account=billing,port=3005,address={mesh.address(6)},"
            "inbound-port=20000,labels.app=billing,labels.version=v1",
        )  # fmt: skip
        for number in (2, 6):
            wait_until(f"user-service from node-{number}", lambda number=number: ask(mesh, number) == 200)
        yield mesh


def ask(mesh: LocalMesh, number: int) -> int:
    """A request from a node to user-service; its status."""
    return request(f"{mesh.address(number)}:15001", "GET", "/users/1", headers={"Host": "user-service"}).status


def rows(mesh: LocalMesh) -> dict[tuple[str, str], dict[str, Any]]:
    """(subset, locality) -> the fleet's load on user-service."""
    items = mesh.rest("GET", "/mesh/v1/traffic").json["items"]
    return {(item["subset"], item["locality"]): item for item in items if item["service"] == HOST}


def test_load_is_summed_over_agents_and_envoys_by_subset_and_locality(mesh: LocalMesh) -> None:
    """Both report every few seconds; every row names service, subset and locality, and both callers are in it."""

    def both() -> Any:
        for _ in range(20):
            ask(mesh, 2)
            ask(mesh, 6)
        found = rows(mesh)
        wanted = {("v1", "eu/a"), ("v2", "us/b")}
        return wanted <= found.keys() and all(found[key]["reporters"] == 2 for key in wanted) and found

    found = wait_until("rows of both callers", both, timeout_s=60)
    assert set(found) == {("v1", "eu/a"), ("v2", "us/b")}, "no version is in the other's locality"
    assert all(row["requests_per_s"] > 0 and row["success_ratio"] == 1 and row["port"] == 80 for row in found.values())


def test_failures_are_counted_where_they_happen(mesh: LocalMesh) -> None:
    mesh.behave(3, 3002, status=500)
    try:

        def failing() -> Any:
            for _ in range(20):
                ask(mesh, 2)
                ask(mesh, 6)
            found = rows(mesh)
            return found.get(("v2", "us/b"), {}).get("success_ratio") == 0 and found

        found = wait_until("the failing version", failing, timeout_s=60)
        assert found["v2", "us/b"]["errors_per_s"] > 0
        assert found["v1", "eu/a"]["success_ratio"] == 1
    finally:
        mesh.behave(3, 3002)


def csds(mesh: LocalMesh, *nodes: str) -> dict[str, Any]:
    """node -> its ClientConfig, as a plain gRPC client gets it."""
    with grpc.insecure_channel(str(mesh.ready["xds_plaintext"])) as channel:
        call = channel.unary_unary(
            f"/{CSDS}/FetchClientStatus",
            request_serializer=ClientStatusRequest.SerializeToString,
            response_deserializer=ClientStatusResponse.FromString,
        )
        matchers: Any = [{"node_id": {"exact": node}} for node in nodes]
        return {one.node.id: one for one in call(ClientStatusRequest(node_matchers=matchers), timeout=20).config}


def test_client_status_of_everyone(mesh: LocalMesh) -> None:
    """An agent answers for itself over its report stream, an Envoy by what it acknowledged."""

    def settled() -> Any:
        found = csds(mesh)
        entries = [entry for one in found.values() for entry in one.generic_xds_configs]
        done = all(
            entry.client_status == ClientResourceStatus.ACKED for entry in entries if "Secret" not in entry.type_url
        )
        return found if len(found) == 3 and done else None

    found = wait_until("everything is acknowledged", settled, timeout_s=30)
    assert set(found) == {"node-2", "node-3", "node-6"}
    for config in found.values():
        clusters = {entry.name: entry for entry in config.generic_xds_configs if entry.type_url.endswith(".Cluster")}
        subset = clusters[f"outbound|80|v1|{HOST}"]
        assert subset.config_status == ConfigStatus.SYNCED
        assert subset.version_info
    versions = {
        node: {
            entry.name: entry.version_info
            for entry in found[node].generic_xds_configs
            if "outbound|80|v1" in entry.name
        }
        for node in ("node-2", "node-3")
    }
    assert versions["node-2"].keys() == versions["node-3"].keys()
    assert found["node-2"].node.user_agent_name == "gossamer-agent"


def test_an_agent_of_the_other_protocol_is_in_sync(mesh: LocalMesh) -> None:
    """node-3 speaks SotW with our own control plane: whole RouteConfigurations, and it serves."""
    (proxy,) = mesh.rest("GET", "/mesh/v1/proxies/node-3").json["items"]
    assert (proxy["dialect"], proxy["delta"]) == ("gossamer", False)
    assert "VHDS" not in proxy["types"]
    wait_until("an answer", lambda: ask(mesh, 3) == 200)
    revision = mesh.apply(meshes.virtual_service(100, 0))
    mesh.wait_revision(revision)
    seen = {request(f"{mesh.address(3)}:15001", "GET", "/users/1", headers={"Host": "user-service"}).json["version"]}
    assert seen == {"v1"}


def test_client_status_with_contents(mesh: LocalMesh) -> None:
    found = csds(mesh, "node-2")
    assert set(found) == {"node-2"}
    held = [entry for entry in found["node-2"].generic_xds_configs if entry.type_url.endswith(".Cluster")]
    assert held
    assert all(entry.xds_config.type_url == entry.type_url for entry in held)


def test_client_status_by_rest(mesh: LocalMesh) -> None:
    (agent,) = mesh.rest("GET", "/mesh/v1/proxies/node-2/client_status").json["items"]
    assert agent["node"] == "node-2"
    clusters = {item["name"]: item for item in agent["types"]["CDS"]}
    assert clusters[f"outbound|80|v1|{HOST}"]["client"] == "ACKED"
    assert clusters[f"outbound|80|v1|{HOST}"]["server"] == "SYNCED"
    (envoy,) = mesh.rest("GET", "/mesh/v1/proxies/node-6/client_status").json["items"]
    assert {item["client"] for item in envoy["types"]["CDS"]} == {"ACKED"}
    assert mesh.rest("GET", "/mesh/v1/proxies/nobody/client_status").status == 404


def test_the_agent_shows_the_same(mesh: LocalMesh) -> None:
    """Without the control plane, on the admin port."""
    shown = request(mesh.agents["node-2"].admin, "GET", "/config_dump?format=csds").json
    assert shown["node"]["id"] == "node-2"
    told = {(entry.type_url, entry.name): entry.version_info for entry in csds(mesh)["node-2"].generic_xds_configs}
    assert {(one["type_url"], one["name"]) for one in shown["generic_xds_configs"]} == told.keys()


# --- roots by SDS -----------------------------------------------------------------------------------------------------


async def test_new_roots_reach_everyone_by_sds_and_go_again(mesh: LocalMesh) -> None:
    """Decision 15: the trust bundle travels by SDS over ADS, to our agents and to Envoy, while traffic goes on."""
    second = self_signed(ec.generate_private_key(ec.SECP256R1()))
    key = ca_root_key("conformance")
    store = EtcdStore(EtcdOptions(endpoints=tuple(mesh.ready["etcd"].split(","))))
    try:
        assert trusted(mesh) == {"node-2": 1, "node-3": 1, "node-6": 1}
        await store.transact([], [Put(key, json.dumps({"certificatePem": second.decode()}).encode())])
        wait_until("two roots everywhere", lambda: set(trusted(mesh).values()) == {2})
        assert (ask(mesh, 2), ask(mesh, 6)) == (200, 200)
        await store.transact([], [Delete(key)])
        wait_until("one root everywhere", lambda: set(trusted(mesh).values()) == {1})
        assert (ask(mesh, 2), ask(mesh, 6)) == (200, 200)
    finally:
        await store.close()


def trusted(mesh: LocalMesh) -> dict[str, int]:
    """node -> how many roots it trusts."""
    shown = {node: request(agent.admin, "GET", "/certs").json for node, agent in mesh.agents.items()}
    found = {node: len(certs["trust_roots"]) for node, certs in shown.items()}
    dump = request(f"{mesh.address(6)}:15000", "GET", "/config_dump?resource=dynamic_active_secrets").json
    (secret,) = (one["secret"] for one in dump["configs"] if one["name"] == "mesh/trust")
    authority = secret["validation_context"]["trusted_ca"]
    text = authority.get("inline_string") or base64.b64decode(authority["inline_bytes"]).decode()
    return {**found, "node-6": text.count("BEGIN CERTIFICATE")}
