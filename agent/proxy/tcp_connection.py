"""One connection through the TCP proxy: bytes both ways between a client and one host of a cluster.

Owns:   picking the host, connecting (with the mesh's TLS where the endpoint takes it), back-pressure, ends of stream,
        the idle timeout.
Not:    accepting and TLS towards the client (agent.listener), how a host is connected (agent.upstream.pool), what
        connections share (tcp_proxy).
Source: data-plane.md 1.6 and 2.5; flags as Envoy 1.40 logs them.
Differs: TLS cannot be half-closed here, so an end of stream on or towards a TLS side ends the other direction too,
        after what was sent before it.
Invariants: nothing is read from the client before the host is connected, nothing of the host is passed on before its
        name is checked; each side is read only as fast as the other takes it; when one side is gone the other has
        FLUSH_S to take what is left; `on_ended` is called once.

    CONNECTING --> OPEN --> ENDING (one side is gone) --> gone
         +-------------------------------------------------^  no host, no connection, client gone
"""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from agent.codec.head import Headers, RequestHead
from agent.model.cells import CONNECTIONS
from agent.model.route import WeightedCluster
from agent.proxy.standard_metrics import STRANGER
from agent.proxy.tcp_upstream import TcpUpstream
from agent.stats import names
from agent.stats.istio import RECEIVED, SENT, TcpSeries
from agent.upstream.wheel import NEVER, Timed
from mesh.tasks import spawn

if TYPE_CHECKING:
    from agent.proxy.tcp_proxy import TcpChain
    from agent.upstream.clusters import UpstreamCluster
    from agent.upstream.pool import Pool

FLUSH_S = 60.0
_NO_HEAD = RequestHead(b"", b"", b"", Headers(), -1)  # what the access log asks for a request's fields


