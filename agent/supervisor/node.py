"""The node as the control plane knows it: the xDS Node and the report stream's Hello. Pure.

Source: envoy/config/core/v3/base.proto; the metadata keys of the xDS node; proto/mesh/api/v1/report.proto.
"""

from envoy.config.core.v3.base_pb2 import Node
from google.protobuf.json_format import ParseDict

from agent.settings import Settings
from mesh.api.v1.report_pb2 import Hello
from mesh.version import VERSION

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
    metadata: dict[str, str | int] = {
        "DIALECT": "gossamer",
        "ADDRESS": node.address,
        "OUTBOUND_ADDRESS": proxy.outbound_address,
        "OUTBOUND_PORT": proxy.outbound_port,
    }
    if len(namespaces) == 1:
        metadata["NAMESPACE"] = namespaces[0]
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
