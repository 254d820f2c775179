"""Gateways and the VirtualServices that are bound to them, found by name.

Owns:   the index; which Gateways select a proxy, which VirtualServices a Gateway has and in what order.
Not:    how servers on one port merge (gateway_ports), what routes are made of them (controlplane.compiler).
Source: istio pilot/pkg/model/push_context.go (initGateways, VirtualServicesForGateway), resolveGatewayName;
        control-plane.md 2.3.2: private, exported, public, each in order of age.
"""

from collections.abc import Iterable, Iterator, Mapping, Set

from controlplane.model.listener_objects import NONE, ListenerGateway, is_served_by
from controlplane.model.persistent import PersistentIndex, PersistentMap
from controlplane.model.services import visible
from controlplane.model.virtual_services import publicity
from controlplane.policy.gateway import Gateway
from controlplane.policy.kinds import GATEWAY, VIRTUAL_SERVICE
from controlplane.policy.objects import PolicyObject
from controlplane.policy.selector import selects
from controlplane.policy.virtual_service import MESH_GATEWAY, VirtualService


class Gateways:
    """Immutable; `updated` gives the next. A Gateway's name is `namespace/name`."""

    __slots__ = ("_bound", "_by_name")

    def __init__(self) -> None:
        self._by_name: PersistentMap[str, PolicyObject] = PersistentMap()
        self._bound: PersistentIndex[str, PolicyObject] = PersistentIndex()  # Gateway's name -> VirtualServices

    def updated(self, puts: Iterable[PolicyObject], gone: Iterable[PolicyObject]) -> "Gateways":
        """The next version; the same object when nothing changes. `gone`: also the old form of what is put."""
        after, before = tuple(puts), tuple(gone)
        made = {name_of(item): item for item in after if item.kind is GATEWAY}
        following = Gateways()
        following._by_name = self._by_name.updated(made, [name_of(item) for item in before if item.kind is GATEWAY])
        following._bound = self._bound.updated(_pairs(after), _pairs(before))
        same = following._by_name is self._by_name and following._bound is self._bound
        return self if same else following

    def get(self, name: str) -> PolicyObject | None:
        """The Gateway of that name."""
        return self._by_name.get(name)

    def all(self) -> tuple[PolicyObject, ...]:
        """Every Gateway, the oldest first; listeners of one Gateway in their order."""
        return tuple(sorted(self._by_name.values(), key=_order))

    def selecting(
        self, labels: Mapping[str, str], namespace: str = "", named: Set[str] = NONE
    ) -> tuple[PolicyObject, ...]:
        """Those that select a gateway proxy of `namespace` with these labels, the oldest first.

        `named`: Gateways of the Gateway API in that namespace that have proxies of their own.
        """
        return tuple(item for item in self.all() if selects_proxy(item, labels, namespace, named))

    def virtual_services(self, name: str, namespace: str) -> tuple[PolicyObject, ...]:
        """Those bound to a Gateway that proxies of `namespace` see, in the order in which their routes stand."""
        found: list[tuple[int, PolicyObject]] = []
        for rule in self._bound[name]:
            spec, owner = rule.spec_as(VirtualService), rule.metadata.namespace
            if visible(spec.effective_export_to, owner, namespace):
                found.append((publicity(spec, owner, namespace), rule))
        return tuple(rule for _, rule in sorted(found, key=lambda item: (item[0], item[1].age_key)))


def selects_proxy(gateway: PolicyObject, labels: Mapping[str, str], namespace: str, named: Set[str]) -> bool:
    """Whether a gateway proxy serves it: by its selector, one of the Gateway API by namespace and name."""
    spec = gateway.spec_as(Gateway)
    if isinstance(spec, ListenerGateway):
        return gateway.metadata.namespace == namespace and is_served_by(spec.owner, labels, named)
    return selects(spec.selector, labels)


def name_of(gateway: PolicyObject) -> str:
    """`namespace/name`."""
    return f"{gateway.metadata.namespace}/{gateway.metadata.name}"


def _order(gateway: PolicyObject) -> tuple[tuple[str, str, str], int]:
    spec = gateway.spec
    return gateway.stored[0].age_key, spec.index if isinstance(spec, ListenerGateway) else 0


def owner_of(gateway: PolicyObject) -> str:
    """`namespace/name` of the Gateway that a user wrote."""
    return name_of(gateway.stored[0])


def gateway_names(rule: PolicyObject) -> tuple[str, ...]:
    """The Gateways that a VirtualService names, `mesh` aside."""
    spec = rule.spec_as(VirtualService)
    named = (gateway_name(item, rule.metadata.namespace) for item in spec.gateways if item != MESH_GATEWAY)
    return tuple(dict.fromkeys(named))


def gateway_name(written: str, namespace: str) -> str:
    """The Gateway that a rule of `namespace` means: `name`, `namespace/name`, or the old `name.namespace[.suffix]`."""
    owner, slash, name = written.partition("/")
    if slash:
        return f"{namespace}/{name}" if owner == "." else written
    name, dot, rest = written.partition(".")
    return f"{rest.partition('.')[0]}/{name}" if dot else f"{namespace}/{name}"


def _pairs(objects: Iterable[PolicyObject]) -> Iterator[tuple[str, PolicyObject]]:
    for item in objects:
        if item.kind is VIRTUAL_SERVICE:
            for name in gateway_names(item):
                yield name, item
