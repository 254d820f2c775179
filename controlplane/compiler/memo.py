"""Remembers what was built from which exact inputs.

Invariants: a key is the kind and all inputs by value, so a remembered resource can never miss an input; `builds` counts
        only what was really built. The least recently used are forgotten beyond `size`.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

from controlplane.compiler.types import Resource

I = TypeVar("I", bound=Hashable)  # noqa: E741


class Memo:
    """One per compiler."""

    def __init__(self, size: int = 100_000) -> None:
        self._size = size
        self._built: OrderedDict[tuple[str, Hashable], Resource] = OrderedDict()
        self.builds: Counter[str] = Counter()

    def build(self, kind: str, inputs: I, make: Callable[[I], Resource]) -> Resource:
        """`make(inputs)`, or what it gave before. `kind`: the name of the resource's message."""
        key = (kind, inputs)
        found = self._built.get(key)
        if found is not None:
            self._built.move_to_end(key)
            return found
        self.builds[kind] += 1
        made = self._built[key] = make(inputs)
        if len(self._built) > self._size:
            self._built.popitem(last=False)
        return made
