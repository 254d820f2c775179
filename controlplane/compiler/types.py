"""What the compiler gives: resources with their sources, and conditions on the objects. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.vocabulary import ObjectRef


@dataclass(frozen=True, slots=True)
class Source:
    """The object that a resource came from, at the generation that was compiled."""

    ref: ObjectRef
    generation: int


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One xDS resource, serialised once and shared by every stream that carries it.

    `body` is the serialised message, `any_bytes` the serialised google.protobuf.Any around it, `version` its
    content hash. Compare versions, not objects.
    """

    type_url: str
    name: str
    version: str
    body: bytes
    any_bytes: bytes
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """Something that the user should know about an object. Kubernetes' condition shape, without the time.

    `status` is "True", "False" or "Unknown"; `type` e.g. Accepted, Conflict, Approximated, NoPort, NotEnforced,
    ReferencedResourceNotFound; `code` an Istio message code (IST0101) or empty.
    """

    ref: ObjectRef
    type: str
    status: str
    reason: str
    message: str
    code: str = ""


# {type_url: {name: Resource}}
Resources = Mapping[str, Mapping[str, Resource]]


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """All resources of one ProxyScope, or of one proxy's own part (its listeners and inbound clusters)."""

    resources: Resources
    conditions: tuple[Condition, ...] = ()
