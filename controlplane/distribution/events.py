"""What happened lately, for people: proxies that came and went, refused configuration, ejections. Pure, bounded.

Owns:   the last `size` events of this replica.
Not:    the log (mesh.logs), history of applies (store).
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from controlplane.distribution.stream_sync import Rejection
from mesh.xds.type_url import SHORT_NAMES

_OBJECTS_PER_REFUSAL = 20  # one bad response must not push everything else out of the log


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`at`: seconds since the epoch; `type` e.g. ProxyConnected, ConfigRejected; `subject` what it is about."""

    at: float
    type: str
    subject: str
    message: str

    def as_json(self) -> dict[str, str]:
        """`at` as RFC 3339."""
        at = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"at": at, "type": self.type, "subject": self.subject, "message": self.message}


def refusal_events(node: str, refused: Iterable[Rejection]) -> list[tuple[str, str, str]]:
    """(type, subject, message) for each object behind what a proxy refuses now; bounded, the first reason of each."""
    found: dict[tuple[str, str], str] = {}
    for rejection in refused:
        type_ = "ConfigRejected" if rejection.certain else "ConfigSuspected"
        text = f"{node} refuses {SHORT_NAMES[rejection.type_url]} {rejection.name}: {rejection.reason}"
        for source in rejection.sources:
            found.setdefault((type_, str(source.ref)), text)
    return [(type_, subject, text) for (type_, subject), text in islice(sorted(found.items()), _OBJECTS_PER_REFUSAL)]


class EventLog:
    """The latest events, oldest first."""

    def __init__(self, *, size: int = 1000) -> None:
        self._events: deque[Event] = deque(maxlen=size)

    def add(self, at: float, type_: str, subject: str, message: str) -> None:
        self._events.append(Event(at=at, type=type_, subject=subject, message=message[:2000]))

    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)
