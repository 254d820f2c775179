"""What users read on their objects: conditions of the compiler, unreadable objects, refusals of proxies, and how many
proxies have the object's present form. Sans-io.

Owns:   merging the four into one status value per object; since when each condition holds.
Not:    writing (status_writer.py), merging replicas (controlplane.api.status).
Source: decisions 16, 17, 21; Kubernetes' condition shape.

Invariants: a value changes only when its content does; one condition per type and object.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from controlplane.compiler.types import Condition, StatusDetails, StatusPart
from controlplane.distribution.reach import PROGRAMMED, Reach
from controlplane.distribution.stream_sync import Rejection
from mesh.vocabulary import ObjectRef
from mesh.xds.type_url import SHORT_NAMES

REJECTED = "Rejected"
SUSPECTED = "Suspected"
_SHOWN_NODES = 5


def rejection_conditions(rejections: Iterable[tuple[str, Rejection]]) -> tuple[Condition, ...]:
    """One condition per object whose resources proxies refuse. `rejections`: (node, rejection)."""
    found: dict[tuple[ObjectRef, bool], dict[str, list[str]]] = {}
    for node, rejection in rejections:
        text = f"{SHORT_NAMES[rejection.type_url]} {rejection.name}: {rejection.reason}"
        for source in rejection.sources:
            found.setdefault((source.ref, rejection.certain), {}).setdefault(text, []).append(node)
    return tuple(_rejection_condition(ref, certain, texts) for (ref, certain), texts in sorted(found.items()))


def _rejection_condition(ref: ObjectRef, certain: bool, texts: Mapping[str, list[str]]) -> Condition:
    nodes = sorted({node for named in texts.values() for node in named})
    shown = ", ".join(nodes[:_SHOWN_NODES]) + (", ..." if len(nodes) > _SHOWN_NODES else "")
    doubt = "" if certain else "; the proxy did not say which resource it means, this object is one that changed"
    message = f"refused by {len(nodes)} of this replica's proxies ({shown}): {min(texts)}{doubt}"
    return Condition(ref, REJECTED if certain else SUSPECTED, "True", "ProxyRejected", message)


class StatusBook:
    """The status values by object, with the time of each condition's last transition."""

    def __init__(self) -> None:
        self._since: dict[tuple[ObjectRef, str], tuple[str, str]] = {}  # (object, place and type) -> (status, time)
        self._before = self._since

    def values(
        self,
        conditions: Iterable[Condition],
        generations: Mapping[ObjectRef, int],
        now: float,
        reaches: Mapping[ObjectRef, Reach] | None = None,
        details: Mapping[ObjectRef, StatusDetails] | None = None,
    ) -> dict[ObjectRef, bytes]:
        """The status of each object that has a condition. `now`: seconds since the epoch; `reaches`: of the objects
        that proxies use, which become a condition and the field `proxies`; `details`: what a kind says beyond."""
        reaches, details = reaches or {}, details or {}
        programmed = (
            Condition(ref, PROGRAMMED, reach.status, reach.reason, reach.message) for ref, reach in reaches.items()
        )  # fmt: skip
        stamp = datetime.fromtimestamp(int(now), UTC).isoformat().replace("+00:00", "Z")
        by_object: dict[ObjectRef, dict[str, Condition]] = {}
        for condition in sorted((*conditions, *programmed)):
            by_object.setdefault(condition.ref, {}).setdefault(condition.type, condition)
        for ref, own in details.items():
            for condition in own.conditions:
                by_object.setdefault(ref, {}).setdefault(condition.type, condition)
        self._before, self._since = self._since, {}
        values: dict[ObjectRef, bytes] = {}
        for ref in {**by_object, **details}:
            generation = generations.get(ref, 0)
            shown = [self._stamped(condition, "", stamp) for condition in by_object.get(ref, {}).values()]
            value: dict[str, Any] = {"conditions": shown, "observedGeneration": generation}
            if ref in reaches:
                value["proxies"] = reaches[ref].as_json()
            if ref in details:
                value["conditions"] = [{**condition, "observedGeneration": generation} for condition in shown]
                value |= details[ref].facts
                for name, parts in details[ref].parts.items():
                    value[name] = [self._part(part, name, generation, stamp) for part in parts]
            values[ref] = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        return values

    def _part(self, part: StatusPart, name: str, generation: int, stamp: str) -> dict[str, Any]:
        place = f"{name}/{part.key}/"
        observed = {"observedGeneration": generation}
        conditions = [{**self._stamped(condition, place, stamp), **observed} for condition in part.conditions]
        return {**part.facts, "conditions": conditions}

    def _stamped(self, condition: Condition, place: str, stamp: str) -> dict[str, Any]:
        """With the time at which it became what it is."""
        key = (condition.ref, place + condition.type)
        status, since = self._before.get(key, ("", ""))
        self._since[key] = (condition.status, since if status == condition.status else stamp)
        return _shown(condition, self._since[key][1])


def _shown(condition: Condition, since: str) -> dict[str, str]:
    shown = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since,
    }
    return {**shown, "code": condition.code} if condition.code else shown
