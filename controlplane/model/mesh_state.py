"""MeshState: everything that the compiler looks at, as one immutable value with indexes.

Owns:   folding changes of objects, instances, nodes and ejections into the next state; which views a change touches.
Not:    reading changes from the store (controlplane.reconcile), making a view (views), compiling.
Differs: Istio rebuilds its PushContext; here a change rebuilds only the views of the hosts and nodes that it touches.

Invariants: a state never changes; what a change does not touch is the same object in the next state, so that readers
        may compare by identity.

    object, instance changes -> Workloads, Catalog, Rules -> touched hosts -> Targets -> hosts that refer to those that
    became another Target -> ServiceViews; touched nodes -> NodeViews
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from controlplane.model.catalog import Catalog
from controlplane.model.delegation import Delegation
from controlplane.model.gateway_api import GatewayApi
from controlplane.model.gateways import Gateways
from controlplane.model.persistent import PersistentMap
from controlplane.model.proxy import Caller, Proxy, ProxyScope
from controlplane.model.rate_limits import RateLimits
from controlplane.model.rules import Rules
from controlplane.model.scoping import caller, node_wide_caller, scope_of
from controlplane.model.security_policies import SECURITY_KINDS, SecurityPolicies
from controlplane.model.services import DEFINING_KINDS, Service, workload_of_entry
from controlplane.model.views import NO_TARGET, Endpoint, NodeView, ServiceView, Target, ViewMaker
from controlplane.model.workloads import WorkloadKey, Workloads, key_of
from controlplane.policy.hosts import covers, is_wildcard
from controlplane.policy.kinds import (
    BULKHEAD,
    CIRCUIT_BREAKER,
    DESTINATION_RULE,
    GATEWAY,
    PEER_AUTHENTICATION,
    RATE_LIMIT,
    SECRET,
    VIRTUAL_SERVICE,
    WORKLOAD_ENTRY,
    KindInfo,
)
from controlplane.policy.objects import PolicyObject
from controlplane.policy.workload_entry import WorkloadEntry
from controlplane.registry.instances import Ejection, Instance, Node
from controlplane.settings import MeshSettings
from mesh.vocabulary import ObjectRef

InstanceKey = tuple[str, str, str]  # namespace, node, id
EjectionKey = tuple[str, str, str]  # cluster, endpoint, node

K = TypeVar("K")
V = TypeVar("V")

_RULE_KINDS = frozenset({VIRTUAL_SERVICE, DESTINATION_RULE, CIRCUIT_BREAKER, BULKHEAD, PEER_AUTHENTICATION})
_GATEWAY_KINDS = frozenset({GATEWAY, VIRTUAL_SERVICE})
_RATE_LIMIT = frozenset({RATE_LIMIT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is put and what is gone. A key stands at most once; deletes of what is not there are no change."""

    revision: int
    objects: tuple[PolicyObject, ...] = ()
    deleted_objects: tuple[ObjectRef, ...] = ()
    instances: tuple[Instance, ...] = ()
    deleted_instances: tuple[InstanceKey, ...] = ()
    nodes: tuple[Node, ...] = ()
    deleted_nodes: tuple[str, ...] = ()
    ejections: tuple[Ejection, ...] = ()
    deleted_ejections: tuple[EjectionKey, ...] = ()
    roots: tuple[tuple[str, str], ...] = ()  # (id, certificate in PEM) of the mesh's CA
    deleted_roots: tuple[str, ...] = ()
    jwks: tuple[tuple[str, str], ...] = ()  # (URL that leads to them, the fetched keys as JSON)
    deleted_jwks: tuple[str, ...] = ()


