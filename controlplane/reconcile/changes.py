"""From store entries to the typed changes that MeshState takes. Sans-io.

Owns:   which prefix holds what; the list of values that cannot be read; which revision wrote each object last.
Not:    the forms themselves (policy.objects, registry.codec), folding (model.mesh_state).
Invariants: an unreadable value never raises: it is left out of the mesh, remembered with its reason, and forgotten when
        the key is written again or deleted. Keys that no proxy's configuration depends on are passed over.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from controlplane.distribution.replicas import ReplicaRecord, decode_replica
from controlplane.model.mesh_state import Changes, EjectionKey, InstanceKey
from controlplane.policy.jwks import public_part
from controlplane.policy.kinds import KINDS
from controlplane.policy.objects import PolicyObject, decode
from controlplane.registry.codec import decode_ejection, decode_instance, decode_node
from controlplane.registry.instances import Ejection, Instance, Node
from controlplane.store.keys import CA_ROOTS, EJECTIONS, INSTANCES, JWKS, NODES, OBJECTS, REPLICAS, ObjectKey
from controlplane.store.protocol import Entry
from mesh.errors import MeshError
from mesh.vocabulary import ObjectRef


@dataclass(slots=True)
class Gathered:
    """The changes of one step of the watch, by their names in the mesh; None = gone."""

    objects: dict[ObjectRef, PolicyObject | None] = field(default_factory=dict)
    instances: dict[InstanceKey, Instance | None] = field(default_factory=dict)
    nodes: dict[str, Node | None] = field(default_factory=dict)
    ejections: dict[EjectionKey, Ejection | None] = field(default_factory=dict)
    roots: dict[str, str | None] = field(default_factory=dict)
    jwks: dict[str, tuple[str, str] | None] = field(default_factory=dict)  # by key: (URL, keys)
    jwks_gone: set[str] = field(default_factory=set)  # URLs whose keys stood there before

    def __bool__(self) -> bool:
        """Whether there is anything that proxies' configuration may depend on."""
        return bool(
            self.objects or self.instances or self.nodes or self.ejections or self.roots or self.jwks or self.jwks_gone
        )

    def as_changes(self, revision: int) -> Changes:
        """As MeshState takes them."""
        return Changes(
            revision=revision,
            objects=tuple(item for item in self.objects.values() if item is not None),
            deleted_objects=tuple(key for key, item in self.objects.items() if item is None),
            instances=tuple(item for item in self.instances.values() if item is not None),
            deleted_instances=tuple(key for key, item in self.instances.items() if item is None),
            nodes=tuple(item for item in self.nodes.values() if item is not None),
            deleted_nodes=tuple(key for key, item in self.nodes.items() if item is None),
            ejections=tuple(item for item in self.ejections.values() if item is not None),
            deleted_ejections=tuple(key for key, item in self.ejections.items() if item is None),
            roots=tuple((key, item) for key, item in self.roots.items() if item is not None),
            deleted_roots=tuple(key for key, item in self.roots.items() if item is None),
            jwks=tuple(item for item in self.jwks.values() if item is not None),
            deleted_jwks=tuple(self.jwks_gone - {item[0] for item in self.jwks.values() if item is not None}),
        )


