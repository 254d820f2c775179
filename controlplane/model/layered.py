"""Names that one stream has, written as the difference to what all streams of its scope have.

Owns:   the two layered collections; which sets of names are one object.
Not:    when a stream may be put on a new base (discovery.session).
Invariants: a base never changes. Reading and changing cost as much as with plain collections of `own`; a new base whose
        names are the same object as the old one's costs O(differences), any other O(names).

A thousand streams of a thousand clusters, assignments and virtual hosts would else hold six million entries that say
the same.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSet
from typing import Any, Generic, Protocol, TypeVar, overload


class Versioned(Protocol):
    """What has a version: equal versions are equal contents."""

    @property
    def version(self) -> str: ...


V = TypeVar("V", bound=Versioned)
T = TypeVar("T")

_NOTHING: frozenset[str] = frozenset()
_NO_BASE: Mapping[str, Any] = {}  # one for all, so that streams that begin fill `_known` with one entry
_REMEMBERED = 64
# The values hold the mappings: an id is not reused while it is known here.
_known: OrderedDict[int, tuple[Mapping[str, object], frozenset[str]]] = OrderedDict()
_versions: OrderedDict[int, tuple[Mapping[str, Versioned], dict[str, str]]] = OrderedDict()
_sets: OrderedDict[frozenset[str], frozenset[str]] = OrderedDict()


def names_of(mapping: Mapping[str, object]) -> frozenset[str]:
    """The keys of a mapping that does not change any more; the same object for equal keys."""
    found = _known.get(id(mapping))
    if found is not None:
        return found[1]
    names = frozenset(mapping)
    names = _sets.setdefault(names, names)
    _known[id(mapping)] = (mapping, names)
    for remembered in (_known, _sets):
        if len(remembered) > _REMEMBERED:
            remembered.popitem(last=False)
    return names


def versions_of(mapping: Mapping[str, Versioned]) -> Mapping[str, str]:
    """The version of each, of a mapping that does not change any more."""
    found = _versions.get(id(mapping))
    if found is None:
        found = _versions[id(mapping)] = (mapping, {name: item.version for name, item in mapping.items()})
        if len(_versions) > _REMEMBERED:
            _versions.popitem(last=False)
    return found[1]


class LayeredSet(MutableSet[str]):
    """A set of names."""

    __slots__ = ("base", "gone", "own")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.base = _NOTHING
        self.own = set(names)  # not in the base
        self.gone: set[str] = set()  # of the base

    def __contains__(self, name: object) -> bool:
        return name in self.own or (name in self.base and name not in self.gone)

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.base - self.gone if self.gone else self.base

    def __len__(self) -> int:
        return len(self.own) + len(self.base) - len(self.gone)

    def add(self, value: str) -> None:
        if value in self.base:
            self.gone.discard(value)
        else:
            self.own.add(value)

    def discard(self, value: str) -> None:
        if value in self.base:
            self.gone.add(value)
        else:
            self.own.discard(value)

    def holds_all(self, base: frozenset[str], own: Iterable[str]) -> None:
        """From now on the names of `base` and `own`."""
        self.base, self.own, self.gone = base, set(own) - base, set()

    def has_all(self, names: frozenset[str]) -> bool:
        """Whether it is on this very base and all of it is there; False may be wrong."""
        return self.base is names and not self.gone

    def rebase(self, base: frozenset[str]) -> None:
        """The same names on another base."""
        if base is self.base:
            return
        whole = set(self)
        self.base, self.own, self.gone = base, whole - base, set(base - whole)


class LayeredMap(MutableMapping[str, V], Generic[V]):
    """name -> what has a version."""

    __slots__ = ("base", "gone", "own")

    def __init__(self) -> None:
        self.base: Mapping[str, V] = _NO_BASE
        self.own: dict[str, V] = {}  # wins over the base
        self.gone: set[str] = set()  # of the base

    def __getitem__(self, name: str) -> V:
        found = self.own.get(name)
        if found is not None:
            return found
        if name in self.gone:
            raise KeyError(name)
        return self.base[name]

    @overload
    def get(self, key: str, /) -> V | None: ...
    @overload
    def get(self, key: str, /, default: V | T) -> V | T: ...
    def get(self, key: str, /, default: V | T | None = None) -> V | T | None:
        """The value, or `default`."""
        found = self.own.get(key)
        if found is not None:
            return found
        return default if key in self.gone else self.base.get(key, default)

    def __contains__(self, name: object) -> bool:
        return name in self.own or (name in self.base and name not in self.gone)

    def __iter__(self) -> Iterator[str]:
        own, gone = self.own, self.gone
        yield from own
        yield from (name for name in self.base if name not in own and name not in gone)

    def __len__(self) -> int:
        over = sum(1 for name in self.own if name in self.base)
        return len(self.own) + len(self.base) - len(self.gone) - over

    def __setitem__(self, name: str, value: V) -> None:
        self.own[name] = value
        self.gone.discard(name)

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self.own.pop(name, None)
        if name in self.base:
            self.gone.add(name)

    def holds_all(self, base: Mapping[str, V], own: Mapping[str, V]) -> None:
        """From now on the contents of `base` and `own`, which wins."""
        self.base, self.own, self.gone = base, dict(own), set()

    def rebase(self, base: Mapping[str, V]) -> None:
        """The same contents on another base.

        The caller knows that what is in both bases and not different here has one version: then only the differences
        are looked at when the names of both bases are the same.
        """
        if names_of(base) is names_of(self.base):
            kept = self.own.items()
        else:
            kept = dict(self.items()).items()
            self.gone = {name for name in base if name not in self}
        self.own = {name: value for name, value in kept if not _has(base, name, value.version)}
        self.base = base


def _has(base: Mapping[str, V], name: str, version: str) -> bool:
    found = base.get(name)
    return found is not None and found.version == version
