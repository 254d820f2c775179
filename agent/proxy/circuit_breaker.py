"""The circuit breaker on the way of a request: let pass, refused, or answered by a fallback.

Owns:   which breaker a request obeys, what became of it, fallbacks.
Not:    the state (agent.cluster.circuit_breaker, in the supervisor), admission (agent.cluster.breaker_gate), what is
        kept of good answers (agent.filters.last_good).
Source: data-plane.md 1.4: Hystrix wraps the whole call, so a request with all its tries is one outcome, and what was
        refused is none.
Invariants: each admitted request has exactly one outcome; a fallback has no fallback and is no outcome, so it cannot go
        round in a circle; what was refused for want of room (UO), or never got to a host, says nothing of the service.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent.cluster.breaker_gate import REFUSED, Gate
from agent.codec.head import ResponseHead
from agent.filters.last_good import Asked, LastGoodAnswers, copy_of
from agent.model.circuit_breaker import (
    CANCELLED,
    FAILED,
    GOOD,
    SLOW,
    CircuitBreaker,
    CircuitBreakers,
    FixedAnswer,
    Forced,
    LastGood,
    OtherService,
)
from agent.model.route import WeightedCluster
from agent.proxy import answers, deadlines
from agent.proxy.attempt import Attempt
from agent.proxy.by_cluster import ByCluster
from agent.proxy.stages import Guard, Kept, Stage
from agent.upstream.clusters import UpstreamCluster

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

BODY: Final = b"circuit breaker is open"
DETAILS: Final = "circuit_breaker_open"
FAILED_DETAILS: Final = "circuit_breaker_failure"
FALLBACK_HEADER: Final = b"x-gossamer-fallback"
_OVERFLOW: Final = "UO"
_GONE: Final = "DC"
_UNAVAILABLE: Final = 503
Stored = tuple[ResponseHead, bytes]


class BreakerStage(Stage):
    """The breakers of one route."""

    __slots__ = ("_rules",)

    def __init__(self, config: CircuitBreakers) -> None:
        self._rules = ByCluster((policy.clusters, Rules(policy)) for policy in config.breakers)

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        rules = self._rules.of(exchange.choice)
        if rules is None or rules.policy.forced is Forced.DISABLED:
            return True
        chain = exchange.chain
        book = chain.runtime.breakers
        gate = book.gate(rules.policy, chain.identity)
        if gate is None:
            return True
        if rules.policy.forced is Forced.OPEN:
            gate.refused += 1
            epoch = REFUSED
        else:
            epoch = gate.admit()
        assert exchange.passage is not None
        call = Call(exchange, rules, gate, epoch)
        if epoch == REFUSED:
            book.note(gate)
            return call.refuse()
        if gate.probing:
            book.note(gate, at_once=True)
        exchange.passage.keep(call)
        exchange.passage.guard = call if rules.listens else None
        return True


class Rules:
    """One breaker, ready for requests. `listens`: it wants to see answers before the client does."""

    __slots__ = ("_flags", "_statuses", "listens", "mark", "other", "policy")

    def __init__(self, policy: CircuitBreaker) -> None:
        self.policy = policy
        self.mark = policy.name.encode()
        fallback = policy.fallback
        self.other = WeightedCluster(cluster=fallback.cluster, weight=1) if isinstance(fallback, OtherService) else None
        self.listens = isinstance(fallback, LastGood) or (fallback is not None and policy.on_failure)
        self._statuses = frozenset(status for low, high in policy.statuses for status in range(low, high + 1))
        self._flags = policy.flags

    def fails(self, status: int, flags: str) -> bool:
        """Whether a request that ended so is a failure."""
        return status in self._statuses or (bool(flags) and not self._flags.isdisjoint(flags.split(",")))


class Call(Guard):
    """A request and its breaker."""

    __slots__ = (
        "_asked", "_body", "_bytes", "_epoch", "_exchange", "_fell_back", "_gate", "_outcome", "_recorded", "_rules",
        "_started",
    )  # fmt: skip

    def __init__(self, exchange: "Exchange", rules: Rules, gate: Gate, epoch: int) -> None:
        self._exchange = exchange
        self._rules = rules
        self._gate = gate
        self._epoch = epoch
        self._started = exchange.chain.clock()
        self._outcome = -1  # not known yet
        self._fell_back = False
        self._asked: Asked | None = None  # where good answers are kept
        self._recorded: ResponseHead | None = None  # of an answer that may be kept, while it comes
        self._body: list[bytes] = []
        self._bytes = 0
        if isinstance(rules.policy.fallback, LastGood):
            assert exchange.match is not None
            self._asked = Asked(f"{exchange.chain.identity}|{exchange.match.route.name}".encode(), exchange.head)

    # --- fallbacks --------------------------------------------------------------------------------------------

    def refuse(self) -> bool:
        """The breaker is open. Whether the request goes on, to another service; else it is answered."""
        exchange = self._exchange
        found = self._find(failed=False)
        if found is None:
            answers.own(exchange, _UNAVAILABLE, BODY, _OVERFLOW, DETAILS, answers.OVERLOADED)
            return False
        self._mark()
        if isinstance(found, UpstreamCluster):
            exchange.choice = self._rules.other
            return True
        self._answer(found, _OVERFLOW, DETAILS)
        return False

    def _find(self, *, failed: bool) -> FixedAnswer | UpstreamCluster | Stored | None:
        """What the fallback has for this request; `failed`: it has been tried."""
        exchange, fallback = self._exchange, self._rules.policy.fallback
        if isinstance(fallback, OtherService):
            may = not failed or exchange.body is None or exchange.body.whole
            return exchange.chain.runtime.snapshot.clusters.get(fallback.cluster) if may else None
        if isinstance(fallback, LastGood) and self._asked is not None:
            return self._answers.find(self._asked, exchange.chain.clock(), failed=failed)
        return fallback if isinstance(fallback, FixedAnswer) else None

    def _mark(self) -> None:
        """The request is the fallback's from now on."""
        self._fell_back = True
        self._gate.fallbacks += 1
        exchange = self._exchange
        exchange.chain.runtime.breakers.note(self._gate)
        assert exchange.passage is not None
        exchange.passage.keep(_Mark(self._rules.mark))

    def _answer(self, found: FixedAnswer | Stored, flag: str, details: str) -> None:
        exchange = self._exchange
        if isinstance(found, FixedAnswer):
            answers.own(exchange, found.status, found.body, flag, f"{details}{{answer}}", found.headers)
        else:
            answers.stored(exchange, *found, flag, f"{details}{{last_good}}")

    def _instead(self, found: FixedAnswer | UpstreamCluster | Stored, flag: str) -> None:
        """The request has failed: the fallback takes its place."""
        exchange = self._exchange
        self._mark()
        if not isinstance(found, UpstreamCluster):
            self._answer(found, flag, FAILED_DETAILS)
            return
        if exchange.holds_retry:
            exchange.cluster.end_retry(exchange)
        exchange.choice, exchange.cluster = self._rules.other, found
        exchange.retry, exchange.tried = None, []
        exchange.transport_failure = ""
        deadlines.start_anew(exchange)
        exchange.try_host()

    @property
    def _answers(self) -> LastGoodAnswers:
        fallback = self._rules.policy.fallback
        assert isinstance(fallback, LastGood)
        return self._exchange.chain.runtime.breakers.last_good(self._rules.policy.name, fallback)

    # --- Guard ------------------------------------------------------------------------------------------------

    def on_answer(self, attempt: Attempt, head: ResponseHead, body: bytes, end_stream: bool) -> bool:
        rules, exchange = self._rules, self._exchange
        if self._fell_back or exchange.head.upgrade:
            return False
        if not rules.fails(head.status, ""):
            self._record(head, body, end_stream)
            return False
        found = self._find(failed=True) if rules.policy.on_failure else None
        if found is None:
            return False
        self._outcome = self._timed(FAILED)
        attempt.leave(end_stream and exchange.request_complete)
        exchange.abandon_upstream()
        self._instead(found, "")
        return True

    def on_local_failure(self, status: int, flag: str) -> bool:
        rules, exchange = self._rules, self._exchange
        if self._fell_back or not rules.policy.on_failure or exchange.head.upgrade:
            return False
        if flag != _OVERFLOW and not (exchange.attempts and rules.fails(status, flag)):
            return False
        found = self._find(failed=bool(exchange.attempts))
        if found is None or (isinstance(found, UpstreamCluster) and exchange.cluster is None):
            return False  # what has not come to the router yet cannot go on from here
        self._outcome = CANCELLED if flag == _OVERFLOW else self._timed(FAILED)
        exchange.abandon_upstream()
        self._instead(found, flag)
        return True

    def _record(self, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        if self._asked is None or not self._answers.may_keep(self._asked, head):
            return
        self._recorded = copy_of(head)
        if body:
            self.on_answer_body(body)
        if end_stream:
            self.on_answer_end()

    def on_answer_body(self, data: bytes) -> None:
        if self._recorded is None:
            return
        self._bytes += len(data)
        if self._bytes > self._answers.limits.max_bytes:
            self._recorded = None
            self._body.clear()
        else:
            self._body.append(data)

    def on_answer_end(self) -> None:
        head, self._recorded = self._recorded, None
        if head is not None and self._asked is not None:
            self._answers.keep(self._asked, head, b"".join(self._body), self._exchange.chain.clock())

    # --- the outcome ------------------------------------------------------------------------------------------

    def end(self) -> None:
        gate = self._gate
        outcome = self._outcome if self._outcome >= 0 else self._judged()
        if gate.record(self._epoch, outcome):
            self._exchange.chain.runtime.breakers.note(gate, at_once=gate.probing)

    def _judged(self) -> int:
        exchange, rules = self._exchange, self._rules
        flags = exchange.flags
        if _GONE in flags:
            # Who waits no longer says nothing of the service, unless the wait itself was too long.
            return self._timed(GOOD) or CANCELLED
        if not exchange.attempts or (_OVERFLOW in flags and _OVERFLOW not in rules.policy.flags):
            return CANCELLED
        return self._timed(FAILED if rules.fails(exchange.status, flags) else GOOD)

    def _timed(self, outcome: int) -> int:
        """The same, SLOW if the answer has taken that long to begin."""
        slow_s, exchange = self._rules.policy.slow_s, self._exchange
        if not slow_s:
            return outcome
        began = exchange.response_at if exchange.response is not None and not exchange.answered_here else 0.0
        return outcome | SLOW if (began or exchange.chain.clock()) - self._started >= slow_s else outcome


class _Mark(Kept):
    """The answer says that it is a fallback's."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def mark_answer(self, head: ResponseHead) -> None:
        head.headers.set(FALLBACK_HEADER, self._value)
