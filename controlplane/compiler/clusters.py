"""Clusters of services: one per port, and one per port and subset.

Owns:   the Cluster message: discovery, limits, time-outs, TLS mode.
Not:    which rule is in effect (controlplane.model), load balancing, outlier detection, sockets (their own modules).
Source: control-plane.md 2.2, 2.4; istio cluster_builder.go for what is set when nothing is said.
"""

from dataclasses import dataclass

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.core.v3.address_pb2 import TcpKeepalive
from envoy.config.core.v3.protocol_pb2 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    KeepaliveSettings,
)
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions as UpstreamHttp
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.wrappers_pb2 import UInt32Value

from controlplane.compiler.endpoints import AssignmentInputs, LbHost, assignment_message
from controlplane.compiler.filters.bulkhead import cap_requests
from controlplane.compiler.filters.circuit_breaker import refuses_all, stand_in
from controlplane.compiler.load_balancing import set_load_balancing
from controlplane.compiler.locality import NO_LOCALITY
from controlplane.compiler.outlier_detection import outlier_detection
from controlplane.compiler.resources import ADS, duration, make_resource, packed
from controlplane.compiler.transport_sockets import automatic_matches, mesh_upstream, simple_upstream
from controlplane.compiler.types import Resource, Source
from controlplane.model.services import ServiceLabel
from controlplane.model.traffic_policies import EffectivePolicy
from controlplane.policy.objects import PolicyObject
from controlplane.policy.traffic_policy import ConnectionPoolSettings, HTTPSettings, TLSMode
from mesh.vocabulary import Dialect
from mesh.xds import type_url

_ISTIO = "istio"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInputs:
    """All that a cluster is made of.

    `mode`: the TLS mode in effect, None = automatic. `peers`: SPIFFE ids that its hosts may have. `names`: what
    certificates of hosts outside the mesh may be for. `dns`: hosts to resolve; None = EDS. `credentials`: the namespace
    of the Secrets that `credentialName` means; empty = these proxies are not given them. `service`: its name in
    metrics. `breaker`, `bulkhead`: what it stands in for.
    """

    name: str
    host: str
    dialect: Dialect
    http2: bool
    policy: EffectivePolicy
    istio: bool
    weighted_localities: bool
    mode: TLSMode | None
    tls: bool
    tls_dir: str
    peers: tuple[str, ...]
    names: tuple[str, ...]
    dns: tuple[LbHost, ...] | None
    credentials: str = ""
    service: ServiceLabel | None = None
    breaker: PolicyObject | None = None
    bulkhead: PolicyObject | None = None
    sources: tuple[Source, ...]


def build_cluster(inputs: ClusterInputs) -> Resource:
    """The resource."""
    policy = inputs.policy
    cluster = Cluster(name=inputs.name, connect_timeout=duration(policy.connection_pool.connect_timeout_s))
    _set_discovery(cluster, inputs)
    set_load_balancing(cluster, policy.load_balancer, inputs.dialect)
    cluster.circuit_breakers.CopyFrom(circuit_breakers(policy, inputs.dialect))
    if policy.outlier_detection is not None:
        cluster.outlier_detection.CopyFrom(
            outlier_detection(policy.outlier_detection, inputs.dialect, istio=inputs.istio)
        )
    elif inputs.breaker is not None:
        cluster.outlier_detection.CopyFrom(stand_in(inputs.breaker))
    if inputs.bulkhead is not None:
        cap_requests(cluster.circuit_breakers.thresholds[0], inputs.bulkhead)
    if refuses_all(inputs.breaker):
        cluster.circuit_breakers.thresholds[0].max_requests.value = 0
    _set_transport(cluster, inputs)
    tell_service(cluster, inputs.service, inputs.dialect)
    if inputs.dialect is not Dialect.GRPC:
        outlier = policy.outlier_detection
        panic = outlier.healthy_panic_threshold_percent if outlier is not None else 0
        cluster.common_lb_config.healthy_panic_threshold.CopyFrom(Percent(value=panic))
        if inputs.weighted_localities:
            cluster.common_lb_config.locality_weighted_lb_config.SetInParent()
        set_http_options(cluster, policy.connection_pool, http2=inputs.http2)
        _set_keepalive(cluster, policy.connection_pool)
    return make_resource(type_url.CLUSTER, inputs.name, cluster, inputs.sources)


