"""One question to an authorization service over HTTP.

Owns:   the try that carries it, its time limit, reading the answer.
Not:    what is shown and copied (agent.filters.ext_authz), what follows (ext_authz), one try (attempt).
Source: Envoy's ext_authz_http_impl.cc: 200 allows, 5xx is an error, anything else denies with the service's own answer.
Invariant: a service's answer is bounded by MAX_ANSWER_BYTES.
"""

from typing import TYPE_CHECKING, Final

from agent.codec.head import ResponseHead
from agent.codec.serialise import request_bytes
from agent.filters.ext_authz import Questions
from agent.model.ext_authz import ExternalAuthorization
from agent.model.route import Forward
from agent.proxy.attempt import Attempt, TryOwner
from agent.proxy.pause import Pause
from agent.stats import names
from agent.upstream.connection import UpstreamConnection

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange
    from agent.proxy.ext_authz import Check

MAX_ANSWER_BYTES: Final = 1024 * 1024
_SERVICE_TIME: Final = b"x-envoy-upstream-service-time"
_OK: Final = 200
_FIRST_ERROR: Final = 500


class HttpQuestion(TryOwner):
    """Tells its check one end, unless it is closed before."""

    __slots__ = (
        "_attempt",
        "_body",
        "_check",
        "_exchange",
        "_parts",
        "_pause",
        "_questions",
        "_response",
        "_size",
        "_timeout_s",
    )

    def __init__(
        self,
        check: "Check",
        exchange: "Exchange",
        config: ExternalAuthorization,
        questions: Questions,
        forward: Forward,
    ) -> None:
        self.chain = exchange.chain
        self.identity = exchange.chain.asking_identity  # of the workload that is asked for
        self.action = forward
        self.cluster = exchange.chain.runtime.snapshot.clusters.get(config.cluster)
        self._check = check
        self._exchange = exchange
        self._questions = questions
        self._timeout_s = config.timeout_s
        self._attempt: Attempt | None = None
        self._pause = Pause(self._on_timeout)
        self._response: ResponseHead | None = None
        self._body = b""  # of the question
        self._parts: list[bytes] = []  # of the answer's
        self._size = 0

    def begin(self, body: bytes, partial: bytes) -> None:
        """Ask. `partial`: see agent.filters.ext_authz."""
        self._body = body
        self.head = self._questions.head(self._exchange.head, body, partial)
        self.chain.wheel.arm(self._pause, self.chain.clock() + self._timeout_s)
        host = self.cluster.pick_host() if self.cluster is not None else None
        if host is None:
            if self.cluster is not None:
                self.cluster.stats.counts[names.CX_NONE_HEALTHY] += 1
            self._check.failed()
        else:
            self._attempt = attempt = Attempt(self, host)
            attempt.begin()

    def close(self) -> None:
        """Nobody waits any more."""
        self.chain.wheel.disarm(self._pause)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.drop()

    def _on_timeout(self) -> None:
        attempt = self._attempt
        if attempt is not None:
            self.cluster.stats.counts[names.RQ_TIMEOUT] += 1
        if attempt is not None and attempt.upstream is not None and self._response is None:
            self.cluster.on_timeout(attempt.host)
        self._check.failed()

    # --- the try ------------------------------------------------------------------------------------------------

    def try_bytes(self, attempt: Attempt) -> bytes:
        return request_bytes(self.head) + self._body

    def on_try_waiting(self, attempt: Attempt) -> None:
        """It waits for its connection."""

    def on_try_sent(self, attempt: Attempt, upstream: UpstreamConnection) -> None:
        """That is all."""

    def on_try_writable(self, attempt: Attempt) -> None:
        """All is written."""

    def on_try_refused(self, attempt: Attempt) -> None:
        self._check.failed()

    def on_try_unconnected(self, attempt: Attempt, reason: str, cause: str) -> None:
        self._check.failed()

    def on_try_reset(self, attempt: Attempt, reason: str, raced: bool) -> None:
        if self._response is None:
            self.cluster.on_reset(attempt.host)
        self._check.failed()

    def on_answer(self, attempt: Attempt, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self._response = head
        codes = self.cluster.stats.codes
        codes[head.status] = codes.get(head.status, 0) + 1
        if body:
            self.on_answer_body(attempt, body)
        if end_stream and self._attempt is not None:
            self.on_answer_end(attempt)

    def on_answer_body(self, attempt: Attempt, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            self._check.failed()

    def on_answer_end(self, attempt: Attempt) -> None:
        attempt.leave(True)
        response = self._response
        if response is None or self._attempt is None:
            return
        took_ms = int((self.chain.clock() - attempt.started) * 1000)
        response.headers.set(_SERVICE_TIME, b"%d" % took_ms)
        if response.status == _OK:
            self._check.allowed(self._questions.allow(self._exchange.head, response.headers), (), None)
        elif response.status >= _FIRST_ERROR:
            self._check.failed()
        else:
            fields = self._questions.deny(response.headers)
            if self.head.method == b"HEAD":
                fields = tuple(field for field in fields if field[0] != b"content-type")
            self._check.denied(response.status, b"".join(self._parts), fields)

    def on_answer_raw(self, attempt: Attempt, data: bytes) -> None:
        """It never asks for another protocol."""
