"""A clock that a test moves by hand."""

from dataclasses import dataclass


@dataclass(slots=True)
class ManualClock:
    """`mesh.clock.Clock` that stands still until `advance`."""

    monotonic_s: float = 1000.0
    wall_s: float = 1_790_000_000.0

    def monotonic(self) -> float:
        return self.monotonic_s

    def wall(self) -> float:
        return self.wall_s

    def advance(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_s += seconds
