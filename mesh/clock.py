"""Time as a value that can be handed in. Only shells hold a Clock; the pure packages take `now`."""

import time
from typing import Protocol


class Clock(Protocol):
    """`monotonic` in seconds for intervals, `wall` in seconds since the epoch for what people and peers read."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
