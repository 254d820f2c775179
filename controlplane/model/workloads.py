"""All workloads: what agents registered, and WorkloadEntries; found by label, by name, by node.

Owns:   the indexes. A workload is an Instance; its key says where it came from.
Not:    which service it belongs to (controlplane.model.views).
"""

from collections.abc import Iterable, Iterator, Mapping

from controlplane.model.persistent import PersistentIndex, PersistentMap
from controlplane.policy.gateway_api import GATEWAY_NAME
from controlplane.policy.selector import selects
from controlplane.registry.instances import Instance
from mesh.xds.workload_name import WorkloadName

WorkloadKey = tuple[str, str, str]  # namespace, node, id; a WorkloadEntry has no node
_Label = tuple[str, str, str]  # namespace, label, value

# Stands in the label index for "any workload of the namespace".
_ANY = ("", "")


def key_of(workload: Instance) -> WorkloadKey:
    """The workload's key."""
    return workload.namespace, workload.node, workload.id


class Workloads:
    """Immutable; `updated` gives the next."""

    __slots__ = ("_by_key", "_by_label", "_by_node", "_by_service", "_gateways")

    def __init__(self) -> None:
        self._by_key: PersistentMap[WorkloadKey, Instance] = PersistentMap()
        self._by_label: PersistentIndex[_Label, WorkloadKey] = PersistentIndex()
        self._by_node: PersistentIndex[str, WorkloadKey] = PersistentIndex()
        self._by_service: PersistentIndex[tuple[str, str], WorkloadKey] = PersistentIndex()
        self._gateways: PersistentIndex[str, WorkloadKey] = PersistentIndex()  # by namespace

    def updated(self, puts: Mapping[WorkloadKey, Instance], deletes: Iterable[WorkloadKey]) -> "Workloads":
        """The next version; the same object when nothing changes."""
        changed = {key: value for key, value in puts.items() if self._by_key.get(key) != value}
        gone = [key for key in deletes if key in self._by_key and key not in puts]
        if not changed and not gone:
            return self
        before = [self._by_key[key] for key in (*changed, *gone) if key in self._by_key]
        after = list(changed.values())
        following = Workloads()
        following._by_key = self._by_key.updated(changed, gone)
        following._by_label = self._by_label.updated(_labels(after), _labels(before))
        following._by_node = self._by_node.updated(_nodes(after), _nodes(before))
        following._by_service = self._by_service.updated(_services(after), _services(before))
        following._gateways = self._gateways.updated(_gateways(after), _gateways(before))
        return following

    def get(self, key: WorkloadKey) -> Instance | None:
        """The workload of that key."""
        return self._by_key.get(key)

    def registered(self) -> tuple[Instance, ...]:
        """What agents and Envoys registered, sorted."""
        return tuple(self._by_key[key] for key in sorted(self._by_key) if key[1])

    def on_node(self, node: str) -> tuple[Instance, ...]:
        """The workloads of a node, sorted."""
        return self._sorted(self._by_node[node])

    def named(self, namespace: str, service: str) -> tuple[Instance, ...]:
        """Those that registered under a service's name, sorted."""
        return self._sorted(self._by_service[(namespace, service)])

    def selected(self, namespace: str, selector: Mapping[str, str]) -> tuple[Instance, ...]:
        """Those of a namespace that carry all labels of `selector`, sorted; none selects all."""
        key = min((self._by_label[(namespace, *pair)] for pair in anchors(selector)), key=len)
        return tuple(item for item in self._sorted(key) if selects(selector, item.labels))

    def in_namespace(self, namespace: str) -> tuple[Instance, ...]:
        """All of a namespace, sorted."""
        return self._sorted(self._by_label[(namespace, *_ANY)])

    def gateways(self) -> tuple[Instance, ...]:
        """The gateway proxies of all namespaces, sorted."""
        return self._sorted(key for namespace in self._gateways for key in self._gateways[namespace])

    def named_gateways(self, namespace: str) -> frozenset[str]:
        """The Gateways of the Gateway API in a namespace that have gateway proxies of their own."""
        labels = (self._by_key[key].labels for key in self._gateways[namespace])
        return frozenset(own[GATEWAY_NAME] for own in labels if GATEWAY_NAME in own)

    def namespaces(self) -> tuple[str, ...]:
        """Namespaces that have workloads, sorted."""
        return tuple(sorted({key[0] for key in self._by_label if key[1:] == _ANY}))

    def changed_since(self, before: "Workloads") -> set[WorkloadKey]:
        """Keys that differ."""
        return self._by_key.changed_since(before._by_key)

    def _sorted(self, keys: Iterable[WorkloadKey]) -> tuple[Instance, ...]:
        return tuple(self._by_key[key] for key in sorted(keys))


def anchors(selector: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The pairs by which an index finds what a selector means: its labels, or the mark of an empty one."""
    return tuple(sorted(selector.items())) or (_ANY,)


def label_pairs(workload: Instance) -> Iterator[tuple[str, str]]:
    """All anchors that may select the workload."""
    yield from workload.labels.items()
    yield _ANY


def service_key(workload: Instance) -> tuple[str, str] | None:
    """(namespace, short name) of the service it registered under, or None. A full name counts by its first parts."""
    if not workload.service:
        return None
    name, _, rest = workload.service.partition(".")
    return (rest.partition(".")[0] or workload.namespace), name


def workload_name(workload: Instance) -> WorkloadName:
    """Who it is to others: the copies of a service that an account runs; a WorkloadEntry is its own."""
    key = service_key(workload)
    name = key[1] if key is not None else workload.id
    return WorkloadName.of(name, workload.namespace, workload.service_account, workload.labels)


def _labels(workloads: Iterable[Instance]) -> Iterator[tuple[_Label, WorkloadKey]]:
    for item in workloads:
        for pair in label_pairs(item):
            yield (item.namespace, *pair), key_of(item)


def _nodes(workloads: Iterable[Instance]) -> Iterator[tuple[str, WorkloadKey]]:
    return ((item.node, key_of(item)) for item in workloads if item.node)


def _gateways(workloads: Iterable[Instance]) -> Iterator[tuple[str, WorkloadKey]]:
    return ((item.namespace, key_of(item)) for item in workloads if item.gateway)


def _services(workloads: Iterable[Instance]) -> Iterator[tuple[tuple[str, str], WorkloadKey]]:
    for item in workloads:
        key = service_key(item)
        # A workload joins a service of its own namespace only: another's name is not its to use.
        if key is not None and key[0] == item.namespace:
            yield key, key_of(item)
