"""Bulkheads over any history of requests, ends, waits, cancellations and time, in several workers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cluster.bulkhead import Compartment, Waiting
from agent.cluster.shared_counts import Count, SharedCounts
from agent.model.bulkhead import Bulkhead
from agent.model.count_cells import FIELDS, TABLE, UNDER_WAY
from tests.support.depth import examples

WORKERS, CALLERS = 2, 3
MEMORY = memoryview(bytearray(8 * TABLE * WORKERS)).cast("q")  # one for all examples: names of before stay in it


class Mesh:
    """Several workers that count in one memory, each with a compartment for every caller."""

    def __init__(self, policy: Bulkhead) -> None:
        self.policy = policy
        self.now = 0.0
        counts = [SharedCounts(MEMORY, WORKERS, worker) for worker in range(WORKERS)]
        self.totals = [Count(own, ("default/web", ""), [0]) for own in counts]
        self.parts = [
            [Compartment(policy, total, Count(own, ("default/web", str(caller)), [0])) for caller in range(CALLERS)]
            for own, total in zip(counts, self.totals, strict=True)
        ]
        self.inside = [[0] * CALLERS for _ in range(WORKERS)]
        self.queues: list[list[list[Waiting]]] = [[[] for _ in range(CALLERS)] for _ in range(WORKERS)]

    def ask(self, worker: int, caller: int) -> None:
        part, queue = self.parts[worker][caller], self.queues[worker][caller]
        if part.enter():
            assert not queue, "nobody comes before who waits"
            self.inside[worker][caller] += 1
            return

        def resume() -> None:
            assert queue.pop(0) is waiting, "in their order"
            self.inside[worker][caller] += 1

        def refuse() -> None:
            assert queue.pop(0) is waiting
            assert self.now >= waiting.until

        waiting = Waiting(self.now + self.policy.max_wait_s, resume, refuse)
        if part.wait(waiting):
            queue.append(waiting)

    def end(self, worker: int, caller: int) -> None:
        if self.inside[worker][caller]:
            self.inside[worker][caller] -= 1
            self.parts[worker][caller].leave()

    def cancel(self, worker: int, caller: int) -> None:
        if self.queues[worker][caller]:
            self.parts[worker][caller].cancel(self.queues[worker][caller].pop())

    def wait(self, worker: int, caller: int) -> None:
        self.now += 0.3

    def look(self, worker: int, caller: int) -> None:
        while (call := self.parts[worker][caller].next(self.now)) is not None:
            call()
        assert all(self.now < waiting.until for waiting in self.queues[worker][caller])

    def check(self) -> None:
        policy = self.policy
        assert sum(map(sum, self.inside)) <= policy.most
        for caller in range(CALLERS):
            assert sum(own[caller] for own in self.inside) <= policy.most_per_caller
        assert all(len(queue) <= policy.queue for own in self.queues for queue in own)
        assert {total.total() for total in self.totals} == {sum(map(sum, self.inside))}

    def clear(self) -> None:
        """End all that is under way."""
        for worker, inside in enumerate(self.inside):
            for caller, count in enumerate(inside):
                for _ in range(count):
                    self.parts[worker][caller].leave()


_events = st.tuples(
    st.sampled_from(["ask", "ask", "end", "cancel", "wait", "look"]),
    st.integers(0, WORKERS - 1),
    st.integers(0, CALLERS - 1),
)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.builds(
        Bulkhead,
        name=st.just("default/web"),
        most=st.integers(1, 5),
        most_per_caller=st.integers(1, 5),
        queue=st.integers(0, 3),
        max_wait_s=st.sampled_from([0.0, 0.5, 1.0]),
    ),
    st.lists(_events, max_size=100),
)
def test_any_history(policy: Bulkhead, events: list[tuple[str, int, int]]) -> None:
    """Never more inside than allowed, of all and of one; never more waiting, nor longer."""
    mesh = Mesh(policy)
    for name, worker, caller in events:
        getattr(mesh, name)(worker, caller)
        mesh.check()
    mesh.clear()
    assert not any(MEMORY[UNDER_WAY::FIELDS])
