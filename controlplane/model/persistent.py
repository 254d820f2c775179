"""An immutable map whose next version shares almost everything with the one before.

Owns:   look-up, the next version, and the difference of two versions.
Not:    order: iterate over `sorted(...)` where it matters.

Two levels: `_SHARDS` small dicts. An update copies the shards that it touches and the tuple of all; a difference looks
only into shards that are not the same object. Both cost O(shards + keys of the touched shards).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

_SHARDS = 256


class PersistentMap(Mapping[K, V], Generic[K, V]):
    """Never changes. Values are compared by identity: an update with the same object is no change."""

    __slots__ = ("_length", "_shards")

    def __init__(self) -> None:
        nothing: dict[K, V] = {}
        self._shards: tuple[dict[K, V], ...] = (nothing,) * _SHARDS
        self._length = 0

    def __getitem__(self, key: K) -> V:
        return self._shards[hash(key) % _SHARDS][key]

    # Mapping's own asks for the item and catches the KeyError: ten times the cost where the key is not there.
    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | T) -> V | T: ...
    def get(self, key: K, /, default: V | T | None = None) -> V | T | None:
        """The value, or `default`."""
        return self._shards[hash(key) % _SHARDS].get(key, default)

    def __iter__(self) -> Iterator[K]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._length

    def updated(self, puts: Mapping[K, V], deletes: Iterable[K] = ()) -> "PersistentMap[K, V]":
        """The next version; the same object when nothing changes. A key in both is put."""
        touched: dict[int, dict[K, V]] = {}
        length = self._length
        for key in deletes:
            index = hash(key) % _SHARDS
            if key not in puts and key in touched.get(index, self._shards[index]):
                shard = touched.setdefault(index, dict(self._shards[index]))
                del shard[key]
                length -= 1
        for key, value in puts.items():
            index = hash(key) % _SHARDS
            present = touched.get(index, self._shards[index])
            if key in present and present[key] is value:
                continue
            length += key not in present
            touched.setdefault(index, dict(self._shards[index]))[key] = value
        if not touched:
            return self
        return self._made([touched.get(index, shard) for index, shard in enumerate(self._shards)], length)

    def changed_since(self, before: "PersistentMap[K, V]") -> set[K]:
        """The keys that were added, removed, or have another object than in `before`."""
        changed: set[K] = set()
        for old, new in zip(before._shards, self._shards, strict=True):
            if old is not new:
                changed.update(key for key in old if key not in new)
                changed.update(key for key, value in new.items() if key not in old or old[key] is not value)
        return changed

    @classmethod
    def _made(cls, shards: Iterable[dict[K, V]], length: int) -> "PersistentMap[K, V]":
        made: PersistentMap[K, V] = cls()
        made._shards, made._length = tuple(shards), length
        return made


class PersistentIndex(Generic[K, V]):
    """key -> set of values; a set that becomes empty is gone."""

    __slots__ = ("_map",)

    def __init__(self, sets: PersistentMap[K, frozenset[V]] | None = None) -> None:
        self._map: PersistentMap[K, frozenset[V]] = PersistentMap() if sets is None else sets

    def __getitem__(self, key: K) -> frozenset[V]:
        return self._map.get(key, frozenset())

    def __iter__(self) -> Iterator[K]:
        """The keys that have values."""
        return iter(self._map)

    def updated(self, adds: Iterable[tuple[K, V]], removes: Iterable[tuple[K, V]]) -> "PersistentIndex[K, V]":
        """The next version; the same object when nothing changes. A pair in both is there afterwards."""
        sets: dict[K, set[V]] = {}
        for key, value in removes:
            sets.setdefault(key, set(self[key])).discard(value)
        for key, value in adds:
            sets.setdefault(key, set(self[key])).add(value)
        puts = {key: frozenset(values) for key, values in sets.items() if values and values != self[key]}
        deletes = [key for key, values in sets.items() if not values]
        changed = self._map.updated(puts, deletes)
        return self if changed is self._map else PersistentIndex(changed)
