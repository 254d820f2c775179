"""ClusterLoadAssignments: the endpoints of a cluster as a proxy sees them.

Owns:   groups by locality, priorities and weights; health and TLS metadata of each endpoint.
Not:    which endpoints a service has (controlplane.model).
Source: control-plane.md 2.4.7; gRPC: section 5, rule 30 (weights always, no gaps, addresses unique).
Invariant: UNHEALTHY endpoints stay in the assignment: the proxy decides what panic means.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.core.v3 import health_check_pb2
from envoy.config.core.v3.base_pb2 import Locality as LocalityMessage
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint as EndpointMessage
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from controlplane.compiler.locality import LocalityPolicy, priorities, weights
from controlplane.compiler.resources import make_resource, socket_address
from controlplane.compiler.transport_sockets import TLS_MODE_KEY, TLS_MODE_VALUE
from controlplane.compiler.types import Resource, Source
from controlplane.model.views import Endpoint
from controlplane.model.workloads import workload_name
from mesh.vocabulary import Dialect, HealthStatus, Locality
from mesh.xds import type_url
from mesh.xds.workload_name import KEY, METADATA

_MATCH = "envoy.transport_socket_match"


@dataclass(frozen=True, slots=True, kw_only=True)
class LbHost:
    """An endpoint as far as an assignment shows it."""

    address: str
    port: int
    health: HealthStatus
    weight: int
    locality: Locality
    tls: bool
    workload: str = ""  # its WorkloadName, for proxies that tell of it in their metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentInputs:
    """All that an assignment is made of."""

    name: str
    dialect: Dialect
    hosts: tuple[LbHost, ...]
    policy: LocalityPolicy
    sources: tuple[Source, ...]


def lb_hosts(
    endpoints: Iterable[Endpoint], *, tls: bool, names: bool = False, workloads: bool = False
) -> tuple[LbHost, ...]:
    """`tls`: whether the proxy has certificates, so that the mark matters; `names`: keep what DNS must resolve;
    `workloads`: whether the proxy asks who they are.
    """
    return tuple(
        LbHost(
            address=endpoint.address,
            port=endpoint.port,
            health=endpoint.workload.health,
            weight=endpoint.workload.weight,
            locality=endpoint.workload.locality,
            tls=tls and endpoint.tls,
            workload=str(workload_name(endpoint.workload)) if workloads else "",
        )
        for endpoint in endpoints
        if names or is_ip(endpoint.address)
    )


def is_ip(address: str) -> bool:
    """Whether it needs no DNS."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def build_assignment(inputs: AssignmentInputs) -> Resource:
    """The resource."""
    message = assignment_message(inputs)
    return make_resource(type_url.CLUSTER_LOAD_ASSIGNMENT, inputs.name, message, inputs.sources)


def assignment_message(inputs: AssignmentInputs) -> ClusterLoadAssignment:
    """The message, for EDS or inline in a cluster."""
    groups: dict[Locality, list[LbHost]] = {}
    for host in inputs.hosts:
        groups.setdefault(host.locality, []).append(host)
    sizes = {place: sum(host.weight for host in hosts) for place, hosts in groups.items()}
    shares = weights(inputs.policy, sizes)
    if inputs.policy.weights is not None:
        groups = {place: hosts for place, hosts in groups.items() if place in shares}
    ranks = priorities(inputs.policy, groups)
    message = ClusterLoadAssignment(cluster_name=inputs.name)
    for place in sorted(groups, key=lambda own: (ranks[own], own)):
        hosts = groups[place]
        group = LocalityLbEndpoints(
            locality=LocalityMessage(region=place.region, zone=place.zone, sub_zone=place.sub_zone),
            priority=ranks[place],
            lb_endpoints=[_lb_endpoint(host) for host in hosts],
        )
        if place in shares:
            group.load_balancing_weight.value = shares[place]
        elif inputs.dialect is Dialect.GRPC:
            # Without a weight gRPC skips the locality; the sum keeps hosts equal across localities.
            group.load_balancing_weight.value = sizes[place]
        message.endpoints.append(group)
    return message


def _lb_endpoint(host: LbHost) -> LbEndpoint:
    message = LbEndpoint(
        endpoint=EndpointMessage(address=socket_address(host.address, host.port)),
        health_status=health_check_pb2.HealthStatus.Value(host.health.value),
    )
    if host.weight != 1:
        message.load_balancing_weight.value = host.weight
    if host.tls:
        message.metadata.filter_metadata[_MATCH].update({TLS_MODE_KEY: TLS_MODE_VALUE})
    if host.workload:
        message.metadata.filter_metadata[METADATA].update({KEY: host.workload})
    return message
