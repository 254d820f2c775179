"""Token buckets shared by workers, and windows of the rate limit service, at a clock moved by hand."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from agent.filters.token_buckets import SharedBucket, TokenCells
from agent.model.tags import tag_of
from agent.model.token_cells import SEEN, SPENT, TABLE, TAG, WASTED
from controlplane.policy.rate_limit import Rate, Window
from controlplane.ratelimit.windows import Counter

TAG_OF = tag_of(("bucket",))
NOW_NS = 10**15
steps = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5_000_000_000)), max_size=60)


def buckets(slots: int) -> list[TokenCells]:
    cells = memoryview(bytearray(slots * TABLE * 8)).cast("q")
    return [TokenCells(cells, slots, slot) for slot in range(slots)]


class Ideal:
    """One token bucket in exact arithmetic."""

    def __init__(self, bucket: SharedBucket, now_ns: int) -> None:
        self._bucket = bucket
        self._level, self._at = Fraction(bucket.full_ns), now_ns

    def take(self, now_ns: int) -> bool:
        self._level = min(Fraction(self._bucket.full_ns), self._level + now_ns - self._at)
        self._at = now_ns
        if self._level < self._bucket.cost_ns:
            return False
        self._level -= self._bucket.cost_ns
        return True


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([0.05, 1.0, 60.0]), steps)
def test_workers_that_take_turns_are_one_bucket(
    tokens: int, fill: int, interval_s: float, taken: list[tuple[int, int]]
) -> None:
    """Exact: as an ideal bucket, whichever worker takes."""
    bucket, workers, now_ns = SharedBucket(tokens, fill, interval_s), buckets(4), NOW_NS
    ideal = Ideal(bucket, now_ns)
    for worker, pause_ns in taken:
        now_ns += pause_ns
        left_ns = workers[worker].take(TAG_OF, bucket, now_ns)
        assert (left_ns >= 0) == ideal.take(now_ns)
        assert -bucket.cost_ns <= left_ns <= bucket.full_ns - bucket.cost_ns, "never below nothing, never above full"


class Racing:
    """A worker that looks at what others had written before `freeze`, as one that reads at the same moment does."""

    def __init__(self, cells: memoryview, slots: int, slot: int) -> None:
        self.shared = cells
        self.seen = memoryview(bytearray(cells.cast("B"))).cast("q")
        self.worker = TokenCells(self.seen, slots, slot)
        self._own = slice(slot * TABLE, (slot + 1) * TABLE)

    def freeze(self) -> None:
        self.seen[:] = self.shared

    def publish(self) -> None:
        self.shared[self._own] = self.seen[self._own]


@given(
    st.integers(1, 10),
    st.integers(1, 10),
    st.lists(st.tuples(st.integers(0, 2_000_000_000), st.sets(st.integers(0, 2), min_size=1)), max_size=15),
)
def test_workers_at_the_same_moment_never_exceed_the_bound(
    tokens: int, fill: int, rounds: list[tuple[int, set[int]]]
) -> None:
    """In each round the workers see the same past. Since any moment: burst + rate * time + (workers - 1) at most."""
    bucket, now_ns = SharedBucket(tokens, fill, 1.0), NOW_NS
    cells = memoryview(bytearray(3 * TABLE * 8)).cast("q")
    workers = [Racing(cells, 3, slot) for slot in range(3)]
    passed: list[int] = []
    for pause_ns, racing in rounds:
        now_ns += pause_ns
        for slot in racing:
            workers[slot].freeze()
        passed += [now_ns for slot in racing if workers[slot].worker.take(TAG_OF, bucket, now_ns) >= 0]
        for slot in racing:
            workers[slot].publish()
    for first, begun_ns in enumerate(passed):
        for last in range(first, len(passed)):
            most = bucket.full_ns + passed[last] - begun_ns + 2 * bucket.cost_ns
            assert (last - first + 1) * bucket.cost_ns <= most


@given(st.lists(st.integers(0, 40), max_size=300))
def test_a_full_set_forgets_the_one_that_was_not_seen_longest(keys: list[int]) -> None:
    """Eight clients of one set are kept apart; more than these push each other out, and nobody is mixed up."""
    (worker,) = buckets(1)
    bucket = SharedBucket(1, 1, 3600.0)
    recent: list[int] = []
    for moment, key in enumerate(keys):
        tag = 8192 * (key + 1)  # all in set 0
        passes = worker.take(tag, bucket, NOW_NS + moment) >= 0
        assert passes == (key not in recent)
        recent = [*[own for own in recent if own != key][-7:], key]


def test_places_of_the_layout() -> None:
    assert (TAG, SPENT, WASTED, SEEN) == (0, 1, 2, 3)


@given(
    st.integers(1, 50),
    st.sampled_from(list(Window)),
    st.lists(st.tuples(st.floats(0, 5000), st.integers(0, 60), st.integers(1, 3)), max_size=40),
)
def test_a_window_gives_what_was_reserved(requests: int, window: Window, asked: list[tuple[float, int, int]]) -> None:
    """Never more than the limit in a window, never below nothing."""
    rate = Rate(requests=requests, per=window)
    counter, now, given_in = Counter(rate), 1_790_000_000.0, {}
    for pause_s, part, hits in asked:
        now += pause_s
        index = counter.turn(rate, now)
        if not counter.can_give(hits):
            counter.reserve(min(part, requests - counter.reserved), counter.reserved)
        if counter.can_give(hits):
            counter.give(hits)
            given_in[index] = given_in.get(index, 0) + hits
        assert 0 <= counter.left <= counter.reserved <= requests
        assert given_in.get(index, 0) <= requests
