"""How our agent says which resources of a response it refused, and how the control plane reads it (decision 21).

Owns:   the typed list in `error_detail.details`: one google.rpc.BadRequest, `field` = resource name,
        `description` = why; the message is a sentence for people and for other control planes.
Not:    finding names in the free text of other clients (controlplane.discovery.nack).
"""

from collections.abc import Iterable, Mapping

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

_INVALID_ARGUMENT = 3  # google.rpc.Code


def error_detail(rejected: Mapping[str, str]) -> Status:
    """The Status of a NACK: `rejected` = resource name -> reason."""
    details = BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field=name, description=reason) for name, reason in rejected.items()
        ]
    )
    packed = AnyMessage()
    packed.Pack(details)
    text = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
    return Status(code=_INVALID_ARGUMENT, message=text[:4096], details=[packed])


def rejected_names(details: Iterable[AnyMessage]) -> dict[str, str]:
    """Resource name -> reason, as far as `Status.details` carries our list; empty when the peer is another client."""
    found: dict[str, str] = {}
    for detail in details:
        violations = BadRequest()
        try:
            is_ours = detail.Unpack(violations)
        except DecodeError:
            continue
        if is_ours:
            found.update((violation.field, violation.description) for violation in violations.field_violations)
    return found
