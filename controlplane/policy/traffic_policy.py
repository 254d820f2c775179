"""TrafficPolicy: how a proxy talks to the hosts of a service.

Owns:   load balancing, connection pools, outlier detection, TLS, per port or for all; their effective values.
Not:    which policy wins (2.4.4: controlplane.compiler), what is refused (rules.traffic_policy).
Source: istio.io/api networking/v1 destination_rule.proto; defaults: the proto's comments, istio
        pilot/pkg/networking/core/cluster_traffic_policy.go, Envoy's outlier_detection.proto where Istio leaves a field
        unset.
"""

from enum import StrEnum
from typing import Annotated

from controlplane.policy.http_route import PortSelector
from controlplane.policy.load_balancer import LoadBalancerSettings
from controlplane.policy.scalars import Boolean, Double, Duration, Int32, Text, UInt32, enum_parser
from controlplane.policy.spec import Spec

UNLIMITED = 2**32 - 1  # Istio's "no limit" for pools: the largest value of the wire's uint32
MAX_CONCURRENT_STREAMS = 2**31 - 1
DEFAULT_CONNECT_TIMEOUT_S = 10.0
DEFAULT_IDLE_TIMEOUT_S = 3600.0
DEFAULT_CONSECUTIVE_5XX = 5
DEFAULT_CONSECUTIVE_LOCAL_ORIGIN = 5
DEFAULT_INTERVAL_S = 10.0
DEFAULT_BASE_EJECTION_TIME_S = 30.0
DEFAULT_MAX_EJECTION_PERCENT = 10
DEFAULT_RETRY_BUDGET_PERCENT = 20.0
DEFAULT_MIN_RETRY_CONCURRENCY = 3


class TcpKeepalive(Spec):
    """SO_KEEPALIVE; unset = the operating system's values (Linux: 9 probes, 2 h, 75 s)."""

    probes: UInt32 = 0
    time: Duration | None = None
    interval: Duration | None = None


class TCPSettings(Spec):
    """Limits of connections, for HTTP and TCP alike."""

    max_connections: Int32 = 0
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: Duration | None = None


class H2UpgradePolicy(StrEnum):
    """Whether HTTP/1.1 requests are sent on as HTTP/2."""

    DEFAULT = "DEFAULT"
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    UPGRADE = "UPGRADE"


class ConnectionKeepalive(Spec):
    """HTTP/2 PING."""

    interval: Duration | None = None
    timeout: Duration | None = None


class HTTPSettings(Spec):
    """Limits of requests."""

    http1_max_pending_requests: Int32 = 0
    http2_max_requests: Int32 = 0
    max_requests_per_connection: Int32 = 0
    max_retries: Int32 = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: Annotated[H2UpgradePolicy, enum_parser(H2UpgradePolicy)] = H2UpgradePolicy.DEFAULT
    use_client_protocol: Boolean = False
    max_concurrent_streams: Int32 = 0
    http2_keep_alive: ConnectionKeepalive | None = None


class ConnectionPoolSettings(Spec):
    """Zero means the default (2.4.6); the properties give what takes effect, UNLIMITED = no limit."""

    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None

    @property
    def max_connections(self) -> int:
        """Envoy's threshold max_connections."""
        return (self.tcp or _TCP).max_connections or UNLIMITED

    @property
    def connect_timeout_s(self) -> float:
        """Seconds until a connection must stand."""
        return (self.tcp or _TCP).connect_timeout or DEFAULT_CONNECT_TIMEOUT_S

    @property
    def tcp_idle_timeout_s(self) -> float:
        """Seconds without a byte until a TCP connection is closed; 0 = never."""
        written = (self.tcp or _TCP).idle_timeout
        return DEFAULT_IDLE_TIMEOUT_S if written is None else written

    @property
    def max_connection_duration_s(self) -> float | None:
        """Seconds after which a connection is closed; None = never."""
        return (self.tcp or _TCP).max_connection_duration

    @property
    def max_pending_requests(self) -> int:
        """Envoy's threshold max_pending_requests."""
        return (self.http or _HTTP).http1_max_pending_requests or UNLIMITED

    @property
    def max_requests(self) -> int:
        """Envoy's threshold max_requests."""
        return (self.http or _HTTP).http2_max_requests or UNLIMITED

    @property
    def max_requests_per_connection(self) -> int:
        """Requests after which a connection is closed; 0 = no limit."""
        return (self.http or _HTTP).max_requests_per_connection

    @property
    def max_retries(self) -> int:
        """Envoy's threshold max_retries."""
        return (self.http or _HTTP).max_retries or UNLIMITED

    @property
    def max_concurrent_streams(self) -> int:
        """Streams on one HTTP/2 connection."""
        return (self.http or _HTTP).max_concurrent_streams or MAX_CONCURRENT_STREAMS

    @property
    def http_idle_timeout_s(self) -> float:
        """Seconds without a request until a pooled connection is closed."""
        return (self.http or _HTTP).idle_timeout or DEFAULT_IDLE_TIMEOUT_S


