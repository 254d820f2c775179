"""What all specs have in common: frozen, camelCase on the wire, no unknown fields, null is the same as absent.

Invariants:
  A spec is immutable and hashable through and through: lists are tuples, maps are FrozenMap.
  No default is ever written into what the user posted; a model's attribute is None or protobuf's zero when the field
  is unset, and the effective values are properties, named with their unit (`interval` as written, `interval_s` as
  it takes effect).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

# Where the wire's name does not follow from ours: Kubernetes' acronyms and one digit.
_IRREGULAR = {
    "consecutive_5xx_errors": "consecutive5xxErrors",
    "client_ip": "clientIP",
    "cluster_ip": "clusterIP",
    "cluster_ips": "clusterIPs",
    "external_ips": "externalIPs",
    "load_balancer_ip": "loadBalancerIP",
}


def wire_name(name: str) -> str:
    """The JSON name of a field: lowerCamelCase; a trailing underscore only avoids Python's keywords and types."""
    first, *rest = name.rstrip("_").split("_")
    return _IRREGULAR.get(name) or first + "".join(word[:1].upper() + word[1:] for word in rest)


class Spec(BaseModel):
    """The base of every message in a policy.

    Parse what users wrote with `parse`; in code, build with the Python names.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=wire_name,
        validate_by_name=True,
        validate_by_alias=True,
        arbitrary_types_allowed=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {key: item for key, item in value.items() if item is not None}
        return value