class MeshState:
    """One state of the mesh. Start with `empty`, go on with `with_changes`."""

    __slots__ = (
        "_catalog",
        "_delegation",
        "_ejections",
        "_nodes",
        "_rules",
        "_targets",
        "_workloads",
        "gateway_api",
        "gateways",
        "jwks",
        "node_views",
        "objects",
        "rate_limits",
        "revision",
        "roots",
        "secrets",
        "security",
        "settings",
        "tested_labels",
        "views",
    )

    def __init__(self, settings: MeshSettings) -> None:
        self.settings = settings
        self.revision = 0  # of the store
        self.objects: PersistentMap[ObjectRef, PolicyObject] = PersistentMap()
        self.views: PersistentMap[str, ServiceView] = PersistentMap()  # by host
        self.node_views: PersistentMap[str, NodeView] = PersistentMap()
        self.roots: PersistentMap[str, str] = PersistentMap()  # of the mesh's CA: id -> certificate in PEM
        self.secrets: PersistentMap[tuple[str, str], PolicyObject] = PersistentMap()  # by namespace and name
        self.security = SecurityPolicies()
        self.jwks: PersistentMap[str, str] = PersistentMap()  # by the URL that leads to them
        self.gateways = Gateways()
        self.gateway_api = GatewayApi(settings.domain_suffix)
        self.rate_limits = RateLimits(settings.root_namespace)
        self._delegation = Delegation(settings.domain_suffix)
        self.tested_labels: frozenset[str] = frozenset()  # label keys that a rule tests on the caller
        self._targets: PersistentMap[str, Target] = PersistentMap()
        self._nodes: PersistentMap[str, Node] = PersistentMap()
        self._ejections: PersistentMap[EjectionKey, Ejection] = PersistentMap()
        self._workloads = Workloads()
        self._catalog = Catalog(settings.domain_suffix)
        self._rules = Rules(settings.domain_suffix)

    @classmethod
    def empty(cls, settings: MeshSettings) -> "MeshState":
        """A mesh without anything, at revision 0."""
        return cls(settings)

    # --- reading

    def services(self) -> tuple[Service, ...]:
        """All services, sorted by host."""
        return tuple(view.service for _, view in sorted(self.views.items()) if view.service is not None)

    def service(self, host: str) -> Service | None:
        """The service of a full host."""
        view = self.views.get(host)
        return None if view is None else view.service

    def target(self, host: str) -> Target:
        """A full host as rules that send to it depend on it; the same object while nothing of that changes."""
        view = self.views.get(host)
        return NO_TARGET if view is None else view.target

    def joined(self, rule: PolicyObject) -> PolicyObject:
        """A stored VirtualService with its delegates' rules in the place of its own, as proxies see it."""
        return self._delegation.joined(rule)

    def endpoints(self, host: str, port: int | None = None) -> tuple[Endpoint, ...]:
        """The endpoints of a full host's port, or of all its ports; sorted within each port."""
        view = self.views.get(host)
        if view is None:
            return ()
        ports = view.endpoints if port is None else (port,)
        return tuple(endpoint for number in ports for endpoint in view.endpoints.get(number, ()))

    def instances(self) -> tuple[Instance, ...]:
        """What agents and Envoys registered, sorted by namespace, node and id."""
        return self._workloads.registered()

    def instances_of(self, node: str) -> tuple[Instance, ...]:
        """The instances of one node, sorted."""
        return self._workloads.on_node(node)

    @property
    def workloads(self) -> Workloads:
        """All workloads; the same object while none of them changes."""
        return self._workloads

    def selects_any(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether some workload of the namespace carries all the labels."""
        return bool(self._workloads.selected(namespace, labels))

    def nodes(self) -> tuple[Node, ...]:
        """All nodes that have joined, sorted by name."""
        return tuple(self._nodes[name] for name in sorted(self._nodes))

    def node(self, name: str) -> Node | None:
        """One node."""
        return self._nodes.get(name)

    def ejections(self) -> tuple[Ejection, ...]:
        """All ejections, sorted by cluster, endpoint and node."""
        return tuple(self._ejections[key] for key in sorted(self._ejections))

    def peer_authentications(self, namespace: str) -> tuple[PolicyObject, ...]:
        """Those of one namespace, the oldest first."""
        return self._rules.peer_authentications(namespace)

    def peer_namespaces(self) -> tuple[str, ...]:
        """Namespaces that have PeerAuthentications, sorted."""
        return self._rules.peer_namespaces()

    def scope_of(self, proxy: Proxy) -> ProxyScope:
        """The scope in which the proxy shares resources."""
        return scope_of(proxy, self.node_views.get(proxy.id), self.tested_labels)

    def caller_of(self, proxy: Proxy) -> Caller:
        """Whose routes the proxy's node-wide port has: those of its workloads when they agree, else its own."""
        return node_wide_caller(proxy, self.node_views.get(proxy.id), self.tested_labels)

    def own_caller(self, proxy: Proxy) -> Caller:
        """The proxy itself as a caller: in whose name a gateway's routes are."""
        return caller(proxy.namespace, proxy.labels, self.tested_labels)

    def caller_of_instance(self, instance: Instance) -> Caller:
        """Whose routes the outbound port of an instance has."""
        return caller(instance.namespace, instance.labels, self.tested_labels)

    # --- folding

    def with_changes(self, changes: Changes) -> "MeshState":
        """The next state; its `revision` is that of the changes."""
        following = MeshState(self.settings)
        following.revision = changes.revision
        puts = {item.ref: item for item in changes.objects if self.objects.get(item.ref) != item}
        gone = [self.objects[ref] for ref in changes.deleted_objects if ref in self.objects and ref not in puts]
        replaced = [self.objects[ref] for ref in puts if ref in self.objects]
        following.objects = self.objects.updated(puts, [item.ref for item in gone])
        following._nodes = self._nodes.updated(_changed(self._nodes, _nodes(changes)), changes.deleted_nodes)
        following._ejections = self._ejections.updated(
            _changed(self._ejections, _ejections(changes)), changes.deleted_ejections
        )
        following.roots = self.roots.updated(_changed(self.roots, dict(changes.roots)), changes.deleted_roots)
        following.secrets = self.secrets.updated(_secrets(puts.values()), _secrets(gone))
        following.jwks = self.jwks.updated(_changed(self.jwks, dict(changes.jwks)), changes.deleted_jwks)
        self._fold(following, changes, list(puts.values()), [*gone, *replaced])
        return following

    def _fold(
        self, following: "MeshState", changes: Changes, puts: list[PolicyObject], gone: list[PolicyObject]
    ) -> None:
        workloads = {key_of(item): item for item in changes.instances}
        workloads |= _entries(puts)
        deleted = [*changes.deleted_instances, *_entries(gone)]
        following._workloads = self._workloads.updated(workloads, deleted)
        following._catalog, defined = self._catalog.updated(_of(puts, DEFINING_KINDS), _of(gone, DEFINING_KINDS))
        following._delegation, came, went = self._delegation.updated(puts, gone)
        rules_put, rules_gone = _of(came, _RULE_KINDS), _of(went, _RULE_KINDS)
        following._rules = self._rules.updated(rules_put, rules_gone)
        guards_put, guards_gone = _of(puts, SECURITY_KINDS), _of(gone, SECURITY_KINDS)
        following.security = self.security.updated(guards_put, guards_gone)
        following.gateway_api, made, unmade = self.gateway_api.updated(puts, gone)
        following.gateways = self.gateways.updated(
            [*_of(came, _GATEWAY_KINDS), *made], [*_of(went, _GATEWAY_KINDS), *unmade]
        )
        following.rate_limits = self.rate_limits.updated(_of(puts, _RATE_LIMIT), _of(gone, _RATE_LIMIT))
        following.tested_labels = (
            self.tested_labels if following._rules is self._rules else _same(self.tested_labels, following._rules)
        )
        touched = _Touched(self, following)
        touched.define(defined)
        touched.rule([*rules_put, *rules_gone])
        touched.guard([*guards_put, *guards_gone])
        touched.move(following._workloads.changed_since(self._workloads))
        touched.finish()


class _Touched:
    """Collects the hosts and nodes that a change touches, then renews their views."""

    def __init__(self, before: MeshState, after: MeshState) -> None:
        self._before = before
        self._after = after
        self._maker = ViewMaker(after.settings, after._workloads, after._catalog, after._rules, after.security)
        self._old_maker = ViewMaker(before.settings, before._workloads, before._catalog, before._rules, before.security)
        self._hosts: set[str] = set()
        self._nodes: set[str] = set()
        self._reach: set[str] = set()  # hosts whose members' nodes are touched too

    def define(self, hosts: Iterable[str]) -> None:
        """Services are defined otherwise."""
        for host in hosts:
            self._hosts.add(host)
            self._reach.add(host)
            self._hosts.update(self._long_forms(host))

    def rule(self, rules: list[PolicyObject]) -> None:
        """Rules came or went."""
        for host in self._after._rules.named_hosts(rules):
            self._hosts.update(self._long_forms(host))
            covered = _covered(self._before, host)
            self._hosts |= covered
            self._reach |= covered
        for rule in rules:
            if rule.kind is PEER_AUTHENTICATION:
                self._rule_peers(rule.metadata.namespace)

    def _rule_peers(self, namespace: str) -> None:
        for workload in self._ruled(namespace):
            self._nodes.add(workload.node)
            self._hosts |= self._maker.hosts_of(workload)

    def guard(self, policies: Iterable[PolicyObject]) -> None:
        """Policies came or went that guard workloads."""
        for namespace in {item.metadata.namespace for item in policies}:
            self._nodes.update(workload.node for workload in self._ruled(namespace))

    def _ruled(self, namespace: str) -> Iterable[Instance]:
        """The workloads that policies of the namespace may be for."""
        workloads = self._after._workloads
        all_of = workloads.namespaces() if namespace == self._after.settings.root_namespace else (namespace,)
        return (item for own in all_of for item in workloads.in_namespace(own))

    def move(self, keys: Iterable[WorkloadKey]) -> None:
        """Workloads came, went or changed."""
        for key in keys:
            old, new = self._before._workloads.get(key), self._after._workloads.get(key)
            if old is not None:
                self._hosts |= self._old_maker.hosts_of(old)
            if new is not None:
                self._hosts |= self._maker.hosts_of(new)
            self._nodes.add(key[1])

    def finish(self) -> None:
        """Renew targets, then the views of all that depend on them."""
        before, after = self._before, self._after
        targets = {host: self._maker.target(host) for host in self._hosts}
        alive = {
            host: before._targets[host] if before._targets.get(host) == target else target
            for host, target in targets.items()
            if target.service is not None or after._rules.is_named(host)
        }
        after._targets = before._targets.updated(alive, [host for host in targets if host not in alive])
        hosts = set(self._hosts)
        for host in after._targets.changed_since(before._targets):
            for referrer in after._rules.hosts_that_refer_to(host):
                hosts |= _covered(after, referrer)
        views = {host: self._maker.view(host, after._targets) for host in hosts}
        after.views = _renewed(before.views, views)
        for host in self._reach:
            self._nodes.update(self._member_nodes(before, host), self._member_nodes(after, host))
            self._nodes.update(workload.node for workload in self._maker.namesakes(host))
        after.node_views = _renewed(
            before.node_views, {node: self._maker.node_view(node, after._targets) for node in self._nodes if node}
        )

    def _member_nodes(self, state: MeshState, host: str) -> set[str]:
        return {endpoint.workload.node for endpoint in state.endpoints(host)}

    def _long_forms(self, host: str) -> Iterable[str]:
        """Full hosts that `host` is a short form of: they must not answer to it any longer, or may again."""
        suffix = self._after.settings.domain_suffix
        if host.endswith(suffix):
            return ()
        parts = host.split(".")
        if len(parts) == 1:
            namespaces = set(self._after._workloads.namespaces())
            namespaces |= {own.split(".")[1] for own in self._before._targets if own.endswith(suffix) and "." in own}
            return (f"{host}.{namespace}.{suffix}" for namespace in namespaces)
        return (f"{parts[0]}.{parts[1]}.{suffix}",)


def _covered(state: MeshState, host: str) -> set[str]:
    """The host; when it is a wildcard, also the known hosts that fall under it."""
    return {host, *(own for own in state._targets if covers(host, own))} if is_wildcard(host) else {host}


def _renewed(before: PersistentMap[str, V], made: Mapping[str, V | None]) -> PersistentMap[str, V]:
    """Puts and deletes; an equal value stays the object that it was."""
    puts = {key: value for key, value in made.items() if value is not None and before.get(key) != value}
    return before.updated(puts, [key for key, value in made.items() if value is None])


def _changed(before: PersistentMap[K, V], puts: Mapping[K, V]) -> dict[K, V]:
    return {key: value for key, value in puts.items() if before.get(key) != value}


def _nodes(changes: Changes) -> dict[str, Node]:
    return {item.name: item for item in changes.nodes}


def _ejections(changes: Changes) -> dict[EjectionKey, Ejection]:
    return {(item.cluster, item.endpoint, item.node): item for item in changes.ejections}


def _secrets(objects: Iterable[PolicyObject]) -> dict[tuple[str, str], PolicyObject]:
    return {(item.metadata.namespace, item.metadata.name): item for item in objects if item.kind is SECRET}


def _of(objects: Iterable[PolicyObject], kinds: frozenset[KindInfo]) -> list[PolicyObject]:
    return [item for item in objects if item.kind in kinds]


def _entries(objects: Iterable[PolicyObject]) -> dict[WorkloadKey, Instance]:
    """The WorkloadEntries among `objects` as workloads."""
    entries = (item for item in objects if item.kind is WORKLOAD_ENTRY)
    made = (
        workload_of_entry(item.spec_as(WorkloadEntry), item.metadata.namespace, item.metadata.name) for item in entries
    )
    return {key_of(item): item for item in made}


def _same(before: frozenset[str], after: Rules) -> frozenset[str]:
    """The tested labels; the same object when they are equal."""
    found = after.tested_labels
    return before if found == before else found
