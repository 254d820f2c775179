"""The bootstrap of proxyless gRPC, client and server (GRPC_XDS_BOOTSTRAP). Pure: facts in, a value for JSON out.

Source: gRFC A27 (the file), A29 (certificate providers), A36 (servers), A65 (mutual TLS to the control plane);
        clients.md. The node's metadata are those that controlplane/model/proxy.py reads.
"""

from dataclasses import dataclass
from typing import Any

from controlplane.cli.bootstrap.secrets import GRPC_NODE, GRPC_ROOTS, GRPC_WORKLOAD
from controlplane.cli.bootstrap.workloads import Workload
from mesh.vocabulary import DEFAULT_NAMESPACE, DEFAULT_SERVICE_ACCOUNT, Locality

# The certificate provider that compiled resources name.
PROVIDER = "default"
_REFRESH = "10s"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcFacts:
    """What a bootstrap is made from. `tls_dir` empty = plaintext xDS and no certificates; `workloads`: what the process
    serves, `address`: where others reach it."""

    node: str
    xds_address: str
    tls_dir: str = ""
    namespace: str = DEFAULT_NAMESPACE
    service_account: str = DEFAULT_SERVICE_ACCOUNT
    locality: Locality = Locality()
    address: str = "127.0.0.1"
    workloads: tuple[Workload, ...] = ()


def bootstrap(facts: GrpcFacts) -> dict[str, Any]:
    """The whole bootstrap."""
    value: dict[str, Any] = {
        "xds_servers": [
            {
                "server_uri": facts.xds_address,
                "channel_creds": [_credentials(facts.tls_dir)],
                "server_features": ["xds_v3"],
            }
        ],
        "node": _node(facts),
    }
    if facts.workloads:
        value["server_listener_resource_name_template"] = "server/%s"
    if facts.tls_dir:
        provider = {"plugin_name": "file_watcher", "config": _files(facts.tls_dir, GRPC_WORKLOAD)}
        value["certificate_providers"] = {PROVIDER: provider}
    return value


def _credentials(tls_dir: str) -> dict[str, Any]:
    return {"type": "tls", "config": _files(tls_dir, GRPC_NODE)} if tls_dir else {"type": "insecure"}


def _files(tls_dir: str, stem: str) -> dict[str, str]:
    return {
        "certificate_file": f"{tls_dir}/{stem}.crt",
        "private_key_file": f"{tls_dir}/{stem}.key",
        "ca_certificate_file": f"{tls_dir}/{GRPC_ROOTS}",
        "refresh_interval": _REFRESH,
    }


def _node(facts: GrpcFacts) -> dict[str, Any]:
    metadata: dict[str, Any] = {"NAMESPACE": facts.namespace, "SERVICE_ACCOUNT": facts.service_account}
    if facts.tls_dir:
        metadata["TLS"] = True
    if facts.workloads:
        metadata["ADDRESS"] = facts.address
        metadata["WORKLOADS"] = [workload.metadata() for workload in facts.workloads]
    place = {"region": facts.locality.region, "zone": facts.locality.zone, "sub_zone": facts.locality.sub_zone}
    node: dict[str, Any] = {"id": facts.node, "cluster": facts.service_account, "metadata": metadata}
    found = {key: value for key, value in place.items() if value}
    return node | ({"locality": found} if found else {})
