"""The local rate limit filter: counting, refusing, telling clients where they stand.

Not:    which buckets there are and what they hold (agent.filters).
Source: data-plane.md 1.10; Envoy's local_ratelimit.cc.
Differs: a refusal says with Retry-After when the next token comes (Envoy says so only by X-RateLimit-Reset, if asked).
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from agent.codec.head import ResponseHead
from agent.filters.local_rate_limit import LocalLimiter, Verdict
from agent.filters.rate_limit_fields import LIMIT, REMAINING, RESET
from agent.model.rate_limit import LocalRateLimit
from agent.model.shares import falls
from agent.proxy import answers
from agent.proxy.stages import Kept, Stage
from agent.stats import names
from agent.stats.names import local_limit_group

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

BODY: Final = b"local_rate_limited"
DETAILS: Final = "local_rate_limited"
RETRY_AFTER: Final = b"retry-after"


class LocalRateLimitStage(Stage):
    """One configuration of the filter."""

    __slots__ = ("_config", "_group", "_key", "_limiter")

    def __init__(self, config: LocalRateLimit, name: str) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self._config = config
        self._limiter = LocalLimiter(config, name)
        self._key = f"{config.stat_prefix}.http_local_rate_limit"
        self._group = partial(local_limit_group, config.stat_prefix)

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        config, chain = self._config, exchange.chain
        if not falls(config.enabled_per_million, chain.rng):
            return True
        counts = chain.runtime.stats.get(self._key, self._group).counts
        counts[names.LIMIT_ENABLED] += 1
        now_ns = int(chain.clock() * 1e9)
        verdict = self._limiter.check(chain.runtime.tokens, chain.hcm.stat_prefix, exchange, now_ns)
        if config.shown and verdict.bucket is not None:
            assert exchange.passage is not None
            exchange.passage.keep(_Shown(verdict))
        if verdict.allowed:
            counts[names.LIMIT_OK] += 1
            return True
        counts[names.LIMIT_LIMITED] += 1
        if not falls(config.enforced_per_million, chain.rng):
            return True
        counts[names.LIMIT_ENFORCED] += 1
        fields = ((RETRY_AFTER, b"%d" % verdict.retry_s),)
        answers.rate_limited(exchange, config.status, BODY, DETAILS, fields, config.grpc_status)
        return False


class _Shown(Kept):
    """The answer says how much is left."""

    __slots__ = ("_verdict",)

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def mark_answer(self, head: ResponseHead) -> None:
        verdict, bucket = self._verdict, self._verdict.bucket
        assert bucket is not None
        remaining = verdict.remaining
        head.headers.append(LIMIT, b"%d" % bucket.max_tokens)
        head.headers.append(REMAINING, b"%d" % remaining)
        head.headers.append(RESET, b"%d" % (0 if remaining else bucket.reset_s))
