"""How far the present form of an object has come among the proxies that use it: counts, and the words for them. Pure.

Owns:   the counts of one replica, their sum over replicas, their JSON, the condition that they make.
Not:    counting (controlplane.reconcile.reaching), writing and merging statuses.
Source: decision 16 (aggregates only); Gateway API's condition type `Programmed`.

    rejected > 0 -> False    else pending > 0 -> Unknown    else True
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROGRAMMED = "Programmed"


@dataclass(frozen=True, slots=True)
class Reach:
    """Proxies that use the object, by what they said about its present form. At least one of the counts is not 0."""

    acknowledged: int
    pending: int = 0
    rejected: int = 0

    def __add__(self, other: "Reach") -> "Reach":
        return Reach(
            self.acknowledged + other.acknowledged, self.pending + other.pending, self.rejected + other.rejected
        )

    @property
    def interested(self) -> int:
        return self.acknowledged + self.pending + self.rejected

    @property
    def status(self) -> str:
        """Of the condition."""
        return "False" if self.rejected else "Unknown" if self.pending else "True"

    @property
    def reason(self) -> str:
        return "Rejected" if self.rejected else "Pending" if self.pending else "Acknowledged"

    @property
    def message(self) -> str:
        proxies = "proxy" if self.interested == 1 else "proxies"
        rest = [f"{count} {word}" for count, word in ((self.pending, "pending"), (self.rejected, "rejected")) if count]
        return ", ".join([f"acknowledged by {self.acknowledged} of {self.interested} interested {proxies}", *rest])

    def as_json(self) -> dict[str, int]:
        """The `proxies` field of a status."""
        return {
            "interested": self.interested,
            "acknowledged": self.acknowledged,
            "pending": self.pending,
            "rejected": self.rejected,
        }


def reach_of(value: Any) -> Reach | None:
    """From the `proxies` field of a status; None when it is none, as another version may have written it."""
    if not isinstance(value, Mapping):
        return None
    found = (value.get(name) for name in ("acknowledged", "pending", "rejected"))
    counts = [count for count in found if isinstance(count, int) and count >= 0]
    return Reach(*counts) if len(counts) == 3 else None
