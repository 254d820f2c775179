"""The cells that workers share: one writer each, summed by all, cleared by the supervisor."""

import os
import subprocess
import sys

import pytest

from agent.ipc.shared import CONNECTIONS, FIELDS, PENDING, PRIORITIES, REQUESTS, WIDTH, SharedCells, size_bytes


def test_what_one_process_counts_another_sums() -> None:
    shared = SharedCells.create(4, 2)
    own = shared.row(3, 0)
    shared.cells[own.own + REQUESTS] = 5
    code = (
        "import sys; from agent.ipc.shared import SharedCells, REQUESTS;"
        "s = SharedCells.attach(int(sys.argv[1]), int(sys.argv[2]), 2);"
        "r = s.row(3, 1); s.cells[r.own + REQUESTS] += 7; print(s.total(3, 0, REQUESTS))"
    )
    os.set_inheritable(shared.descriptor, True)
    other = subprocess.run(
        [sys.executable, "-c", code, str(shared.descriptor), str(shared.length)],
        pass_fds=[shared.descriptor],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert other.stderr == ""
    assert other.stdout == "12\n"
    assert shared.total(3, 0, REQUESTS) == 12
    assert [shared.total(3, 1, field) for field in range(FIELDS)] == [0] * FIELDS
    shared.close()


def test_every_cell_belongs_to_one_block_slot_priority_and_field() -> None:
    shared = SharedCells.create(3, 2)
    places = [
        shared.row(block, slot).own + priority * FIELDS + field
        for block in range(3)
        for slot in range(2)
        for priority in range(PRIORITIES)
        for field in range(FIELDS)
    ]
    assert len(set(places)) == len(places) == 3 * 2 * WIDTH
    assert max(places) < len(shared.cells)
    shared.close()


def test_a_dead_workers_counts_are_forgotten_and_the_others_stay() -> None:
    shared = SharedCells.create(2, 2)
    for block in range(2):
        for slot in range(2):
            shared.cells[shared.row(block, slot).own + CONNECTIONS] = 10 + slot
    shared.clear_slot(1, 1)
    assert [shared.total(block, 0, CONNECTIONS) for block in range(2)] == [10, 21]
    shared.clear_slot(1, 99)
    assert [shared.total(block, 0, CONNECTIONS) for block in range(2)] == [10, 10]
    shared.close()


def test_a_block_for_another_cluster_is_empty() -> None:
    shared = SharedCells.create(2, 2)
    for block in range(2):
        shared.cells[shared.row(block, 1).own + FIELDS + PENDING] = 3
    shared.clear_block(0)
    assert [shared.total(block, 1, PENDING) for block in range(2)] == [0, 3]
    shared.close()


@pytest.mark.parametrize(("block", "slot"), [(-1, 0), (10**6, 0), (0, -1), (0, 2)])
def test_outside_the_memory_is_an_error(block: int, slot: int) -> None:
    shared = SharedCells.create(1, 2)
    with pytest.raises(IndexError):
        shared.row(block, slot)
    shared.close()


def test_there_is_room_for_what_was_asked() -> None:
    shared = SharedCells.create(1000, 4)
    assert shared.blocks >= 1000
    assert shared.length == size_bytes(1000, 4)
    shared.close()
