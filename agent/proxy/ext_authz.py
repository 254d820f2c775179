"""Asking a service whether a request may pass.

Owns:   when it is asked, how much of the body waits for that, what an answer, an error or none does to the request.
Not:    how it is asked (ext_authz_http, ext_authz_grpc), what it is shown and changes (agent.filters).
Source: data-plane.md 1.10; Envoy's ext_authz filter.
Invariants: the request waits until the service has answered whole, or is answered itself; without an answer it passes
        only where the configuration says `failure_mode_allow`; the question ends with the request. Nothing is asked
        twice. Of a body no more waits than the service is shown, and what one read may add to it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agent.codec.head import ResponseHead
from agent.filters import checks
from agent.filters.checks import Shown
from agent.filters.ext_authz import Fields, Questions
from agent.filters.local_replies import is_grpc
from agent.filters.metadata import metadata_test
from agent.model.ext_authz import ExternalAuthorization, HeaderChange
from agent.model.route import Forward, WeightedCluster
from agent.proxy import answers
from agent.proxy.ext_authz_grpc import GrpcQuestion
from agent.proxy.ext_authz_http import HttpQuestion
from agent.proxy.stages import BodyReader, Stage
from agent.stats import names
from agent.stats.names import ext_authz_group

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

FILTER: Final = "envoy.filters.http.ext_authz"
_FLAG: Final = "UAEX"
_FAILURE_ALLOWED: Final = b"x-envoy-auth-failure-mode-allowed"
_INVALID: Final = 500


class ExtAuthzStage(Stage):
    """One filter."""

    __slots__ = ("_prefix", "config", "enabled", "forward", "questions", "shown")

    def __init__(self, config: ExternalAuthorization) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self.config = config
        self.questions = Questions(config)
        self.shown = Shown(config)
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
        if exchange.match is None:
            return True  # it goes nowhere
        if self.enabled is not None and not self.enabled(passage.metadata):
            counts[names.EXT_DISABLED] += 1
            return True
        check = Check(self, exchange, resume, counts)
        passage.keep(check)
        return check.begin()


class Check(BodyReader):
    """One request that waits for the service, then what the answer has for the client."""

    __slots__ = (
        "_changes",
        "_counts",
        "_exchange",
        "_fields",
        "_over",
        "_question",
        "_resume",
        "_settled",
        "_stage",
    )

    def __init__(
        self, stage: ExtAuthzStage, exchange: "Exchange", resume: Callable[[], None], counts: list[int]
    ) -> None:  # fmt: skip
        self._stage = stage
        self._exchange = exchange
        self._resume = resume
        self._counts = counts
        self._question: HttpQuestion | GrpcQuestion | None = None
        self._fields: Fields = ()
        self._changes: tuple[HeaderChange, ...] = ()
        self._over = False
        self._settled = ""  # "" while `begin` has not returned; then how: "later", "passes", "answered"

    def begin(self) -> bool:
        """Whether the request goes on at once."""
        exchange, shown = self._exchange, self._stage.config.body
        body, passage = exchange.body, exchange.passage
        if shown is None or body is None or exchange.head.upgrade:
            self._ask(None)
        else:
            assert passage is not None
            passage.reader = self
            body.make_room(shown.max_bytes)
            if self._wants_more():
                exchange.ask_for_body()
                exchange.balance()
        if not self._settled:
            self._settled = "later"
        return self._settled == "passes"

    def on_body(self) -> None:
        self._wants_more()

    def _wants_more(self) -> bool:
        """Ask, or refuse, as soon as there is enough of the body."""
        exchange, shown = self._exchange, self._stage.config.body
        body, passage = exchange.body, exchange.passage
        assert shown is not None
        assert body is not None
        assert passage is not None
        if body.size > shown.max_bytes and not shown.partial:
            passage.reader = None
            self._over = True
            self._settled = "answered"
            exchange.chain.counts[names.DOWN_RQ_TOO_LARGE] += 1
            answers.too_large(exchange)
            return False
        if exchange.request_complete or (shown.partial and body.size >= shown.max_bytes):
            passage.reader = None
            body.make_room(0)
            exchange.balance()
            self._ask(body.first(shown.max_bytes))
            return False
        return True

    def _ask(self, body: bytes | None) -> None:
        stage, exchange = self._stage, self._exchange
        partial = b""
        if body is not None and exchange.body is not None:
            partial = b"true" if exchange.body.size > len(body) else b"false"
        if stage.config.grpc:
            asked = GrpcQuestion(self, exchange, stage.config, stage.shown)
            self._question = asked
            asked.begin(body, partial)
        else:
            question = HttpQuestion(self, exchange, stage.config, stage.questions, stage.forward)
            self._question = question
            question.begin(body or b"", partial)

    # --- what follows -------------------------------------------------------------------------------------------

    def allowed(self, fields: Fields, changes: tuple[HeaderChange, ...], metadata: dict[str, Any] | None) -> None:
        """It may pass, and is changed. `fields` and `changes`: of the answer to the client."""
        if self._over:
            return
        self._close()
        self._counts[names.EXT_OK] += 1
        self._fields, self._changes = fields, changes
        self._note(metadata)
        self._pass()

    def denied(self, status: int, body: bytes, fields: Fields, metadata: dict[str, Any] | None = None) -> None:
        """The service's own answer takes the place of the host's."""
        if self._over:
            return
        self._close()
        self._counts[names.EXT_DENIED] += 1
        self._note(metadata)
        self._answer(status, body, "ext_authz_denied", fields)

    def failed(self, status: int = 0, body: bytes = b"", fields: Fields = ()) -> None:
        """Nobody has answered, or not so that it could be understood. `status` and the rest: what the service wants to
        be said of that, 0 = nothing."""
        if self._over:
            return
        self._close()
        self._counts[names.EXT_ERROR] += 1
        config = self._stage.config
        if config.fail_open:
            self._counts[names.EXT_FAILURE_ALLOWED] += 1
            if config.mark_failure:
                self._exchange.head.headers.append(_FAILURE_ALLOWED, b"true")
            self._pass()
        else:
            self._answer(status or config.status_on_error, body, "ext_authz_error", fields)

    def invalid(self) -> None:
        """The service wants what nobody can do."""
        if self._over:
            return
        self._close()
        self._counts[names.EXT_INVALID] += 1
        self._answer(_INVALID, b"", "ext_authz_invalid", ())

    def _note(self, metadata: dict[str, Any] | None) -> None:
        passage = self._exchange.passage
        if metadata and passage is not None:
            passage.metadata.setdefault(FILTER, {}).update(metadata)

    def _pass(self) -> None:
        passage = self._exchange.passage
        if passage is not None:
            passage.asking = None  # what authorization knew may have changed
        later = self._settled == "later"
        self._settled = "passes"
        if later:
            self._resume()

    def _answer(self, status: int, body: bytes, details: str, fields: Fields) -> None:
        self._settled = "answered"
        if is_grpc(self._exchange.head):
            fields = tuple(field for field in fields if field[0] != b"content-type")
        answers.own(self._exchange, status, body, _FLAG, details, fields)

    def _close(self) -> None:
        self._over = True
        question, self._question = self._question, None
        if question is not None:
            question.close()

    # --- kept by the request --------------------------------------------------------------------------------------

    def mark_answer(self, head: ResponseHead) -> None:
        """What the service has for the client goes with the answer."""
        for name, value in self._fields:
            head.headers.append(name, value)
        if self._changes:
            checks.change_answer(head, self._changes)

    def end(self) -> None:
        """The request is over, and so is the question."""
        if not self._over:
            self._close()
