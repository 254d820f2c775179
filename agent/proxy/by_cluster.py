"""Which policy of a route a request obeys, by the cluster that it goes to."""

from collections.abc import Iterable
from typing import Generic, TypeVar

from agent.model.route import WeightedCluster

P = TypeVar("P")


class ByCluster(Generic[P]):
    """(clusters, policy) in their order; no clusters = all of them. The first that is for a cluster is its policy."""

    __slots__ = ("_by_name", "_for_all")

    def __init__(self, policies: Iterable[tuple[frozenset[str], P]]) -> None:
        self._by_name: dict[str, P] = {}
        self._for_all: P | None = None
        for clusters, policy in policies:
            if not clusters:
                self._for_all = policy
                break
            for name in clusters:
                self._by_name.setdefault(name, policy)

    def of(self, choice: WeightedCluster | None) -> P | None:
        """The policy for it; None also for a request that goes to no cluster."""
        return self._by_name.get(choice.cluster, self._for_all) if choice is not None else None
