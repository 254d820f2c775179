"""Background tasks that cannot get lost: each is named, held, and its failure is logged and told to its owner."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mesh.logs import get_logger

_log = get_logger(__name__)
_running: set[asyncio.Task[Any]] = set()


def spawn(
    name: str, coro: Coroutine[Any, Any, Any], *, on_failure: Callable[[BaseException], None] | None = None
) -> asyncio.Task[Any]:
    """Run `coro` as a task named `name`. A failure is logged and given to `on_failure`; a cancellation is neither."""
    task = asyncio.create_task(coro, name=name)
    _running.add(task)

    def finished(done: asyncio.Task[Any]) -> None:
        _running.discard(done)
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            _log.error("task failed", task=name, error=repr(error), exc_info=error)
            if on_failure is not None:
                on_failure(error)

    task.add_done_callback(finished)
    return task


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None, timeout_s: float = 5.0) -> None:
    """Cancel the tasks and wait until they have ended, at most `timeout_s`. None entries are ignored."""
    live = [task for task in tasks if task is not None and not task.done()]
    for task in live:
        task.cancel()
    if live:
        await asyncio.wait(live, timeout=timeout_s)
