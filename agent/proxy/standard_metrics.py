"""Istio's standard metrics of what goes through a filter chain: who called whom, how it ended.

Owns:   the label values of requests and connections, found once per combination and then by one lookup.
Not:    the counts (agent.stats.istio), who may be behind an identity (agent.cluster.workloads).
Source: Istio's standard metrics: an outbound listener reports as source, an inbound one as destination; the security
        policy is known to the destination alone; principals are those of the certificates that were shown.
Differs: nothing is exchanged between peers. The source knows the destination from what the control plane says of the
        endpoint; the destination knows the source from its certificate, and the workload as far as all that have this
        identity agree.
Invariant: no label value is taken from what a client or an origin sends, but for the status.
"""

from typing import TYPE_CHECKING

from agent.filters.forwarded import host_of
from agent.filters.local_replies import is_grpc
from agent.model.listener import Direction, Listener
from agent.stats.istio import CLOSED, MAX_SERIES, OPENED, SEPARATOR, UNKNOWN, HttpSeries, TcpSeries, Values
from mesh.identity.spiffe import SpiffeId
from mesh.xds.workload_name import WorkloadName

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange
    from agent.proxy.runtime import Runtime
    from agent.proxy.tcp_connection import TcpConnection
    from agent.upstream.clusters import UpstreamCluster

CLUSTER = "default"  # what Istio calls a cluster: a mesh of ours is one
STRANGER: Values = SEPARATOR.join((UNKNOWN,) * 8)  # a peer of whom nothing is known
_MUTUAL, _NONE = "mutual_tls", "none"
_MAX_GRPC_STATUS = 16
_Key = tuple[object, ...]


def peer_values(name: WorkloadName, principal: str) -> Values:
    """The labels of one side, in the order of agent.stats.istio."""
    values = (
        name.workload, name.canonical_service, name.canonical_revision, name.namespace, principal, name.app,
        name.version,
    )  # fmt: skip
    return SEPARATOR.join((*[value or UNKNOWN for value in values], CLUSTER))


class Reporter:
    """One per filter chain."""

    __slots__ = ("_http", "_inbound", "_name", "_runtime")

    def __init__(self, runtime: "Runtime", listener: Listener) -> None:
        self._runtime = runtime
        self._inbound = listener.direction is Direction.INBOUND
        self._name = WorkloadName.parse(listener.workload or "")
        self._http: dict[_Key, HttpSeries] = {}

    # --- requests ---------------------------------------------------------------------------------------------

    def count(self, exchange: "Exchange") -> None:
        """A request is over."""
        head = exchange.head
        grpc = b"content-type" in head.headers.index and is_grpc(head)
        outcome = _grpc_status(exchange) if grpc else ""
        if self._inbound:
            key: _Key = (exchange.connection.caller, exchange.status, exchange.flags, grpc, outcome)
        else:
            host, carrier, choice = exchange.host, exchange.carrier, exchange.choice
            key = (
                choice.cluster if choice is not None else None,
                host.endpoint.workload if host is not None else None,
                carrier.peer if carrier is not None else "",
                exchange.status, exchange.flags, grpc, outcome,
            )  # fmt: skip
        series = self._http.get(key) or self._new(key, exchange, grpc, outcome)
        series.add((exchange.ended - exchange.started) * 1000, exchange.received_bytes, exchange.sent_bytes)

    def _new(self, key: _Key, exchange: "Exchange", grpc: bool, outcome: str) -> HttpSeries:
        values = (
            *self._peers(exchange),
            *_service(exchange.cluster),
            "grpc" if grpc else "http",
            exchange.flags or "-",
            self._policy(exchange.connection.caller),
            str(exchange.status),
            outcome,
        )
        series = self._runtime.stats.standard.http(SEPARATOR.join(values))
        if len(self._http) < MAX_SERIES:
            self._http[key] = series
        return series

    # --- connections ------------------------------------------------------------------------------------------

    def opened(self, connection: "TcpConnection") -> TcpSeries:
        """A connection has its host, or will never have one. What comes is added to the series."""
        series = self._tcp_series(connection)
        series.counts[OPENED] += 1
        return series

    def closed(self, connection: "TcpConnection", series: TcpSeries | None) -> None:
        """Both sides are gone. `series`: what `opened` has returned, if it was called."""
        if series is None:
            self.opened(connection)
        self._tcp_series(connection).counts[CLOSED] += 1

    def _tcp_series(self, connection: "TcpConnection") -> TcpSeries:
        values = (
            *self._peers(connection),
            *_service(connection.cluster),
            "tcp",
            connection.flags or "-",
            self._policy(connection.caller),
        )
        return self._runtime.stats.standard.tcp(SEPARATOR.join(values))

    # --- who --------------------------------------------------------------------------------------------------

    def caller_of(self, peer_uris: frozenset[str], peer_address: str) -> Values:
        """The labels of a client that has shown a certificate, STRANGER of one that nobody can tell."""
        for uri in sorted(peer_uris):
            try:
                account = SpiffeId.parse(uri).workload
            except ValueError:
                continue
            if account is None:  # a node
                return peer_values(WorkloadName(workload=""), uri)
            return peer_values(self._runtime.callers.find(*account, host_of(peer_address)), uri)
        return STRANGER

    def _policy(self, caller: Values) -> str:
        if not self._inbound:
            return UNKNOWN
        return _NONE if caller is STRANGER else _MUTUAL

    def _peers(self, subject: "Exchange | TcpConnection") -> tuple[Values, ...]:
        """Reporter, source, destination."""
        connection = subject.connection
        if self._inbound:
            own = subject.chain.own_id if connection.caller is not STRANGER else ""
            return ("destination", connection.caller, peer_values(self._name, own))
        peer = subject.carrier.peer if subject.carrier is not None else ""
        source = peer_values(self._name, subject.chain.identity if peer else "")
        if subject.host is None:
            return ("source", source, STRANGER)
        return ("source", source, peer_values(WorkloadName.parse(subject.host.endpoint.workload), peer))


def reporter_of(runtime: "Runtime", listener: Listener) -> Reporter | None:
    """None where nobody has asked for these metrics: a control plane that says nothing of workloads."""
    return Reporter(runtime, listener) if listener.workload is not None else None


def _service(cluster: "UpstreamCluster | None") -> tuple[str, str, str]:
    label = cluster.config.service if cluster is not None else None
    host, name, namespace = label if label is not None else ("", "", "")
    return host or UNKNOWN, name or UNKNOWN, namespace or UNKNOWN


def _grpc_status(exchange: "Exchange") -> str:
    response = exchange.response
    value = response.headers.index.get(b"grpc-status") if response is not None else None
    if value is None or not value.isdigit() or int(value[:9]) > _MAX_GRPC_STATUS:
        return ""
    return str(int(value))
