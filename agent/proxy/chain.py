"""A filter chain with an HTTP connection manager: what its connections and requests share, and ask for.

Owns:   the order in which filters work on requests and answers, the chain's counts and log lines, its open
        connections and their end.
Not:    the filters (agent.filters), the life of a request (exchange) and of a connection (http_connection).
Source: data-plane.md 1.9 and 1.11.
Invariants: all that does not depend on the request is made here once; every accepted connection is in `_open` from
        `on_opened` to `on_closed`.
"""

import random
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from agent.cluster.retries import RetryBook
from agent.codec.head import Headers, RequestHead, ResponseHead
from agent.codec.serialise import reason_of
from agent.filters import client_certificate, envoy_headers, forwarded, request_id, response_headers
from agent.filters.access_log import Line, line_of
from agent.filters.hop_by_hop import BODILESS
from agent.filters.local_replies import BY_STATUS, local_reply
from agent.filters.request_headers import RequestHeaders
from agent.filters.response_headers import http_date
from agent.model.listener import AccessLog, FilterChain, HttpConnectionManager, Listener
from agent.model.route import Forward, Redirect
from agent.proxy.http_connection import HttpConnection
from agent.proxy.log_facts import facts_of
from agent.proxy.passage import ChainFilters
from agent.proxy.plan import RoutePlan, plan_of
from agent.proxy.runtime import Runtime
from agent.proxy.standard_metrics import reporter_of
from agent.router.rewrites import redirect_location
from agent.stats import names
from agent.stats.groups import Group
from agent.stats.names import http_group
from agent.upstream.clusters import UpstreamCluster
from agent.upstream.wheel import NEVER

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

NO_CLIENT_CERTIFICATE: Final = b""
LENGTH: Final = b"content-length"
Log = tuple[Line, Callable[[bytes], None]]


