"""Which host of a cluster gets a request: the cluster's part of loadBalancer.

Source: istio cluster_traffic_policy.go; gRFC A42 (ring hash), rule 29 (an unknown policy makes gRPC refuse CDS).
"""

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import RuntimeDouble
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.wrappers_pb2 import UInt64Value

from controlplane.compiler.resources import duration
from controlplane.policy.load_balancer import ConsistentHashLB, LoadBalancerSettings, SimpleLB, WarmupConfiguration
from mesh.vocabulary import Dialect

_SIMPLE = {
    SimpleLB.LEAST_REQUEST: Cluster.LEAST_REQUEST,
    SimpleLB.ROUND_ROBIN: Cluster.ROUND_ROBIN,
    SimpleLB.RANDOM: Cluster.RANDOM,
    # Without traffic capture there is no original address to pass on to.
    SimpleLB.PASSTHROUGH: Cluster.LEAST_REQUEST,
}


def set_load_balancing(cluster: Cluster, settings: LoadBalancerSettings, dialect: Dialect) -> None:
    """Set lb_policy and its options."""
    hashing = effective_hash(settings, dialect)
    if hashing is not None:
        _set_hash(cluster, hashing)
    elif dialect is Dialect.GRPC:
        cluster.lb_policy = Cluster.ROUND_ROBIN
    else:
        cluster.lb_policy = _SIMPLE[settings.algorithm]
        if settings.warmup_settings is not None:
            _set_warmup(cluster, settings.warmup_settings)


def effective_hash(settings: LoadBalancerSettings, dialect: Dialect) -> ConsistentHashLB | None:
    """The consistent hash as far as the dialect has one: gRPC hashes headers only, and on rings."""
    hashing = settings.consistent_hash
    if hashing is None:
        return None
    if dialect is Dialect.GRPC and (hashing.http_header_name is None or hashing.maglev is not None):
        return None
    return hashing


def _set_hash(cluster: Cluster, hashing: ConsistentHashLB) -> None:
    table_size = hashing.maglev_table_size
    if table_size is not None:
        cluster.lb_policy = Cluster.MAGLEV
        cluster.maglev_lb_config.table_size.value = table_size
        return
    cluster.lb_policy = Cluster.RING_HASH
    cluster.ring_hash_lb_config.minimum_ring_size.CopyFrom(UInt64Value(value=hashing.ring_size))


def _set_warmup(cluster: Cluster, warmup: WarmupConfiguration) -> None:
    slow_start = Cluster.SlowStartConfig(
        slow_start_window=duration(warmup.duration or 0),
        aggression=RuntimeDouble(default_value=warmup.effective_aggression, runtime_key="mesh.lb.aggression"),
        min_weight_percent=Percent(value=warmup.effective_minimum_percent),
    )
    if cluster.lb_policy == Cluster.ROUND_ROBIN:
        cluster.round_robin_lb_config.slow_start_config.CopyFrom(slow_start)
    elif cluster.lb_policy == Cluster.LEAST_REQUEST:
        cluster.least_request_lb_config.slow_start_config.CopyFrom(slow_start)
