"""What the server refused, as an error that names the object and its field. Pure.

Source: controlplane/api/errors.py: a Kubernetes `Status` whose `details.causes` have field, message, object and the
        index of the document in the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.errors import ErrorCode, MeshError

_CODES = {
    "BadRequest": ErrorCode.UNREADABLE,
    "Invalid": ErrorCode.INVALID,
    "NotFound": ErrorCode.NOT_FOUND,
    "AlreadyExists": ErrorCode.ALREADY_EXISTS,
    "Conflict": ErrorCode.CONFLICT,
    "Expired": ErrorCode.COMPACTED,
    "RequestEntityTooLarge": ErrorCode.TOO_LARGE,
    "InsufficientStorage": ErrorCode.NO_SPACE,
    "Unauthorized": ErrorCode.UNAUTHENTICATED,
    "Forbidden": ErrorCode.PERMISSION_DENIED,
    "ServiceUnavailable": ErrorCode.UNAVAILABLE,
    "Timeout": ErrorCode.TIMEOUT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One field that is wrong. `document` counts the objects of the request from 0."""

    field: str
    message: str
    object: str = ""
    document: int = 0


class Refusal(MeshError):
    """A refusal of the server. `causes` is empty when it is about no field."""

    def __init__(self, code: ErrorCode, message: str, causes: Sequence[Cause] = ()) -> None:
        super().__init__(code, message)
        self.causes = tuple(causes)


def refusal_of(value: Any, *, status: int, url: str) -> MeshError:
    """From the body of an answer that is no success."""
    if not isinstance(value, Mapping) or value.get("kind") != "Status":
        return no_status(status, url)
    code = _CODES.get(str(value.get("reason")), ErrorCode.INTERNAL)
    details = value.get("details")
    causes = details.get("causes", ()) if isinstance(details, Mapping) else ()
    return Refusal(code, str(value.get("message") or f"HTTP {status}"), [_cause(item) for item in causes])


def no_status(status: int, url: str) -> MeshError:
    """For an answer that no control plane gives."""
    return MeshError(
        ErrorCode.UNAVAILABLE,
        f"found HTTP {status} without an explanation",
        subject=url,
        hint="is it a Gossamer server?",
    )


def _cause(item: Mapping[str, Any]) -> Cause:
    return Cause(
        field=str(item.get("field", "")),
        message=str(item.get("message", "")),
        object=str(item.get("object", "")),
        document=int(item.get("document", 0)),
    )
