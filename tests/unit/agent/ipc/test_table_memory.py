"""The memory of tables that workers share: mapped by all, cleared for one."""

import os

import pytest

from agent.ipc import table_memory
from agent.model.count_cells import TABLE

SLOTS = 3


def test_what_one_maps_another_sees_until_it_is_cleared() -> None:
    descriptor = table_memory.create("test", TABLE, SLOTS)
    try:
        one, other = (table_memory.attach(os.dup(descriptor), TABLE, SLOTS) for _ in range(2))
        for slot in range(SLOTS):
            one[slot * TABLE] = one[(slot + 1) * TABLE - 1] = slot + 1
        assert [other[slot * TABLE] for slot in range(SLOTS)] == [1, 2, 3]
        table_memory.clear(descriptor, TABLE, 1)
        assert not any(other[TABLE : 2 * TABLE])
        assert [other[place] for place in (0, TABLE - 1, 2 * TABLE, 3 * TABLE - 1)] == [1, 1, 3, 3]
    finally:
        os.close(descriptor)


def test_untouched_pages_cost_nothing_also_when_they_are_cleared() -> None:
    descriptor = table_memory.create("test", TABLE, SLOTS)
    try:
        table_memory.clear(descriptor, TABLE, 0)
        assert os.fstat(descriptor).st_blocks == 0
    finally:
        os.close(descriptor)


def test_memory_of_another_size_is_refused() -> None:
    descriptor = table_memory.create("test", TABLE, 1)
    with pytest.raises(ValueError, match="greater than file size"):
        table_memory.attach(descriptor, TABLE, 2)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
