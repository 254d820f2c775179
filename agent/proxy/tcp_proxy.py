"""A filter chain with a TCP proxy: what its connections share.

Owns:   counts and log lines, its open connections and their end.
Not:    the life of a connection (tcp_connection).
Source: envoy/extensions/filters/network/tcp_proxy/v3; data-plane.md 1.11.
Invariant: one log line per connection.
"""

from agent.filters import forwarded
from agent.model.listener import FilterChain, Listener, TcpProxy
from agent.model.rbac import NetworkRbac, Rbac
from agent.model.route import Forward, WeightedCluster
from agent.proxy.authorization import ConnectionGuard, dotted
from agent.proxy.chain import logs_of
from agent.proxy.runtime import Runtime
from agent.proxy.standard_metrics import reporter_of
from agent.proxy.tcp_connection import TcpConnection
from agent.router.weights import pick_cluster
from agent.stats import names
from agent.stats.groups import Group
from agent.stats.names import rbac_group, rbac_shadow_group, tcp_group


class TcpChain:
    """`identity`: the SPIFFE id in whose name hosts are connected."""

    __slots__ = (
        "_forward",
        "_listener_counts",
        "_logs",
        "_open",
        "clock",
        "config",
        "counts",
        "guard",
        "identity",
        "node",
        "own_id",
        "reporter",
        "runtime",
        "server_names",
        "tls",
        "transport",
        "trusted_hops",
        "wall_offset_s",
        "wheel",
    )

    def __init__(self, runtime: Runtime, listener: Listener, config: FilterChain, listener_stats: Group) -> None:
        """Raises ValueError that says what in `config` cannot be used."""
        proxy = config.network
        assert isinstance(proxy, TcpProxy)
        self.config = proxy
        weights = proxy.weighted or ((proxy.cluster, 1),)
        choices = tuple(WeightedCluster(cluster=name, weight=weight) for name, weight in weights)
        self._forward = Forward(clusters=choices, total_weight=sum(own.weight for own in choices))
        self.runtime = runtime
        self.identity = listener.identity
        self.transport = config.transport
        self.server_names = config.server_names
        self.tls = config.tls
        self.own_id = config.tls.identity if config.tls is not None else ""
        self.node = runtime.node
        self.clock = runtime.clock
        self.wheel = runtime.wheel
        self.trusted_hops = forwarded.PEER
        self.wall_offset_s = 0.0
        self.counts = runtime.stats.get(f"tcp.{proxy.stat_prefix}", lambda: tcp_group(proxy.stat_prefix)).counts
        self._listener_counts = listener_stats.counts
        self._logs = logs_of(runtime, proxy.access_logs)
        self.reporter = reporter_of(runtime, listener)
        self._open: set[TcpConnection] = set()
        self.guard = ConnectionGuard(tuple(_guard(runtime, own) for own in config.guards))

    def connection(self, peer_address: str, local_address: str) -> TcpConnection:
        """The protocol of an accepted connection."""
        return TcpConnection(self, peer_address, local_address)

    def choose(self) -> WeightedCluster:
        """Where a new connection goes."""
        return pick_cluster(self._forward, self.runtime.rng)

    def on_opened(self, connection: TcpConnection) -> None:
        self._open.add(connection)
        self.counts[names.TCP_CX_TOTAL] += 1
        self._listener_counts[names.LISTENER_CX_ACTIVE] += 1
        if connection.secure and self.reporter is not None:
            connection.caller = self.reporter.caller_of(connection.peer_uris, connection.peer_address)

    def on_ended(self, connection: TcpConnection) -> None:
        """Both sides are gone: count and log."""
        self._open.discard(connection)
        self._listener_counts[names.LISTENER_CX_ACTIVE] -= 1
        self._listener_counts[names.LISTENER_CX_DESTROY] += 1
        self.wall_offset_s = self.runtime.wall() - self.clock()
        if self.reporter is not None:
            self.reporter.closed(connection, connection.series)
        for line, write in self._logs:
            write(line(connection))

    @property
    def active(self) -> int:
        """Connections of which a side is still there."""
        return len(self._open)

    def follow(self, successor: object) -> None:
        """A connection is judged when it comes, as by Envoy."""

    def drain(self) -> None:
        """Bytes have no place where a connection could end in peace: it goes on until its ends close it, or `abort`."""

    def close_idle(self) -> None:
        """The same: nobody can tell whether a byte is still to come."""

    def abort(self) -> None:
        """Cut what is open."""
        for connection in list(self._open):
            connection.abort()


def _guard(runtime: Runtime, config: NetworkRbac) -> tuple[Rbac, Group, Group]:
    """The rules with their counts. Envoy puts the prefix before `rbac`."""
    rbac, stats = config.rbac, runtime.stats
    prefix = f"{dotted(config.stat_prefix)}rbac."
    enforced, shadow = prefix + dotted(rbac.prefix), prefix + dotted(rbac.shadow_prefix)
    return (
        rbac,
        stats.get(f"{enforced}*", lambda: rbac_group(enforced)),
        stats.get(f"{shadow}shadow*", lambda: rbac_shadow_group(shadow)),
    )
