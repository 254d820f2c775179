"""The `status` that the API shows on an object: what all replicas say about it, as one. Pure.

Owns:   merging the values of the status keys of one object.
Not:    writing them (controlplane.reconcile).
Source: decisions 16 and 17; Kubernetes API conventions, "Typical status properties".

Invariants: one condition per type. When replicas differ, the one that reports a problem wins; its message is shown
            once, and `replicas` says how many of them agree. `proxies` and the words of `Programmed` are of the sum.
            Details are those of the replica that has seen the newest form.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controlplane.distribution.reach import PROGRAMMED, Reach, reach_of

# A condition of these types is good news when it is True; every other type names a problem when it is True.
GOOD_WHEN_TRUE = frozenset({"Accepted", PROGRAMMED, "Ready", "ResolvedRefs", "Reconciled"})


# Of the Gateway API's kinds: what each listener and each parent says, with conditions of its own.
DETAILS = ("addresses", "listeners", "parents")


def is_problem(condition: Mapping[str, Any]) -> bool:
    """Does the condition tell the user that something needs attention? `Programmed` does not: what it counts comes and
    goes with proxies, and a refusal has a condition of its own."""
    if condition.get("type") == PROGRAMMED:
        return False
    wanted = "True" if condition.get("type") in GOOD_WHEN_TRUE else "False"
    return condition.get("status") != wanted


def problem_name(condition: Mapping[str, Any]) -> str:
    """A problem in one word: its type, or why what is good when it is true (Accepted) is not."""
    good = condition.get("type") in GOOD_WHEN_TRUE
    return str((good and condition.get("reason")) or condition.get("type", ""))


def merge_status(values: Sequence[bytes]) -> dict[str, Any]:
    """The status of an object from its status keys' values; empty when there is none."""
    reports = [report for report in map(_parse, values) if report]
    if not reports:
        return {}
    merged: dict[str, Any] = {
        "observedGeneration": min(int(report.get("observedGeneration", 0)) for report in reports),
    }
    reaches = [reach for report in reports if (reach := reach_of(report.get("proxies"))) is not None]
    total = sum(reaches[1:], reaches[0]) if reaches else None
    conditions = _merge_conditions(reports, total)
    if conditions:
        merged["conditions"] = conditions
    if total is not None:
        merged["proxies"] = total.as_json()
    # What replicas find in the mesh itself is the same in all of them that have come as far.
    newest = max(reports, key=lambda report: int(report.get("observedGeneration", 0)))
    merged |= {name: newest[name] for name in DETAILS if name in newest}
    return merged


def problems(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The conditions that need attention, in order of their type."""
    return [condition for condition in status.get("conditions", ()) if is_problem(condition)]


def _parse(value: bytes) -> Mapping[str, Any]:
    try:
        report = json.loads(value)
    except ValueError:
        # Written by a replica of another version: what it says is unknown, not an error of the reader's.
        return {}
    return report if isinstance(report, Mapping) else {}


def _merge_conditions(reports: Iterable[Mapping[str, Any]], total: Reach | None) -> list[dict[str, Any]]:
    by_type: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports:
        for condition in report.get("conditions", ()):
            by_type.setdefault(str(condition.get("type", "")), []).append(condition)
    return [
        _programmed(found, total) if type_ == PROGRAMMED and total is not None else _worst(found)
        for type_, found in sorted(by_type.items())
    ]


def _programmed(found: Sequence[Mapping[str, Any]], total: Reach) -> dict[str, Any]:
    """What the sum says; since when: the oldest of those that say so."""
    said = [item for item in found if item.get("status") == total.status] or found
    chosen = min(said, key=lambda item: str(item.get("lastTransitionTime", "")))
    return {**chosen, "status": total.status, "reason": total.reason, "message": total.message}


def _worst(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # The oldest of those that say the worst: it says since when the user has had the problem.
    chosen = min(found, key=lambda item: (not is_problem(item), str(item.get("lastTransitionTime", ""))))
    agree = sum(item.get("status") == chosen.get("status") for item in found)
    return {**chosen, "replicas": agree} if len(found) > 1 else dict(chosen)
