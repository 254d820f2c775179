"""Tries that fail: whether another one follows, and when.

Owns:   the pause between tries, the one silent repetition when a kept connection was closed under a request, when a try
        is started beside one that takes too long.
Not:    the rules (agent.cluster.retries), slots and counts (agent.upstream.clusters), the answer when none follows
        (answers).
Source: data-plane.md 1.5; RFC 9110 9.2.2 and RFC 9112 9.3.1 for the repetition.
Invariants: nothing is tried again after the first byte of an answer went to the client, nor when the body is not kept.
"""

from typing import TYPE_CHECKING

from agent.codec.head import ResponseHead
from agent.model.resets import OVERFLOW, PER_TRY_IDLE_TIMEOUT, PER_TRY_TIMEOUT
from agent.proxy import answers, deadlines, hedging
from agent.proxy.attempt import Attempt
from agent.stats import names
from agent.upstream.wheel import NEVER

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})  # RFC 9110 9.2.2
_COUNTED = {PER_TRY_TIMEOUT: names.RQ_PER_TRY_TIMEOUT, PER_TRY_IDLE_TIMEOUT: names.RQ_PER_TRY_IDLE_TIMEOUT}


def after_answer(exchange: "Exchange", attempt: Attempt, head: ResponseHead, end_stream: bool) -> bool:
    """Whether this answer is not taken, since another try follows or is awaited. Call it only for a request that has
    retry rules."""
    retry, hedged = exchange.retry, exchange.hedged
    assert retry is not None
    if not hedged and head.status not in retry.statuses and not retry.looks_further and not exchange.holds_retry:
        return False
    if attempt not in hedged and _repeatable(exchange) and exchange.cluster.retry_after_status(exchange, head):
        attempt.leave(end_stream and exchange.request_complete)
        _pause(exchange, attempt)
        return True
    if not hedged or not retry.wants_answer(head, exchange.head) or not hedging.goes_on(exchange, attempt):
        return False
    attempt.leave(False)
    return True


def after_reset(exchange: "Exchange", attempt: Attempt, reason: str, raced: bool) -> None:
    """The host ended the try without an answer."""
    first_fault = raced and not exchange.race_retried and not attempt.late
    if first_fault and _repeatable(exchange) and exchange.head.method in IDEMPOTENT:
        # The host closed an idle connection while we were sending: nobody has seen the request fail.
        exchange.race_retried = True
        exchange.attempts -= 1
        exchange.try_host(fresh=True)
        return
    exchange.cluster.on_reset(attempt.host)
    after_failure(exchange, attempt, reason, "")


def after_failure(exchange: "Exchange", attempt: Attempt, reason: str, cause: str) -> None:
    """The try has no answer, and its host knows."""
    if attempt not in exchange.hedged and _follows(exchange, reason):
        _pause(exchange, attempt)
    elif hedging.goes_on(exchange, attempt):
        exchange.cluster.on_local_answer(answers.status_of(reason))  # Envoy counts what nobody hears
    else:
        answers.upstream_reset(exchange, reason, cause)


def after_overflow(exchange: "Exchange", attempt: Attempt) -> None:
    """There is no room for the try."""
    if hedging.goes_on(exchange, attempt):
        exchange.cluster.on_local_answer(answers.status_of(OVERFLOW))
    else:
        answers.overflow(exchange)


def after_timeout(exchange: "Exchange", attempt: Attempt, reason: str) -> None:
    """The try takes longer than one may: it is given up, or goes on beside another one."""
    if exchange.retry is not None and exchange.retry.hedges:
        _try_beside(exchange, attempt)
        return
    exchange.cluster.stats.counts[_COUNTED[reason]] += 1
    asked, held = attempt.upstream is not None, attempt.is_held
    attempt.drop()
    if not held:
        exchange.cluster.on_timeout(attempt.host, asked)
    if exchange.response is None and _follows(exchange, reason):
        _pause(exchange, attempt)
    else:
        answers.try_timeout(exchange, reason)


def _try_beside(exchange: "Exchange", attempt: Attempt) -> None:
    if not attempt.late:
        attempt.late = True
        if not attempt.is_held:
            exchange.cluster.on_timeout(attempt.host)
        rules = exchange.retry
        may = exchange.response is None and rules is not None and rules.policy.retry_on and _repeatable(exchange)
        if may and exchange.cluster.retry_beside(exchange):
            exchange.hedged = (*exchange.hedged, attempt)
            _pause(exchange, attempt)
            return
    deadlines.arm(exchange)


def again(exchange: "Exchange") -> None:
    """The pause is over."""
    exchange.retry_at = NEVER
    deadlines.arm(exchange)  # it was armed for the pause; the limits of the whole request go on
    exchange.transport_failure = ""
    exchange.try_host()


def _repeatable(exchange: "Exchange") -> bool:
    body = exchange.body
    return body is None or bool(body.whole)


def _follows(exchange: "Exchange", reason: str) -> bool:
    return (
        exchange.retry is not None
        and _repeatable(exchange)
        and bool(exchange.cluster.retry_after_reset(exchange, reason))
    )


def _pause(exchange: "Exchange", attempt: Attempt) -> None:
    exchange.tried.append(attempt.host)
    exchange.try_deadline = exchange.try_idle_at = NEVER
    exchange.retry_at = exchange.chain.clock() + exchange.cluster.retry_delay_s(exchange)
    deadlines.arm(exchange)
