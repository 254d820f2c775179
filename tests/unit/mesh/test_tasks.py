"""Background tasks: none is lost, none fails unheard."""

import asyncio
import logging

import pytest

from mesh.tasks import cancel_and_wait, spawn


async def test_a_failure_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[BaseException] = []

    async def fail() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR):
        task = spawn("worker", fail(), on_failure=told.append)
        await asyncio.wait({task})
        await asyncio.sleep(0)
    assert [str(error) for error in told] == ["broken"]
    assert task.get_name() == "worker"
    (record,) = caplog.records
    assert record.getMessage() == "task failed"
    assert record.fields["task"] == "worker"  # type: ignore[attr-defined]


async def test_an_end_and_a_cancellation_are_no_failures(caplog: pytest.LogCaptureFixture) -> None:
    told: list[BaseException] = []
    ended = spawn("ends", asyncio.sleep(0), on_failure=told.append)
    await ended
    cancelled = spawn("sleeps", asyncio.sleep(60), on_failure=told.append)
    await cancel_and_wait(cancelled, ended, None)
    assert cancelled.cancelled()
    assert told == []
    assert caplog.records == []


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    import gc

    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        gc.collect()
        done.set()

    spawn("held", work())
    gc.collect()
    async with asyncio.timeout(5):
        await done.wait()


async def test_waiting_for_a_task_that_will_not_end_is_bounded() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = spawn("stubborn", stubborn())
    await asyncio.sleep(0)
    await cancel_and_wait(task, timeout_s=0.01)
    assert not task.done()
    release.set()
    await asyncio.wait({task}, timeout=5)
    assert task.done()
