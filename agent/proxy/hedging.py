"""Several tries of one request at once: what becomes of those that another one was started beside.

Owns:   which tries are awaited besides the last one, that all but the one whose answer is taken are left.
Not:    when another one is started (retrying), the tries themselves (attempt).
Source: data-plane.md 1.5, hedging.
Invariants: the tries in `exchange.hedged` have taken too long and are still awaited; none of them starts another one.
"""

from typing import TYPE_CHECKING

from agent.proxy.attempt import Attempt
from agent.upstream.wheel import NEVER

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange


def goes_on(exchange: "Exchange", failed: Attempt) -> bool:
    """A try has failed for good: whether another one is awaited still, or about to be made."""
    if not exchange.hedged:
        return False
    exchange.hedged = tuple(attempt for attempt in exchange.hedged if attempt is not failed)
    if exchange.retry_at != NEVER or exchange.attempt is not failed:
        return True
    if exchange.hedged:
        exchange.attempt = exchange.hedged[-1]
        return True
    return False


def settle(exchange: "Exchange", chosen: Attempt) -> None:
    """The answer of this try is taken."""
    for attempt in exchange.hedged:
        if attempt is not chosen:
            attempt.drop()
    exchange.hedged = ()
    last = exchange.attempt
    if last is not chosen and last is not None:
        last.drop()
        exchange.attempt = chosen
        exchange.host, exchange.carrier = chosen.host, chosen.upstream
    exchange.retry_at = NEVER
    if exchange.holds_retry:
        exchange.cluster.end_retry(exchange)


def tries_of(exchange: "Exchange") -> list[Attempt]:
    """Those that are under way, the last one first."""
    last = exchange.attempt
    found = [last] if last is not None and last not in exchange.hedged else []
    return [attempt for attempt in (*found, *exchange.hedged) if attempt.live]
