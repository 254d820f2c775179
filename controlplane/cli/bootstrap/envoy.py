"""The bootstrap of a bare Envoy. Pure: facts in, a value for YAML out.

Source: envoy.config.bootstrap.v3; decision 15; clients.md for the form that a real Envoy 1.40 took. The node's metadata
        are those that controlplane/model/proxy.py reads.
"""

import ipaddress
from dataclasses import dataclass
from typing import Any

from controlplane.ca.authority import SERVER_NAME
from controlplane.cli.bootstrap.gateway import GatewayNode
from controlplane.cli.bootstrap.workloads import Workload
from controlplane.settings import split_address
from mesh.vocabulary import Locality
from mesh.xds.names import CONTROL_PLANE_CLUSTER as XDS_CLUSTER

NODE_SECRET, WORKLOAD_SECRET, ROOTS_SECRET = "node", "default", "ROOTCA"
NODE_FILE, WORKLOAD_FILE, ROOTS_FILE = "node.yaml", "identity.yaml", "roots.yaml"
# Envoy's own limit for regular expressions, 100, is below what routes commonly need (decision 37).
_REGEX_PROGRAM_SIZE = 32768
# Envoy obeys TTLs, by either protocol, but does not say so by itself.
_FEATURES = ("xds.config.supports-resource-ttl", "xds.config.resource-in-sotw")
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyFacts:
    """What a bootstrap is made from. `tls_dir` empty = plaintext xDS and no certificates."""

    node: str
    address: str
    xds_address: str
    outbound_address: str
    outbound_port: int
    admin: str
    tls_dir: str = ""
    delta: bool = True
    locality: Locality = Locality()
    workloads: tuple[Workload, ...] = ()
    gateway: GatewayNode | None = None


def bootstrap(facts: EnvoyFacts) -> dict[str, Any]:
    """The whole bootstrap."""
    services: list[Any] = [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}]
    host, port = split_address(facts.admin)
    return {
        "node": _node(facts),
        "admin": {"address": _socket(host, port)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if facts.delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": services,
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "cluster_manager": {
            "load_stats_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": list(services)}
        },
        "static_resources": {"clusters": [_xds_cluster(facts)]},
        "layered_runtime": {
            "layers": [
                {
                    "name": "gossamer",
                    "static_layer": {"re2": {"max_program_size": {"error_level": _REGEX_PROGRAM_SIZE}}},
                }
            ]
        },
    }


def _node(facts: EnvoyFacts) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "ADDRESS": facts.address,
        "OUTBOUND_ADDRESS": facts.outbound_address,
        "OUTBOUND_PORT": facts.outbound_port,
    }
    if facts.tls_dir:
        metadata["TLS_DIR"] = facts.tls_dir
    if facts.workloads:
        metadata["WORKLOADS"] = [workload.metadata() for workload in facts.workloads]
    if facts.gateway is not None:
        metadata |= facts.gateway.metadata(facts.address)
    node: dict[str, Any] = {"id": facts.node, "cluster": facts.workloads[0].service if facts.workloads else facts.node}
    locality = {"region": facts.locality.region, "zone": facts.locality.zone, "sub_zone": facts.locality.sub_zone}
    if any(locality.values()):
        node["locality"] = {key: value for key, value in locality.items() if value}
    return {**node, "metadata": metadata, "client_features": list(_FEATURES)}


def _xds_cluster(facts: EnvoyFacts) -> dict[str, Any]:
    host, port = split_address(facts.xds_address)
    http2 = {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}
    cluster: dict[str, Any] = {
        "name": XDS_CLUSTER,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(host, port)}}]}],
        },
    }
    if facts.tls_dir:
        cluster["transport_socket"] = _transport_socket(facts.tls_dir)
    return cluster


def _transport_socket(tls_dir: str) -> dict[str, Any]:
    names = [{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}]
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificate_sds_secret_configs": [_sds(tls_dir, NODE_FILE, NODE_SECRET)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": _sds(tls_dir, ROOTS_FILE, ROOTS_SECRET),
        },
    }
    context = {"@type": f"type.googleapis.com/{_TLS}", "sni": SERVER_NAME, "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _sds(tls_dir: str, file: str, secret: str) -> dict[str, Any]:
    source = {"path": f"{tls_dir}/{file}", "watched_directory": {"path": tls_dir}}
    return {"name": secret, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