class ChangeReader:
    """Reads the entries of one watch in order. `unreadable`: key -> reason; `replicas`: by name, those alive."""

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}
        self.replicas: dict[str, ReplicaRecord] = {}
        self.revisions: dict[ObjectRef, int] = {}  # which revision wrote each object last
        # Of every value that was read: after a gap the whole prefix comes again, most of it as it was.
        self._seen: dict[str, int] = {}
        self._jwks_urls: dict[str, str] = {}  # by key
        self._readers: tuple[tuple[str, Callable[[str, bytes | None, Gathered], None]], ...] = (
            (OBJECTS, _read_object),
            (INSTANCES, _read_instance),
            (NODES, _read_node),
            (EJECTIONS, _read_ejection),
            (CA_ROOTS, _read_root),
            (JWKS, self._read_jwks),
            (REPLICAS, self._read_replica),
        )

    def put(self, entries: Iterable[Entry], gathered: Gathered) -> None:
        """Take entries that were written."""
        for entry in entries:
            digest = hash(entry.value)
            if self._seen.get(entry.key) != digest and self._read(entry.key, entry.value, gathered):
                self._seen[entry.key] = digest
                if entry.key.startswith(OBJECTS) and entry.key not in self.unreadable:
                    self.revisions[_ref(entry.key)] = entry.mod_revision

    def delete(self, keys: Iterable[str], gathered: Gathered) -> None:
        """Take keys that are gone."""
        for key in keys:
            self._seen.pop(key, None)
            if self._read(key, None, gathered) and key.startswith(OBJECTS):
                self._forget(key)

    def _forget(self, key: str) -> None:
        try:
            self.revisions.pop(_ref(key), None)
        except ValueError:
            return  # no object's key: nothing was remembered of it

    def unreadable_objects(self) -> dict[ObjectRef, str]:
        """The objects among what cannot be read, as far as their keys say which they are."""
        found: dict[ObjectRef, str] = {}
        for key, reason in self.unreadable.items():
            if key.startswith(OBJECTS):
                try:
                    found[_ref(key)] = reason
                except ValueError:
                    continue  # the key itself is no object's
        return found

    def _read(self, key: str, value: bytes | None, gathered: Gathered) -> bool:
        """False when the key is nothing that is read here."""
        read = next((read for prefix, read in self._readers if key.startswith(prefix)), None)
        if read is None:
            return False
        self.unreadable.pop(key, None)
        try:
            read(key, value, gathered)
        except (ValueError, MeshError) as error:
            if value is not None:
                self.unreadable[key] = str(error)
                self._leave_out(read, key, gathered)
        return True

    def _leave_out(self, read: Callable[[str, bytes | None, Gathered], None], key: str, gathered: Gathered) -> None:
        """What stood there before must not stay in the mesh."""
        try:
            read(key, None, gathered)
        except ValueError:
            return  # the key names nothing that could be in the mesh

    def _read_replica(self, key: str, value: bytes | None, _: Gathered) -> None:
        name = key.removeprefix(REPLICAS)
        self.replicas.pop(name, None)
        if value is not None:
            self.replicas[name] = decode_replica(name, value)

    def _read_jwks(self, key: str, value: bytes | None, gathered: Gathered) -> None:
        found = _jwks(value) if value is not None else None
        before = self._jwks_urls.pop(key, None)
        if before is not None:
            gathered.jwks_gone.add(before)
        gathered.jwks[key] = found
        if found is not None:
            self._jwks_urls[key] = found[0]


def _jwks(value: bytes) -> tuple[str, str]:
    """(URL, keys); what of them cannot be used is left out."""
    stored = json.loads(value)
    url = stored.get("url") if isinstance(stored, dict) else None
    if not isinstance(url, str) or not url:
        raise ValueError("found no url, expected the keys of a token issuer")
    return url, public_part(json.dumps({"keys": stored.get("keys")}))


def _read_object(key: str, value: bytes | None, gathered: Gathered) -> None:
    ref = _ref(key)
    found = decode(value) if value is not None else None
    if found is not None and found.ref != ref:
        raise ValueError(f"found {found.ref}, expected {ref} as the key says")
    gathered.objects[ref] = found


def _ref(key: str) -> ObjectRef:
    named = ObjectKey.parse(key)
    kind = KINDS.by_resource(named.group, named.plural)
    if kind is None:
        raise ValueError(f"found {named.plural} of group {named.group or 'core'}, which this version does not know")
    return ObjectRef(kind.group, kind.kind, named.namespace, named.name)


def _read_instance(key: str, value: bytes | None, gathered: Gathered) -> None:
    named = _parts(key, INSTANCES)
    found = decode_instance(value) if value is not None else None
    if found is not None and (found.namespace, found.node, found.id) != named:
        raise ValueError(f"found instance {found.id} of node {found.node}, expected {'/'.join(named)} as the key says")
    gathered.instances[named] = found


def _read_node(key: str, value: bytes | None, gathered: Gathered) -> None:
    name = key.removeprefix(NODES)
    found = decode_node(value) if value is not None else None
    if found is not None and found.name != name:
        raise ValueError(f"found node {found.name}, expected {name} as the key says")
    gathered.nodes[name] = found


def _read_ejection(key: str, value: bytes | None, gathered: Gathered) -> None:
    named = _parts(key, EJECTIONS)
    found = decode_ejection(value) if value is not None else None
    if found is not None and (found.cluster, found.endpoint, found.node) != named:
        raise ValueError(f"found an ejection of {found.endpoint}, expected {'/'.join(named)} as the key says")
    gathered.ejections[named] = found


def _read_root(key: str, value: bytes | None, gathered: Gathered) -> None:
    """The certificate of a root; its key is not looked at."""
    name = key.removeprefix(CA_ROOTS)
    stored = json.loads(value) if value is not None else {}
    found = stored.get("certificatePem") if isinstance(stored, dict) else None
    if value is not None and not (isinstance(found, str) and "-----BEGIN CERTIFICATE-----" in found):
        raise ValueError("found no certificatePem, expected a root of the CA")
    gathered.roots[name] = found


def _parts(key: str, prefix: str) -> tuple[str, str, str]:
    parts = key.removeprefix(prefix).split("/")
    if len(parts) != 3:
        raise ValueError(f"found {len(parts)} parts below {prefix}, expected three")
    return parts[0], parts[1], parts[2]
