"""All groups of one worker, by prefix, so that a subject that goes and comes again goes on counting.

Owns:   which groups exist, Istio's metrics beside them, one report over all.
Invariant: a group that is dropped is still reported until its gauges are back at 0.
"""

from collections.abc import Callable

from agent.stats.groups import Group, Report
from agent.stats.istio import StandardMetrics


class Registry:
    """The groups of a worker."""

    __slots__ = ("_ending", "_groups", "standard")

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._ending: dict[str, Group] = {}
        self.standard = StandardMetrics()

    def get(self, key: str, make: Callable[[], Group]) -> Group:
        """The group of `key`, made when it is new."""
        group = self._groups.get(key)
        if group is None:
            ending = self._ending.pop(key) if key in self._ending else None
            group = self._groups[key] = ending or make()
        return group

    def drop(self, key: str) -> None:
        """The subject is gone from the config."""
        group = self._groups.pop(key, None)
        if group is not None:
            self._ending[key] = group

    def report(self) -> Report:
        """What has changed since the last call."""
        report = Report()
        for group in self._groups.values():
            group.report(report)
        for group in self._ending.values():
            group.report(report)
        self.standard.report(report)
        self._ending = {key: group for key, group in self._ending.items() if group.in_use}
        return report
