"""What an HTTP filter is to the requests that pass it.

Owns:   the two shapes that every filter has on the data path.
Not:    which filters there are (filter_stages), their order, what is called when (passage).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.codec.head import ResponseHead

if TYPE_CHECKING:
    from agent.proxy.attempt import Attempt
    from agent.proxy.exchange import Exchange


class Stage:
    """A filter with one configuration, made when that comes, and shared by all requests that it is for.

    It may be a route's, and routes are shared by chains: what belongs to a chain (its statistics) is found by way of
    `exchange.chain.filters.group`; what belongs to a request is kept by its passage (`Kept`).
    """

    __slots__ = ()

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        """Let a request pass. True: it goes on at once. False: it is answered, or `resume` is called later, once.

        `exchange.match` is None for a request without a route, which filters see too; `exchange.choice` is the cluster
        that it will go to, if to any. Nothing is called before this returns.
        """
        raise NotImplementedError


class Kept:
    """What a stage keeps of one request until it is over: give it to `exchange.passage.keep`."""

    __slots__ = ()

    def mark_answer(self, head: ResponseHead) -> None:
        """An answer, a host's or our own, goes to the client."""

    def end(self) -> None:
        """The request is over, whoever has ended it; nothing may follow."""


class BodyReader(Kept):
    """One that waits for the request's body. A passage has one at most at a time: `exchange.passage.reader`."""

    __slots__ = ()

    def on_body(self) -> None:
        """More of it has come, or its end; all that has come is in `exchange.body`."""
        raise NotImplementedError


class Guard(Kept):
    """One that sees what the host answers before the client does, and may put something else in its place.

    A passage has one at most: `exchange.passage.guard`.
    """

    __slots__ = ()

    def on_answer(self, attempt: "Attempt", head: ResponseHead, body: bytes, end_stream: bool) -> bool:
        """The answer that the client would get, as the host has sent it. True: another takes its place."""
        return False

    def on_answer_body(self, data: bytes) -> None:
        """More of an answer that goes to the client."""

    def on_answer_end(self) -> None:
        """An answer has come to its end, unless it came with its head."""

    def on_local_failure(self, status: int, flag: str) -> bool:
        """We would give this answer of our own, and none has begun. True: another takes its place."""
        return False
