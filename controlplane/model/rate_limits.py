"""RateLimits, found by the workloads that they select.

Owns:   the index by namespace; which rules hold for a workload at a place.
Invariant: sequences of rules are sorted by age, oldest first.
"""

from collections.abc import Iterable, Iterator, Mapping

from controlplane.model.persistent import PersistentIndex
from controlplane.policy.objects import PolicyObject
from controlplane.policy.rate_limit import Place, RateLimit
from controlplane.policy.selector import selects


class RateLimits:
    """Immutable; `updated` gives the next."""

    __slots__ = ("_by_namespace", "_root")

    def __init__(self, root_namespace: str) -> None:
        """Rules of `root_namespace` are for the workloads of all namespaces."""
        self._root = root_namespace
        self._by_namespace: PersistentIndex[str, PolicyObject] = PersistentIndex()

    def updated(self, puts: Iterable[PolicyObject], gone: Iterable[PolicyObject]) -> "RateLimits":
        """The next version. `gone`: also the old form of what is put. The same object when nothing changes."""
        after, before = tuple(puts), tuple(gone)
        if not after and not before:
            return self
        following = RateLimits(self._root)
        following._by_namespace = self._by_namespace.updated(_pairs(after), _pairs(before))
        return following

    def selecting(self, namespace: str, labels: Mapping[str, str], place: Place) -> tuple[PolicyObject, ...]:
        """Those that hold for a workload of a namespace at a place."""
        known = self._by_namespace
        rules = known[namespace] if namespace == self._root else {*known[namespace], *known[self._root]}
        found = [rule for rule in rules if _holds(rule, labels, place)]
        return tuple(sorted(found, key=lambda rule: rule.age_key))


def _holds(rule: PolicyObject, labels: Mapping[str, str], place: Place) -> bool:
    spec = rule.spec_as(RateLimit)
    return place in spec.places and selects(spec.selected, labels)


def _pairs(rules: Iterable[PolicyObject]) -> Iterator[tuple[str, PolicyObject]]:
    return ((rule.metadata.namespace, rule) for rule in rules)
