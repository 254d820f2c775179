"""One request and its answer, from the parsed head to the access-log line.

Owns:   the life of a request: route, tries with their hosts and connections, bodies both ways, retries, the answer.
Not:    parsing and the connection (agent.proxy.http_connection), what is decided where (agent.router, agent.cluster,
        agent.filters), answers that we make ourselves (agent.proxy.answers), deadlines (agent.proxy.deadlines),
        switched protocols (agent.proxy.switched).
Source: data-plane.md 1.4-1.6, 1.9, 1.11, 2.2, 2.5 and the golden matrix.
Invariants: exactly one answer and one log line; a body is held only up to REPLAY_BYTES, beyond that reading waits
        for the slower side; an answer that breaks off in the middle is cut, never ended properly; nothing is retried
        after the first byte of an answer went to the client.
"""

from typing import TYPE_CHECKING, Any

from agent.codec.head import CHUNKED, UNTIL_EOF, RequestHead, ResponseHead
from agent.codec.http1 import ProtocolError
from agent.codec.serialise import CONTINUE, LAST_CHUNK, chunk_bytes, request_bytes, response_bytes
from agent.ipc.shared import REQUESTS
from agent.model.resets import PROTOCOL_ERROR
from agent.model.route import Forward, Redirect
from agent.proxy import answers, deadlines, switched
from agent.router.weights import pick_cluster
from agent.stats import names
from agent.upstream.connection import UpstreamConnection
from agent.upstream.wheel import NEVER

if TYPE_CHECKING:
    from agent.proxy.http_connection import HttpConnection
    from agent.proxy.runtime import Snapshot

REPLAY_BYTES = 64 * 1024
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})  # RFC 9110 9.2.2


