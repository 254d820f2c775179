"""Asking a service whether a request may pass.

Owns:   the question under way, its time limit, what an answer, an error or none does to the request.
Not:    what is shown and copied (agent.filters.ext_authz), one try (attempt).
Source: data-plane.md 1.10; Envoy's ext_authz filter with an HTTP service: 200 allows, 5xx is an error, anything else
        denies with the service's own answer.
Invariants: the request waits until the service has answered whole, or is answered itself; without an answer it passes
        only where the configuration says `failure_mode_allow`; a service's answer is bounded by MAX_ANSWER_BYTES; the
        question ends with the request. Nothing is asked twice.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent.codec.head import ResponseHead
from agent.codec.serialise import request_bytes
from agent.filters.ext_authz import Fields, Questions
from agent.filters.local_replies import is_grpc
from agent.filters.metadata import metadata_test
from agent.model.ext_authz import ExternalAuthorization
from agent.model.route import Forward, WeightedCluster
from agent.proxy import answers
from agent.proxy.attempt import Attempt, TryOwner
from agent.proxy.pause import Pause
from agent.proxy.stages import Kept, Stage
from agent.stats import names
from agent.stats.names import ext_authz_group
from agent.upstream.connection import UpstreamConnection

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

MAX_ANSWER_BYTES: Final = 1024 * 1024
_FLAG: Final = "UAEX"
_SERVICE_TIME: Final = b"x-envoy-upstream-service-time"
_OK: Final = 200
_FIRST_ERROR: Final = 500


class ExtAuthzStage(Stage):
    """One filter."""

    __slots__ = ("_prefix", "config", "enabled", "forward", "questions")

    def __init__(self, config: ExternalAuthorization) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self.config = config
        self.questions = Questions(config)
        self.enabled = metadata_test(config.enabled_by) if config.enabled_by is not None else None
        self.forward = Forward(clusters=(WeightedCluster(cluster=config.cluster, weight=1),), total_weight=1)
        self._prefix = f"ext_authz.{config.stat_prefix}." if config.stat_prefix else "ext_authz."

    def counts(self, exchange: "Exchange") -> list[int]:
        """Of the filter in the request's chain."""
        prefix = self._prefix
        group = exchange.chain.filters.group(prefix, lambda own: ext_authz_group(f"http.{own}.{prefix}"))
        return group.counts

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        passage, counts = exchange.passage, self.counts(exchange)
        assert passage is not None
        if self.enabled is not None and not self.enabled(passage.metadata):
            counts[names.EXT_DISABLED] += 1
            return True
        question = Question(self, exchange, resume, counts)
        passage.keep(_Kept(question))
        return question.ask()


class _Kept(Kept):
    """The question, as long as the request is under way."""

    __slots__ = ("_question",)

    def __init__(self, question: "Question") -> None:
        self._question = question

    def mark_answer(self, head: ResponseHead) -> None:
        self._question.mark_answer(head)

    def end(self) -> None:
        self._question.end()


