"""Kubernetes' Service: its selector picks registered workloads by label, so a manifest works on plain machines.

Owns:   the shape of core v1 ServiceSpec and of NamespaceSpec, which holds nothing that the mesh uses.
Not:    what has no meaning outside a Kubernetes cluster (addresses of load balancers, node ports): accepted, kept,
        without effect.
Source: Kubernetes API reference, core v1 Service and Namespace.
"""

from enum import StrEnum
from typing import Annotated

from controlplane.policy.frozen import EMPTY
from controlplane.policy.protocols import Protocol, port_protocol
from controlplane.policy.scalars import Boolean, Int32, PortOrName, Text, TextMap, enum_parser
from controlplane.policy.spec import Spec


class ServiceType(StrEnum):
    """Only ExternalName changes what the mesh does."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class TransportProtocol(StrEnum):
    """The port's transport."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class KubernetesServicePort(Spec):
    """`target_port` is a number, a name of an instance's port, or unset = `port` (decision 8)."""

    name: Text = ""
    protocol: Annotated[TransportProtocol, enum_parser(TransportProtocol)] = TransportProtocol.TCP
    app_protocol: Text = ""
    port: Int32 = 0
    target_port: PortOrName | None = None
    node_port: Int32 = 0

    @property
    def effective_protocol(self) -> Protocol:
        """By appProtocol, else by the name; UNSUPPORTED when neither says."""
        return port_protocol(name=self.name, app_protocol=self.app_protocol, transport=self.protocol)

    @property
    def effective_target_port(self) -> int | str:
        """The number or the name."""
        return self.port if self.target_port is None else self.target_port


class ClientIPConfig(Spec):
    """How long a client keeps its host."""

    timeout_seconds: Int32 | None = None


class SessionAffinityConfig(Spec):
    """Settings of session affinity."""

    client_ip: ClientIPConfig | None = None


class Service(Spec):
    """Selects instances by label; without a selector, endpoints come from elsewhere."""

    selector: TextMap = EMPTY
    ports: tuple[KubernetesServicePort, ...] = ()
    type: Annotated[ServiceType, enum_parser(ServiceType)] = ServiceType.CLUSTER_IP
    external_name: Text = ""
    cluster_ip: Text = ""
    cluster_ips: tuple[Text, ...] = ()
    external_ips: tuple[Text, ...] = ()
    load_balancer_ip: Text = ""
    load_balancer_source_ranges: tuple[Text, ...] = ()
    load_balancer_class: Text = ""
    session_affinity: Text = ""
    session_affinity_config: SessionAffinityConfig | None = None
    external_traffic_policy: Text = ""
    internal_traffic_policy: Text = ""
    health_check_node_port: Int32 = 0
    publish_not_ready_addresses: Boolean = False
    ip_families: tuple[Text, ...] = ()
    ip_family_policy: Text = ""
    allocate_load_balancer_node_ports: Boolean | None = None
    traffic_distribution: Text = ""

    @property
    def is_headless(self) -> bool:
        """Whether it has no address of its own."""
        return self.cluster_ip == "None"


class Namespace(Spec):
    """A namespace's spec; a namespace needs no object to be used."""

    finalizers: tuple[Text, ...] = ()
