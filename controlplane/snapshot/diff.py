"""Which names differ between two compilations: computed once per pair and shared by all streams of a scope. Pure.

Invariants: a type whose mapping is the same object is skipped; equal versions are no difference; at most `size`
pairs are remembered, so that streams which lag behind cost memory only within that bound.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping

from controlplane.compiler.types import Compiled, Resource
from controlplane.snapshot.view import View

# {type_url: names added, changed or removed}; types without a difference are absent
ChangedNames = Mapping[str, Collection[str]]

_NONE: Mapping[str, Resource] = {}


def changed_names(old: Compiled, new: Compiled) -> dict[str, frozenset[str]]:
    """The names that differ. O(names of the types whose mapping is another object)."""
    if old is new:
        return {}
    found = {
        type_url: _differing(old.resources.get(type_url, _NONE), new.resources.get(type_url, _NONE))
        for type_url in {**old.resources, **new.resources}
    }
    return {type_url: names for type_url, names in found.items() if names}


def _differing(old: Mapping[str, Resource], new: Mapping[str, Resource]) -> frozenset[str]:
    if old is new:
        return frozenset()
    names = {name for name in old if name not in new}
    for name, resource in new.items():
        before = old.get(name)
        if before is not resource and (before is None or before.version != resource.version):
            names.add(name)
    return frozenset(names)


class DiffCache:
    """Remembers the differences of the latest pairs."""

    def __init__(self, *, size: int = 256) -> None:
        self._size = size
        # The values hold both compilations: an id is never reused while its pair is remembered.
        self._pairs: OrderedDict[tuple[int, int], tuple[Compiled, Compiled, ChangedNames]] = OrderedDict()

    def between(self, old: View, new: View) -> ChangedNames:
        """The names that differ for a proxy that goes from `old` to `new`."""
        shared = self._pair(old.shared, new.shared)
        # The own part is small and belongs to one proxy: remembering it would only push the shared pairs out.
        own = changed_names(old.own, new.own)
        if not own or not shared:
            return own or shared
        return {url: frozenset((*shared.get(url, ()), *own.get(url, ()))) for url in {**shared, **own}}

    def _pair(self, old: Compiled, new: Compiled) -> ChangedNames:
        if old is new:
            return {}
        key = (id(old), id(new))
        known = self._pairs.get(key)
        if known is not None:
            return known[2]
        found = changed_names(old, new)
        self._pairs[key] = (old, new, found)
        if len(self._pairs) > self._size:
            self._pairs.popitem(last=False)
        return found
