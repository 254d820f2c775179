"""Colours, only where a person looks at them.

Owns:   the decision whether to colour, and the few styles there are.
Source: https://no-color.org: NO_COLOR turns colours off whatever its value, if it is not empty.
"""

import os
from dataclasses import dataclass
from typing import TextIO

GOOD, WARN, BAD, STRONG, FAINT = "32", "33", "31", "1", "2"

_WORDS = {
    "healthy": GOOD, "synced": GOOD, "ok": GOOD, "ready": GOOD, "created": GOOD, "connected": GOOD, "yes": GOOD,
    "pending": WARN, "unknown": WARN, "draining": WARN, "configured": WARN, "degraded": WARN, "suspected": WARN,
    "unhealthy": BAD, "rejected": BAD, "ejected": BAD, "timeout": BAD, "deleted": BAD, "away": BAD, "no": BAD,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Terminal:
    """How one output stream is written to."""

    colour: bool

    def paint(self, text: str, style: str) -> str:
        """The text in a style, or as it is where colours are not wanted."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style and text else text

    def word(self, text: str) -> str:
        """A state, in the colour of what it means."""
        return self.paint(text, _WORDS.get(text.partition(" ")[0].lower(), ""))


def terminal_of(stream: TextIO, *, no_color: bool) -> Terminal:
    """Colours are for terminals that can show them, unless the user does not want them."""
    wanted = not no_color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Terminal(colour=wanted and stream.isatty())
