"""LoadBalancerSettings: which host of a cluster gets a request.

Owns:   the shape and its effective values. What is refused: rules.load_balancer.
Source: istio.io/api networking/v1 destination_rule.proto; ring and table sizes are Envoy's defaults.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from controlplane.policy.frozen import FrozenMap
from controlplane.policy.scalars import FREEZE, Boolean, Double, Duration, Text, UInt32, UInt64, enum_parser
from controlplane.policy.spec import Spec

DEFAULT_MINIMUM_RING_SIZE = 1024
DEFAULT_MAGLEV_TABLE_SIZE = 65537
DEFAULT_WARMUP_MINIMUM_PERCENT = 10.0
DEFAULT_WARMUP_AGGRESSION = 1.0
_NO_WEIGHTS: FrozenMap[str, int] = FrozenMap()


class SimpleLB(StrEnum):
    """Algorithms without parameters. LEAST_CONN is the old name of LEAST_REQUEST."""

    UNSPECIFIED = "UNSPECIFIED"
    LEAST_CONN = "LEAST_CONN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"


class RingHash(Spec):
    """Ketama; 0 = 1024."""

    minimum_ring_size: UInt64 = 0


class MagLev(Spec):
    """`table_size` is a prime below 5000011."""

    table_size: UInt64 = 0


class CookieAttribute(Spec):
    """An attribute of the cookie that the proxy sets."""

    name: Text = ""
    value: Text = ""


class HTTPCookie(Spec):
    """Hash by cookie; with a `ttl` the proxy sets the cookie when it is absent (0 = a session cookie)."""

    name: Text = ""
    path: Text = ""
    ttl: Duration | None = None
    attributes: tuple[CookieAttribute, ...] = ()


class ConsistentHashLB(Spec):
    """Exactly one key; ring hash unless maglev is named."""

    http_header_name: Text | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: Boolean | None = None
    http_query_parameter_name: Text | None = None
    ring_hash: RingHash | None = None
    maglev: MagLev | None = None
    minimum_ring_size: UInt64 = 0

    @property
    def ring_size(self) -> int:
        """The ring's minimum size, from the block or the older field."""
        written = self.ring_hash.minimum_ring_size if self.ring_hash is not None else self.minimum_ring_size
        return written or DEFAULT_MINIMUM_RING_SIZE

    @property
    def maglev_table_size(self) -> int | None:
        """The table's size, or None when the algorithm is ring hash."""
        return None if self.maglev is None else self.maglev.table_size or DEFAULT_MAGLEV_TABLE_SIZE


class LocalityDistribute(Spec):
    """Shares of traffic from one locality, adding up to 100."""

    from_: Text = ""
    to: Annotated[Mapping[str, UInt32], FREEZE] = _NO_WEIGHTS


class LocalityFailover(Spec):
    """Where traffic of a region goes when its own hosts are gone."""

    from_: Text = ""
    to: Text = ""


class LocalityLoadBalancerSetting(Spec):
    """Replaces the mesh's setting wholly."""

    distribute: tuple[LocalityDistribute, ...] = ()
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[Text, ...] = ()
    enabled: Boolean | None = None


class ZoneAwareLoadBalancerSetting(Spec):
    """Keep traffic in the zone as far as its hosts suffice."""

    enabled: Boolean | None = None
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[Text, ...] = ()
    min_cluster_size: UInt64 | None = None


class WarmupConfiguration(Spec):
    """A new host's share grows over `duration`."""

    duration: Duration | None = None
    minimum_percent: Double | None = None
    aggression: Double | None = None

    @property
    def effective_minimum_percent(self) -> float:
        """The share that a host starts with, 0..100."""
        return DEFAULT_WARMUP_MINIMUM_PERCENT if self.minimum_percent is None else self.minimum_percent

    @property
    def effective_aggression(self) -> float:
        """1.0 = linear growth."""
        return DEFAULT_WARMUP_AGGRESSION if self.aggression is None else self.aggression


class LoadBalancerSettings(Spec):
    """At most one of `simple` and `consistent_hash`."""

    simple: Annotated[SimpleLB | None, enum_parser(SimpleLB)] = None
    consistent_hash: ConsistentHashLB | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancerSetting | None = None
    warmup_duration_secs: Duration | None = None
    warmup: WarmupConfiguration | None = None

    @property
    def algorithm(self) -> SimpleLB:
        """LEAST_REQUEST, ROUND_ROBIN, RANDOM or PASSTHROUGH. Has no meaning beside `consistent_hash`."""
        if self.simple in (None, SimpleLB.UNSPECIFIED, SimpleLB.LEAST_CONN):
            return DEFAULT_ALGORITHM
        return SimpleLB(self.simple)

    @property
    def warmup_settings(self) -> WarmupConfiguration | None:
        """`warmup`, or the older field in the same form."""
        if self.warmup is None and self.warmup_duration_secs:
            return WarmupConfiguration(duration=self.warmup_duration_secs)
        return self.warmup


DEFAULT_ALGORITHM = SimpleLB.LEAST_REQUEST
