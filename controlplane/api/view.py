"""What the API asks of the rest of the process: one Protocol for the mesh's state, and the bundle of dependencies.

Owns:   the shapes of what is read (MeshView) and of what app.py hands in (Dependencies).
Not:    any implementation: controlplane.app wires reconcile, distribution, discovery, ca and store to it.

Status keys (`/gossamer/v1/status/.../{replica}`, decisions 16 and 17) hold the JSON that `controlplane.api.status`
merges: {"observedGeneration": 3, "conditions": [{"type", "status", "reason", "message", "lastTransitionTime"}]}.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import REGISTRY, CollectorRegistry

from controlplane.ca.rotation import Rotations
from controlplane.ca.tokens import TokenStore
from controlplane.compiler.types import Condition
from controlplane.distribution.breakers import BreakerRow
from controlplane.distribution.ledger import DistributionLedger
from controlplane.distribution.replicas import ReplicaRecord
from controlplane.distribution.traffic import Traffic
from controlplane.store.protocol import ConfigStore
from mesh.clock import Clock, SystemClock
from mesh.vocabulary import ObjectRef

if TYPE_CHECKING:
    from envoy.service.status.v3.csds_pb2 import ClientConfig

    from controlplane.model.mesh_state import MeshState
    from controlplane.model.proxy import Proxy
    from controlplane.policy.objects import PolicyObject
    from controlplane.snapshot.view import View


class MeshView(Protocol):
    """The state of this replica. Nothing here waits or does input or output."""

    def mesh(self) -> "MeshState":
        """The current MeshState."""
        ...

    def ledger(self) -> DistributionLedger:
        """The proxies that are connected to this replica."""
        ...

    def config_dump(self, node: str) -> "View | None":
        """What the proxy of `node` is to have; None when it is not connected to this replica."""
        ...

    def traffic(self) -> tuple[Traffic, ...]:
        """The load that proxies reported in the last minute."""
        ...

    def breakers(self) -> tuple[BreakerRow, ...]:
        """The circuit breakers of the nodes that report to this replica."""
        ...

    def events(self) -> Sequence[Mapping[str, Any]]:
        """What happened lately, oldest first, bounded: at (RFC 3339), type, subject, message and more, JSON-ready."""
        ...

    def ready(self) -> Mapping[str, str]:
        """Each subsystem that must be up (`etcd`, `synced`, ...) and why it is not; empty text = it is."""
        ...

    def preview(self, puts: Sequence["PolicyObject"], deletes: Sequence[ObjectRef]) -> tuple[Condition, ...]:
        """The conditions of the mesh as it would be with these changes. Cheap enough to be asked at every write."""
        ...

    def previewed(self, puts: Sequence["PolicyObject"], deletes: Sequence[ObjectRef]) -> "MeshState":
        """The mesh as it would be with these changes."""
        ...

    def rollout_of(self, node: str) -> str:
        """The rollout whose candidate the node's proxies are given; empty when they have what is stored."""
        ...

    def connected(self) -> Mapping[str, "Proxy"]:
        """The proxies that are connected to this replica, by node."""
        ...

    def conditions(self) -> tuple[Condition, ...]:
        """What users should know about their objects now: findings, unreadable values, refusals of proxies."""
        ...

    def peers(self) -> tuple[ReplicaRecord, ...]:
        """The replicas that are alive, this one included."""
        ...


class AskClients(Protocol):
    """What each proxy of this replica has, by its own word where it can be asked."""

    async def __call__(self, chosen: Callable[[str], bool]) -> "list[ClientConfig]":
        """One ClientConfig for each stream of the chosen nodes, without contents. Takes a few seconds at most."""
        ...


async def nobody(chosen: Callable[[str], bool]) -> "list[ClientConfig]":
    """For an API without a discovery service beside it."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the HTTP server."""

    body_bytes: int = 8 * 1024 * 1024
    request_s: float = 90.0  # whole request, but for watches; above the longest `?wait=`
    watches: int = 1000  # open watches at once; more are answered 429
    watch_s: float = 3600.0  # a watch is ended after so long; clients resume by resourceVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Everything that the API is built from."""

    store: ConfigStore
    view: MeshView
    tokens: TokenStore
    roots_pem: Callable[[], bytes]  # the trust bundle: every root that a certificate of the mesh may chain to
    rotations: Rotations  # of the CA's root
    api_tokens: Mapping[str, str] | None = None  # sha256 in hex -> name; None = anonymous loopback (decision 12)
    bound_to_loopback: bool = True
    replica: str = "replica"  # this replica's name; the others are read from /gossamer/v1/replica/ (peers.py)
    client_statuses: AskClients = nobody
    registry: CollectorRegistry = field(default_factory=lambda: REGISTRY)
    clock: Clock = field(default_factory=SystemClock)
    limits: Limits = Limits()
