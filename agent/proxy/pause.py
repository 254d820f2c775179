"""A single wait in the wheel, for what is no connection."""

from collections.abc import Callable

from agent.upstream.wheel import Timed


class Pause(Timed):
    """Calls `then` when its time has come; arm and disarm it in the wheel."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def on_deadline(self, now: float) -> None:
        self._then()
