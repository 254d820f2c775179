"""What one request wants to do with one object: decided from the object as it is stored now.

Owns:   create, replace, apply (create or replace), patch, delete and restore as `plan(present entry) -> Planned`; uid,
        creationTimestamp and generation.
Not:    reading and writing the store, retrying (operations).
Source: design section 3 ("`uid`, `creationTimestamp` and `generation` are the server's"); decision 17.

Invariants:
  generation grows by one exactly when the spec changes; what is equal to the stored form is `unchanged`: no write.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from controlplane.api.errors import FieldProblem, InvalidObjects
from controlplane.api.served import Manifest, Preconditions, strip_server_fields
from controlplane.policy.admission import Rejected, admit
from controlplane.policy.kinds import KINDS, KindInfo
from controlplane.policy.objects import Metadata, PolicyObject, decode, encode
from controlplane.store.keys import ObjectKey
from controlplane.store.protocol import Entry
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

CREATED, CONFIGURED, UNCHANGED, DELETED = "created", "configured", "unchanged", "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """`value` is what shall be stored, None to delete. `object` is the new object, for `deleted` the old one."""

    key: ObjectKey
    object: PolicyObject
    action: str
    value: bytes | None
    warnings: tuple[str, ...] = ()


class Change(Protocol):
    """One object's part of a request."""

    @property
    def key(self) -> ObjectKey: ...

    def plan(self, present: Entry | None) -> Planned:
        """Raises NOT_FOUND, ALREADY_EXISTS, CONFLICT, INVALID."""
        ...


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a created object gets: now in seconds since the epoch, and a new uid."""

    now: float
    uid: Callable[[], str]

    def time(self) -> str:
        return datetime.fromtimestamp(int(self.now), UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A manifest that admission let through."""

    object: PolicyObject
    preconditions: Preconditions
    warnings: tuple[str, ...]

    @property
    def key(self) -> ObjectKey:
        return key_of(self.object)


def key_of(found: PolicyObject) -> ObjectKey:
    """Where an object is stored."""
    return ObjectKey(found.kind.group, found.kind.plural, found.metadata.namespace, found.metadata.name)


def admit_manifest(
    manifest: Mapping[str, Any], *, namespace: str, strict: bool, document: int = 0, line: int = 0
) -> Admission:
    """Admission of what a client sent. Raises InvalidObjects with every problem."""
    stripped, preconditions = strip_server_fields(manifest)
    verdict = admit(stripped, default_namespace=namespace, strict=strict)
    if isinstance(verdict, Rejected):
        name = name_of(manifest, namespace)
        raise InvalidObjects(
            [
                FieldProblem(field=item.field, message=item.message, object=name, document=document, line=line)
                for item in verdict.violations
            ]
        )
    return Admission(object=verdict.object, preconditions=preconditions, warnings=tuple(verdict.warnings))


