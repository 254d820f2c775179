"""Which connected proxies a rollout's candidate changes, and by which clusters' requests one can see how it goes. Pure.

Owns:   comparing each proxy's view without the candidate with the one with it.
Not:    who is staged (model.rollout_overlay), what is counted (distribution.rollout_meter).
Source: decision 24 ("at least one of those interested").
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controlplane.snapshot.cache import SnapshotCache
from controlplane.snapshot.diff import ChangedNames, DiffCache
from controlplane.snapshot.references import clusters_between
from controlplane.snapshot.view import View

Clusters = frozenset[str]


@dataclass(frozen=True, slots=True)
class Concerned:
    """One stream of an interested proxy. `stored` and `candidate`: its view without and with the candidate."""

    stream: int
    node: str
    clusters: Clusters
    stored: View
    candidate: View


class Interest:
    """Looks at all streams of a cache; remembers what proxies of one scope share."""

    def __init__(self) -> None:
        self._diffs = DiffCache()

    def look(self, cache: SnapshotCache, streams: Iterable[int]) -> Iterator[Concerned | None]:
        """One item for each stream that is still there, None where the candidate changes nothing. May be paused."""
        clusters: dict[tuple[int, int], Clusters] = {}
        for stream in streams:
            sides = cache.sides(stream)
            if sides is None:
                continue
            proxy, stored, candidate = sides
            changed = self._diffs.between(stored, candidate)
            if not changed:
                yield None
                continue
            # What is shared differs in the same way for the whole scope; a proxy's own part is its own business.
            key = (id(stored.shared), id(candidate.shared))
            if key not in clusters:
                clusters[key] = _clusters(changed, stored, candidate)
            yield Concerned(stream, proxy.id, clusters[key], stored, candidate)


def _clusters(changed: ChangedNames, stored: View, candidate: View) -> Clusters:
    found: set[str] = set()
    for url, names in changed.items():
        for name in names:
            found |= clusters_between(stored.get(url, name), candidate.get(url, name))
    return frozenset(found)
