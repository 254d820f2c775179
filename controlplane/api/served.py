"""Between what the store holds and what clients see of an object. Pure.

Owns:   resourceVersion, status and the asked-for version put on; the server's own fields taken off what clients send.
Not:    admission (controlplane.policy), reading the store (operations).
Source: decision 17: resourceVersion = max(mod_revision of the object's key and of its status keys).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.api.status import merge_status
from controlplane.policy.kinds import KindInfo
from controlplane.store.keys import ObjectKey
from controlplane.store.protocol import Entry
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

Manifest = dict[str, Any]

# What the server alone writes: taken off without a word, as Kubernetes does, so that what was read can be sent back.
_SERVER_METADATA = frozenset(
    {"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink", "deletionTimestamp"}
)


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What a client demands of the present object: 0 and empty demand nothing."""

    resource_version: int = 0
    uid: str = ""

    def check(self, ref: ObjectRef, entry: Entry, uid: str) -> None:
        """Raise CONFLICT when the present object is not the one that the client has seen."""
        if self.resource_version and not entry.mod_revision < self.resource_version + 1:
            raise MeshError(
                ErrorCode.CONFLICT,
                f"found resourceVersion {self.resource_version} in the request, but the object was changed at "
                f"{entry.mod_revision}",
                subject=str(ref),
                hint="read it again, apply your change to the latest version and try again",
            )
        if self.uid and self.uid != uid:
            raise MeshError(ErrorCode.CONFLICT, f"found uid {self.uid}, the present object has {uid}", subject=str(ref))


def strip_server_fields(manifest: Mapping[str, Any]) -> tuple[Manifest, Preconditions]:
    """The manifest as the user means it, and what it demands of the present object.

    Raises UNREADABLE when resourceVersion is not one of ours.
    """
    stripped = {key: value for key, value in manifest.items() if key != "status"}
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping):
        return stripped, Preconditions()
    stripped["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVER_METADATA}
    version = parse_resource_version(metadata.get("resourceVersion"))
    return stripped, Preconditions(version, str(metadata.get("uid") or ""))


def parse_resource_version(value: object) -> int:
    """A revision; 0 for none and for "0". Raises UNREADABLE."""
    text = "" if value is None else str(value)
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise MeshError(
            ErrorCode.UNREADABLE, f"found {text[:40]!r}, expected a revision", subject="metadata.resourceVersion"
        )
    return int(text)


def serve(entry: Entry, statuses: Sequence[Entry], kind: KindInfo, version: str = "") -> Manifest:
    """The object as a client sees it, in `version` (default: the stored one)."""
    manifest = _stored(entry, kind)
    manifest["apiVersion"] = kind.api_version(version or kind.storage_version)
    revision = max(entry.mod_revision, *(status.mod_revision for status in statuses), 0)
    manifest["metadata"] = {**manifest["metadata"], "resourceVersion": str(revision)}
    status = merge_status([item.value for item in statuses])
    if status:
        manifest["status"] = status
    return manifest


def _stored(entry: Entry, kind: KindInfo) -> Manifest:
    """The stored manifest; of a value that is none its name alone, so that it can be seen, replaced and deleted."""
    try:
        manifest = json.loads(entry.value)
    except ValueError:
        manifest = None
    if isinstance(manifest, dict) and _is_sound(manifest.get("metadata")):
        return manifest
    key = ObjectKey.parse(entry.key)
    metadata = {"name": key.name, **({"namespace": key.namespace} if key.namespace else {})}
    return {"apiVersion": kind.storage_api_version, "kind": kind.kind, "metadata": metadata}


def _is_sound(metadata: object) -> bool:
    """Whether a client can read it: a name, and labels and annotations that are some."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        return False
    return all(isinstance(metadata.get(field, {}), dict) for field in ("labels", "annotations"))


def group_statuses(entries: Iterable[Entry]) -> dict[ObjectKey, list[Entry]]:
    """Status entries by the object that they are about."""
    grouped: dict[ObjectKey, list[Entry]] = {}
    for entry in entries:
        if (key := ObjectKey.find(entry.key)) is not None:
            grouped.setdefault(key, []).append(entry)
    return grouped


def ref_of(kind: KindInfo, key: ObjectKey) -> ObjectRef:
    """The object's reference."""
    return ObjectRef(kind.group, kind.kind, key.namespace, key.name)
