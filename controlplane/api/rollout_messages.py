"""A rollout and its plan as the gRPC control API writes them. Pure.

Owns:   the messages; the names of the plan's fields in errors.
Not:    the plan's defaults and bounds, the whole of a rollout as JSON (rollout_json).
Source: proto/mesh/api/v1/control.proto; decision 24.
"""

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.api.exchange import dumps
from controlplane.api.rollout_json import plan_of, rollout_json
from controlplane.api.rollouts import Begun
from controlplane.model.rollout import Plan
from controlplane.model.rollout_observation import Observation
from controlplane.store.rollouts import Stored
from mesh.api.v1 import control_pb2
from mesh.errors import MeshError

# field -> the parameter of POST /mesh/v1/rollouts that means the same, and how it is written there
_PARAMETERS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "stages": ("stages", str),
    "pause_ms": ("pause", "{}ms".format),
    "min_requests": ("minRequests", str),
    "max_error_points": ("maxErrorPoints", str),
    "wait_limit_ms": ("waitLimit", "{}ms".format),
}
_FIELDS = {parameter: field for field, (parameter, _) in _PARAMETERS.items()}


def plan_of_message(message: control_pb2.RolloutPlan) -> Plan:
    """UNREADABLE names the wrong field."""
    query = {_PARAMETERS[field.name][0]: _PARAMETERS[field.name][1](value) for field, value in message.ListFields()}
    try:
        return plan_of(query)
    except MeshError as error:
        subject = f"plan.{_FIELDS.get(error.subject, error.subject)}"
        raise MeshError(error.code, error.message, subject=subject, hint=error.hint) from error


def rollout_message(stored: Stored, seen: Observation | None) -> control_pb2.Rollout:
    """One rollout; `seen`: what proxies say of it now."""
    shown = rollout_json(stored, seen)
    return control_pb2.Rollout(
        id=shown["id"],
        phase=shown["phase"],
        reason=shown["reason"],
        message=shown["message"],
        stage=shown["stage"],
        revision=shown["revision"],
        json=dumps(shown).encode(),
    )


def begun_message(begun: Begun) -> control_pb2.BeginRolloutResponse:
    """What began, and what it will make of each object."""
    return control_pb2.BeginRolloutResponse(
        rollout=None if begun.stored is None else rollout_message(begun.stored, None),
        results=[
            control_pb2.ObjectResult(object=str(plan.object.ref), action=plan.action, warnings=warnings)
            for plan, warnings in zip(begun.planned, begun.warnings, strict=True)
        ],
    )
