"""Bootstraps of bare Envoys and gRPC clients: their form, their files, and that a real Envoy takes them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.core.v3.base_pb2 import Node as XdsNode
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.json_format import ParseDict

from controlplane.cli.bootstrap import envoy, grpc, secrets
from controlplane.cli.bootstrap.envoy import EnvoyFacts
from controlplane.cli.bootstrap.files import write_private
from controlplane.cli.bootstrap.gateway import parse_gateway
from controlplane.cli.bootstrap.grpc import GrpcFacts
from controlplane.cli.bootstrap.record import Record, read_record
from controlplane.cli.bootstrap.workloads import identity_of, parse_workloads
from controlplane.cli.identity.signing import Credentials, KeyPair, Names
from controlplane.model.proxy import proxy_from_node
from mesh.errors import MeshError
from mesh.vocabulary import Dialect, Locality
from tests.support.certificates import key_pem, self_signed
from tests.support.envoys import envoy_binary

FULL = (
    "name=billing,id=b-1,namespace=shop,service-account=bill,port=3005,protocol=http,inbound-port=20007,"
    "address=127.0.0.9,labels.app=billing,labels.version=v1"
)


def facts(**fields: Any) -> EnvoyFacts:
    known: dict[str, Any] = {
        "node": "edge-1", "address": "10.0.0.6", "xds_address": "127.0.0.1:18000", "outbound_address": "127.0.0.1",
        "outbound_port": 15001, "admin": "127.0.0.1:15000", "workloads": parse_workloads([FULL]),
    }  # fmt: skip
    return EnvoyFacts(**{**known, **fields})


def parsed(value: dict[str, Any]) -> Bootstrap:
    """Unknown fields fail here."""
    bootstrap = ParseDict(value, Bootstrap())
    (cluster,) = bootstrap.static_resources.clusters
    (options,) = cluster.typed_extension_protocol_options.values()
    assert options.Is(HttpProtocolOptions.DESCRIPTOR)
    return bootstrap


@pytest.fixture
def credentials() -> Credentials:
    from cryptography.hazmat.primitives.asymmetric import ec

    pairs = []
    for name in ("node/edge-1", "ns/shop/sa/bill"):
        key = ec.generate_private_key(ec.SECP256R1())
        pair = KeyPair(spiffe_id=f"spiffe://td/{name}", chain_pem=self_signed(key), key_pem=key_pem(key))
        pairs.append(pair)
    return Credentials(node=pairs[0], workload=pairs[1], roots_pem=pairs[0].chain_pem, trust_domain="td")


# --- workloads


def test_a_workload_with_everything() -> None:
    (workload,) = parse_workloads([FULL])
    assert workload.metadata() == {
        "id": "b-1",
        "service": "billing",
        "namespace": "shop",
        "service_account": "bill",
        "labels": {"app": "billing", "version": "v1"},
        "app_address": "127.0.0.9",
        "ports": [{"port": 3005, "inbound_port": 20007, "name": "http", "protocol": "HTTP"}],
    }


def test_inbound_ports_are_chosen_around_the_given_ones() -> None:
    workloads = parse_workloads(["name=a,port=1", "name=b,port=2,inbound-port=20000", "name=c,port=3"])
    assert [workload.inbound_port for workload in workloads] == [20001, 20000, 20002]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["port=1"], "found no name="),
        (["name=a"], "found no port=, expected where the application listens"),
        (["name=a,port=0x1"], "found port=0x1, expected a port, 1 to 65535"),
        (["name=a,port=70000"], "found port=70000"),
        (["name=a,port=1,colour=red"], "found 'colour=red', expected KEY=VALUE"),
        (["name=a,port=1,labels.=x"], "found 'labels.=x'"),
        (["name=a,name=b,port=1"], "found 'name=b'"),
        (["name=a,port=1,inbound-port=5", "name=b,port=2,inbound-port=5"], "found one inbound-port twice"),
    ],
)
def test_wrong_workloads(texts: list[str], message: str) -> None:
    with pytest.raises(MeshError) as caught:
        parse_workloads(texts)
    assert str(caught.value).startswith("--workload ")
    assert message in str(caught.value)


def test_an_envoy_carries_one_identity() -> None:
    assert identity_of(()) is None
    assert identity_of(parse_workloads(["name=a,port=1,service-account=x", "name=b,port=2,service-account=x"])) == (
        "default",
        "x",
    )
    with pytest.raises(MeshError, match="found the identities default/x and default/y, expected one"):
        identity_of(parse_workloads(["name=a,port=1,service-account=x", "name=b,port=2,service-account=y"]))


# --- Envoy


def test_the_control_plane_reads_the_node_as_it_is_meant() -> None:
    node = envoy.bootstrap(facts(tls_dir="/d", locality=Locality("eu", "a")))["node"]
    proxy = proxy_from_node(ParseDict({**node, "user_agent_name": "envoy"}, XdsNode()), delta=True)
    assert (proxy.id, proxy.dialect, proxy.address, proxy.tls_dir) == ("edge-1", Dialect.ENVOY, "10.0.0.6", "/d")
    assert (proxy.outbound_address, proxy.outbound_port) == ("127.0.0.1", 15001)
    assert proxy.locality == Locality("eu", "a")
    (instance,) = proxy.workloads
    assert (instance.service, instance.namespace, instance.service_account) == ("billing", "shop", "bill")
    assert (instance.ports[0].port, instance.ports[0].inbound_port, instance.app_address) == (3005, 20007, "127.0.0.9")


def test_a_gateway_as_the_control_plane_reads_it() -> None:
    gateway = parse_gateway("namespace=ingress,service-account=edge,labels.istio=ingressgateway,address=0.0.0.0")
    assert gateway is not None
    node = envoy.bootstrap(facts(workloads=(), gateway=gateway))["node"]
    proxy = proxy_from_node(ParseDict({**node, "user_agent_name": "envoy"}, XdsNode()), delta=True)
    assert (proxy.gateway, proxy.gateway_address, proxy.namespace) == (True, "0.0.0.0", "ingress")
    assert (proxy.service_account, dict(proxy.labels)) == ("edge", {"istio": "ingressgateway"})
    assert [item.id for item in proxy.workloads] == ["gateway"]
    assert identity_of((), gateway.identity) == ("ingress", "edge")
    with pytest.raises(MeshError, match="found the identities ingress/edge and shop/bill"):
        identity_of(parse_workloads([FULL]), gateway.identity)
    least = parse_gateway("labels.istio=edge")
    assert least is not None
    assert least.metadata("10.0.0.6")["GATEWAY_ADDRESS"] == "10.0.0.6"
    assert parse_gateway(None) is None
    with pytest.raises(MeshError, match="expected KEY=VALUE, each once, with namespace, service-account"):
        parse_gateway("port=80")


def test_xds_is_delta_unless_asked_otherwise() -> None:
    assert envoy.bootstrap(facts())["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    assert envoy.bootstrap(facts(delta=False))["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"


def test_with_certificates_the_control_plane_is_checked_by_name_and_root() -> None:
    (cluster,) = parsed(envoy.bootstrap(facts(tls_dir="/d"))).static_resources.clusters
    context = UpstreamTlsContext()
    assert cluster.transport_socket.typed_config.Unpack(context)
    assert context.sni == "gossamer-controlplane"
    common = context.common_tls_context
    (secret,) = common.tls_certificate_sds_secret_configs
    assert secret.sds_config.path_config_source.path == "/d/node.yaml"
    assert secret.sds_config.path_config_source.watched_directory.path == "/d"
    combined = common.combined_validation_context
    assert combined.validation_context_sds_secret_config.sds_config.path_config_source.path == "/d/roots.yaml"
    (name,) = combined.default_validation_context.match_typed_subject_alt_names
    assert (name.matcher.exact, name.san_type) == ("gossamer-controlplane", 2)


def test_without_certificates_xds_is_plaintext() -> None:
    value = envoy.bootstrap(facts(xds_address="cp.example:18002"))
    (cluster,) = parsed(value).static_resources.clusters
    assert not cluster.HasField("transport_socket")
    assert cluster.type == 1, "a name is resolved"
    assert "TLS_DIR" not in value["node"]["metadata"]


@pytest.mark.envoy
@pytest.mark.parametrize(("tls", "delta"), [(True, True), (True, False), (False, True)])
def test_a_real_envoy_takes_it(tmp_path: Path, credentials: Credentials, tls: bool, delta: bool) -> None:
    from controlplane.cli.output.documents import as_yaml

    secrets.write_sds(tmp_path, credentials)
    path = tmp_path / "bootstrap.yaml"
    path.write_text(as_yaml(envoy.bootstrap(facts(tls_dir=str(tmp_path) if tls else "", delta=delta))))
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", str(path)],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- secrets and files


def test_sds_files_are_what_envoy_reads_and_what_a_renewal_reads_back(tmp_path: Path, credentials: Credentials) -> None:
    secrets.write_sds(tmp_path, credentials)
    (resource,) = yaml.safe_load((tmp_path / "identity.yaml").read_text())["resources"]
    del resource["@type"]
    secret = ParseDict(resource, Secret())
    assert secret.name == "default"
    assert secret.tls_certificate.private_key.inline_string.encode() == credentials.workload.key_pem
    held = secrets.read_sds(tmp_path, record())
    assert held.node.key_pem == credentials.node.key_pem
    assert held.node.chain_pem == credentials.node.chain_pem
    assert held.roots_pem == credentials.roots_pem


def test_pem_files_round_trip(tmp_path: Path, credentials: Credentials) -> None:
    secrets.write_pem(tmp_path, credentials)
    assert (tmp_path / "identity.key").read_bytes() == credentials.workload.key_pem
    held = secrets.read_pem(tmp_path, record(client="grpc"))
    assert (held.node.key_pem, held.roots_pem) == (credentials.node.key_pem, credentials.roots_pem)


@pytest.mark.parametrize("write", [secrets.write_sds, secrets.write_pem])
def test_every_file_is_its_owners_alone(tmp_path: Path, credentials: Credentials, write) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, credentials)
    write(tmp_path, credentials)
    files = list(tmp_path.iterdir())
    assert len(files) in (3, 5)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_damaged_files_are_told(tmp_path: Path, credentials: Credentials) -> None:
    secrets.write_sds(tmp_path, credentials)
    (tmp_path / "node.yaml").write_text("resources: []")
    with pytest.raises(MeshError, match="bootstrap again with a new token"):
        secrets.read_sds(tmp_path, record())
    with pytest.raises(MeshError, match="bootstrap again with a new token"):
        secrets.read_pem(tmp_path, record(client="grpc"))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshError) as caught:
        write_private(tmp_path / "none" / "x", b"")
    assert str(tmp_path / "none" / "x") in str(caught.value)


def test_keys_are_not_shown(credentials: Credentials) -> None:
    assert "PRIVATE" not in repr(credentials)


def record(client: str = "envoy", account: str = "bill") -> Record:
    return Record(
        client=client,
        node="edge-1",
        namespace="shop",
        service_account=account,
        trust_domain="td",
        xds_address="127.0.0.1:18000",
    )


def test_a_record_round_trips_and_knows_its_client(tmp_path: Path) -> None:
    record().write(tmp_path)
    assert read_record(tmp_path, "envoy") == record()
    assert record().names == Names(node="edge-1", workload=("shop", "bill"))
    assert record(account="").names == Names(node="edge-1")
    with pytest.raises(MeshError, match="found schema 1 of envoy, expected 1 of grpc"):
        read_record(tmp_path, "grpc")


@pytest.mark.parametrize("text", ["", "[]", '{"node": "x"}', "{"])
def test_a_folder_that_is_no_enrolment(tmp_path: Path, text: str) -> None:
    (tmp_path / "enrolment.json").write_text(text)
    with pytest.raises(MeshError, match="found no enrolment"):
        read_record(tmp_path, "envoy")


# --- gRPC


def test_grpc_plaintext() -> None:
    value = grpc.bootstrap(GrpcFacts(node="client-1", xds_address="127.0.0.1:18002"))
    (server,) = value["xds_servers"]
    assert server == {
        "server_uri": "127.0.0.1:18002",
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    }
    assert "certificate_providers" not in value


def test_grpc_server() -> None:
    """What the process serves is in the node's metadata, and its Listeners have a name."""
    value = grpc.bootstrap(
        GrpcFacts(
            node="server-1", xds_address="127.0.0.1:18002", address="10.0.0.7",
            workloads=parse_workloads(["name=greeter,port=50051,address=0.0.0.0,labels.app=greeter"]),
        )
    )  # fmt: skip
    assert value["server_listener_resource_name_template"] == "server/%s"
    proxy = proxy_from_node(ParseDict({**value["node"], "userAgentName": "gRPC C-core"}, XdsNode()), delta=False)
    (instance,) = proxy.workloads
    assert (instance.service, instance.address, instance.app_address) == ("greeter", "10.0.0.7", "0.0.0.0")
    assert [(port.port, port.inbound_port) for port in instance.ports] == [(50051, 50051)]
    assert instance.agent is False  # it has no certificates