class HttpChain:
    """`identity`: the SPIFFE id in whose name its requests go on, "" on inbound listeners (decision 10)."""

    __slots__ = (
        "_date",
        "_date_until",
        "_draining",
        "_followers",
        "_listener_counts",
        "_logs",
        "_open",
        "_reporter",
        "_request_headers",
        "_retries",
        "_server",
        "_stats",
        "asking_identity",
        "clock",
        "counts",
        "filters",
        "hcm",
        "identity",
        "node",
        "own_id",
        "rng",
        "runtime",
        "server_names",
        "tls",
        "transport",
        "trusted_hops",
        "wall_offset_s",
        "wheel",
    )

    def __init__(
        self,
        runtime: Runtime,
        listener: Listener,
        config: FilterChain,
        listener_stats: Group,
        bits: Callable[[int], int] = random.getrandbits,
    ) -> None:
        """`bits`: random integers of so many bits. Raises ValueError that says what in `config` cannot be used."""
        hcm = config.network
        assert isinstance(hcm, HttpConnectionManager)
        self.hcm = hcm
        self.runtime = runtime
        self.identity = listener.identity
        self.asking_identity = asking_identity(listener)
        self.transport = config.transport
        self.server_names = config.server_names
        self.tls = config.tls
        self.own_id = config.tls.identity if config.tls is not None else ""
        self.node = runtime.node
        self.clock = runtime.clock
        self.rng = runtime.rng
        self.wheel = runtime.wheel
        self.trusted_hops = (
            forwarded.PEER if hcm.use_remote_address and not hcm.xff_num_trusted_hops else (hcm.xff_num_trusted_hops)
        )
        key = f"http.{hcm.stat_prefix}"
        self._stats = runtime.stats.get(key, lambda: http_group(hcm.stat_prefix))
        self.counts = self._stats.counts
        self._listener_counts = listener_stats.counts
        self._logs = logs_of(runtime, hcm.access_logs)
        self.filters = ChainFilters(hcm, runtime.stats)
        self._request_headers = RequestHeaders(hcm, bits)
        self._retries = RetryBook()
        self._server = b"" if hcm.server_header_pass_through else hcm.server_name.encode()
        self._reporter = reporter_of(runtime, listener)
        self._open: set[HttpConnection] = set()
        self._followers: list[HttpChain] = []  # those before it, with connections that are still open
        self._draining = False
        self._date = b""
        self._date_until = 0.0
        self.wall_offset_s = 0.0
        self._tell_time(self.clock())

    def _tell_time(self, now: float) -> None:
        """Once a second: what the wall clock says."""
        wall = self.runtime.wall()
        self.wall_offset_s = wall - now
        self._date = http_date(wall)
        self._date_until = now + 1 - wall % 1

    # --- connections ------------------------------------------------------------------------------------------

    def connection(self, peer_address: str, local_address: str) -> HttpConnection:
        """The protocol of an accepted connection."""
        return HttpConnection(self, peer_address, local_address)

    def on_opened(self, connection: HttpConnection) -> None:
        self._open.add(connection)
        self.counts[names.DOWN_CX_TOTAL] += 1
        self.counts[names.DOWN_CX_ACTIVE] += 1
        self._listener_counts[names.LISTENER_CX_ACTIVE] += 1
        connection.draining = self._draining
        if connection.secure:
            connection.certificate = self._certificate_of(connection)
            if self._reporter is not None:
                connection.caller = self._reporter.caller_of(connection.peer_uris, connection.peer_address)

    def _certificate_of(self, connection: HttpConnection) -> bytes:
        """What x-forwarded-client-cert says of the client; b"" when it has shown no certificate."""
        tls_object = connection.transport.get_extra_info("ssl_object")
        encoded = tls_object.getpeercert(True) if tls_object is not None else None
        if not encoded:
            return NO_CLIENT_CERTIFICATE
        found: dict[str, Any] = tls_object.getpeercert() or {}
        dns = [name for kind, name in found.get("subjectAltName", ()) if kind == "DNS"]
        digest = sha256(encoded).hexdigest()
        return client_certificate.element(self.own_id, digest, found.get("subject", ()), connection.peer_uris, dns)

    def on_closed(self, connection: HttpConnection) -> None:
        if connection not in self._open:
            return
        self._open.discard(connection)
        self.counts[names.DOWN_CX_ACTIVE] -= 1
        self._listener_counts[names.LISTENER_CX_ACTIVE] -= 1
        self._listener_counts[names.LISTENER_CX_DESTROY] += 1

    @property
    def active(self) -> int:
        """Open connections."""
        return len(self._open)

    def drain(self) -> None:
        """Every connection ends with its next answer, those that still come too; see `close_idle`."""
        self._draining = True
        for connection in list(self._open):
            connection.drain()

    def follow(self, successor: Any) -> None:
        """Requests on connections that are still open pass the successor's filters: who may not ask any longer is
        refused at once, not after the connection's end.
        """
        if not isinstance(successor, HttpChain):
            return
        followers, self._followers = [*self._followers, self], []
        for chain in followers:
            chain.filters = successor.filters
            if chain.active:
                successor._followers.append(chain)

    def close_idle(self) -> None:
        """Close the connections that have no request."""
        for connection in list(self._open):
            connection.close_idle()

    def abort(self) -> None:
        """Cut what is open."""
        for connection in list(self._open):
            connection.abort()

    # --- requests ---------------------------------------------------------------------------------------------

    def prepare_request(self, exchange: "Exchange") -> str:
        """Make the head fit for routing. Returns why it is refused, or ""."""
        self.counts[names.DOWN_RQ_HTTP1_TOTAL] += 1
        if exchange.started >= self._date_until:
            self._tell_time(exchange.started)
        refusal = self._request_headers.prepare(exchange.head, exchange.connection)
        if not refusal:
            self.counts[names.HTTP_RQ_TOTAL] += 1
        return refusal

    def prepare_upstream(self, exchange: "Exchange") -> None:
        """The cluster is known: do to the request what its route says, and find what is tried again."""
        match = exchange.match
        assert match is not None
        plan: RoutePlan = match.plan or plan_of(match)
        if plan.changes_request:
            plan.change_request(exchange)
        head = exchange.head
        if not head.content_length and head.method not in BODILESS and LENGTH not in head.headers.index:
            head.headers.add(LENGTH, b"0")
        exchange.retry = self._retries.rules_for(match.retry, head)

    def stamp_try(self, exchange: "Exchange") -> RequestHead:
        """The head as this try sends it."""
        head = exchange.head
        action: Forward = exchange.action
        match, retry = exchange.match, exchange.retry
        assert match is not None
        timeout_s = action.timeout_s
        per_try_s = retry.expected_try_s if retry is not None else 0.0
        if timeout_s or per_try_s:
            elapsed_s = 0.0
            if exchange.attempts > 1 and exchange.attempt is not None and exchange.route_deadline != NEVER:
                elapsed_s = timeout_s - (exchange.route_deadline - exchange.attempt.started)
            envoy_headers.expect_within(head, timeout_s, per_try_s, elapsed_s)
        plan: RoutePlan = match.plan
        if plan.counts_attempts:
            envoy_headers.count_attempt(head, exchange.attempts)
        return head

    # --- answers ----------------------------------------------------------------------------------------------

    def prepare_response(self, exchange: "Exchange", head: ResponseHead) -> None:
        """Make a host's answer ours."""
        known = exchange.request_complete and not exchange.head.upgrade
        took_ms = int((exchange.response_at - exchange.request_done_at) * 1000) if known else -1
        response_headers.take_over(head, not self._server, took_ms)
        match = exchange.match
        assert match is not None
        plan: RoutePlan = match.plan
        if plan.changes_response:
            plan.change_response(exchange, head)
        self._finish(exchange, head, exchange.response_at)

    def local_reply(
        self,
        exchange: "Exchange",
        status: int,
        body: bytes,
        fields: tuple[tuple[bytes, bytes], ...] = (),
        grpc_status: int = BY_STATUS,
    ) -> tuple[ResponseHead, bytes]:
        """An answer of our own: (head, body to send)."""
        head, data = local_reply(exchange.head, status, body, fields, grpc_status)
        self.finish_own(exchange, head)
        return head, data

    def finish_own(self, exchange: "Exchange", head: ResponseHead) -> None:
        """Do to an answer of our own what is done to all."""
        if exchange.match is not None:
            plan = plan_of(exchange.match)
            if plan.changes_response:
                plan.change_response(exchange, head)
        self._finish(exchange, head, self.clock())

    def filter_answer(self, exchange: "Exchange", status: int, fields: tuple[tuple[bytes, bytes], ...]) -> ResponseHead:
        """An answer of a filter, without a body: what its route does to answers is not done to it."""
        head = ResponseHead(status, reason_of(status), Headers())
        for name, value in (*fields, (LENGTH, b"0")):
            head.headers.append(name, value)
        self._finish(exchange, head, self.clock())
        return head

    def _finish(self, exchange: "Exchange", head: ResponseHead, now: float) -> None:
        if exchange.passage is not None:
            exchange.passage.mark_answer(head)
        if now >= self._date_until:
            self._tell_time(now)
        response_headers.finish(head, self._server, self._date)
        if self.hcm.always_set_request_id_in_response:
            own = exchange.head.headers.index.get(request_id.NAME)
            if own is not None:
                head.headers.set(request_id.NAME, own)

    def location(self, exchange: "Exchange", action: Redirect) -> bytes:
        """Where a redirect leads."""
        assert exchange.match is not None
        return redirect_location(action, exchange.match.rewrite, exchange.head)

    def account(self, exchange: "Exchange") -> None:
        """The request is over: count it and log it."""
        now = exchange.ended = self.clock()
        stats, status = self._stats, exchange.status
        stats.counts[names.DOWN_RQ_ACTIVE] -= 1
        if status:
            stats.codes[status] = stats.codes.get(status, 0) + 1
        stats.histograms[names.DOWN_RQ_TIME].add((now - exchange.started) * 1000)
        cluster: UpstreamCluster | None = exchange.cluster
        if cluster is not None:
            if exchange.answered_here:
                cluster.on_local_answer(status)
            elif exchange.response is not None and exchange.request_complete:
                cluster.stats.histograms[names.RQ_TIME].add((now - exchange.request_done_at) * 1000)
        if self._reporter is not None:
            self._reporter.count(exchange)
        for line, write in self._logs:
            write(line(exchange))


def asking_identity(listener: Listener) -> str:
    """In whose name a listener asks others; an inbound one in that of the certificate that it shows."""
    shown = (own.tls.identity for own in listener.filter_chains if own.tls is not None and own.tls.identity)
    return listener.identity or next(shown, "")


def logs_of(runtime: Runtime, configs: tuple[AccessLog, ...]) -> tuple[Log, ...]:
    """(formatter, writer) of each access log. Raises ValueError naming what in its format cannot be used."""
    return tuple((line_of(config, facts_of), runtime.access_log(config.path).write) for config in configs)