class TcpConnection(Timed):
    """The client's connection, made per accepted one. Public attributes are also what the access log reads."""

    __slots__ = (
        "_cluster",
        "_counted",
        "_early",
        "_eof",
        "_host_eof",
        "_lost",
        "_paused",
        "_task",
        "attempts",
        "caller",
        "carrier",
        "chain",
        "choice",
        "details",
        "ended",
        "flags",
        "host",
        "local_address",
        "peer_address",
        "peer_uris",
        "received_bytes",
        "secure",
        "sent_bytes",
        "series",
        "started",
        "transport",
        "transport_failure",
        "writable",
    )
    head = _NO_HEAD
    response = None
    match = None
    status = 0
    tried = ()
    request_done_at = 0.0
    response_at = 0.0

    def __init__(self, chain: "TcpChain", peer_address: str, local_address: str) -> None:
        super().__init__()
        self.chain = chain
        self.choice: WeightedCluster = chain.choose()
        self.peer_address = peer_address
        self.local_address = local_address
        self.peer_uris: frozenset[str] = frozenset()
        self.secure = False
        self.transport: Any = None
        self.caller = STRANGER  # who the client is, as metrics name it
        self.series: TcpSeries | None = None
        self.carrier: TcpUpstream | None = None
        self.host: Any = None
        self.flags = self.transport_failure = self.details = ""
        self.attempts = self.received_bytes = self.sent_bytes = 0
        self.started = self.ended = 0.0
        self.writable = True
        self._cluster: UpstreamCluster | None = None
        self._counted = False  # the connection to the host is among the cluster's active ones
        self._task: asyncio.Task[None] | None = None
        self._early: list[bytes] = []  # of the client, before there is a host
        self._eof = False  # the client has ended its stream
        self._host_eof = False
        self._lost = False
        self._paused = False

    @property
    def connection(self) -> "TcpConnection":
        return self

    @property
    def cluster(self) -> "UpstreamCluster | None":
        return self._cluster

    # --- the client -------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.started = self.chain.clock()
        self.chain.on_opened(self)
        self._begin()

    def data_received(self, data: bytes) -> None:
        self._touch()
        self.received_bytes += len(data)
        self.chain.counts[names.TCP_RX_BYTES] += len(data)
        if self.series is not None:
            self.series.counts[RECEIVED] += len(data)
        upstream = self.carrier
        if upstream is None or not upstream.admitted:
            self._early.append(data)
        elif not upstream.lost:
            self._write_up(upstream, data)

    def eof_received(self) -> bool:
        self._eof = True
        upstream = self.carrier
        if upstream is not None and upstream.admitted:
            self._pass_eof(upstream.transport)
        return not self.secure and not self._lost and not self._host_eof

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if self._task is not None:
            self.flags = self.flags or "DC"
            self._task.cancel()
            return
        upstream = self.carrier
        if upstream is not None and upstream.admitted and not upstream.lost:
            self._end_other(upstream.transport, error)
        else:
            self._end()

    def pause_writing(self) -> None:
        self.writable = False
        upstream = self.carrier
        if upstream is not None and not upstream.transport.is_closing():
            upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        self.writable = True
        upstream = self.carrier
        if upstream is not None and not upstream.transport.is_closing():
            upstream.transport.resume_reading()

    # --- connecting -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        chain = self.chain
        policy = chain.guard.denies(self)
        if policy:
            self.details = f"rbac_access_denied_matched_policy[{'_'.join(policy.split())}]"
            self._refuse("")
            return
        cluster = self._cluster = chain.runtime.snapshot.clusters.get(self.choice.cluster)
        if cluster is None:
            chain.counts[names.TCP_NO_ROUTE] += 1
            self._refuse("NC")
            return
        self.host = host = cluster.pick_host()
        if host is None:
            cluster.stats.counts[names.CX_NONE_HEALTHY] += 1
            self._refuse("UH")
        elif not cluster.limits[0].admit(CONNECTIONS):
            cluster.stats.counts[names.CX_OVERFLOW] += 1
            self._refuse("UO")
        else:
            self.attempts = 1
            self._pause()
            self._task = spawn(f"connect {host.key}", self._connect(cluster, cluster.pool(host, chain.identity)))

    def _refuse(self, flags: str) -> None:
        self.flags = flags
        self.transport.close()

    async def _connect(self, cluster: "UpstreamCluster", pool: "Pool") -> None:
        upstream = TcpUpstream(self)
        begun = monotonic()
        try:
            reason, cause = await pool.dial(upstream)
        except asyncio.CancelledError:
            self._task = None
            self._give_up(cluster, upstream)
            self._end()
            raise
        self._task = None
        if reason:
            cluster.stats.counts[names.CX_CONNECT_FAIL] += 1
            cluster.on_connect_failure(self.host)
            self.transport_failure = cause or reason
            self._give_up(cluster, upstream)
            self._refuse("UF,URX")
            return
        self._count_connected(cluster, (monotonic() - begun) * 1000)
        self._open(upstream)

    def _give_up(self, cluster: "UpstreamCluster", upstream: TcpUpstream) -> None:
        cluster.limits[0].release(CONNECTIONS)
        upstream.abort()

    def _count_connected(self, cluster: "UpstreamCluster", took_ms: float) -> None:
        counts = cluster.stats.counts
        counts[names.CX_TOTAL] += 1
        counts[names.CX_ACTIVE] += 1
        cluster.stats.histograms[names.CX_CONNECT_MS].add(took_ms)
        cluster.on_connect(self.host.key, True)
        self.host.active += 1
        self._counted = True

    def _open(self, upstream: TcpUpstream) -> None:
        self.carrier = upstream
        reporter = self.chain.reporter
        if reporter is not None:
            self.series = series = reporter.opened(self)
            series.counts[RECEIVED] += self.received_bytes
        self._touch()
        early, self._early = self._early, []
        upstream.admit()
        if upstream.lost:
            self.on_upstream_lost(None)
            return
        if early:
            self._write_up(upstream, b"".join(early))
        if self._eof:
            self._pass_eof(upstream.transport)
        if upstream.writable:
            self._resume()

    # --- the host ---------------------------------------------------------------------------------------------

    def on_upstream_data(self, data: bytes) -> None:
        self._touch()
        self.sent_bytes += len(data)
        self.chain.counts[names.TCP_TX_BYTES] += len(data)
        if self.series is not None:
            self.series.counts[SENT] += len(data)
        if self._cluster is not None:
            self._cluster.stats.counts[names.CX_RX_BYTES] += len(data)
        if not self._lost:
            self.transport.write(data)

    def on_upstream_eof(self) -> bool:
        """The host has ended its stream; True keeps its connection open for what the client still sends."""
        self._host_eof = True
        if self._lost or self._eof:
            return False
        self._pass_eof(self.transport)
        carrier = self.carrier
        return carrier is not None and carrier.transport.can_write_eof() and not self.transport.is_closing()

    def on_upstream_lost(self, error: Exception | None) -> None:
        if self._lost:
            self._end()
        else:
            self._end_other(self.transport, error)

    def on_upstream_writable(self, writable: bool) -> None:
        if writable:
            self._resume()
        else:
            self._pause()

    # --- inside -----------------------------------------------------------------------------------------------

    def _write_up(self, upstream: TcpUpstream, data: bytes) -> None:
        if self._cluster is not None:
            self._cluster.stats.counts[names.CX_TX_BYTES] += len(data)
        upstream.transport.write(data)

    def _pass_eof(self, transport: Any) -> None:
        """Tell one side that the other will send no more."""
        if transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.chain.counts[names.TCP_PAUSED_READING] += 1
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def _touch(self) -> None:
        """Something has moved: the idle timeout begins anew."""
        timeout_s = self.chain.config.idle_timeout_s
        if timeout_s and not self._lost:
            self.deadline = deadline = self.chain.clock() + timeout_s
            if deadline < self.slot_at:
                self.chain.wheel.insert(self, deadline)

    def on_deadline(self, now: float) -> None:
        upstream = self.carrier
        if not self._lost and (upstream is None or not upstream.lost):
            self.chain.counts[names.TCP_IDLE_TIMEOUT] += 1
        self.abort()

    def _end_other(self, transport: Any, error: Exception | None) -> None:
        """One side is gone: the other gets what is left for it; after a reset of the one, nothing."""
        if error is not None:
            transport.abort()
            return
        transport.close()
        self.chain.wheel.arm(self, self.chain.clock() + FLUSH_S)

    def abort(self) -> None:
        """Cut both sides."""
        if self.carrier is not None:
            self.carrier.abort()
        if self.transport is not None:
            self.transport.abort()

    def _end(self) -> None:
        """Both sides are gone."""
        self.ended = self.chain.clock()
        if self.deadline != NEVER:
            self.chain.wheel.disarm(self)
        if self._counted and self._cluster is not None:
            counts = self._cluster.stats.counts
            counts[names.CX_ACTIVE] -= 1
            counts[names.CX_DESTROY] += 1
            self._cluster.limits[0].release(CONNECTIONS)
            self.host.active -= 1
        self.chain.on_ended(self)
