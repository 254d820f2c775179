"""What a node says about itself: its local instances and the hosts that it ejects. Plain values.

Source: proto/mesh/api/v1/report.proto, which says what each field means on the wire.
"""

from dataclasses import dataclass

from agent.model.circuit_breaker import Phase
from mesh.vocabulary import HealthStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPort:
    """`port`: where the application listens; `inbound_port`: where the mesh reaches it."""

    name: str
    port: int
    protocol: str
    inbound_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalInstance:
    id: str
    service: str
    namespace: str
    service_account: str
    labels: tuple[tuple[str, str], ...]
    app_address: str
    ports: tuple[LocalPort, ...]
    weight: int
    outbound_port: int
    health: HealthStatus
    health_reason: str
    health_since_ms: int
    bypass_possible: bool
    gateway: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EjectedHost:
    """A detected ejection; `enforced` False = it was not allowed, `blocked_by` says what forbade it."""

    cluster: str
    host: str
    reason: str
    detail: str
    times: int
    since_ms: int
    until_ms: int
    enforced: bool
    blocked_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownBreaker:
    """A circuit breaker of this node. `caller`: whose it is, "" = everybody's; `opened`: how often so far."""

    breaker: str
    caller: str
    phase: Phase
    since_ms: int
    why: str
    opened: int
