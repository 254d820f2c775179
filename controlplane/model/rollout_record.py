"""A rollout as it is stored, and the reports of replicas: JSON and back. Pure.

Owns:   the stored forms; the candidate objects with what they were planned on.
Not:    the keys (store.keys), reading and writing them (reconcile.rollouts, api.rollouts).
Source: decision 24 ("the state machine lives in the record": any replica goes on with it).
Invariant: decode(encode(record)) == record; an ended rollout keeps the names of its objects, not the objects.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from controlplane.model.rollout import LogLine, Phase, Plan, Reason, Rollout, State
from controlplane.model.rollout_observation import Counts, Refusal, Report, Stage
from controlplane.model.rollout_overlay import Overlay
from controlplane.policy.objects import PolicyObject, canonical_json, decode, encode
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One object of the rollout. `object` is None once the rollout has ended; `revision`: the mod_revision of the
    stored object that it was planned on, 0 = there was none."""

    ref: ObjectRef
    action: str  # created, configured
    revision: int
    generation: int
    object: PolicyObject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that is stored of one rollout."""

    rollout: Rollout
    objects: tuple[Planned, ...]

    def moved(self, rollout: Rollout) -> "Record":
        """With a new state; the objects go when it has ended."""
        kept = self.objects if rollout.state.active else tuple(replace(item, object=None) for item in self.objects)
        return Record(rollout=rollout, objects=kept)

    def overlay(self) -> Overlay | None:
        """What staged proxies are given; None when it has ended."""
        state = self.rollout.state
        if not state.active:
            return None
        objects = {item.ref: item.object for item in self.objects if item.object is not None}
        return Overlay(self.rollout.id, objects, state.limit, state.epoch)


@dataclass(frozen=True, slots=True)
class Active:
    """The one rollout that is under way, and the objects that nobody else may write meanwhile."""

    id: str
    objects: frozenset[ObjectRef]


def encode_record(record: Record) -> bytes:
    """Canonical JSON."""
    rollout = record.rollout
    value = {
        "author": rollout.author,
        "plan": _plan_json(rollout.plan),
        "state": _state_json(rollout.state),
        "objects": [_planned_json(item) for item in record.objects],
    }
    return canonical_json(value)


def decode_record(id_: str, data: bytes) -> Record:
    """Raises MeshError UNREADABLE."""
    return _read(data, "a rollout", lambda value: _record(id_, value))


def encode_active(active: Active) -> bytes:
    """Canonical JSON."""
    return canonical_json({"id": active.id, "objects": [_ref_json(ref) for ref in sorted(active.objects, key=str)]})


def decode_active(data: bytes) -> Active:
    """Raises MeshError UNREADABLE."""
    return _read(
        data,
        "the rollout under way",
        lambda value: Active(str(value["id"]), frozenset(_ref(item) for item in value["objects"])),
    )


def encode_report(report: Report) -> bytes:
    """Canonical JSON."""
    value = {
        "rollout": report.rollout,
        "epoch": report.epoch,
        "interested": report.interested,
        "lowest": list(report.lowest),
        "busy": list(report.busy),
        "staged": report.staged,
        "pending": list(report.pending),
        "pendingCount": report.pending_count,
        "rejected": [[item.node, item.resource, item.reason] for item in report.rejected],
        "own": _counts_json(report.own),
        "others": _counts_json(report.others),
    }
    return canonical_json(value)


def decode_report(replica: str, data: bytes) -> Report:
    """Raises MeshError UNREADABLE."""
    return _read(data, "a replica's report on a rollout", lambda value: _report(replica, value))


def _read(data: bytes, what: str, made: Callable[[Any], T]) -> T:
    try:
        return made(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MeshError(ErrorCode.UNREADABLE, f"found {error!r}, expected {what}") from error


# --- parts


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "stages": [str(stage) for stage in plan.stages],
        "pauseS": plan.pause_s,
        "minRequests": plan.min_requests,
        "maxErrorPoints": plan.max_error_points,
        "waitS": plan.wait_s,
    }


def _plan(value: Mapping[str, Any]) -> Plan:
    return Plan(
        stages=tuple(Stage.parse(text) for text in value["stages"]),
        pause_s=float(value["pauseS"]),
        min_requests=int(value["minRequests"]),
        max_error_points=float(value["maxErrorPoints"]),
        wait_s=float(value["waitS"]),
    )


def _state_json(state: State) -> dict[str, Any]:
    return {
        "phase": state.phase,
        "stage": state.stage,
        "since": state.since,
        "limit": state.limit,
        "epoch": state.epoch,
        "others": _counts_json(state.others),
        "reason": state.reason,
        "message": state.message,
        "log": [[line.at, line.text] for line in state.log],
    }


def _state(value: Mapping[str, Any]) -> State:
    return State(
        phase=Phase(value["phase"]),
        stage=int(value["stage"]),
        since=float(value["since"]),
        limit=int(value["limit"]),
        epoch=int(value["epoch"]),
        others=_counts(value["others"]),
        reason=Reason(value["reason"]),
        message=str(value["message"]),
        log=tuple(LogLine(float(at), str(text)) for at, text in value["log"]),
    )


def _record(id_: str, value: Mapping[str, Any]) -> Record:
    rollout = Rollout(
        id=id_, author=str(value["author"]), plan=_plan(value["plan"]), state=_state(value["state"])
    )  # fmt: skip
    return Record(rollout=rollout, objects=tuple(_planned(item) for item in value["objects"]))


def _planned_json(item: Planned) -> dict[str, Any]:
    value: dict[str, Any] = {
        **_ref_json(item.ref),
        "action": item.action,
        "revision": item.revision,
        "generation": item.generation,
    }
    return value if item.object is None else {**value, "object": json.loads(encode(item.object))}


def _planned(value: Mapping[str, Any]) -> Planned:
    found = value.get("object")
    return Planned(
        ref=_ref(value),
        action=str(value["action"]),
        revision=int(value["revision"]),
        generation=int(value["generation"]),
        object=None if found is None else decode(canonical_json(found)),
    )


def _ref_json(ref: ObjectRef) -> dict[str, str]:
    return {"group": ref.group, "kind": ref.kind, "namespace": ref.namespace, "name": ref.name}


def _ref(value: Mapping[str, Any]) -> ObjectRef:
    return ObjectRef(str(value["group"]), str(value["kind"]), str(value["namespace"]), str(value["name"]))


def _counts_json(counts: Counts) -> list[int]:
    return [counts.requests, counts.errors]


def _counts(value: Any) -> Counts:
    requests, errors = value
    return Counts(int(requests), int(errors))


def _report(replica: str, value: Mapping[str, Any]) -> Report:
    return Report(
        rollout=str(value["rollout"]),
        replica=replica,
        epoch=int(value["epoch"]),
        interested=int(value["interested"]),
        lowest=tuple(int(place) for place in value["lowest"]),
        busy=tuple(int(place) for place in value["busy"]),
        staged=int(value["staged"]),
        pending=tuple(str(name) for name in value["pending"]),
        pending_count=int(value["pendingCount"]),
        rejected=tuple(Refusal(str(node), str(resource), str(reason)) for node, resource, reason in value["rejected"]),
        own=_counts(value["own"]),
        others=_counts(value["others"]),
    )
