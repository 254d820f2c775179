"""One request and its answer, from the parsed head to the access-log line.

Owns:   the life of a request: its state, bodies both ways, the one answer, the end.
Not:    parsing and the connection (http_connection), where it goes (routing), one try (attempt), whether another
        follows (retrying, hedging), what is kept of its body (request_body), answers of our own (answers), deadlines,
        switched protocols (switched).
Source: data-plane.md 1.4-1.6, 1.9, 1.11, 2.2, 2.5 and the golden matrix.
Invariants: exactly one answer and one log line; an answer that breaks off in the middle is cut, never ended properly.
"""

from typing import TYPE_CHECKING

from agent.cluster.hosts import Host
from agent.cluster.retries import RetryRules
from agent.codec.head import UNTIL_EOF, RequestHead, ResponseHead
from agent.codec.protocol_error import ProtocolError
from agent.codec.serialise import CONTINUE, LAST_CHUNK, chunk_bytes, request_bytes, response_bytes
from agent.filters import response_headers
from agent.model.route import WeightedCluster
from agent.proxy import answers, deadlines, hedging, retrying, routing, switched
from agent.proxy.attempt import Attempt, TryOwner
from agent.proxy.request_body import RequestBody
from agent.router.table import Match
from agent.stats import names
from agent.upstream.clusters import UpstreamCluster
from agent.upstream.connection import UpstreamConnection
from agent.upstream.wheel import NEVER

if TYPE_CHECKING:
    from agent.proxy.http_connection import HttpConnection
    from agent.proxy.passage import Passage


