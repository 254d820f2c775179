"""Names of xDS resources: one place that writes and reads them.

Source: Istio's BuildSubsetKey (`outbound|80|v1|host`); Envoy VHDS (`<route config>/<virtual host>`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ClusterKey:
    """The parts of a cluster's name: direction is `outbound` or `inbound`; subset may be empty."""

    direction: str
    port: int
    subset: str
    host: str

    def __str__(self) -> str:
        return f"{self.direction}|{self.port}|{self.subset}|{self.host}"

    @classmethod
    def parse(cls, name: str) -> "ClusterKey | None":
        """The parts of `name`, or None when it is not one of ours (for example a static cluster)."""
        parts = name.split("|")
        if (
            len(parts) != 4
            or parts[0] not in ("outbound", "inbound")
            or not parts[1].isascii()
            or not parts[1].isdigit()
            or len(parts[1]) > 5
        ):
            return None
        return cls(parts[0], int(parts[1]), parts[2], parts[3])


def outbound_cluster(host: str, port: int, subset: str = "") -> str:
    """`outbound|<port>|<subset>|<fqdn>`."""
    return f"outbound|{port}|{subset}|{host}"


def inbound_cluster(inbound_port: int) -> str:
    """`inbound|<port>||`: the cluster of one local instance, by the inbound port that the mesh reaches it on."""
    return f"inbound|{inbound_port}||"


def outbound_listener(address: str, port: int) -> str:
    """`outbound_<address>_<port>`: the explicit HTTP proxy port that a local workload sends to."""
    return f"outbound_{address}_{port}"


def inbound_listener(address: str, port: int) -> str:
    """`inbound_<address>_<port>`: where other nodes reach one local instance."""
    return f"inbound_{address}_{port}"


def gateway_listener(address: str, port: int) -> str:
    """`gateway_<address>_<port>`: a port of Gateways."""
    return f"gateway_{address}_{port}"


def grpc_server_listener(address: str, port: int) -> str:
    """`server/<address>:<port>`: what a gRPC server asks for (server_listener_resource_name_template of its bootstrap
    is `server/%s`)."""
    host = f"[{address}]" if ":" in address else address
    return f"server/{host}:{port}"


def virtual_host_resource(route_configuration: str, virtual_host: str) -> str:
    """The VHDS resource name. A route configuration's name never holds a slash; a host may."""
    return f"{route_configuration}/{virtual_host}"


# The cluster by which Envoys reach the control plane: the bootstrap has it.
CONTROL_PLANE_CLUSTER = "gossamer_xds"
# The secret that holds the mesh's roots (decision 15); it is the same for every proxy.
TRUST_SECRET = "mesh/trust"
# Before the names of those that hold the user's keys and roots.
USER_SECRETS = "kubernetes://"


def split_virtual_host_resource(name: str) -> tuple[str, str]:
    """`(route configuration, virtual host)`. Raises ValueError when there is no slash."""
    route_configuration, slash, virtual_host = name.partition("/")
    if not slash:
        raise ValueError(f"found {name!r}, expected <route configuration>/<virtual host>")
    return route_configuration, virtual_host
