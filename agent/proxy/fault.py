"""Injected faults: waiting, answering, counting.

Owns:   what a fault filter before the router does to a request, and what one below it does to a try; how many requests
        are affected now.
Not:    which requests are hit (agent.filters.fault), the order of filters (passage).
Source: data-plane.md 1.8. A fault before the router is over when routing begins, so retries and the route's timeouts
        know nothing of it; a fault of a try is an answer, or a slowness, of the host: they apply to it.
Invariants: hosts are never blamed for a fault; a request counts once among the active faults, until it is over.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.filters.fault import FaultInjector, Injected
from agent.filters.local_replies import local_reply
from agent.model.fault import NO_LIMIT
from agent.proxy import answers, deadlines
from agent.proxy.attempt import Attempt
from agent.proxy.pause import Pause
from agent.proxy.stages import Kept, Stage
from agent.stats import names
from agent.stats.names import fault_group

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

BODY = b"fault filter abort"
DETAILS = "fault_filter_abort"
_DELAYED, _ABORTED = "DI", "FI"


class FaultStage(Stage):
    """One configuration of the filter."""

    __slots__ = ("injector",)

    def __init__(self, injector: FaultInjector) -> None:
        self.injector = injector

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        assert exchange.passage is not None
        return exchange.passage.faults.inject(self.injector, resume)


class Faults(Kept):
    """What is injected into one request."""

    __slots__ = ("_active", "_counts", "_exchange", "_pause")

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._counts = exchange.chain.filters.group("fault", fault_group).counts
        self._active = False
        self._pause: Pause | None = None

    def inject(self, injector: FaultInjector, then: Callable[[], None]) -> bool:
        """Whether the request goes on at once; else it is answered, or `then` is called after a while."""
        if not self.takes(injector):
            return True
        exchange = self._exchange
        delay_s = injector.delay_s(exchange.head, exchange.chain.rng)
        if delay_s:
            self.delayed()
            self._pause = self.pause(delay_s, lambda: self._after_delay(injector, then))
            return False
        return self._goes_on(injector)

    def _after_delay(self, injector: FaultInjector, then: Callable[[], None]) -> None:
        self._pause = None
        if self._goes_on(injector):
            then()

    def _goes_on(self, injector: FaultInjector) -> bool:
        exchange = self._exchange
        found = injector.abort(exchange.head, exchange.chain.rng)
        if found is None:
            return True
        self.aborted()
        answers.fault(exchange, found[0], BODY, DETAILS, found[1])
        return False

    def end(self) -> None:
        """The request is over."""
        if self._pause is not None:
            self._exchange.chain.wheel.disarm(self._pause)
            self._pause = None
        if self._active:
            self._active = False
            self._counts[names.FAULT_ACTIVE] -= 1

    # --- for a try --------------------------------------------------------------------------------------------

    def takes(self, injector: FaultInjector) -> bool:
        """Whether the faults are for this request, and there is room for one more."""
        exchange, most = self._exchange, injector.config.max_active
        if most != NO_LIMIT and self._counts[names.FAULT_ACTIVE] >= most:
            self._counts[names.FAULT_OVERFLOW] += 1
            return False
        choice = exchange.choice
        return injector.applies_to(exchange.head, choice.cluster if choice is not None else "")

    def pause(self, delay_s: float, then: Callable[[], None]) -> Pause:
        """`then` is called after so many seconds, unless the pause is disarmed."""
        chain, made = self._exchange.chain, Pause(then)
        chain.wheel.arm(made, chain.clock() + delay_s)
        return made

    def delayed(self) -> None:
        """Count a delay."""
        self._counts[names.FAULT_DELAYS] += 1
        self._activate()
        exchange = self._exchange
        if _DELAYED not in exchange.flags:
            exchange.flags = answers.joined(exchange.flags, _DELAYED)

    def aborted(self) -> None:
        """Count an abort."""
        self._counts[names.FAULT_ABORTS] += 1
        self._activate()

    def _activate(self) -> None:
        if not self._active:
            self._active = True
            self._counts[names.FAULT_ACTIVE] += 1


class FaultyTry(Attempt):
    """A try that may be slow, or answered with an error, before it gets to its host."""

    __slots__ = ("_faults", "_injector", "_pause")

    def __init__(self, owner: Any, host: Any, faults: Faults, injector: FaultInjector) -> None:
        super().__init__(owner, host)
        self._faults = faults
        self._injector = injector
        self._pause: Pause | None = None

    def begin(self, fresh: bool = False) -> None:
        faults, injector, exchange = self._faults, self._injector, self._exchange
        if fresh or not faults.takes(injector):
            super().begin(fresh)
            return
        delay_s = injector.delay_s(exchange.head, exchange.chain.rng)
        if not delay_s:
            self._go_on()
            return
        faults.delayed()
        self._pause = faults.pause(delay_s, self._go_on)
        exchange.on_try_waiting(self)
        if exchange.request_complete:
            self.on_request_end()

    @property
    def is_held(self) -> bool:
        return self._pause is not None

    @property
    def _exchange(self) -> "Exchange":
        owner: Any = self.owner  # nobody else has such tries
        return owner  # type: ignore[no-any-return]

    def on_request_end(self) -> None:
        """The whole request is here: a try that is slow takes up its time."""
        if self._pause is not None and self._exchange.retry is not None:
            deadlines.start_try(self._exchange)

    def _go_on(self) -> None:
        self._pause = None
        exchange = self._exchange
        found = self._injector.abort(exchange.head, exchange.chain.rng)
        if found is None:
            super().begin()
        else:
            self._faults.aborted()
            self._answer(found)

    def _answer(self, found: Injected) -> None:
        """As if the host had said so."""
        exchange = self._exchange
        before = exchange.flags, exchange.details
        exchange.flags, exchange.details = answers.joined(exchange.flags, _ABORTED), DETAILS
        head, body = local_reply(exchange.head, found[0], BODY, (), found[1])
        exchange.on_answer(self, head, body, True)
        if exchange.response is None:  # another try follows
            exchange.flags, exchange.details = before

    @property
    def live(self) -> bool:
        return self._pause is not None or super().live

    def drop(self) -> None:
        if self._pause is not None:
            self.owner.chain.wheel.disarm(self._pause)
            self._pause = None
        super().drop()
