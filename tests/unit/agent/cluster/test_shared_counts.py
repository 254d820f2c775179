"""What workers count together under names: sums, entries that change hands, a table that is full."""

import itertools

from agent.cluster.shared_counts import Count, SharedCounts
from agent.model.count_cells import FIELDS, SETS, TABLE, TAG, UNDER_WAY, WAYS
from agent.model.tags import tag_of


def workers(slots: int) -> list[SharedCounts]:
    memory = memoryview(bytearray(8 * TABLE * slots)).cast("q")
    return [SharedCounts(memory, slots, slot) for slot in range(slots)]


def name(number: int) -> tuple[str, ...]:
    return ("default/web", f"caller-{number}")


def names_of_one_set(count: int) -> list[tuple[str, ...]]:
    """Names that compete for the same entries."""
    wanted = tag_of(name(0)) % SETS
    found = (own for number in itertools.count() if tag_of(own := name(number)) % SETS == wanted)
    return list(itertools.islice(found, count))


def test_all_workers_sum_what_each_writes() -> None:
    shown: list[list[int]] = [[0], [0], [0]]
    mine, other, third = (Count(counts, name(1), here) for counts, here in zip(workers(3), shown, strict=True))
    assert [mine.enter(), mine.enter(), other.enter()] == [True] * 3
    assert [count.total() for count in (mine, other, third)] == [3, 3, 3]
    assert shown == [[2], [1], [0]]
    mine.leave()
    other.leave()
    assert [count.total() for count in (mine, other, third)] == [1, 1, 1]


def test_names_do_not_count_for_each_other() -> None:
    here, there = workers(2)
    mine, others = Count(here, name(1), [0]), Count(there, name(2), [0])
    assert mine.enter()
    assert others.enter()
    assert (mine.total(), others.total(), Count(there, name(1), [0]).total()) == (1, 1, 1)


def test_an_entry_changes_hands_when_nothing_of_it_is_under_way() -> None:
    here, there = workers(2)
    names = names_of_one_set(WAYS + 1)
    counts = [Count(here, own, [0]) for own in names]
    assert [count.enter() for count in counts] == [True] * WAYS + [False]
    counts[3].leave()
    assert counts[WAYS].enter()
    assert not counts[3].enter()
    assert [Count(there, own, [0]).total() for own in names] == [1, 1, 1, 0, 1, 1, 1, 1, 1]


def test_a_name_keeps_its_entry_while_it_is_there() -> None:
    """One that comes again counts where it did; an earlier entry that has become free does not split it."""
    here, there = workers(2)
    names = names_of_one_set(2)
    first, second = (Count(here, own, [0]) for own in names)
    place = tag_of(names[1]) % SETS * WAYS * FIELDS + FIELDS
    assert first.enter()
    assert second.enter()
    first.leave()
    second.leave()
    assert second.enter()
    assert here.cells[place + TAG] == tag_of(names[1])
    assert here.cells[place + UNDER_WAY] == 1
    assert Count(there, names[1], [0]).total() == 1
