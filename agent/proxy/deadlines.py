"""The time limits of a request: one deadline per connection in the wheel, the earliest of all that apply.

Owns:   route timeout, per-try timeouts, stream idle timeout, maximum duration, request timeout, the retry's back-off.
Not:    connect timeout (agent.upstream.pool), idle connections (the connections themselves).
Source: data-plane.md 1.5 and 1.6. The route timeout runs from the end of the request, all tries and back-offs
        included; the per-try timeout from when request and connection are there until the answer begins, the per-try
        idle timeout from then on whenever nothing comes or goes, until the answer is complete.
Invariant: activity only moves a deadline later, which costs nothing; the wheel asks again when the old one comes.
"""

from typing import TYPE_CHECKING

from agent.model.resets import PER_TRY_IDLE_TIMEOUT, PER_TRY_TIMEOUT
from agent.model.route import Forward
from agent.proxy import answers
from agent.stats import names
from agent.upstream.wheel import NEVER

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange


def start(exchange: "Exchange", action: Forward) -> None:
    """The route is known: its limits apply."""
    if exchange.request_complete and action.timeout_s and not exchange.head.upgrade:
        exchange.route_deadline = exchange.request_done_at + action.timeout_s
    hold(exchange, action)


def hold(exchange: "Exchange", action: Forward) -> None:
    """The route's limits for the whole stream apply, also while a filter keeps the request from it."""
    if action.idle_timeout_s is not None:
        exchange.idle_timeout_s = action.idle_timeout_s
    if action.max_stream_duration_s:
        exchange.stream_deadline = exchange.started + action.max_stream_duration_s
    arm(exchange)


def start_anew(exchange: "Exchange") -> None:
    """It goes on to somebody else, who has the route's time for himself."""
    exchange.try_deadline = exchange.try_idle_at = exchange.retry_at = NEVER
    exchange.active_at = now = exchange.chain.clock()
    if exchange.route_deadline != NEVER:
        exchange.route_deadline = now + exchange.action.timeout_s
    arm(exchange)


def request_done(exchange: "Exchange") -> None:
    """The whole request is here: the route timeout runs."""
    action = exchange.action
    if action is not None and action.timeout_s and not exchange.head.upgrade:
        exchange.route_deadline = exchange.request_done_at + action.timeout_s
    arm(exchange)


def start_try(exchange: "Exchange") -> None:
    """Request and connection are there: the per-try timeouts run, the one if it is shorter than the route's."""
    retry = exchange.retry
    if retry is None or exchange.response is not None or exchange.head.upgrade:
        return
    timeout_s, idle_s = retry.per_try_timeout_s, retry.per_try_idle_s
    if timeout_s and exchange.action.timeout_s and timeout_s >= exchange.action.timeout_s:
        timeout_s = 0.0
    if not timeout_s and not idle_s:
        return
    now = exchange.chain.clock()
    if timeout_s and exchange.try_deadline == NEVER:
        exchange.try_deadline = now + timeout_s
    if idle_s and exchange.try_idle_at == NEVER:
        exchange.try_idle_at = now + idle_s
    arm(exchange)


def arm(exchange: "Exchange") -> None:
    """Tell the wheel the earliest deadline."""
    deadline = exchange.route_deadline  # comparisons instead of `min`: this runs once per request and more
    if exchange.idle_timeout_s:
        idle_at = exchange.active_at + exchange.idle_timeout_s
        if idle_at < deadline:
            deadline = idle_at
    if exchange.try_deadline < deadline:
        deadline = exchange.try_deadline
    if exchange.try_idle_at < deadline:
        deadline = exchange.try_idle_at
    if exchange.retry_at < deadline:
        deadline = exchange.retry_at
    if exchange.stream_deadline < deadline:
        deadline = exchange.stream_deadline
    if not exchange.request_complete and exchange.chain.hcm.request_timeout_s:
        deadline = min(deadline, exchange.started + exchange.chain.hcm.request_timeout_s)
    connection = exchange.connection
    connection.deadline = deadline
    if deadline < connection.slot_at:
        exchange.chain.wheel.insert(connection, deadline)


def on_deadline(exchange: "Exchange", now: float) -> None:
    """One of the deadlines may have passed; the first that has, in order of authority, decides."""
    hcm = exchange.chain.hcm
    if now >= exchange.stream_deadline:
        exchange.chain.counts[names.DOWN_RQ_MAX_DURATION] += 1
        answers.max_duration(exchange)
    elif now >= exchange.route_deadline:
        answers.route_timeout(exchange)
    elif hcm.request_timeout_s and not exchange.request_complete and now >= exchange.started + hcm.request_timeout_s:
        exchange.chain.counts[names.DOWN_RQ_TIMEOUT] += 1
        answers.request_timeout(exchange)
    elif exchange.idle_timeout_s and now >= exchange.active_at + exchange.idle_timeout_s:
        exchange.chain.counts[names.DOWN_RQ_IDLE_TIMEOUT] += 1
        answers.stream_idle(exchange)
    elif now >= exchange.try_deadline:
        exchange.try_deadline = NEVER
        exchange.on_try_timeout(PER_TRY_TIMEOUT)
    elif now >= exchange.try_idle_at:
        _try_idle(exchange, now)
    elif now >= exchange.retry_at:
        exchange.try_again()
    else:
        arm(exchange)


def _try_idle(exchange: "Exchange", now: float) -> None:
    """The per-try idle timeout has passed, unless something has come or gone meanwhile."""
    retry = exchange.retry
    exchange.try_idle_at = exchange.active_at + retry.per_try_idle_s if retry is not None else NEVER
    if exchange.try_idle_at > now:
        arm(exchange)
        return
    exchange.try_idle_at = NEVER
    exchange.on_try_timeout(PER_TRY_IDLE_TIMEOUT)
