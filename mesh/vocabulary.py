"""Words that both planes use for the same thing. Pure values, no behaviour beyond parsing and printing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

NodeId = NewType("NodeId", str)  # the node's name, as in spiffe://TD/node/NAME and xDS node.id
ServiceName = NewType("ServiceName", str)  # fully qualified: user-service.default.svc.cluster.local
ClusterName = NewType("ClusterName", str)  # outbound|80|v1|user-service.default.svc.cluster.local
InstanceId = NewType("InstanceId", str)  # unique on its node
Port = NewType("Port", int)  # 1..65535

DEFAULT_NAMESPACE = "default"
DEFAULT_SERVICE_ACCOUNT = "default"
DEFAULT_TRUST_DOMAIN = "cluster.local"
DEFAULT_ROOT_NAMESPACE = "istio-system"
DEFAULT_DOMAIN_SUFFIX = "svc.cluster.local"


class Dialect(StrEnum):
    """Which client a resource is compiled for (design: three dialects from one model)."""

    GOSSAMER = "gossamer"
    ENVOY = "envoy"
    GRPC = "grpc"


class HealthStatus(StrEnum):
    """envoy.config.core.v3.HealthStatus, by name. UNKNOWN counts as healthy."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    TIMEOUT = "TIMEOUT"
    DEGRADED = "DEGRADED"


@dataclass(frozen=True, slots=True, order=True)
class Locality:
    """envoy.config.core.v3.Locality. Written `region/zone/subzone`; missing parts are empty."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    @classmethod
    def parse(cls, text: str) -> "Locality":
        """Parse `region[/zone[/subzone]]`. Raises ValueError when there are more parts."""
        parts = text.split("/") if text else []
        if len(parts) > 3:
            raise ValueError(f"found {text!r}, expected region/zone/subzone")
        return cls(*parts)

    def __str__(self) -> str:
        return "/".join(part for part in (self.region, self.zone, self.sub_zone)).rstrip("/")


# Kinds whose name alone means another: Gateway is Istio's.
_NAMESAKES = frozenset({("gateway.networking.k8s.io", "Gateway")})


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """Names one stored object. `group` is empty for Kubernetes' core kinds."""

    group: str
    kind: str
    namespace: str
    name: str

    @property
    def kind_word(self) -> str:
        """The kind; with its group where the name alone means another kind."""
        return f"{self.kind}.{self.group}" if (self.group, self.kind) in _NAMESAKES else self.kind

    def __str__(self) -> str:
        return f"{self.kind_word} {self.namespace}/{self.name}"
