"""One table: error code -> HTTP status, Kubernetes reason, gRPC status. The only place that knows all three.

Owns:   the table and the Kubernetes `Status` object of a failure.
Source: Kubernetes API conventions, "Response Status Kind"; google.rpc.Code's own HTTP mapping where both agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from mesh.errors import ErrorCode, MeshError


@dataclass(frozen=True, slots=True)
class Answer:
    """How a code is told: HTTP status, `reason` of a Kubernetes Status, gRPC status."""

    http: int
    reason: str
    grpc: grpc.StatusCode


ANSWERS: Mapping[ErrorCode, Answer] = {
    ErrorCode.UNREADABLE: Answer(400, "BadRequest", grpc.StatusCode.INVALID_ARGUMENT),
    ErrorCode.INVALID: Answer(422, "Invalid", grpc.StatusCode.INVALID_ARGUMENT),
    ErrorCode.NOT_FOUND: Answer(404, "NotFound", grpc.StatusCode.NOT_FOUND),
    ErrorCode.ALREADY_EXISTS: Answer(409, "AlreadyExists", grpc.StatusCode.ALREADY_EXISTS),
    ErrorCode.CONFLICT: Answer(409, "Conflict", grpc.StatusCode.ABORTED),
    ErrorCode.COMPACTED: Answer(410, "Expired", grpc.StatusCode.OUT_OF_RANGE),
    ErrorCode.TOO_LARGE: Answer(413, "RequestEntityTooLarge", grpc.StatusCode.RESOURCE_EXHAUSTED),
    ErrorCode.NO_SPACE: Answer(507, "InsufficientStorage", grpc.StatusCode.RESOURCE_EXHAUSTED),
    ErrorCode.UNAUTHENTICATED: Answer(401, "Unauthorized", grpc.StatusCode.UNAUTHENTICATED),
    ErrorCode.PERMISSION_DENIED: Answer(403, "Forbidden", grpc.StatusCode.PERMISSION_DENIED),
    ErrorCode.UNAVAILABLE: Answer(503, "ServiceUnavailable", grpc.StatusCode.UNAVAILABLE),
    ErrorCode.TIMEOUT: Answer(504, "Timeout", grpc.StatusCode.DEADLINE_EXCEEDED),
    ErrorCode.SETTINGS: Answer(500, "InternalError", grpc.StatusCode.FAILED_PRECONDITION),
    ErrorCode.INTERNAL: Answer(500, "InternalError", grpc.StatusCode.INTERNAL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One thing that is wrong with one field of one object. `document` counts from 0 within a batch."""

    field: str
    message: str
    object: str = ""  # VirtualService default/reviews
    document: int = 0
    line: int = 0  # of the field, or of the nearest thing around it that stands there; 0 = unknown


class InvalidObjects(MeshError):
    """Objects that admission refused: every problem of every object of the batch."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        first = problems[0]
        rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(ErrorCode.INVALID, f"{first.field}: {first.message}{rest}", subject=first.object)
        self.problems = tuple(problems)


def grpc_status(error: MeshError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return ANSWERS[error.code].grpc


def status_object(error: MeshError, *, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The Kubernetes `Status` of a failure. `details`: name, group, kind of the object that was asked for."""
    answer = ANSWERS[error.code]
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(error),
        "reason": answer.reason,
        "code": answer.http,
    }
    found = {key: value for key, value in (details or {}).items() if value}
    if isinstance(error, InvalidObjects):
        body["message"] = "; ".join(_line(problem) for problem in error.problems)
        found["causes"] = [_cause(problem) for problem in error.problems]
    if found:
        body["details"] = found
    return body


def _line(problem: FieldProblem) -> str:
    subject = f"{problem.object}: " if problem.object else ""
    return f"{subject}{problem.field}: {problem.message}"


def _cause(problem: FieldProblem) -> dict[str, Any]:
    # `object`, `document` and `line` are ours; Kubernetes clients ignore what they do not know.
    cause: dict[str, Any] = {
        "reason": "FieldValueInvalid",
        "message": problem.message,
        "field": problem.field,
        "document": problem.document,
    }
    if problem.object:
        cause["object"] = problem.object
    if problem.line:
        cause["line"] = problem.line
    return cause
