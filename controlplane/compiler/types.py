"""What the compiler gives: resources with their sources, and conditions on the objects. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.vocabulary import ObjectRef


@dataclass(frozen=True, slots=True)
class Source:
    """The object that a resource came from, at the generation that was compiled. `ttl_s`: as it asks; 0 = none."""

    ref: ObjectRef
    generation: int
    ttl_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One xDS resource, serialised once and shared by every stream that carries it.

    `body` is the serialised message, `any_bytes` the serialised google.protobuf.Any around it, `version` its
    content hash, its TTL included. Compare versions, not objects. `ttl_s`: how long a client that supports it may keep
    the resource when it hears nothing more; 0 = for ever.
    """

    type_url: str
    name: str
    version: str
    body: bytes
    any_bytes: bytes
    sources: tuple[Source, ...] = ()
    ttl_s: float = 0.0


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """Something that the user should know about an object. Kubernetes' condition shape, without the time.

    `status` is "True", "False" or "Unknown"; `type` e.g. Accepted, Conflict, Approximated, NoPort, NotEnforced,
    ReferencedResourceNotFound; `code` an Istio message code (IST0101) or empty. `path`: the field that it is about, the
    first one when there are several; no part of what makes two conditions different.
    """

    ref: ObjectRef
    type: str
    status: str
    reason: str
    message: str
    code: str = ""
    path: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusPart:
    """One entry of a list in an object's status: a listener, a parent. `key` tells it from the others of the list."""

    key: str
    facts: Mapping[str, object]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusDetails:
    """What an object's status says beyond what needs attention: `conditions` of all kinds, `parts` and `facts` by the
    names of their fields.
    """

    conditions: tuple[Condition, ...] = ()
    parts: Mapping[str, tuple[StatusPart, ...]] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)


# {type_url: {name: Resource}}
Resources = Mapping[str, Mapping[str, Resource]]


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """All resources of one ProxyScope, or of one proxy's own part (its listeners and inbound clusters)."""

    resources: Resources
    conditions: tuple[Condition, ...] = ()