_TCP = TCPSettings()
_HTTP = HTTPSettings()


class OutlierDetection(Spec):
    """When a host is ejected. `consecutive_errors` is old, accepted and without effect, as in Istio."""

    consecutive_errors: Int32 = 0
    split_external_local_origin_errors: Boolean = False
    consecutive_local_origin_failures: UInt32 | None = None
    consecutive_gateway_errors: UInt32 | None = None
    consecutive_5xx_errors: UInt32 | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Int32 = 0
    min_health_percent: Int32 = 0
    outlier_detection_http_error_codes: tuple[UInt32, ...] = ()

    @property
    def consecutive_5xx(self) -> int:
        """5xx in a row until ejection; 0 = off."""
        return DEFAULT_CONSECUTIVE_5XX if self.consecutive_5xx_errors is None else self.consecutive_5xx_errors

    @property
    def consecutive_gateway_failure(self) -> int:
        """502, 503, 504 in a row until ejection; 0 = off, the default."""
        return self.consecutive_gateway_errors or 0

    @property
    def consecutive_local_origin_failure(self) -> int:
        """Failed connections in a row until ejection; counts only when errors are split; 0 = off, otherwise."""
        if not self.split_external_local_origin_errors:
            return 0
        return self.consecutive_local_origin_failures or DEFAULT_CONSECUTIVE_LOCAL_ORIGIN

    @property
    def interval_s(self) -> float:
        """Seconds between two sweeps, which return hosts."""
        return self.interval or DEFAULT_INTERVAL_S

    @property
    def base_ejection_time_s(self) -> float:
        """Seconds of the first ejection; the n-th takes n times as long."""
        return self.base_ejection_time or DEFAULT_BASE_EJECTION_TIME_S

    @property
    def explicit_max_ejection_percent(self) -> int | None:
        """What the user wrote, 1..100, or None: see decision 3 for what then takes effect."""
        return self.max_ejection_percent or None

    @property
    def istio_max_ejection_percent(self) -> int:
        """What Istio would use, 1..100."""
        return self.max_ejection_percent or DEFAULT_MAX_EJECTION_PERCENT

    @property
    def healthy_panic_threshold_percent(self) -> int:
        """0..100; 0 = never panic. Istio's default, where Envoy's own is 50."""
        return self.min_health_percent


class TLSMode(StrEnum):
    """ISTIO_MUTUAL uses the mesh's own certificates."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class ClientTLSSettings(Spec):
    """TLS to the hosts of the service."""

    mode: Annotated[TLSMode, enum_parser(TLSMode)] = TLSMode.DISABLE
    client_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""
    credential_name: Text = ""
    subject_alt_names: tuple[Text, ...] = ()
    sni: Text = ""
    insecure_skip_verify: Boolean | None = None
    ca_crl: Text = ""


class PortTrafficPolicy(Spec):
    """Replaces all four blocks for one port; what is unset here is the default, not inherited (2.4.4)."""

    port: PortSelector | None = None
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class TunnelSettings(Spec):
    """TCP inside an HTTP CONNECT or POST."""

    protocol: Text = ""
    target_host: Text = ""
    target_port: UInt32 = 0


class ProxyProtocolVersion(StrEnum):
    """The header's version."""

    V1 = "V1"
    V2 = "V2"


class ProxyProtocol(Spec):
    """A PROXY header before the first byte."""

    version: Annotated[ProxyProtocolVersion, enum_parser(ProxyProtocolVersion)] = ProxyProtocolVersion.V1


class RetryBudget(Spec):
    """Retries in flight as a share of the requests in flight."""

    percent: Double | None = None
    min_retry_concurrency: UInt32 = 0
    budget_interval: Duration | None = None

    @property
    def effective_percent(self) -> float:
        """0..100."""
        return DEFAULT_RETRY_BUDGET_PERCENT if self.percent is None else self.percent

    @property
    def effective_min_retry_concurrency(self) -> int:
        """Retries that are always allowed."""
        return self.min_retry_concurrency or DEFAULT_MIN_RETRY_CONCURRENCY


class TrafficPolicy(Spec):
    """The policy of a rule or of a subset."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()
    tunnel: TunnelSettings | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None

    def port_level(self, port: int) -> PortTrafficPolicy | None:
        """The settings of one port, or None."""
        return next((item for item in self.port_level_settings if item.port and item.port.number == port), None)


DEFAULT_CONNECTION_POOL = ConnectionPoolSettings()
DEFAULT_LOAD_BALANCER = LoadBalancerSettings()
