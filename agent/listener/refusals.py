"""Refused connections in the log, so that no client can fill it.

Owns:   how many lines a listener may write about refusals, and saying how many were left out.
Not:    counting them: the statistics have every one.
Invariant: at most BURST lines at once, then one every PAUSE_S; a line after a gap says how many were left out in it.
"""

from collections.abc import Callable
from typing import Any

BURST = 10
PAUSE_S = 5.0


class RefusalLog:
    """Writes to `write` (a logger's method). `now` in monotonic seconds."""

    __slots__ = ("_left", "_suppressed", "_told_at", "_write")

    def __init__(self, write: Callable[..., None]) -> None:
        self._write = write
        self._left = BURST
        self._told_at = 0.0
        self._suppressed = 0

    def tell(self, event: str, now: float, **fields: Any) -> None:
        """Write the line, or count it as left out."""
        self._left = min(BURST, self._left + int((now - self._told_at) / PAUSE_S))
        if self._left <= 0:
            self._suppressed += 1
            return
        self._left -= 1
        self._told_at = now
        if self._suppressed:
            fields["left_out_before"] = self._suppressed
            self._suppressed = 0
        self._write(event, **fields)