class Exchange:
    """Made per request. The public attributes are also what the access log reads."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_chunked_down",
        "_holding",
        "_pool",
        "_race_retried",
        "_replayable",
        "action",
        "active_at",
        "answered_here",
        "attempts",
        "carrier",
        "chain",
        "choice",
        "cluster",
        "connection",
        "details",
        "ended",
        "flags",
        "head",
        "holds_retry",
        "host",
        "idle_timeout_s",
        "match",
        "received_bytes",
        "request_complete",
        "request_done_at",
        "response",
        "response_at",
        "retry",
        "retry_at",
        "route_deadline",
        "sent_bytes",
        "started",
        "status",
        "stream_deadline",
        "transport_failure",
        "tried",
        "try_deadline",
        "try_started",
        "upstream",
    )

    def __init__(self, connection: "HttpConnection", head: RequestHead, now: float) -> None:
        self.connection = connection
        self.chain = connection.chain
        self.head = head
        self.started = self.active_at = now
        self.match: Any = None
        self.action: Any = None
        self.choice: Any = None
        self.cluster: Any = None
        self.host: Any = None
        self.retry: Any = None  # agent.cluster.retries.RetryRules
        self.holds_retry = False  # a retry of this request counts among those under way
        self.upstream: UpstreamConnection | None = None
        self.carrier: UpstreamConnection | None = None  # of the last try, also when it is over
        self.transport_failure = ""  # why no connection could be made
        self.response: ResponseHead | None = None
        self.answered_here = False  # the answer is one of our own
        self.attempts = 0
        self.tried: list[Any] = []  # hosts of the tries before
        self.status = 0
        self.flags = ""
        self.details = ""
        self.received_bytes = self.sent_bytes = 0
        self.request_complete = False
        self.request_done_at = self.try_started = self.response_at = self.ended = 0.0
        self.idle_timeout_s = 0.0
        self.route_deadline = self.stream_deadline = self.try_deadline = self.retry_at = NEVER
        self._pool: Any = None  # where we wait for a connection
        self._body: list[bytes] = []  # what has come of the body: to be sent, or kept for another try
        self._body_bytes = 0
        self._replayable = True  # _body holds all that has come
        self._race_retried = False
        self._holding = False  # reading from the client waits for us
        self._chunked_down = False

    # --- the request's way up -------------------------------------------------------------------------------

    def start(self, body: bytes, end_stream: bool) -> None:
        """The head has come, with the first part of the body and whether that is all."""
        chain = self.chain
        chain.counts[names.DOWN_RQ_TOTAL] += 1
        chain.counts[names.DOWN_RQ_ACTIVE] += 1
        self.idle_timeout_s = chain.hcm.stream_idle_timeout_s
        if body:
            self.received_bytes = self._body_bytes = len(body)
            self._body.append(body)
        if end_stream:
            self.request_complete = True
            self.request_done_at = self.started
        refusal = chain.prepare_request(self)
        if refusal:
            answers.refuse_head(self, refusal)
        else:
            self._route()

    def refuse(self, error: ProtocolError) -> None:
        """What came is no request."""
        chain = self.chain
        chain.counts[names.DOWN_RQ_TOTAL] += 1
        chain.counts[names.DOWN_RQ_ACTIVE] += 1
        chain.counts[names.DOWN_RQ_HTTP1_TOTAL] += 1
        chain.counts[names.DOWN_RQ_RX_RESET] += 1
        answers.protocol_error(self, error)

    def _route(self) -> None:
        chain = self.chain
        snapshot = chain.runtime.snapshot
        table = snapshot.routes.get(chain.hcm.route_config)
        if table is None:
            answers.no_route(self)
            return
        if table.internal_only_headers:
            self.head.headers.remove_all(table.internal_only_headers)
        match = table.match(self.head, chain.rng)
        if match is None:
            answers.no_route(self)
            return
        self.match = match
        action = match.route.action
        if isinstance(action, Forward):
            self.action = action
            self._forward(action, snapshot)
        elif isinstance(action, Redirect):
            answers.redirect(self, action)
        else:
            answers.direct(self, action)

    def _forward(self, action: Forward, snapshot: "Snapshot") -> None:
        chain, head = self.chain, self.head
        clusters = action.clusters
        self.choice = choice = clusters[0] if len(clusters) == 1 else pick_cluster(action, chain.rng)
        self.cluster = cluster = snapshot.clusters.get(choice.cluster)
        if cluster is None:
            answers.no_cluster(self)
            return
        if head.upgrade and not switched.allowed(self, action):
            answers.upgrade_refused(self)
            return
        chain.prepare_upstream(self)
        deadlines.start(self, action)
        if head.expect_continue:
            head.headers.remove(b"expect")
            if not self.request_complete:
                self.connection.write(CONTINUE)
        self._try()

    def _try(self, fresh: bool = False) -> None:
        """Pick a host and get a connection to it; `fresh`: not one that has waited in the pool."""
        cluster = self.cluster
        self.host = host = cluster.pick(self)
        self.attempts += 1
        if host is None:
            answers.no_healthy_upstream(self)
            return
        pool = cluster.pool(host, self.chain.identity)
        connection = None if fresh else pool.take_idle()
        if connection is not None:
            self.on_pool_ready(connection)
        elif pool.wait(self, self.action.priority_high):
            if self.upstream is None and self.response is None:
                self._pool = pool
                self._balance()
        else:
            answers.overflow(self)

    def on_pool_ready(self, connection: UpstreamConnection) -> None:
        """The pool has a connection for us."""
        self._pool = None
        cluster, counts = self.cluster, self.cluster.stats.counts
        if not cluster.limits[self.action.priority_high].admit(REQUESTS):
            counts[names.RQ_ACTIVE_OVERFLOW] += 1
            connection.owner.on_released(connection)
            answers.overflow(self)
            return
        counts[names.RQ_TOTAL] += 1
        counts[names.RQ_ACTIVE] += 1
        self.host.active += 1
        self.upstream = self.carrier = connection
        self.try_started = self.chain.clock()
        head = self.head
        connection.start(self, head.method, self._head_and_body(head))
        if self.request_complete and self.retry is not None:
            deadlines.start_try(self)
        if self._holding or not connection.writable:
            self._balance()
        if not self.connection.writable:
            connection.pause_reading()

    def _head_and_body(self, head: RequestHead) -> bytes:
        data = request_bytes(self.chain.stamp_try(self))
        body = self._body
        if body and not head.upgrade:  # bytes behind an upgrade are for the new protocol
            data += b"".join(map(chunk_bytes, body)) if head.content_length == CHUNKED else b"".join(body)
            if self._body_bytes > REPLAY_BYTES:
                self._forget_body()
        if head.content_length == CHUNKED and self.request_complete:
            data += LAST_CHUNK
        return data

    def on_pool_failure(self, reason: str, cause: str) -> None:
        """No connection could be made."""
        self._pool = None
        self.transport_failure = cause
        self.cluster.on_connect_failure(self.host)
        self._failed_try(reason, cause)

    def on_request_body(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self.active_at = self.connection.last_active
        upstream = self.upstream
        if self._replayable:
            self._body_bytes += len(data)
            self._body.append(data)
        if upstream is not None:
            upstream.write(chunk_bytes(data) if self.head.content_length == CHUNKED else data)
            if self._body_bytes > REPLAY_BYTES:
                self._forget_body()
        elif self._body_bytes > REPLAY_BYTES:
            self._balance()

    def on_request_end(self) -> None:
        self.request_complete = True
        self.request_done_at = self.connection.last_active
        deadlines.request_done(self)
        if self.upstream is not None:
            if self.head.content_length == CHUNKED:
                self.upstream.write(LAST_CHUNK)
            deadlines.start_try(self)

    def _forget_body(self) -> None:
        """It has become too large to be sent again."""
        self._replayable = False
        self._body.clear()
        self._body_bytes = 0

    def _balance(self) -> None:
        """Read from the client only as fast as the host takes it."""
        upstream = self.upstream
        hold = (not self.request_complete or bool(self.head.upgrade)) and (
            not upstream.writable if upstream is not None else self._body_bytes > REPLAY_BYTES
        )
        if hold != self._holding:
            self._holding = hold
            if hold:
                self.connection.hold_reading()
            else:
                self.connection.release_reading()

    def on_upstream_writable(self, writable: bool) -> None:
        self._balance()

    def on_downstream_writable(self, writable: bool) -> None:
        """Read from the host only as fast as the client takes it."""
        upstream = self.upstream
        if upstream is None:
            return
        if writable:
            upstream.resume_reading()
        else:
            upstream.pause_reading()

    # --- the answer's way down ------------------------------------------------------------------------------

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self.response_at = self.active_at = self.chain.clock()
        if head.status == 101 and not self.head.upgrade:
            self.on_upstream_reset(PROTOCOL_ERROR)  # nobody has asked for another protocol
            return
        self.cluster.on_status(self.host, head.status)
        retry = self.retry
        if (
            retry is not None
            and (head.status in retry.statuses or retry.looks_further or self.holds_retry)
            and self._retry_response(head, end_stream)
        ):
            return
        self.response = head
        self.status = status = head.status
        codes = self.cluster.stats.codes
        codes[status] = codes.get(status, 0) + 1  # not of answers that were tried again
        if not self.details:
            self.details = "via_upstream"
        self.try_deadline = NEVER
        if self.head.upgrade:
            body, end_stream = switched.decided(self, head, body, end_stream)
        self.chain.prepare_response(self, head)
        self.answer(head, body, end_stream)
        if head.status == 101:
            switched.begin(self)

    def answer(self, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        """Write the head of an answer, ours or the host's, with the first part of its body."""
        connection, minor = self.connection, self.head.version_minor
        chunked = False
        if head.content_length < 0:
            chunked = minor > 0
            if not chunked:
                connection.closing = True  # the end of the connection is the end of the body
        if end_stream and not self.request_complete:
            connection.closing = True  # nobody waits for the rest of the request
        if connection.closing and head.status != 101:
            head.headers.lines.append(b"connection: close")
        elif not minor:
            head.headers.lines.append(b"connection: keep-alive")
        data = response_bytes(head, chunked)
        self._chunked_down = chunked
        if body:
            self.sent_bytes += len(body)
            data += chunk_bytes(body) if chunked else body
        if not end_stream:
            connection.write(data)
            return
        connection.write(data + LAST_CHUNK if chunked else data)
        self._finish()

    def on_response_body(self, data: bytes) -> None:
        if self.response is None:
            return  # the body of an answer that is not passed on
        self.active_at = self.chain.clock()
        self.sent_bytes += len(data)
        self.connection.write(chunk_bytes(data) if self._chunked_down else data)

    def on_response_end(self) -> None:
        if self.response is None:
            return
        if self._chunked_down:
            self.connection.write(LAST_CHUNK)
        self._finish()

    # --- tries that fail ------------------------------------------------------------------------------------

    def _retry_response(self, head: ResponseHead, end_stream: bool) -> bool:
        """Whether another try follows instead of this answer."""
        if not self._replayable or not self.cluster.retry_after_status(self, head):
            return False
        self._leave_upstream(end_stream and self.request_complete)
        self._wait_for_retry()
        return True

    def on_upstream_reset(self, reason: str) -> None:
        upstream = self.upstream
        assert upstream is not None
        raced = upstream.requests > 1 and not upstream.answered
        self._leave_upstream(False)
        if switched.is_open(self):
            self._finish()
        elif self.response is not None:
            self._cut(reason)
        elif raced and not self._race_retried and self._replayable and self.head.method in IDEMPOTENT:
            # The host closed an idle connection while we were sending: nobody has seen the request fail.
            self._race_retried = True
            self.attempts -= 1
            self._try(fresh=True)
        else:
            self.cluster.on_reset(self.host)
            self._failed_try(reason, "")

    def _failed_try(self, reason: str, cause: str) -> None:
        if self.retry is not None and self._replayable and self.cluster.retry_after_reset(self, reason):
            self._wait_for_retry()
        else:
            answers.upstream_reset(self, reason, cause)

    def _wait_for_retry(self) -> None:
        self.tried.append(self.host)
        self.try_deadline = NEVER
        self.retry_at = self.chain.clock() + self.cluster.retry_delay_s(self)
        deadlines.arm(self)

    def try_again(self) -> None:
        """The back-off is over."""
        self.retry_at = NEVER
        deadlines.arm(self)  # it was armed for the pause; the limits of the whole request go on
        self._try()

    def give_up_try(self, local_reason: str) -> bool:
        """The present try takes too long. True when another one follows."""
        self._drop_upstream()
        self.cluster.on_timeout(self.host)
        if self.retry is None or not self._replayable or not self.cluster.retry_after_reset(self, local_reason):
            return False
        self._wait_for_retry()
        return True

    def _drop_upstream(self) -> None:
        """Leave the connection, or the queue for one, in the middle."""
        if self._pool is not None:
            self._pool.cancel(self)
            self._pool = None
            self.cluster.stats.counts[names.RQ_CANCELLED] += 1
        if self.upstream is not None:
            self._leave_upstream(False)

    def _leave_upstream(self, reusable: bool) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is None:
            return
        cluster = self.cluster
        cluster.stats.counts[names.RQ_ACTIVE] -= 1
        cluster.limits[self.action.priority_high].release(REQUESTS)
        self.host.active -= 1
        if reusable:
            upstream.release(True)
        else:
            upstream.abort()

    def _cut(self, reason: str) -> None:
        """The host failed in the middle of its answer: the client must see that, so its connection is cut."""
        self.flags = self.flags or ("UC" if reason == "connection_termination" else "UPE")
        self.details = f"upstream_reset_after_response_started{{{reason}}}"
        self.break_off()

    def break_off(self) -> None:
        """End an answer that has begun and cannot be completed."""
        self._drop_upstream()
        response = self.response
        framed = self._chunked_down or (response is not None and response.content_length != UNTIL_EOF)
        self._account()
        self.connection.exchange = None
        if framed:
            self.connection.close()  # the client misses the rest
        else:
            self.connection.abort()  # only a reset tells it from a proper end

    # --- the end --------------------------------------------------------------------------------------------

    def abandon_upstream(self) -> None:
        """An answer of our own follows: nothing more is wanted from the host."""
        self._drop_upstream()
        self.retry_at = NEVER

    def _finish(self) -> None:
        upstream = self.upstream
        if upstream is not None:
            self._leave_upstream(self.request_complete)
        if self._holding:
            self._holding = False
            self.connection.release_reading()
        self._account()
        self.connection.exchange_done(self.request_complete)

    def on_request_broken(self, error: ProtocolError) -> None:
        """The body that is being sent is not well-formed."""
        self.flags = "DPE"
        self.details = error.details
        if self.response is not None:
            self.break_off()
        else:
            answers.protocol_error(self, error)

    def on_downstream_gone(self) -> None:
        """The client has closed its connection before the answer was complete."""
        if self.flags != "DC":  # else its end is already noted
            self.flags = f"{self.flags},DC" if self.flags else "DC"
        self.details = "downstream_remote_disconnect"
        self.chain.counts[names.DOWN_RQ_RX_RESET] += 1
        self._drop_upstream()
        self._holding = False
        self._account()

    def _account(self) -> None:
        """Count and log. Called exactly once."""
        if self.holds_retry:
            self.cluster.end_retry(self)
        self.chain.account(self)

    # --- switched protocols and deadlines -------------------------------------------------------------------

    def take_raw(self, data: bytes) -> None:
        """Bytes of the client after a request to switch: passed on once the host has switched."""
        if switched.is_open(self) and self.upstream is not None:
            self.upstream.write(data)
        else:
            self._body.append(data)
            self._body_bytes += len(data)
            self._balance()

    def send_kept(self) -> None:
        """The host has switched: what the client said early goes up."""
        if self._body and self.upstream is not None:
            self.upstream.write(b"".join(self._body))
        self._body.clear()
        self._body_bytes = 0
        self._balance()

    def on_downstream_raw(self, data: bytes) -> None:
        switched.from_downstream(self, data)

    def on_upstream_raw(self, data: bytes) -> None:
        switched.from_upstream(self, data)

    def on_downstream_eof(self) -> bool:
        return switched.downstream_eof(self)

    def on_deadline(self, now: float) -> None:
        deadlines.on_deadline(self, now)
