"""Circuit breakers over any history of requests, outcomes, messages on their way, time, losses and other policies.

A supervisor and several workers; what one tells the other waits in a queue until the history delivers it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cluster.breaker_gate import REFUSED, Gate
from agent.cluster.circuit_breaker import Breaker
from agent.cluster.rolling_window import CountWindow, TimeWindow
from agent.ipc.messages import BreakerNews
from agent.model.circuit_breaker import CANCELLED, FAILED, GOOD, SLOW, CircuitBreaker, Forced, Phase, Window
from tests.support.depth import examples

WORKERS = 2
OUTCOMES = (GOOD, FAILED, GOOD, FAILED, SLOW, FAILED | SLOW, CANCELLED)


@st.composite
def policies(draw: st.DrawFn) -> CircuitBreaker:
    return CircuitBreaker(
        name="default/web",
        slow_s=draw(st.sampled_from([0.0, 1.0])),
        slow_percent=draw(st.sampled_from([1.0, 50.0, 100.0])),
        window=draw(st.sampled_from([Window(), Window(size=3), Window(duration_s=2.0, buckets=2)])),
        volume=draw(st.integers(1, 2)),
        error_percent=draw(st.sampled_from([1.0, 50.0, 100.0])),
        open_s=draw(st.sampled_from([0.5, 5.0])),
        probes=draw(st.sampled_from([1, 1, 2, 3])),
        probe_wait_s=draw(st.sampled_from([0.0, 3.0])),
        any_failure=draw(st.booleans()),
        forced=draw(st.sampled_from([*[Forced.NONE] * 10, Forced.OPEN, Forced.DISABLED])),
    )


@dataclass
class Worker:
    gate: Gate = field(default_factory=lambda: Gate("default/web", ""))
    up: deque[BreakerNews] = field(default_factory=deque)
    down: deque[tuple[Phase, int]] = field(default_factory=deque)
    running: list[int] = field(default_factory=list)  # the epochs in which its requests were let pass


class Mesh:
    """What happens, and what must hold whatever happens."""

    def __init__(self, policy: CircuitBreaker) -> None:
        self.now = 0.0
        self.policy = policy
        self.breaker = Breaker(policy, 0.0)
        self.phases = {0: Phase.CLOSED, self.breaker.epoch: self.breaker.phase}
        self.workers = [Worker() for _ in range(WORKERS)]
        self.permits: dict[int, int] = {}  # by epoch
        self.probes: dict[int, int] = {}  # that were let pass, by epoch
        self.allowed: dict[int, int] = {}
        self.good: dict[int, int] = {}  # good outcomes of probes that the supervisor was told, by epoch
        self.bad: dict[int, int] = {}
        self._broadcast()

    # --- what happens

    def ask(self, number: int) -> None:
        worker = self.workers[number]
        epoch = worker.gate.admit()
        if epoch == REFUSED:
            return
        worker.running.append(epoch)
        phase = self.phases[epoch]
        assert phase not in (Phase.OPEN, Phase.FORCED_OPEN), "who knows that it is open lets nobody pass"
        if phase is Phase.HALF_OPEN:
            self.probes[epoch] = self.probes.get(epoch, 0) + 1
            assert self.probes[epoch] <= self.allowed[epoch], "never more probes than allowed"

    def end(self, number: int, outcome: int) -> None:
        worker = self.workers[number]
        if worker.running:
            worker.gate.record(worker.running.pop(0), outcome)

    def serve(self, number: int, outcome: int) -> None:
        """A whole request, which the worker tells of; that may be on its way for long."""
        self.ask(number)
        self.end(number, outcome)
        self.tell(number)

    def tell(self, number: int) -> None:
        worker = self.workers[number]
        news = worker.gate.take()
        if news is not None:
            worker.up.append(news)

    def deliver_up(self, number: int) -> None:
        if not self.workers[number].up:
            return
        news = self.workers[number].up.popleft()
        if news.begun:
            self.breaker.begun(news.epoch, self.now)
        before = self.breaker.phase
        for outcome in news.outcomes:
            judged = self.good if outcome == GOOD else self.bad
            judged[news.epoch] = judged.get(news.epoch, 0) + 1
        changed = bool(news.outcomes) and self.breaker.record(news.epoch, news.outcomes, self.now)
        if changed and before is Phase.HALF_OPEN and self.breaker.phase is Phase.CLOSED:
            closed = self.breaker.epoch - 1
            assert news.epoch == closed, "no straggler closes it"
            told = self.good.get(closed, 0) + self.bad.get(closed, 0)
            assert told == self.probes[closed] == self.allowed[closed], "all of its probes have told"
            assert not (self.policy.any_failure and self.bad.get(closed, 0)), "and all were good"
        self._after(changed)

    def deliver_down(self, number: int) -> None:
        worker = self.workers[number]
        if worker.down:
            phase, epoch = worker.down.popleft()
            worker.gate.set_state(phase, epoch, self._taker(epoch))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._after(self.breaker.tick(self.now))

    def lose(self, number: int) -> None:
        """The worker is replaced by one that hears the present state."""
        self._after(self.breaker.lost(self.now))
        self.workers[number] = Worker(down=deque([(self.breaker.phase, self.breaker.epoch)]))

    def configure(self, policy: CircuitBreaker) -> None:
        self.policy = policy
        self._after(self.breaker.configure(policy, self.now))

    # --- what follows

    def _after(self, changed: bool) -> None:
        if changed:
            assert self.breaker.epoch not in self.phases, "no two states have one epoch"
            assert self.breaker.since == self.now
            assert self.breaker.why
            self.phases[self.breaker.epoch] = self.breaker.phase
            self._broadcast()

    def _broadcast(self) -> None:
        epoch = self.breaker.epoch
        if self.breaker.phase is Phase.HALF_OPEN:
            self.permits[epoch] = self.allowed[epoch] = self.breaker.probes
        for worker in self.workers:
            worker.down.append((self.breaker.phase, epoch))

    def _taker(self, epoch: int) -> Callable[[], bool]:
        def take() -> bool:
            if self.permits.get(epoch, 0) <= 0:
                return False
            self.permits[epoch] -= 1
            return True

        return take


_numbers = st.integers(0, WORKERS - 1)
_common = st.one_of(
    st.tuples(st.just("serve"), _numbers, st.sampled_from(OUTCOMES)),
    st.tuples(st.just("deliver_up"), _numbers),
    st.tuples(st.just("deliver_down"), _numbers),
    st.tuples(st.just("wait"), st.just(5.0)),
)
_events = st.one_of(
    _common,
    _common,
    _common,
    st.tuples(st.just("ask"), _numbers),
    st.tuples(st.just("end"), _numbers, st.sampled_from(OUTCOMES)),
    st.tuples(st.just("tell"), _numbers),
    st.tuples(st.just("deliver_up"), _numbers),
    st.tuples(st.just("deliver_down"), _numbers),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 5.0])),
    st.tuples(st.just("lose"), _numbers),
    st.tuples(st.just("configure"), policies()),
)


@settings(max_examples=examples(400), deadline=None)
@given(policies(), st.lists(_events, min_size=20, max_size=60))
def test_any_history(policy: CircuitBreaker, events: list[tuple[object, ...]]) -> None:
    """No straggler closes it; never more probes than allowed; who knows that it is open refuses."""
    mesh = Mesh(policy)
    for name, *arguments in events:
        getattr(mesh, str(name))(*arguments)


@settings(max_examples=examples(200), deadline=None)
@given(policies(), st.lists(_events, max_size=60))
def test_it_always_comes_back(policy: CircuitBreaker, events: list[tuple[object, ...]]) -> None:
    """Whatever has happened: when the service is well again and everybody hears, it closes."""
    mesh = Mesh(policy)
    for name, *arguments in events:
        getattr(mesh, str(name))(*arguments)
    mesh.configure(replace(mesh.policy, forced=Forced.NONE))
    for _ in range(20):
        for number in range(WORKERS):
            while mesh.workers[number].running:
                mesh.end(number, CANCELLED)
        _settle(mesh)
        if mesh.breaker.phase is Phase.CLOSED:
            return
        mesh.wait(5.0)
        _settle(mesh)
        for number in range(WORKERS):
            for _ in range(4):
                mesh.ask(number)
            while mesh.workers[number].running:
                mesh.end(number, GOOD)
        _settle(mesh)
    raise AssertionError(f"{mesh.breaker.phase.name}: {mesh.breaker.why}")


def _settle(mesh: Mesh) -> None:
    for number in range(WORKERS):
        mesh.tell(number)
        while mesh.workers[number].up:
            mesh.deliver_up(number)
    for number in range(WORKERS):
        while mesh.workers[number].down:
            mesh.deliver_down(number)


_steps = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 1.0, 2.5]), st.lists(st.integers(0, 3), max_size=5)), max_size=40
)


@settings(max_examples=examples(200), deadline=None)
@given(_steps, st.integers(1, 4))
def test_a_time_window_counts_its_buckets(steps: list[tuple[float, list[int]]], buckets: int) -> None:
    """Against a list of everything."""
    window, bucket_s, now = TimeWindow(2.0, buckets), 2.0 / buckets, 0.0
    everything: list[tuple[int, int]] = []
    for seconds, outcomes in steps:
        now += seconds
        window.add(bytes(outcomes), now)
        everything += [(int(now / bucket_s), outcome) for outcome in outcomes]
        kept = [outcome for number, outcome in everything if number > int(now / bucket_s) - buckets]
        assert (window.total, window.failed, window.slow) == _counts(kept)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=30), st.integers(1, 7))
def test_a_count_window_counts_the_last(batches: list[list[int]], size: int) -> None:
    window = CountWindow(size)
    everything: list[int] = []
    for outcomes in batches:
        window.add(bytes(outcomes), 0.0)
        everything += outcomes
        assert (window.total, window.failed, window.slow) == _counts(everything[-size:])


def _counts(outcomes: list[int]) -> tuple[int, int, int]:
    failed = sum(1 for one in outcomes if one & FAILED)
    return len(outcomes), failed, sum(1 for one in outcomes if one & SLOW)
