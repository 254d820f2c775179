"""The node as the control plane knows it: the xDS Node, the report stream's Hello, which instances are told. Pure.

Source: envoy/config/core/v3/base.proto; the metadata keys of the xDS node; proto/mesh/api/v1/report.proto.
"""

from collections.abc import Callable, Iterable

from envoy.config.core.v3.base_pb2 import Node
from google.protobuf.json_format import ParseDict

from agent.model.reports import LocalInstance
from agent.settings import GatewaySettings, Settings
from mesh.api.v1.report_pb2 import Hello
from mesh.identity.spiffe import workload_id
from mesh.version import VERSION
from mesh.vocabulary import HealthStatus

GATEWAY_ID = "gateway"  # as the control plane calls that of an Envoy
USER_AGENT = "gossamer-agent"
# What servers may use: TTLs (in SotW wrapped), and load reports of all clusters.
CLIENT_FEATURES = (
    "xds.config.supports-resource-ttl",
    "xds.config.resource-in-sotw",
    "xds.config.supports-resource-in-sotw",  # the same, as xRFCs call it
    "envoy.lrs.supports_send_all_clusters",
)


def xds_node(settings: Settings) -> Node:
    """What every xDS stream begins with."""
    node, proxy = settings.node, settings.proxy
    namespaces = sorted({service.namespace for service in settings.services})
    metadata: dict[str, str | int | bool | dict[str, str]] = {
        "DIALECT": "gossamer",
        "ADDRESS": node.address,
        "OUTBOUND_ADDRESS": proxy.outbound_address,
        "OUTBOUND_PORT": proxy.outbound_port,
    }
    if len(namespaces) == 1:
        metadata["NAMESPACE"] = namespaces[0]
    if settings.gateway.enabled:
        metadata |= _gateway(settings)
    return ParseDict(
        {
            "id": node.name,
            "cluster": "gossamer",
            "userAgentName": USER_AGENT,
            "userAgentVersion": VERSION,
            "clientFeatures": list(CLIENT_FEATURES),
            "locality": {
                "region": node.locality.region,
                "zone": node.locality.zone,
                "subZone": node.locality.sub_zone,
            },
            "metadata": metadata,
        },
        Node(),
    )


def _gateway(settings: Settings) -> dict[str, str | int | bool | dict[str, str]]:
    own = settings.gateway
    return {
        "GATEWAY": True,
        "GATEWAY_ADDRESS": own.address or settings.node.address,
        "NAMESPACE": own.namespace,
        "SERVICE_ACCOUNT": own.service_account,
        "LABELS": dict(own.labels),
    }


def gateway_instance(own: GatewaySettings) -> tuple[LocalInstance, ...]:
    """The gateway as the instance that it is; nothing on a node that is none."""
    if not own.enabled:
        return ()
    found = LocalInstance(
        id=GATEWAY_ID,
        service="",
        namespace=own.namespace,
        service_account=own.service_account,
        labels=own.labels,
        app_address="127.0.0.1",
        ports=(),
        weight=1,
        outbound_port=0,
        health=HealthStatus.HEALTHY,
        health_reason="",
        health_since_ms=0,
        bypass_possible=False,
        gateway=True,
    )
    return (found,)


def announced(
    instances: Iterable[LocalInstance], trust_domain: str, decided: Callable[[str], bool]
) -> tuple[LocalInstance, ...]:
    """Those that may be told: a peer that knows an instance calls it, and one without a certificate answers nobody.

    `decided`: has this SPIFFE id its certificate, or been refused one? Who is refused is told, since the control plane
    then says why.
    """
    return tuple(
        item for item in instances if decided(str(workload_id(trust_domain, item.namespace, item.service_account)))
    )


def hello(settings: Settings) -> Hello:
    """What every report stream begins with."""
    node, proxy = settings.node, settings.proxy
    return Hello(
        node=node.name,
        address=node.address,
        locality=str(node.locality),
        version=VERSION,
        outbound_address=proxy.outbound_address,
        outbound_port=proxy.outbound_port,
    )
