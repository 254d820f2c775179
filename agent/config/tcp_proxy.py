"""The TCP proxy: bytes both ways, to one cluster or to one of several by weight.

Source: envoy/extensions/filters/network/tcp_proxy/v3.
"""

from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy as ProxyMessage

from agent.config.access_log import access_logs
from agent.config.durations import seconds_or
from agent.config.fields import beyond, item, only, value_or, within
from agent.model.listener import TcpProxy

_KNOWN = frozenset(
    {"stat_prefix", "cluster", "weighted_clusters", "idle_timeout", "access_log", "max_connect_attempts"}
)  # fmt: skip


def tcp_proxy(message: ProxyMessage, path: str) -> TcpProxy:
    """The filter."""
    only(message, path, _KNOWN)
    weighted = _weighted(message, path)
    if not message.cluster and not weighted:
        raise beyond(within(path, "cluster"), "''", "the name of a cluster")
    attempts = value_or(message, "max_connect_attempts", 1)
    if attempts != 1:
        raise beyond(within(path, "max_connect_attempts"), str(attempts), "1")
    return TcpProxy(
        stat_prefix=message.stat_prefix,
        cluster=message.cluster,
        weighted=weighted,
        idle_timeout_s=seconds_or(message, "idle_timeout", path, 3600.0),
        access_logs=access_logs(message.access_log, path),
    )


def _weighted(message: ProxyMessage, path: str) -> tuple[tuple[str, int], ...]:
    own = within(path, "weighted_clusters")
    only(message.weighted_clusters, own, frozenset({"clusters"}))
    for index, one in enumerate(message.weighted_clusters.clusters):
        only(one, item(own, "clusters", index), frozenset({"name", "weight"}))
    return tuple((one.name, one.weight) for one in message.weighted_clusters.clusters)
