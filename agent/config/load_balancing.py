"""Which host of a cluster gets a request: lb_policy and its options.

Source: envoy/config/cluster/v3/cluster.proto.

Differs: locality weights are a part of the endpoints (agent.model.cluster.Endpoint.locality_weight), whether or not the
cluster asks for them; a control plane of ours sends them only where they are meant, and says so to the user
(controlplane/compiler/limits.py).
Not refused, since it cannot make a difference here: update_merge_window, consistent_hashing_lb_config and
override_host_status (there is neither hashing nor session affinity), the options of another lb_policy.
"""

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage

from agent.config.fields import beyond, enum_name, only, value_or, within
from agent.model.cluster import LbPolicy

_POLICIES: dict[int, LbPolicy] = {
    ClusterMessage.ROUND_ROBIN: LbPolicy.ROUND_ROBIN,
    ClusterMessage.LEAST_REQUEST: LbPolicy.LEAST_REQUEST,
    ClusterMessage.RANDOM: LbPolicy.RANDOM,
}
FIELDS = frozenset(
    {
        "lb_policy", "least_request_lb_config", "round_robin_lb_config", "ring_hash_lb_config", "maglev_lb_config",
        "original_dst_lb_config", "common_lb_config",
    }
)  # fmt: skip
_COMMON = frozenset(
    {
        "healthy_panic_threshold", "locality_weighted_lb_config", "update_merge_window", "consistent_hashing_lb_config",
        "override_host_status",
    }
)  # fmt: skip
_CHOICES = 2
_BIAS = 1.0
_PANIC_PERCENT = 50.0


def lb_policy(message: ClusterMessage, path: str) -> LbPolicy:
    """The algorithm."""
    found = _POLICIES.get(message.lb_policy)
    if found is None:
        name = enum_name(message, "lb_policy", path)
        raise beyond(within(path, "lb_policy"), name, "ROUND_ROBIN, LEAST_REQUEST or RANDOM")
    if found is LbPolicy.ROUND_ROBIN:
        only(message.round_robin_lb_config, within(path, "round_robin_lb_config"), frozenset())
    return found


def choice_count(message: ClusterMessage, path: str) -> int:
    """How many hosts LEAST_REQUEST compares."""
    if message.lb_policy != ClusterMessage.LEAST_REQUEST:
        return _CHOICES
    own, config = within(path, "least_request_lb_config"), message.least_request_lb_config
    only(config, own, frozenset({"choice_count", "active_request_bias"}))
    bias = config.active_request_bias.default_value if config.HasField("active_request_bias") else _BIAS
    if bias != _BIAS:
        raise beyond(within(own, "active_request_bias"), f"{bias:g}", f"{_BIAS:g}")
    return value_or(config, "choice_count", _CHOICES)


def panic_threshold(message: ClusterMessage, path: str) -> float:
    """Percent of healthy hosts below which all are used; 0 = never."""
    common = message.common_lb_config
    only(common, within(path, "common_lb_config"), _COMMON)
    return value_or(common, "healthy_panic_threshold", _PANIC_PERCENT)
