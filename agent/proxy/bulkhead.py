"""The bulkhead on the way of a request: let in, made to wait, or refused.

Owns:   which bulkhead a request obeys, in whose name, its place there, the refusal.
Not:    room and queues (agent.cluster.bulkhead), the compartments of the worker (bulkhead_book).
Invariant: room that a request has taken is given back when it is over, whoever ends it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent.cluster.bulkhead import Waiting
from agent.model.bulkhead import Bulkhead, Bulkheads
from agent.proxy import answers
from agent.proxy.bulkhead_book import BulkheadBook
from agent.proxy.by_cluster import ByCluster
from agent.proxy.stages import Kept, Stage

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

BODY: Final = b"bulkhead is full"
FULL: Final = "bulkhead_full"
TIMED_OUT: Final = "bulkhead_wait_timeout"


class BulkheadStage(Stage):
    """The bulkheads of one route."""

    __slots__ = ("_policies",)

    def __init__(self, config: Bulkheads) -> None:
        self._policies = ByCluster((policy.clusters, policy) for policy in config.bulkheads)

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        policy = self._policies.of(exchange.choice)
        if policy is None:
            return True
        book = exchange.chain.runtime.bulkheads
        place = Place(exchange, book, policy, resume)
        return place.enter()


class Place(Kept):
    """A request's place in its compartment, or in the queue for one."""

    __slots__ = ("_book", "_compartment", "_exchange", "_inside", "_policy", "_resume", "_waiting")

    def __init__(
        self, exchange: "Exchange", book: BulkheadBook, policy: Bulkhead, resume: Callable[[], None]
    ) -> None:  # fmt: skip
        self._exchange = exchange
        self._book = book
        self._policy = policy
        self._compartment = book.compartment(policy, _caller(exchange, policy))
        self._resume = resume
        self._inside = False
        self._waiting: Waiting | None = None

    def enter(self) -> bool:
        """Whether the request goes on at once."""
        exchange = self._exchange
        assert exchange.passage is not None
        if self._compartment.enter():
            self._inside = True
            exchange.passage.keep(self)
            return True
        if not self._wait():
            _refuse(exchange, FULL)
            return False
        exchange.passage.keep(self)
        return False

    def _wait(self) -> bool:
        """Whether there is room in the queue; then it is taken."""
        policy = self._policy
        if not policy.queue:
            return False
        waiting = Waiting(self._exchange.chain.clock() + policy.max_wait_s, self._let_in, self._too_long)
        if not self._compartment.wait(waiting):
            return False
        self._waiting = waiting
        self._book.wait(policy.name)
        return True

    def _let_in(self) -> None:
        self._waiting = None
        self._inside = True
        self._resume()

    def _too_long(self) -> None:
        self._waiting = None
        _refuse(self._exchange, TIMED_OUT)

    def end(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._compartment.cancel(waiting)
        if self._inside:
            self._inside = False
            self._compartment.leave()
            self._book.look(self._policy.name)


def _caller(exchange: "Exchange", policy: Bulkhead) -> str:
    """Who calls; "" = nobody knows."""
    if policy.by_certificate:
        return min(exchange.connection.peer_uris, default="")
    return exchange.chain.identity


def _refuse(exchange: "Exchange", details: str) -> None:
    answers.own(exchange, 503, BODY, "UO", details, answers.OVERLOADED)