class Exchange(TryOwner):
    """Made per request. The public attributes are also what the access log reads."""

    __slots__ = (
        "_chunked_down",
        "active_at",
        "answered_here",
        "asked_s",
        "attempt",
        "attempts",
        "back_offs",
        "body",
        "carrier",
        "choice",
        "connection",
        "details",
        "ended",
        "flags",
        "hedged",
        "holds_retry",
        "host",
        "idle_timeout_s",
        "match",
        "passage",
        "race_retried",
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
        "try_idle_at",
    )

    def __init__(self, connection: "HttpConnection", head: RequestHead, now: float) -> None:
        self.connection = connection
        self.chain = chain = connection.chain
        self.identity = chain.identity
        self.head = head
        self.started = self.active_at = now
        self.match: Match | None = None
        self.action = None
        self.choice: WeightedCluster | None = None
        self.passage: Passage | None = None  # past HTTP filters; None when there are none for it
        self.cluster = None
        self.body: RequestBody | None = None  # None when there is none
        self.attempt: Attempt | None = None  # the last one
        self.hedged: tuple[Attempt, ...] = ()  # those before it that are awaited too
        self.attempts = 0
        self.tried: list[Host] = []  # hosts of the tries before
        self.host: Host | None = None  # of the last try, as is `carrier`, its connection, also when it is over
        self.carrier: UpstreamConnection | None = None
        self.transport_failure = ""  # why no connection could be made
        self.retry: RetryRules | None = None
        self.holds_retry = False  # a retry of this request counts among those under way
        self.race_retried = False
        self.asked_s = 0.0  # when the host wants to be asked again
        self.back_offs = 0
        self.response: ResponseHead | None = None
        self.answered_here = False  # the answer is one of our own
        self.status = 0
        self.flags = ""
        self.details = ""
        self.received_bytes = self.sent_bytes = 0
        self.request_complete = False
        self.request_done_at = self.response_at = self.ended = 0.0
        self.idle_timeout_s = 0.0
        self.route_deadline = self.stream_deadline = self.try_deadline = self.try_idle_at = self.retry_at = NEVER
        self._chunked_down = False

    # --- the request's way up -------------------------------------------------------------------------------

    def start(self, body: bytes, end_stream: bool) -> None:
        """The head has come, with the first part of the body and whether that is all."""
        chain = self.chain
        chain.counts[names.DOWN_RQ_TOTAL] += 1
        chain.counts[names.DOWN_RQ_ACTIVE] += 1
        self.idle_timeout_s = chain.hcm.stream_idle_timeout_s
        if not end_stream or self.head.content_length or self.head.upgrade:
            self.body = RequestBody(self.connection, self.head)
            if body:
                self.received_bytes = len(body)
                self.body.keep(body)
        if end_stream:
            self.request_complete = True
            self.request_done_at = self.started
        refusal = chain.prepare_request(self)
        if refusal:
            answers.refuse_head(self, refusal)
        else:
            routing.route(self)

    def ask_for_body(self) -> None:
        """Somebody wants it: a client that waits for that is told to go on, once."""
        head = self.head
        if head.expect_continue:
            head.expect_continue = False
            head.headers.remove(b"expect")
            if not self.request_complete:
                self.connection.write(CONTINUE)

    def refuse(self, error: ProtocolError) -> None:
        """What came is no request."""
        chain = self.chain
        chain.counts[names.DOWN_RQ_TOTAL] += 1
        chain.counts[names.DOWN_RQ_ACTIVE] += 1
        chain.counts[names.DOWN_RQ_HTTP1_TOTAL] += 1
        chain.counts[names.DOWN_RQ_RX_RESET] += 1
        answers.protocol_error(self, error)

    def try_host(self, fresh: bool = False) -> None:
        """Pick a host and send it the request; `fresh`: on a connection that has not waited in the pool."""
        cluster: UpstreamCluster = self.cluster
        self.host = host = cluster.pick(self)
        self.attempts += 1
        if host is None:
            answers.no_healthy_upstream(self)
            return
        passage = self.passage
        self.attempt = attempt = Attempt(self, host) if passage is None else passage.attempt(host)
        attempt.begin(fresh)

    def try_bytes(self, attempt: Attempt) -> bytes:
        data = request_bytes(self.chain.stamp_try(self))
        body = self.body
        return data if body is None else data + body.beginning(self.request_complete)

    def on_try_sent(self, attempt: Attempt, upstream: UpstreamConnection) -> None:
        self.carrier = upstream
        if self.request_complete and self.retry is not None:
            deadlines.start_try(self)
        if self.body is not None:
            self.balance()
        if not self.connection.writable:
            upstream.pause_reading()

    def on_request_body(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self.active_at = self.connection.last_active
        body, upstream = self.body, self.upstream
        assert body is not None
        body.keep(data)
        if upstream is not None:
            upstream.write(body.wire(data))
            body.was_sent()
        elif body.full:
            self.balance()
        if self.passage is not None:
            self.passage.on_request_body(data)

    def on_request_end(self) -> None:
        self.request_complete = True
        self.request_done_at = self.connection.last_active
        deadlines.request_done(self)
        upstream = self.upstream
        if upstream is not None:
            assert self.body is not None
            if self.body.last:
                upstream.write(self.body.last)
            deadlines.start_try(self)
        if self.passage is not None:
            self.passage.on_request_end()

    @property
    def upstream(self) -> UpstreamConnection | None:
        """The connection that carries the request now."""
        return self.attempt.upstream if self.attempt is not None else None

    def balance(self) -> None:
        """Read from the client only as fast as the host takes it."""
        body, upstream = self.body, self.upstream
        if body is not None:
            wanted = not self.request_complete or bool(self.head.upgrade)
            body.hold(wanted and (body.full if upstream is None else not upstream.writable))

    def on_try_waiting(self, attempt: Attempt) -> None:
        self.balance()

    def on_try_writable(self, attempt: Attempt) -> None:
        self.balance()

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

    def on_answer(self, attempt: Attempt, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self.response_at = self.active_at = self.chain.clock()
        if self.retry is not None and retrying.after_answer(self, attempt, head, end_stream):
            return
        if self.hedged:
            hedging.settle(self, attempt)
        if self.passage is not None and self.passage.on_answer(attempt, head, body, end_stream):
            return
        self.response = head
        self.status = status = head.status
        cluster: UpstreamCluster = self.cluster
        codes = cluster.stats.codes
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
        elif not head.content_length and minor and self.head.method == b"HEAD":
            response_headers.frame_like_get(head)
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

    def on_answer_body(self, attempt: Attempt, data: bytes) -> None:
        if self.response is None:
            return  # the body of an answer that is not passed on
        self.active_at = self.chain.clock()
        self.sent_bytes += len(data)
        self.connection.write(chunk_bytes(data) if self._chunked_down else data)
        if self.passage is not None:
            self.passage.on_answer_body(data)

    def on_answer_end(self, attempt: Attempt) -> None:
        if self.response is None:
            return
        if self._chunked_down:
            self.connection.write(LAST_CHUNK)
        if self.passage is not None:
            self.passage.on_answer_end()
        self._finish()

    # --- tries that fail ------------------------------------------------------------------------------------

    def on_try_refused(self, attempt: Attempt) -> None:
        retrying.after_overflow(self, attempt)

    def on_try_unconnected(self, attempt: Attempt, reason: str, cause: str) -> None:
        self.transport_failure = cause
        retrying.after_failure(self, attempt, reason, cause)

    def on_try_reset(self, attempt: Attempt, reason: str, raced: bool) -> None:
        if switched.is_open(self):
            self._finish()
        elif self.response is not None:
            self._cut(reason)
        else:
            retrying.after_reset(self, attempt, reason, raced)

    def on_try_timeout(self, reason: str) -> None:
        """The last try takes longer than one may: PER_TRY_TIMEOUT or PER_TRY_IDLE_TIMEOUT."""
        if self.attempt is not None:
            retrying.after_timeout(self, self.attempt, reason)

    def try_again(self) -> None:
        """The pause after a try is over."""
        retrying.again(self)

    def _cut(self, reason: str) -> None:
        """The host failed in the middle of its answer: the client must see that, so its connection is cut."""
        self.flags = self.flags or ("UC" if reason == "connection_termination" else "UPE")
        self.details = f"upstream_reset_after_response_started{{{reason}}}"
        self.break_off()

    def break_off(self) -> None:
        """End an answer that has begun and cannot be completed."""
        self._drop_tries()
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
        self._drop_tries()
        self.retry_at = NEVER

    def _drop_tries(self) -> None:
        if self.attempt is not None:
            self.attempt.drop()
        for attempt in self.hedged:
            attempt.drop()
        self.hedged = ()

    def _finish(self) -> None:
        if self.attempt is not None:
            self.attempt.leave(self.request_complete)
        if self.body is not None:
            self.body.hold(False)
        self._account()
        self.connection.exchange_done(self.request_complete)

    def on_request_broken(self, error: ProtocolError) -> None:
        """The body that is being sent is not well-formed."""
        if self.response is not None:
            self.flags = "DPE"
            self.details = error.details
            self.break_off()
        else:
            answers.protocol_error(self, error)

    def on_downstream_gone(self) -> None:
        """The client has closed its connection before the answer was complete."""
        if self.flags != "DC":  # else its end is already noted
            self.flags = answers.joined(self.flags, "DC")
        self.details = "downstream_remote_disconnect"
        self.chain.counts[names.DOWN_RQ_RX_RESET] += 1
        self._drop_tries()
        if self.body is not None:
            self.body.let_go()
        self._account()

    def _account(self) -> None:
        """Count and log. Called exactly once."""
        if self.holds_retry:
            self.cluster.end_retry(self)
        if self.passage is not None:
            self.passage.end()
            self.passage = None
        self.attempt = None  # which has a reference to us
        self.chain.account(self)

    # --- switched protocols and deadlines -------------------------------------------------------------------

    def on_downstream_raw(self, data: bytes) -> None:
        switched.from_downstream(self, data)

    def on_answer_raw(self, attempt: Attempt, data: bytes) -> None:
        switched.from_upstream(self, data)

    def on_downstream_eof(self) -> bool:
        return switched.downstream_eof(self)

    def on_deadline(self, now: float) -> None:
        deadlines.on_deadline(self, now)
