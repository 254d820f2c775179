"""Copies of requests to other clusters: sent beside the request, their answers dropped.

Owns:   which requests are copied, what a copy's head says, its life, how much of all copies is kept in memory.
Not:    one try (attempt), the limits of the cluster that gets it (agent.upstream.clusters).
Source: data-plane.md 1.8; Envoy's shadow writer: the host gets `-shadow` behind its name, the body is passed on as it
        comes, the route's timeout applies, nothing is tried again; never for a request that may switch protocols.
Differs: a copy never slows its request: what its host takes too slowly is given up. Without a timeout in the route a
        copy has MAX_WAIT_S. It says nothing of ourselves (Envoy: x-envoy-internal, its address in x-forwarded-for).
Invariants: at most MAX_COPIES are under way in a worker, which keep at most MAX_KEPT_BYTES of bodies; each ends.
"""

import re
from typing import TYPE_CHECKING, Any

from agent.codec.head import CHUNKED, RequestHead, ResponseHead
from agent.codec.serialise import LAST_CHUNK, chunk_bytes, request_bytes
from agent.filters import envoy_headers
from agent.model.route import Forward, Mirror
from agent.model.shares import falls
from agent.proxy.attempt import Attempt, TryOwner
from agent.proxy.pause import Pause
from agent.stats import names
from agent.upstream.connection import UpstreamConnection

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange
    from agent.proxy.runtime import Snapshot

MAX_COPIES = 1024
MAX_KEPT_BYTES = 16 * 1024 * 1024
MAX_COPY_BYTES = 1024 * 1024  # of one copy
MAX_WAIT_S = 60.0
_SUFFIX = b"-shadow"
_PORT = re.compile(rb":[0-9]*\Z")
_UNAVAILABLE = 503
_TIMED_OUT = 504


class MirrorBook:
    """The copies of one worker. `kept_bytes`: of their bodies."""

    __slots__ = ("copies", "kept_bytes")

    def __init__(self) -> None:
        self.copies: set[MirroredRequest] = set()
        self.kept_bytes = 0

    def end(self) -> None:
        """Give up all of them."""
        for copy in list(self.copies):
            copy.give_up()


def copies_of(exchange: "Exchange", action: Forward, snapshot: "Snapshot") -> "list[MirroredRequest]":
    """Copies, not sent yet, of a request whose head is ready for its first try."""
    rng = exchange.chain.rng
    found: list[MirroredRequest] = []
    for mirror in action.mirrors:
        cluster = snapshot.clusters.get(mirror.cluster)
        if falls(mirror.per_million, rng) and cluster is not None:
            found.append(MirroredRequest(exchange, mirror, cluster))
    return found


def host_of(authority: bytes, mirror: Mirror) -> bytes:
    """The host that a copy names."""
    if mirror.host_rewrite:
        return mirror.host_rewrite.encode()
    if not mirror.host_suffix:
        return authority
    port = _PORT.search(authority)
    at = port.start() if port is not None else len(authority)
    return authority[:at] + _SUFFIX + authority[at:]


def _head_of(exchange: "Exchange", mirror: Mirror) -> RequestHead:
    head = exchange.head
    copy = RequestHead(head.method, head.path, host_of(head.authority, mirror), head.headers.copy())
    copy.content_length = head.content_length
    copy.scheme = head.scheme
    copy.headers.set(b"host", copy.authority)
    retry, timeout_s = exchange.retry, exchange.action.timeout_s
    envoy_headers.expect_within(copy, timeout_s, retry.expected_try_s if retry is not None else 0.0, 0.0)
    assert exchange.match is not None
    if exchange.match.plan.counts_attempts:
        envoy_headers.count_attempt(copy, 1)
    return copy