def name_of(manifest: Mapping[str, Any], namespace: str = "") -> str:
    """`VirtualService default/reviews`, as far as the manifest says it."""
    metadata = manifest.get("metadata")
    found = metadata if isinstance(metadata, Mapping) else {}
    return f"{manifest.get('kind', '?')} {found.get('namespace') or namespace}/{found.get('name', '?')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Create, replace or apply. `may_create` and `may_replace` say which of them."""

    admission: Admission
    stamp: Stamp
    may_create: bool = True
    may_replace: bool = True

    @property
    def key(self) -> ObjectKey:
        return self.admission.key

    def plan(self, present: Entry | None) -> Planned:
        wanted = self.admission.object
        if present is None:
            if not self.may_create:
                raise not_found(wanted.ref)
            if self.admission.preconditions.resource_version or self.admission.preconditions.uid:
                # What the client has seen is gone: creating it anew would undo a deletion.
                raise MeshError(ErrorCode.CONFLICT, "the object was deleted meanwhile", subject=str(wanted.ref))
            return _created(wanted, self.stamp, self.admission.warnings)
        if not self.may_replace:
            raise MeshError(ErrorCode.ALREADY_EXISTS, "already exists", subject=str(wanted.ref))
        if _readable(present) is None:
            self.admission.preconditions.check(wanted.ref, present, "")
            made = _created(wanted, self.stamp, self.admission.warnings)
            return replace(made, action=CONFIGURED)
        return _replaced(wanted, present, self.admission)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Change the present object by a function of its manifest."""

    key: ObjectKey
    ref: ObjectRef
    patch: Callable[[Manifest], Manifest]
    strict: bool

    def plan(self, present: Entry | None) -> Planned:
        if present is None:
            raise not_found(self.ref)
        before: Manifest = json.loads(present.value)
        admission = admit_manifest(self.patch(before), namespace=self.key.namespace, strict=self.strict)
        if admission.key != self.key:
            raise MeshError(
                ErrorCode.UNREADABLE, f"the patch changes the object's identity to {admission.object.ref}",
                subject=str(self.ref),
            )  # fmt: skip
        return _replaced(admission.object, present, admission)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete the present object. `missing_ok`: what is not there is unchanged instead of NOT_FOUND."""

    key: ObjectKey
    ref: ObjectRef
    preconditions: Preconditions = Preconditions()
    missing_ok: bool = False

    def plan(self, present: Entry | None) -> Planned:
        if present is None and self.missing_ok:
            return Planned(key=self.key, object=_placeholder(self.key), action=UNCHANGED, value=None)
        if present is None:
            raise not_found(self.ref)
        found = _readable(present) or _placeholder(self.key)
        self.preconditions.check(self.ref, present, found.metadata.uid)
        return Planned(key=self.key, object=found, action=DELETED, value=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Make the object what it was: `before` is its stored value then, None = it did not exist.

    Its uid and creationTimestamp come back with it (decision 17: precedence depends on them); its generation goes on
    from `generation`, the last that is known of it, because nobody may see one number stand for two specs.
    """

    key: ObjectKey
    ref: ObjectRef
    before: bytes | None
    generation: int

    def plan(self, present: Entry | None) -> Planned:
        if self.before is None:
            return Delete(key=self.key, ref=self.ref, missing_ok=True).plan(present)
        wanted = self._wanted(self.before)
        found = _readable(present) if present is not None else None
        if found is not None and found.says_the_same_as(wanted) and _same_origin(found, wanted):
            return Planned(key=self.key, object=found, action=UNCHANGED, value=None)
        last = max(self.generation, wanted.metadata.generation, found.metadata.generation if found is not None else 0)
        grown = int(found is None or found.spec_json != wanted.spec_json)
        made = wanted.stamped(
            uid=wanted.metadata.uid, creation_timestamp=wanted.metadata.creation_timestamp, generation=last + grown
        )
        action = CREATED if present is None else CONFIGURED
        return Planned(key=self.key, object=made, action=action, value=encode(made))

    def _wanted(self, before: bytes) -> PolicyObject:
        try:
            return decode(before)
        except MeshError as error:
            raise MeshError(
                ErrorCode.CONFLICT, f"what it was cannot be read by this version: {error.message}",
                subject=str(self.ref),
            ) from error  # fmt: skip


def _same_origin(one: PolicyObject, other: PolicyObject) -> bool:
    return (one.metadata.uid, one.metadata.creation_timestamp) == (
        other.metadata.uid,
        other.metadata.creation_timestamp,
    )


def _readable(present: Entry) -> PolicyObject | None:
    """The present object; None when this version cannot read what is stored. Replacing and deleting it still work."""
    try:
        return decode(present.value)
    except MeshError:
        return None


def _placeholder(key: ObjectKey) -> PolicyObject:
    """Stands for an object of which only the name is known."""
    kind = known_kind(KINDS.by_resource(key.group, key.plural), key.plural)
    metadata = Metadata(name=key.name, namespace=key.namespace)
    return PolicyObject(kind=kind, metadata=metadata, spec=kind.spec_model.model_construct(), spec_json=b"{}")


def _created(wanted: PolicyObject, stamp: Stamp, warnings: tuple[str, ...]) -> Planned:
    made = wanted.stamped(uid=stamp.uid(), creation_timestamp=stamp.time(), generation=1)
    return Planned(key=key_of(made), object=made, action=CREATED, value=encode(made), warnings=warnings)


def _replaced(wanted: PolicyObject, present: Entry, admission: Admission) -> Planned:
    before = decode(present.value)
    kept = before.metadata
    admission.preconditions.check(wanted.ref, present, kept.uid)
    grown = int(wanted.spec_json != before.spec_json)
    made = wanted.stamped(uid=kept.uid, creation_timestamp=kept.creation_timestamp, generation=kept.generation + grown)
    action = UNCHANGED if made.says_the_same_as(before) else CONFIGURED
    return Planned(key=admission.key, object=made, action=action, value=encode(made), warnings=admission.warnings)


def not_found(ref: ObjectRef) -> MeshError:
    """The object does not exist."""
    return MeshError(ErrorCode.NOT_FOUND, "not found", subject=str(ref))


def known_kind(kind: KindInfo | None, what: str) -> KindInfo:
    """The kind, or NOT_FOUND naming what was asked for."""
    if kind is None:
        raise MeshError(ErrorCode.NOT_FOUND, "the server does not serve this kind", subject=what)
    return kind
