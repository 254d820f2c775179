"""The bulkhead on the way of a request: let in, made to wait, or refused.

Owns:   which bulkhead a request obeys, its place there, the refusal.
Not:    room and queues (agent.cluster.bulkhead), the compartments of the worker (bulkhead_book).
Invariant: room that a request has taken is given back when it is over, whoever ends it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent.cluster.bulkhead import Waiting
from agent.model.bulkhead import Bulkhead, Bulkheads
from agent.model.route import Forward
from agent.proxy import answers, deadlines
from agent.proxy.bulkhead_book import BulkheadBook
from agent.proxy.stages import Kept, Stage

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

BODY: Final = b"bulkhead is full"
FULL: Final = "bulkhead_full"
TIMED_OUT: Final = "bulkhead_wait_timeout"
_OVERLOADED: Final = ((b"x-envoy-overloaded", b"true"),)


class BulkheadStage(Stage):
    """The bulkheads of one route."""

    __slots__ = ("_by_cluster", "_for_all")

    def __init__(self, config: Bulkheads) -> None:
        self._by_cluster: dict[str, Bulkhead] = {}
        self._for_all: Bulkhead | None = None
        for policy in config.bulkheads:
            for cluster in policy.clusters if self._for_all is None else ():
                self._by_cluster.setdefault(cluster, policy)
            if not policy.clusters and self._for_all is None:
                self._for_all = policy

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        choice = exchange.choice
        policy = self._by_cluster.get(choice.cluster, self._for_all) if choice is not None else None
        if policy is None:
            return True
        book = exchange.chain.runtime.bulkheads
        place = Place(exchange, book, policy, resume)
        return place.enter()


class Place(Kept):
    """A request's place in its compartment, or in the queue for one."""

    __slots__ = ("_book", "_compartment", "_exchange", "_inside", "_name", "_resume", "_waiting")

    def __init__(
        self, exchange: "Exchange", book: BulkheadBook, policy: Bulkhead, resume: Callable[[], None]
    ) -> None:  # fmt: skip
        self._exchange = exchange
        self._book = book
        self._name = policy.name
        self._compartment = book.compartment(policy, exchange.chain.identity)
        self._resume = resume
        self._inside = False
        self._waiting: Waiting | None = None
        until = exchange.chain.clock() + policy.max_wait_s
        if policy.queue:
            self._waiting = Waiting(until, self._let_in, self._too_long)

    def enter(self) -> bool:
        """Whether the request goes on at once."""
        exchange, waiting, self._waiting = self._exchange, self._waiting, None
        assert exchange.passage is not None
        if self._compartment.enter():
            self._inside = True
            exchange.passage.keep(self)
            return True
        if waiting is None or not self._compartment.wait(waiting):
            _refuse(exchange, FULL)
            return False
        self._waiting = waiting
        exchange.passage.keep(self)
        action = exchange.match.route.action
        if isinstance(action, Forward):
            deadlines.hold(exchange, action)
        self._book.look_again()
        return False

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
            self._book.look(self._name)


def _refuse(exchange: "Exchange", details: str) -> None:
    answers.own(exchange, 503, BODY, "UO", details, _OVERLOADED)