class MirroredRequest(TryOwner):
    """One copy."""

    __slots__ = (
        "_attempt",
        "_book",
        "_complete",
        "_done_at",
        "_first",
        "_kept",
        "_over",
        "_pause",
        "_size",
        "_status",
    )

    def __init__(self, exchange: "Exchange", mirror: Mirror, cluster: Any) -> None:
        self.chain = exchange.chain
        self.identity = exchange.identity
        self.action = exchange.action
        self.cluster = cluster
        self.head = _head_of(exchange, mirror)
        self._book = exchange.chain.runtime.mirrors
        self._attempt: Attempt | None = None
        self._kept: list[bytes] = []  # of the body: what is to be sent
        self._size = 0
        self._first = exchange.body.so_far(exchange.request_complete) if exchange.body is not None else b""
        self._complete = exchange.request_complete
        self._over = False  # nothing more happens
        self._done_at = 0.0
        self._status = 0
        self._pause = Pause(self._on_timeout)

    def begin(self) -> None:
        """Send it."""
        if self._over:
            return
        if len(self._book.copies) >= MAX_COPIES:
            self.give_up()
            return
        self._book.copies.add(self)
        if self._first:
            self._keep(self._first)
        if self._complete:
            self._on_complete()
        host = self.cluster.pick_host()
        if host is None:
            self.cluster.stats.counts[names.CX_NONE_HEALTHY] += 1
            self._end(_UNAVAILABLE)
        elif not self._over:
            self._attempt = attempt = Attempt(self, host)
            attempt.begin()

    # --- the request that it is a copy of -----------------------------------------------------------------------

    def on_request_body(self, data: bytes) -> None:
        if not self._over:
            self._send(chunk_bytes(data) if self.head.content_length == CHUNKED else data)

    def on_request_end(self) -> None:
        if self._over:
            return
        self._complete = True
        if self.head.content_length == CHUNKED:
            self._send(LAST_CHUNK)
        self._on_complete()

    def on_request_over(self) -> None:
        """The client has its answer, or has gone. A copy that is not whole by then never will be."""
        if not self._complete:
            self.give_up()

    def _on_complete(self) -> None:
        chain = self.chain
        self._done_at = chain.clock()
        chain.wheel.arm(self._pause, self._done_at + (self.action.timeout_s or MAX_WAIT_S))

    # --- its body -------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        upstream = self._attempt.upstream if self._attempt is not None else None
        if upstream is not None and upstream.writable and not self._kept:
            upstream.write(data)
        else:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        book = self._book
        if self._size + len(data) > MAX_COPY_BYTES or book.kept_bytes + len(data) > MAX_KEPT_BYTES:
            self.give_up()
            return
        self._kept.append(data)
        self._size += len(data)
        book.kept_bytes += len(data)

    def _taken(self) -> bytes:
        data = b"".join(self._kept)
        self._kept.clear()
        self._book.kept_bytes -= self._size
        self._size = 0
        return data

    # --- its try --------------------------------------------------------------------------------------------------

    def try_bytes(self, attempt: Attempt) -> bytes:
        return request_bytes(self.head) + self._taken()

    def on_try_waiting(self, attempt: Attempt) -> None:
        """Nobody is held up by that."""

    def on_try_sent(self, attempt: Attempt, upstream: UpstreamConnection) -> None:
        """The rest of the body follows as it comes."""

    def on_try_writable(self, attempt: Attempt) -> None:
        upstream = attempt.upstream
        if upstream is not None and upstream.writable and self._kept:
            upstream.write(self._taken())

    def on_try_refused(self, attempt: Attempt) -> None:
        self._end(_UNAVAILABLE)

    def on_try_unconnected(self, attempt: Attempt, reason: str, cause: str) -> None:
        self._end(_UNAVAILABLE)

    def on_try_reset(self, attempt: Attempt, reason: str, raced: bool) -> None:
        if self._status:
            self._end(0)
        else:
            self.cluster.on_reset(attempt.host)
            self._end(_UNAVAILABLE)

    def on_answer(self, attempt: Attempt, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self._status = status = head.status
        codes = self.cluster.stats.codes
        codes[status] = codes.get(status, 0) + 1
        if end_stream:
            self.on_answer_end(attempt)

    def on_answer_body(self, attempt: Attempt, data: bytes) -> None:
        """It is dropped."""

    def on_answer_end(self, attempt: Attempt) -> None:
        attempt.leave(self._complete)
        if self._complete:
            took_ms = (self.chain.clock() - self._done_at) * 1000
            self.cluster.stats.histograms[names.RQ_TIME].add(took_ms)
        self._end(0)

    def on_answer_raw(self, attempt: Attempt, data: bytes) -> None:
        """A copy never asks for another protocol."""

    # --- its end --------------------------------------------------------------------------------------------------

    def _on_timeout(self) -> None:
        self.cluster.stats.counts[names.RQ_TIMEOUT] += 1
        attempt = self._attempt
        if attempt is not None and attempt.upstream is not None and not self._status:
            self.cluster.on_timeout(attempt.host)
        self._end(0 if self._status else _TIMED_OUT)

    def give_up(self) -> None:
        """It will not be whole, or nobody has time for it."""
        if not self._over:
            self.cluster.stats.counts[names.RETRY_OR_SHADOW_ABANDONED] += 1
            self._end(0)

    def _end(self, status: int) -> None:
        """`status`: the answer that a client would have got from us, 0 = none."""
        self._over = True
        self._book.copies.discard(self)
        self._taken()
        if self._attempt is not None:
            self._attempt.drop()
            self._attempt = None
        self.chain.wheel.disarm(self._pause)
        if status:
            self.cluster.on_local_answer(status)
