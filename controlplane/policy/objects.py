"""A stored object: metadata, spec, and its canonical JSON.

Owns:   PolicyObject, its stored form, its manifest in any served version.
Not:    status and resourceVersion, which live beside the object (decisions 16, 17).

Invariants:
  `spec_json` is what the user posted, without nulls, keys sorted: no default is written into it and no number or
  duration is rewritten, so that the same manifest applied again is unchanged.
  decode(encode(obj)) == obj.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from controlplane.policy.frozen import EMPTY, FrozenMap
from controlplane.policy.kinds import KINDS, KindInfo
from controlplane.policy.scalars import parse_duration
from controlplane.policy.shape import parse_known
from controlplane.policy.spec import Spec
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

# Annotations that change what an object does (decisions 2 and 4; the TTL: docs/xds.md).
COMPAT_ANNOTATION = "gossamer.mesh/compat"
MERGE_ANNOTATION = "gossamer.mesh/merge"
TTL_ANNOTATION = "gossamer.mesh/ttl"

# What stands in every manifest, whatever its kind.
ENVELOPE = ("apiVersion", "kind", "metadata", "status")

S = TypeVar("S", bound=Spec)


def canonical_json(value: object) -> bytes:
    """UTF-8, keys sorted, no blanks. Raises ValueError for NaN, infinity or half a surrogate pair."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """`uid`, `creation_timestamp` (RFC 3339, UTC) and `generation` (>= 1) are the server's, empty before it set them.

    `namespace` is empty for kinds without namespace.
    """

    name: str
    namespace: str
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    uid: str = ""
    creation_timestamp: str = ""
    generation: int = 0

    def manifest(self) -> dict[str, Any]:
        """As in a manifest; what is empty is left out."""
        pairs: tuple[tuple[str, Any], ...] = (
            ("name", self.name),
            ("namespace", self.namespace),
            ("labels", dict(self.labels)),
            ("annotations", dict(self.annotations)),
            ("uid", self.uid),
            ("creationTimestamp", self.creation_timestamp),
            ("generation", self.generation),
        )
        return {name: value for name, value in pairs if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyObject:
    """One object of one kind. Equal when kind, metadata, `spec_json` and `parts` are; hashable.

    `parts`: the objects, as they were stored, of which the spec of this one is joined; none when it is its own.
    """

    kind: KindInfo
    metadata: Metadata
    spec: Spec = field(compare=False, repr=False)
    spec_json: bytes = field(repr=False)  # of a Secret it holds keys
    parts: "tuple[PolicyObject, ...]" = field(default=(), repr=False)

    @property
    def ref(self) -> ObjectRef:
        """Its name in the mesh."""
        return ObjectRef(self.kind.group, self.kind.kind, self.metadata.namespace, self.metadata.name)

    @property
    def stored(self) -> "tuple[PolicyObject, ...]":
        """The objects, as they were stored, that it says: its parts, or itself."""
        return self.parts or (self,)

    @property
    def age_key(self) -> tuple[str, str, str]:
        """Sorts the oldest first, ties by name and namespace (2.3.1)."""
        return self.metadata.creation_timestamp, self.metadata.name, self.metadata.namespace

    @property
    def wants_istio_behaviour(self) -> bool:
        """Whether the object asks for Istio's own behaviour where Gossamer's differs (decision 2)."""
        return self.metadata.annotations.get(COMPAT_ANNOTATION) == "istio"

    @property
    def wants_merge(self) -> bool:
        """Whether the object may be merged with others for its host (decision 4)."""
        return self.metadata.annotations.get(MERGE_ANNOTATION) == "true"

    @property
    def ttl_s(self) -> float:
        """How long a proxy without control plane may keep what is made of the object, in seconds; 0 = for ever."""
        return parse_duration(self.metadata.annotations.get(TTL_ANNOTATION, "0")) or 0.0

    def spec_as(self, model: type[S]) -> S:
        """The spec with its type. Raises TypeError when the object is of another kind."""
        if not isinstance(self.spec, model):
            raise TypeError(f"{self.ref} has a {type(self.spec).__name__}, not a {model.__name__}")
        return self.spec

    def manifest(self, version: str = "") -> dict[str, Any]:
        """A fresh manifest in a served version, by default that of the store; without status and resourceVersion."""
        fields = json.loads(self.spec_json)
        return {
            "apiVersion": self.kind.api_version(version or self.kind.storage_version),
            "kind": self.kind.kind,
            "metadata": self.metadata.manifest(),
            **(fields if self.kind.at_root else {"spec": fields}),
        }

    def says_the_same_as(self, other: "PolicyObject") -> bool:
        """Whether the user's part is equal: labels, annotations and spec. Then an apply is `unchanged`."""
        mine, theirs = self.metadata, other.metadata
        return (
            self.spec_json == other.spec_json
            and mine.labels == theirs.labels
            and mine.annotations == theirs.annotations
        )

    def stamped(self, *, uid: str, creation_timestamp: str, generation: int) -> "PolicyObject":
        """A copy with the server's part of the metadata."""
        metadata = replace(self.metadata, uid=uid, creation_timestamp=creation_timestamp, generation=generation)
        return replace(self, metadata=metadata)


def encode(obj: PolicyObject) -> bytes:
    """The stored form: the manifest in the storage version as canonical JSON."""
    return canonical_json(obj.manifest())


def decode(data: bytes) -> PolicyObject:
    """From the stored form. Fields that a newer replica wrote are kept in `spec_json` and ignored.

    Raises MeshError UNREADABLE when it is no object that this version can read.
    """
    try:
        value = json.loads(data)
        info = KINDS.by_api_version(value["apiVersion"], value["kind"])
        if info is None:
            raise ValueError(f"found {value['apiVersion']} {value['kind']}, expected a served kind")
        spec = {key: value[key] for key in value if key not in ENVELOPE} if info.at_root else value.get("spec", {})
        return PolicyObject(
            kind=info,
            metadata=_metadata(value["metadata"]),
            spec=parse_known(info.spec_model, spec),
            spec_json=canonical_json(spec),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MeshError(ErrorCode.UNREADABLE, f"found {error!r}, expected a stored object") from error


def _metadata(value: Mapping[str, Any]) -> Metadata:
    return Metadata(
        name=str(value["name"]),
        namespace=str(value.get("namespace", "")),
        labels=FrozenMap(value.get("labels")),
        annotations=FrozenMap(value.get("annotations")),
        uid=str(value.get("uid", "")),
        creation_timestamp=str(value.get("creationTimestamp", "")),
        generation=int(value.get("generation", 0)),
    )
