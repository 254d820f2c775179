"""Workload instances, nodes and ejections as the store holds them: values and their JSON form. Pure.

Owns:   what an agent reported, parsed; `endpoint address` = node address : inbound port.
Not:    services (a Service object selects instances; controlplane.model joins them).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.vocabulary import HealthStatus, Locality


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePort:
    """`port`: where the application listens; `inbound_port`: where the mesh reaches it, 0 = the same, no agent."""

    name: str
    port: int
    protocol: str
    inbound_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One running copy of a service. `agent` is False for what no agent stands before (a plain WorkloadEntry).

    `gateway`: it is a gateway proxy itself, with the ports that Gateways give it.
    """

    id: str
    node: str
    namespace: str
    service: str  # short or fully qualified name that it registered under; empty for a WorkloadEntry
    service_account: str
    labels: Mapping[str, str]
    address: str  # where the mesh reaches it: the node's address
    ports: tuple[InstancePort, ...]
    locality: Locality = Locality()
    weight: int = 1
    outbound_port: int = 0
    app_address: str = "127.0.0.1"
    health: HealthStatus = HealthStatus.UNKNOWN
    health_reason: str = ""
    health_since_ms: int = 0
    bypass_possible: bool = False
    agent: bool = True
    gateway: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that has joined. Persistent; `connected` state is not stored."""

    name: str
    address: str
    locality: Locality = Locality()
    version: str = ""
    outbound_address: str = "127.0.0.1"
    outbound_port: int = 15001
    dialect: str = "gossamer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejection:
    """One host that one node currently ejects (or detected and could not eject: `enforced` False)."""

    cluster: str
    endpoint: str
    node: str
    reason: str
    detail: str
    times: int
    since_ms: int
    until_ms: int
    enforced: bool
    blocked_by: str = ""
