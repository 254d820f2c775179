"""Which host of a cluster gets a request: lb_policy and its options.

Source: envoy/config/cluster/v3/cluster.proto.

Not refused, since it cannot make a difference here: update_merge_window, override_host_status (there is no session
affinity), the options of another lb_policy.
"""

from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage

from agent.config.durations import seconds_or
from agent.config.fields import beyond, enum_name, only, refuse, value_or, within
from agent.model.cluster import Hashing, LbPolicy, SlowStart

_POLICIES: dict[int, LbPolicy] = {
    ClusterMessage.ROUND_ROBIN: LbPolicy.ROUND_ROBIN,
    ClusterMessage.LEAST_REQUEST: LbPolicy.LEAST_REQUEST,
    ClusterMessage.RANDOM: LbPolicy.RANDOM,
    ClusterMessage.RING_HASH: LbPolicy.RING_HASH,
    ClusterMessage.MAGLEV: LbPolicy.MAGLEV,
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
_HASHING = frozenset({"use_hostname_for_hashing", "hash_balance_factor"})
_RING = frozenset({"minimum_ring_size", "maximum_ring_size", "hash_function"})
_SLOW_START = frozenset({"slow_start_window", "aggression", "min_weight_percent"})
_CHOICES = 2
_BIAS = 1.0
_PANIC_PERCENT = 50.0
_LEAST_PERCENT = 10.0
DEFAULTS = Hashing()


def lb_policy(message: ClusterMessage, path: str) -> LbPolicy:
    """The algorithm."""
    found = _POLICIES.get(message.lb_policy)
    if found is None:
        name = enum_name(message, "lb_policy", path)
        raise beyond(within(path, "lb_policy"), name, "ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH or MAGLEV")
    return found


def choice_count(message: ClusterMessage, path: str) -> int:
    """How many hosts LEAST_REQUEST compares."""
    if message.lb_policy != ClusterMessage.LEAST_REQUEST:
        return _CHOICES
    own, config = within(path, "least_request_lb_config"), message.least_request_lb_config
    only(config, own, frozenset({"choice_count", "active_request_bias", "slow_start_config"}))
    bias = config.active_request_bias.default_value if config.HasField("active_request_bias") else _BIAS
    if bias != _BIAS:
        raise beyond(within(own, "active_request_bias"), f"{bias:g}", f"{_BIAS:g}")
    return value_or(config, "choice_count", _CHOICES)


def panic_threshold(message: ClusterMessage, path: str) -> float:
    """Percent of healthy hosts below which all are used; 0 = never."""
    common = message.common_lb_config
    only(common, within(path, "common_lb_config"), _COMMON)
    return value_or(common, "healthy_panic_threshold", _PANIC_PERCENT)


def locality_weighted(message: ClusterMessage) -> bool:
    """Whether the weights of localities count."""
    return message.common_lb_config.HasField("locality_weighted_lb_config")


# --- slow start


def slow_start(message: ClusterMessage, path: str) -> SlowStart | None:
    """How new hosts begin; None when they begin as all others."""
    match message.lb_policy:
        case ClusterMessage.ROUND_ROBIN:
            name, config = "round_robin_lb_config", message.round_robin_lb_config
            only(config, within(path, name), frozenset({"slow_start_config"}))
            return _slow_start(config, within(path, name))
        case ClusterMessage.LEAST_REQUEST:
            return _slow_start(message.least_request_lb_config, within(path, "least_request_lb_config"))
    return None


def _slow_start(config: Any, path: str) -> SlowStart | None:
    own, found = within(path, "slow_start_config"), config.slow_start_config
    only(found, own, _SLOW_START)
    window_s = seconds_or(found, "slow_start_window", own, 0.0)
    if not window_s:
        return None
    aggression = found.aggression.default_value if found.HasField("aggression") else 1.0
    if not aggression > 0:
        raise refuse(within(own, "aggression.default_value"), aggression, "more than 0")
    return SlowStart(
        window_s=window_s,
        aggression=aggression,
        min_weight_ratio=value_or(found, "min_weight_percent", _LEAST_PERCENT) / 100,
    )


# --- hashing


def hashing(message: ClusterMessage, path: str) -> Hashing:
    """The settings of RING_HASH and MAGLEV."""
    match message.lb_policy:
        case ClusterMessage.RING_HASH:
            return _ring(message, path)
        case ClusterMessage.MAGLEV:
            own, config = within(path, "maglev_lb_config"), message.maglev_lb_config
            only(config, own, frozenset({"table_size"}))
            size = value_or(config, "table_size", DEFAULTS.maglev_table_size)
            if not _is_prime(size):
                raise refuse(within(own, "table_size"), size, "a prime number")
            return Hashing(maglev_table_size=size, **_common(message, path))
    return DEFAULTS


def _ring(message: ClusterMessage, path: str) -> Hashing:
    own, config = within(path, "ring_hash_lb_config"), message.ring_hash_lb_config
    only(config, own, _RING)
    if config.hash_function != ClusterMessage.RingHashLbConfig.XX_HASH:
        raise beyond(within(own, "hash_function"), enum_name(config, "hash_function", own), "XX_HASH")
    least = value_or(config, "minimum_ring_size", DEFAULTS.minimum_ring_size)
    most = value_or(config, "maximum_ring_size", DEFAULTS.maximum_ring_size)
    if least > most:
        raise refuse(within(own, "minimum_ring_size"), least, f"at most maximum_ring_size, {most}")
    return Hashing(minimum_ring_size=least, maximum_ring_size=most, **_common(message, path))


def _common(message: ClusterMessage, path: str) -> dict[str, Any]:
    common = within(within(path, "common_lb_config"), "consistent_hashing_lb_config")
    config = message.common_lb_config.consistent_hashing_lb_config
    only(config, common, _HASHING)
    return {
        "use_hostname": config.use_hostname_for_hashing,
        "balance_factor_percent": value_or(config, "hash_balance_factor", 0),
    }


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
