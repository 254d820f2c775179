"""Cross-origin requests: preflights answered, answers marked.

Not:    what a policy allows (agent.filters.cors).
Source: data-plane.md 1.10.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.codec.head import ResponseHead
from agent.filters.cors import ORIGIN, Cors, is_preflight
from agent.proxy import answers
from agent.proxy.stages import Kept, Stage
from agent.stats import names
from agent.stats.names import cors_group

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange


class CorsStage(Stage):
    """One policy."""

    __slots__ = ("_cors",)

    def __init__(self, cors: Cors) -> None:
        self._cors = cors

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        cors, head, rng = self._cors, exchange.head, exchange.chain.rng
        enabled = cors.enabled(rng)
        origin = head.headers.index.get(ORIGIN)
        if exchange.choice is None or not origin or not (enabled or cors.counted(rng)):
            return True
        allowed = cors.allows(origin)
        counts = exchange.chain.filters.group("cors", cors_group).counts
        counts[names.CORS_VALID if allowed else names.CORS_INVALID] += 1
        if not enabled:
            return True
        if allowed:
            assert exchange.passage is not None
            exchange.passage.keep(_Mark(cors, origin))
        if not is_preflight(head) or (not allowed and cors.forwards_unmatched):
            return True
        answers.preflight(exchange, cors.preflight_fields(head, origin if allowed else b""))
        return False


class _Mark(Kept):
    """The answer says who may read it."""

    __slots__ = ("_cors", "_origin")

    def __init__(self, cors: Cors, origin: bytes) -> None:
        self._cors = cors
        self._origin = origin

    def mark_answer(self, head: ResponseHead) -> None:
        self._cors.mark_answer(head.headers, self._origin)