def circuit_breakers(policy: EffectivePolicy, dialect: Dialect) -> CircuitBreakers:
    """The concurrency caps; gRPC knows max_requests only (gRFC A32)."""
    pool = policy.connection_pool
    thresholds = CircuitBreakers.Thresholds(max_requests=UInt32Value(value=pool.max_requests))
    if dialect is not Dialect.GRPC:
        thresholds.max_connections.value = pool.max_connections
        thresholds.max_pending_requests.value = pool.max_pending_requests
        thresholds.max_retries.value = pool.max_retries
        thresholds.track_remaining = True
        if policy.retry_budget is not None:
            budget = thresholds.retry_budget
            budget.budget_percent.CopyFrom(Percent(value=policy.retry_budget.effective_percent))
            budget.min_retry_concurrency.value = policy.retry_budget.effective_min_retry_concurrency
    return CircuitBreakers(thresholds=[thresholds])


def set_http_options(cluster: Cluster, pool: ConnectionPoolSettings, *, http2: bool) -> None:
    """The protocol, said explicitly, and the limits of its connections."""
    common = HttpProtocolOptions(idle_timeout=duration(pool.http_idle_timeout_s))
    if pool.max_requests_per_connection:
        common.max_requests_per_connection.value = pool.max_requests_per_connection
    if pool.max_connection_duration_s:
        common.max_connection_duration.CopyFrom(duration(pool.max_connection_duration_s))
    options = UpstreamHttp(common_http_protocol_options=common)
    if http2:
        options.explicit_http_config.http2_protocol_options.CopyFrom(_http2(pool))
    else:
        options.explicit_http_config.http_protocol_options.CopyFrom(Http1ProtocolOptions())
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(packed(options))


def _http2(pool: ConnectionPoolSettings) -> Http2ProtocolOptions:
    options = Http2ProtocolOptions()
    settings = pool.http or HTTPSettings()
    if settings.max_concurrent_streams:
        options.max_concurrent_streams.value = settings.max_concurrent_streams
    ping = settings.http2_keep_alive
    if ping is not None and ping.interval:
        options.connection_keepalive.CopyFrom(
            KeepaliveSettings(interval=duration(ping.interval), timeout=duration(ping.timeout or 10.0))
        )
    return options


def tell_service(cluster: Cluster, service: ServiceLabel | None, dialect: Dialect) -> None:
    """What an agent's metrics call the service, in Istio's form."""
    if service is not None and dialect is Dialect.GOSSAMER:
        label = {"host": service.host, "name": service.name, "namespace": service.namespace}
        cluster.metadata.filter_metadata[_ISTIO].update({"services": [label]})


def _set_discovery(cluster: Cluster, inputs: ClusterInputs) -> None:
    if inputs.dns is None:
        cluster.type = Cluster.EDS
        cluster.eds_cluster_config.eds_config.CopyFrom(ADS)
        return
    cluster.type = Cluster.STRICT_DNS
    cluster.dns_lookup_family = Cluster.V4_PREFERRED
    inline = AssignmentInputs(
        name=inputs.name, dialect=inputs.dialect, hosts=inputs.dns, policy=NO_LOCALITY, sources=()
    )
    cluster.load_assignment.CopyFrom(assignment_message(inline))


def _set_transport(cluster: Cluster, inputs: ClusterInputs) -> None:
    alpn = "h2" if inputs.http2 else "http/1.1"
    match inputs.mode:
        case TLSMode.SIMPLE | TLSMode.MUTUAL:
            settings = inputs.policy.tls
            if settings is not None and inputs.dialect is not Dialect.GRPC:
                socket = simple_upstream(
                    settings, inputs.host, inputs.names, inputs.dialect, credentials=bool(inputs.credentials)
                )
                cluster.transport_socket.CopyFrom(socket)
        case TLSMode.ISTIO_MUTUAL if inputs.tls:
            sni = inputs.policy.tls.sni if inputs.policy.tls is not None else ""
            cluster.transport_socket.CopyFrom(
                mesh_upstream(inputs.dialect, inputs.tls_dir, inputs.peers, sni or inputs.host, alpn)
            )
        case None if inputs.tls:
            mesh = mesh_upstream(inputs.dialect, inputs.tls_dir, inputs.peers, inputs.host, alpn)
            if inputs.dialect is Dialect.GRPC:
                cluster.transport_socket.CopyFrom(mesh)
            else:
                cluster.transport_socket_matches.extend(automatic_matches(mesh))
        case _:
            pass


def _set_keepalive(cluster: Cluster, pool: ConnectionPoolSettings) -> None:
    written = pool.tcp.tcp_keepalive if pool.tcp is not None else None
    if written is None:
        return
    keepalive = TcpKeepalive()
    if written.probes:
        keepalive.keepalive_probes.value = written.probes
    if written.time:
        keepalive.keepalive_time.value = round(written.time)
    if written.interval:
        keepalive.keepalive_interval.value = round(written.interval)
    cluster.upstream_connection_options.CopyFrom(UpstreamConnectionOptions(tcp_keepalive=keepalive))
