"""Batches, rollbacks and changes as JSON values: what became of objects, with both sides and their difference. Pure.

Not:    their OpenAPI schemas (openapi_state_schemas), the lists of records (state_json.apply_json).
"""

import json
from typing import Any

from controlplane.api import state_json
from controlplane.api.changes import DELETED
from controlplane.api.history import ChangedObject, RecordedChange
from controlplane.api.manifest_diff import unified
from controlplane.api.writes import BatchResult, ObjectResult
from controlplane.policy.secret import redacted

Json = dict[str, Any]


def batch_json(done: BatchResult, *, dry_run: bool) -> Json:
    """What became of a batch, in the order of the request."""
    return {"revision": done.revision, "dry_run": dry_run, "results": [_result_json(item) for item in done.results]}


def rollback_json(done: BatchResult, revision: int, *, dry_run: bool) -> Json:
    """What a rollback to `revision` changed, or would change, each object with its diff."""
    results = [{**_result_json(item), "diff": _result_diff(item)} for item in done.results]
    return {"revision": done.revision, "dry_run": dry_run, "to": revision, "results": results}


def change_json(change: RecordedChange) -> Json:
    """A record with both sides of each object; null = it did not exist."""
    record = state_json.apply_json(change.record)
    objects = [
        {**shown, **_sides(item), "diff": _diff(item, change.record.revision)}
        for shown, item in zip(record["objects"], change.objects, strict=True)
    ]
    return {**record, "objects": objects}


def _sides(item: ChangedObject) -> Json:
    """Both as they are shown: of a Secret without its content."""
    before, after = item.before, item.after
    return {
        "before": None if before is None else redacted(before),
        "after": None if after is None else redacted(after, before),
    }


def _diff(item: ChangedObject, revision: int) -> str:
    names = (f"before {item.applied.ref}", f"revision {revision} {item.applied.ref}")
    return unified(item.before, item.after, names)


def _result_diff(result: ObjectResult) -> str:
    before = _loaded(result.before)
    after = None if result.action == DELETED else result.manifest
    return unified(before, after, (f"live {result.ref}", f"restored {result.ref}"))


def _loaded(value: bytes | None) -> Json | None:
    try:
        found = json.loads(value) if value is not None else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _result_json(result: ObjectResult) -> Json:
    metadata = result.manifest["metadata"]
    return {
        "object": str(result.ref),
        "group": result.ref.group,
        "kind": result.ref.kind,
        "namespace": result.ref.namespace,
        "name": result.ref.name,
        "action": result.action,
        "generation": metadata.get("generation", 0),
        "resource_version": metadata.get("resourceVersion", ""),
        "warnings": list(result.warnings),
    }
