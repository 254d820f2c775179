"""A rollout as /mesh/v1 shows it, and the plan as the query of a request writes it. Pure.

Owns:   the shapes; the names, defaults and bounds of the plan's parameters.
Source: decision 24.
"""

import math
from collections.abc import Mapping
from typing import Any

from controlplane.api.exchange import duration_s
from controlplane.api.rollouts import Begun
from controlplane.api.state_json import time_of
from controlplane.model.rollout import MAX_STAGES, Phase, Plan
from controlplane.model.rollout_observation import Counts, Observation, parse_stages
from controlplane.model.rollout_record import Record
from controlplane.store.rollouts import Stored
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

Json = dict[str, Any]

_DEFAULTS = Plan(stages=())
_MAX_S = 7 * 86400.0


def plan_of(query: Mapping[str, str]) -> Plan:
    """From `stages`, `pause`, `minRequests`, `maxErrorPoints`, `waitLimit`. UNREADABLE names the wrong one."""
    text = query.get("stages", "")
    if not text:
        raise _unreadable("stages", "found nothing, expected stages such as 1,10%,100%")
    try:
        stages = parse_stages(text, most=MAX_STAGES)
    except ValueError as error:
        raise _unreadable("stages", str(error)) from error
    return Plan(
        stages=stages,
        pause_s=_seconds(query, "pause", _DEFAULTS.pause_s),
        min_requests=int(_number(query, "minRequests", _DEFAULTS.min_requests, most=10**9, whole=True)),
        max_error_points=_number(query, "maxErrorPoints", _DEFAULTS.max_error_points, most=100.0),
        wait_s=_seconds(query, "waitLimit", _DEFAULTS.wait_s),
    )


def _seconds(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name, "")
    seconds = duration_s(text, subject=name) if text else default
    if seconds > _MAX_S:
        raise _unreadable(name, f"found {text}, expected at most {_MAX_S / 86400:g} days")
    return seconds


def _number(query: Mapping[str, str], name: str, default: float, *, most: float, whole: bool = False) -> float:
    text = query.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most or (whole and value != int(value)):
        raise _unreadable(
            name, f"found {text[:40]!r}, expected {'a whole' if whole else 'a'} number from 0 to {most:g}"
        )
    return value


def _unreadable(name: str, message: str) -> MeshError:
    return MeshError(ErrorCode.UNREADABLE, message, subject=name)


def rollout_json(stored: Stored, seen: Observation | None) -> Json:
    """One rollout; `progress` is null when it has ended. `stage` counts from 1."""
    record, revision = stored
    rollout, state = record.rollout, record.rollout.state
    return {
        "id": rollout.id,
        "author": rollout.author,
        "phase": state.phase.value,
        "reason": state.reason.value,
        "message": state.message,
        "stage": state.stage + 1,
        "since": time_of(state.since),
        "revision": revision if state.phase is Phase.FINISHED else 0,
        "plan": _plan_json(rollout.plan),
        "objects": _objects_json(record),
        "progress": None if seen is None else _progress_json(seen),
        "log": [{"at": time_of(line.at), "text": line.text} for line in state.log],
    }


def begun_json(begun: Begun, *, dry_run: bool) -> Json:
    """What began, and what it will make of each object in the order of the request."""
    results = [
        {
            **_ref_json(plan.object.ref),
            "action": plan.action,
            "generation": plan.object.metadata.generation,
            "warnings": list(warnings),
        }
        for plan, warnings in zip(begun.planned, begun.warnings, strict=True)
    ]
    rollout = None if begun.stored is None else rollout_json(begun.stored, None)
    return {"rollout": rollout, "dry_run": dry_run, "results": results}


def _plan_json(plan: Plan) -> Json:
    return {
        "stages": [str(stage) for stage in plan.stages],
        "pause_s": plan.pause_s,
        "min_requests": plan.min_requests,
        "max_error_points": plan.max_error_points,
        "wait_s": plan.wait_s,
    }


def _objects_json(record: Record) -> list[Json]:
    return [
        {**_ref_json(item.ref), "action": item.action, "generation": item.generation} for item in record.objects
    ]  # fmt: skip


def _ref_json(ref: ObjectRef) -> Json:
    return {"object": str(ref), "group": ref.group, "kind": ref.kind, "namespace": ref.namespace, "name": ref.name}


def _progress_json(seen: Observation) -> Json:
    return {
        "interested": seen.interested,
        "staged": seen.staged,
        "acknowledged": seen.staged - seen.pending_count,
        "pending": list(seen.pending),
        "rejected": [
            {"node": item.node, "resource": item.resource, "reason": item.reason} for item in seen.rejected
        ],
        "missing_replicas": list(seen.missing),
        "staged_requests": _counts_json(seen.own),
        "other_requests": _counts_json(seen.others),
    }  # fmt: skip


def _counts_json(counts: Counts) -> Json:
    return {"requests": counts.requests, "errors": counts.errors, "error_ratio": round(counts.ratio, 4)}
