"""The global rate limit filter: asking the control plane, waiting, refusing.

Not:    the way to the control plane (limit_book, agent.supervisor), its decision.
Source: data-plane.md 1.10; Envoy's ratelimit.cc: only requests that a cluster will get are asked about; a request waits
        for the answer; without one it goes on, or is refused with 500 RLSE.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent.codec.head import ResponseHead
from agent.filters.rate_limit_descriptors import CompiledRule
from agent.filters.rate_limit_fields import limit_fields
from agent.model.rate_limit import GlobalRateLimit, LimitAnswer, LimitVerdict
from agent.proxy import answers
from agent.proxy.question_book import Question
from agent.proxy.stages import Kept, Stage
from agent.stats import names
from agent.stats.names import global_limit_group

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

LIMITED: Final = "request_rate_limited"
FAILED: Final = "rate_limiter_error"
MARK: Final = (b"x-envoy-ratelimited", b"true")
_Fields = tuple[tuple[bytes, bytes], ...]


def stats_key(cluster: str) -> str:
    """Under which the counts of a cluster's limits stand in the registry, as long as there is the cluster."""
    return f"cluster.{cluster}.ratelimit"


class GlobalRateLimitStage(Stage):
    """One configuration of the filter."""

    __slots__ = ("_rules", "config")

    def __init__(self, config: GlobalRateLimit) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self.config = config
        self._rules = tuple(CompiledRule(rule) for rule in config.rules)

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        choice, runtime = exchange.choice, exchange.chain.runtime
        if choice is None or choice.cluster not in runtime.snapshot.clusters:
            return True
        told = (rule.entries(exchange) for rule in self._rules)
        descriptors = tuple(one for one in told if one is not None)
        if not descriptors:
            return True
        waiting = _Waiting(self.config, exchange, resume)
        waiting.question = runtime.limits.ask(self.config.domain, descriptors, self.config.timeout_s, waiting.hear)
        if waiting.question is None:
            return waiting.goes_on(None)
        assert exchange.passage is not None
        exchange.passage.keep(waiting)
        return False


class _Waiting(Kept):
    """A request that waits for the answer, and what this says of it afterwards."""

    __slots__ = ("_cluster", "_config", "_counts", "_exchange", "_fields", "_resume", "question")

    def __init__(self, config: GlobalRateLimit, exchange: "Exchange", resume: Callable[[], None]) -> None:
        self._config = config
        self._exchange = exchange
        self._resume = resume
        assert exchange.choice is not None
        self._cluster = cluster = exchange.choice.cluster
        self._counts = exchange.chain.runtime.stats.get(stats_key(cluster), lambda: global_limit_group(cluster)).counts
        self._fields: _Fields = ()
        self.question: Question | None = None

    def hear(self, answer: LimitAnswer | None) -> None:
        """What the control plane says, None = nothing."""
        self.question = None
        if self.goes_on(answer):
            self._resume()

    def goes_on(self, answer: LimitAnswer | None) -> bool:
        """Whether the request goes on; else it is answered."""
        config, counts = self._config, self._counts
        if answer is None or answer.verdict is LimitVerdict.ERROR:
            counts[names.GLOBAL_ERROR] += 1
            if not config.deny:
                counts[names.GLOBAL_ALLOWED] += 1
                return True
            answers.limit_failed(self._exchange, config.error_status, FAILED)
            return False
        self._fields = answer.fields
        if config.shown:
            self._fields += limit_fields(answer.states)
        if answer.verdict is LimitVerdict.OK:
            counts[names.GLOBAL_OK] += 1
            return True
        counts[names.GLOBAL_OVER] += 1
        self._refuse()
        return False

    def _refuse(self) -> None:
        config, exchange = self._config, self._exchange
        cluster = exchange.chain.runtime.snapshot.clusters.get(self._cluster)
        if cluster is not None:
            cluster.on_local_answer(config.status)
        if config.marked:
            self._fields += (MARK,)
        answers.rate_limited(exchange, config.status, b"", LIMITED, (), config.grpc_status)

    def mark_answer(self, head: ResponseHead) -> None:
        for name, value in self._fields:
            head.headers.append(name, value)

    def end(self) -> None:
        question, self.question = self.question, None
        if question is not None:
            question.forget()