def test_grpc_with_certificates() -> None:
    value = grpc.bootstrap(
        GrpcFacts(node="client-1", xds_address="cp:18000", tls_dir="/d", namespace="shop", service_account="web")
    )
    (server,) = value["xds_servers"]
    (creds,) = server["channel_creds"]
    assert creds["type"] == "tls"
    assert creds["config"]["certificate_file"] == "/d/node.crt", "the control plane wants the node's identity"
    provider = value["certificate_providers"]["default"]
    assert provider["plugin_name"] == "file_watcher"
    assert provider["config"]["certificate_file"] == "/d/identity.crt", "peers see the workload's"
    node = ParseDict({**value["node"], "user_agent_name": "gRPC C-core linux Python"}, XdsNode())
    proxy = proxy_from_node(node, delta=False)
    assert (proxy.dialect, proxy.namespace, proxy.service_account, proxy.tls) == (Dialect.GRPC, "shop", "web", True)


# --- the commands


def test_envoy_bootstrap_in_plaintext(meshctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "edge"
    done = meshctl(
        "--server", "http://127.5.5.5:8080", "envoy", "bootstrap", "--node", "edge-1", "--plaintext",
        "--dir", str(folder), "--address", "127.0.0.7", "--workload", FULL, "--sotw",
    )  # fmt: skip
    assert (done.code, done.out) == (0, f"start it with: envoy -c {folder}/bootstrap.yaml\n")
    value = yaml.safe_load((folder / "bootstrap.yaml").read_text())
    assert value["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"
    (cluster,) = parsed(value).static_resources.clusters
    address = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    assert (address.address, address.port_value) == ("127.5.5.5", 18000), "by default beside the REST server"
    assert value["admin"]["address"]["socket_address"] == {"address": "127.0.0.7", "port_value": 15000}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_envoy_that_others_reach_keeps_admin_and_outbound_on_loopback(meshctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    meshctl("envoy", "bootstrap", "--node", "e", "--plaintext", "--dir", str(tmp_path), "--address", "10.0.0.5")
    value = yaml.safe_load((tmp_path / "bootstrap.yaml").read_text())
    assert value["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    assert value["node"]["metadata"]["OUTBOUND_ADDRESS"] == "127.0.0.1"
    assert value["node"]["metadata"]["ADDRESS"] == "10.0.0.5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--token-file: found none of --token-file, --token, --renew and --plaintext (meshctl token create)"),
        (("--token", "nonsense"), "--token: found something else than a join token"),
        (("--token-file", "/nowhere"), "/nowhere: the join token cannot be read"),
        (("--plaintext", "--xds-address", "here"), "--xds-address: found 'here', expected host:port"),
        (("--plaintext", "--admin", "x"), "--admin: found 'x', expected host:port"),
        (("--plaintext", "--workload", "name=a"), "--workload name=a: found no port="),
        (("--plaintext", "--renew"), "not allowed with argument"),
        (("--plaintext", "--locality", "a/b/c/d"), "found 'a/b/c/d', expected region/zone/subzone"),
    ],
)
def test_envoy_bootstrap_with_wrong_flags(meshctl, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("envoy", "bootstrap", "--node", "e", "--dir", str(tmp_path / "d"), *arguments)
    assert done.code == 64
    assert message in done.err


def test_renewing_what_was_never_bootstrapped(meshctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("envoy", "renew", "--dir", str(tmp_path))
    assert done.code == 1
    assert "found no enrolment" in done.err
    assert "(meshctl envoy bootstrap)" in done.err


def test_grpc_bootstrap_prints_its_json(meshctl) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("grpc", "bootstrap", "--node", "client-1", "--xds-address", "127.0.0.1:18002")
    assert done.code == 0
    assert json.loads(done.out)["node"]["id"] == "client-1"


def test_grpc_certificates_need_a_folder(meshctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t").write_text(f"id.secret.{'0' * 64}")
    done = meshctl("grpc", "bootstrap", "--node", "c", "--token-file", str(tmp_path / "t"))
    assert done.code == 64
    assert "--dir: found none" in done.err
