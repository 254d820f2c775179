"""Decisions of generated tests, always the same for the same seed."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


class Chance:
    """What may turn out one way or another."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def likely(self, share: float) -> bool:
        return self.rng.random() < share

    def one(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def several(self, options: Sequence[T], least: int = 1) -> list[T]:
        return self.rng.sample(options, self.rng.randint(least, len(options)))

    def some(self, **fields: Callable[[], Any]) -> dict[str, Any]:
        """Each field in half of the cases."""
        return {key: make() for key, make in fields.items() if self.likely(0.5)}