class Question(TryOwner):
    """One question under way, then what its answer has for the client."""

    __slots__ = (
        "_attempt",
        "_body",
        "_counts",
        "_exchange",
        "_fields",
        "_over",
        "_pause",
        "_response",
        "_resume",
        "_settled",
        "_size",
        "_stage",
    )

    def __init__(
        self, stage: ExtAuthzStage, exchange: "Exchange", resume: Callable[[], None], counts: list[int]
    ) -> None:  # fmt: skip
        self.chain = exchange.chain
        self.identity = exchange.chain.asking_identity  # of the workload that is asked for
        self.action = stage.forward
        self.cluster = exchange.chain.runtime.snapshot.clusters.get(stage.config.cluster)
        self.head = stage.questions.head(exchange.head)
        self._stage = stage
        self._exchange = exchange
        self._resume = resume
        self._counts = counts
        self._attempt: Attempt | None = None
        self._pause = Pause(self._on_timeout)
        self._response: ResponseHead | None = None
        self._body: list[bytes] = []
        self._size = 0  # of the body
        self._fields: Fields = ()
        self._over = False
        self._settled = ""  # "" while `ask` has not returned; then how: "later", "passes", "answered"

    def ask(self) -> bool:
        """Whether the request goes on at once."""
        exchange = self._exchange
        exchange.chain.wheel.arm(self._pause, exchange.chain.clock() + self._stage.config.timeout_s)
        host = self.cluster.pick_host() if self.cluster is not None else None
        if host is None:
            if self.cluster is not None:
                self.cluster.stats.counts[names.CX_NONE_HEALTHY] += 1
            self._fail()
        else:
            self._attempt = attempt = Attempt(self, host)
            attempt.begin()
        if not self._settled:
            self._settled = "later"
        return self._settled == "passes"

    # --- the try ------------------------------------------------------------------------------------------------

    def try_bytes(self, attempt: Attempt) -> bytes:
        return request_bytes(self.head)

    def on_try_waiting(self, attempt: Attempt) -> None:
        """It waits for its connection."""

    def on_try_sent(self, attempt: Attempt, upstream: UpstreamConnection) -> None:
        """That is all: there is no body."""

    def on_try_writable(self, attempt: Attempt) -> None:
        """That is all: there is no body."""

    def on_try_refused(self, attempt: Attempt) -> None:
        self._fail()

    def on_try_unconnected(self, attempt: Attempt, reason: str, cause: str) -> None:
        self._fail()

    def on_try_reset(self, attempt: Attempt, reason: str, raced: bool) -> None:
        if self._response is None:
            self.cluster.on_reset(attempt.host)
        self._fail()

    def on_answer(self, attempt: Attempt, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self._response = head
        codes = self.cluster.stats.codes
        codes[head.status] = codes.get(head.status, 0) + 1
        if body:
            self.on_answer_body(attempt, body)
        if end_stream and not self._over:
            self.on_answer_end(attempt)

    def on_answer_body(self, attempt: Attempt, data: bytes) -> None:
        self._body.append(data)
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            self._fail()

    def on_answer_end(self, attempt: Attempt) -> None:
        attempt.leave(True)
        response = self._response
        if response is None or self._over:
            return
        took_ms = int((self._exchange.chain.clock() - attempt.started) * 1000)
        response.headers.set(_SERVICE_TIME, b"%d" % took_ms)
        if response.status == _OK:
            self._close()
            self._counts[names.EXT_OK] += 1
            self._fields = self._stage.questions.allow(self._exchange.head, response.headers)
            self._pass()
        elif response.status >= _FIRST_ERROR:
            self._fail()
        else:
            self._deny(response)

    def on_answer_raw(self, attempt: Attempt, data: bytes) -> None:
        """It never asks for another protocol."""

    # --- what follows -------------------------------------------------------------------------------------------

    def _on_timeout(self) -> None:
        attempt = self._attempt
        if attempt is not None:
            self.cluster.stats.counts[names.RQ_TIMEOUT] += 1
        if attempt is not None and attempt.upstream is not None and self._response is None:
            self.cluster.on_timeout(attempt.host)
        self._fail()

    def _deny(self, response: ResponseHead) -> None:
        self._close()
        self._counts[names.EXT_DENIED] += 1
        fields, request = self._stage.questions.deny(response.headers), self._exchange.head
        if request.method == b"HEAD" or is_grpc(request):
            fields = tuple(field for field in fields if field[0] != b"content-type")
        body = b"".join(self._body)
        self._answer(response.status, body, "ext_authz_denied", fields)

    def _fail(self) -> None:
        """Nobody has answered, or not so that it could be understood."""
        if self._over:
            return
        self._close()
        self._counts[names.EXT_ERROR] += 1
        config = self._stage.config
        if config.fail_open:
            self._counts[names.EXT_FAILURE_ALLOWED] += 1
            self._pass()
        else:
            self._answer(config.status_on_error, b"", "ext_authz_error", ())

    def _pass(self) -> None:
        later = self._settled == "later"
        self._settled = "passes"
        if later:
            self._resume()

    def _answer(self, status: int, body: bytes, details: str, fields: Fields) -> None:
        self._settled = "answered"
        answers.own(self._exchange, status, body, _FLAG, details, fields)

    def _close(self) -> None:
        self._over = True
        self._exchange.chain.wheel.disarm(self._pause)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.drop()

    # --- kept by the request --------------------------------------------------------------------------------------

    def mark_answer(self, head: ResponseHead) -> None:
        """What the service has for the client goes with the answer."""
        for name, value in self._fields:
            head.headers.append(name, value)

    def end(self) -> None:
        """The request is over, and so is the question."""
        if not self._over:
            self._close()
