"""Clusters and their hosts. Source: envoy/config/{cluster,endpoint}/v3; defaults are Envoy's unless said."""

from dataclasses import dataclass
from enum import IntEnum

from agent.model.tls import UpstreamTls
from mesh.vocabulary import HealthStatus, Locality


class LbPolicy(IntEnum):
    ROUND_ROBIN = 0
    LEAST_REQUEST = 1
    RANDOM = 2
    RING_HASH = 3
    MAGLEV = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashing:
    """What RING_HASH and MAGLEV are told. Sizes in entries; `balance_factor_percent` 0 = loads are not bounded."""

    minimum_ring_size: int = 1024
    maximum_ring_size: int = 8_388_608
    maglev_table_size: int = 65_537
    use_hostname: bool = False
    balance_factor_percent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HashTable:
    """The table of one priority level in the memory that comes with it (agent.cluster.hash_tables has the layout).

    `hosts`: keys by their number in the table; `ring`: whether hashes stand before the numbers.
    """

    priority: int
    hosts: tuple[str, ...]
    ring: bool
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStart:
    """A new host gets a growing share for `window_s`; `min_weight_ratio`, 0-1, is the share that it begins with."""

    window_s: float
    aggression: float = 1.0
    min_weight_ratio: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The concurrency caps (circuit_breaker.proto), shared by all workers.

    `retry_budget_percent` None = max_retries.
    """

    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_requests: int = 1024
    max_retries: int = 3
    retry_budget_percent: float | None = None
    retry_budget_min_concurrency: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """outlier_detection.proto; times in seconds, percents 0-100."""

    consecutive_5xx: int = 5
    enforcing_consecutive_5xx: int = 100
    consecutive_gateway_failure: int = 5
    enforcing_consecutive_gateway_failure: int = 0
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failure: int = 5
    enforcing_consecutive_local_origin_failure: int = 100
    enforcing_local_origin_success_rate: int = 100
    enforcing_failure_percentage_local_origin: int = 0
    interval_s: float = 10.0
    base_ejection_time_s: float = 30.0
    max_ejection_time_s: float = 300.0
    max_ejection_time_jitter_s: float = 0.0
    max_ejection_percent: int = 10
    always_eject_one_host: bool = False
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: int = 1900
    enforcing_success_rate: int = 100
    failure_percentage_threshold: int = 85
    failure_percentage_minimum_hosts: int = 5
    failure_percentage_request_volume: int = 50
    enforcing_failure_percentage: int = 0
    successful_active_health_check_uneject_host: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSocket:
    """Chosen for an endpoint whose transport-socket metadata has all of `match`; the first that fits wins."""

    name: str
    match: tuple[tuple[str, str], ...] = ()
    tls: UpstreamTls | None = None  # None = plaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One host. `transport` = envoy.transport_socket_match metadata, sorted pairs. Priority 0 is the first choice."""

    address: str
    port: int
    health: HealthStatus = HealthStatus.UNKNOWN
    weight: int = 1
    locality: Locality = Locality()
    locality_weight: int = 0
    priority: int = 0
    transport: tuple[tuple[str, str], ...] = ()
    hostname: str = ""
    canary: bool = False
    hash_key: str = ""  # metadata envoy.lb hash_key: what is hashed instead of the address
    workload: str = ""  # its mesh.xds.workload_name.WorkloadName, for metrics

    @property
    def key(self) -> str:
        """`address:port`, the host's name in state, logs and reports; IPv6 in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadAssignment:
    """The endpoints of one cluster (EDS, or inline for a static one)."""

    cluster: str
    endpoints: tuple[Endpoint, ...]
    overprovisioning_factor: int = 140


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`eds_name` is the resource name of its endpoints, empty when `static` holds them."""

    name: str
    alt_stat_name: str = ""
    eds_name: str = ""
    static: LoadAssignment | None = None
    lb_policy: LbPolicy = LbPolicy.ROUND_ROBIN
    choice_count: int = 2
    hashing: Hashing = Hashing()
    slow_start: SlowStart | None = None
    locality_weighted: bool = False  # the weights of localities count
    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 3600.0
    max_requests_per_connection: int = 0  # 0 = no limit
    healthy_panic_threshold_percent: float = 50.0
    thresholds: Thresholds = Thresholds()
    thresholds_high: Thresholds = Thresholds()
    outlier_detection: OutlierDetection | None = None
    transport_sockets: tuple[TransportSocket, ...] = ()
    tls: UpstreamTls | None = None  # used where no transport socket match fits
    http2: bool = False
    service: tuple[str, str, str] | None = None  # (host, name, namespace) as metrics name it

    def tls_for(self, endpoint: Endpoint) -> UpstreamTls | None:
        """How to connect to an endpoint, None = plaintext: the first transport socket that fits, else the cluster's."""
        marks = set(endpoint.transport)
        for transport_socket in self.transport_sockets:
            if marks.issuperset(transport_socket.match):
                return transport_socket.tls
        return self.tls
