"""The Kubernetes Gateway API as a second front end: its Gateways and routes as the Gateways and VirtualServices that
proxies are given.

Owns:   the index of its objects, the made objects, what of them a change makes anew.
Not:    who is attached to whom (gateway_attachments), rules (gateway_rules), status (compiler.gateway_api_status).
Source: istio pilot/pkg/config/kube/gateway: a Gateway for each listener. Precedence of hostnames: httproute_types.go.

    Gateway listener -> one Gateway `<name>/<listener>` with one server     (no user's name has a slash)
    listener x host  -> one VirtualService for it, all rules of all routes in the order of their precedence

A request belongs to the listener that names its host best, and there to the routes that do; a route for *.example.com
has what those for www.example.com leave, behind all their rules.

Invariants: made objects stand in no store; `parts` are what they were made of. A change makes anew the objects of the
        Gateways that it touches, and of these what stays equal is the object that it was.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from controlplane.model.gateway_attachments import (
    EVERY_HOST,
    PROTOCOLS,
    ROUTE_KINDS,
    AttachedRoute,
    Attachments,
    attachments,
    class_problem,
    parent_key,
)
from controlplane.model.gateway_rules import (
    BackendRule,
    Permits,
    RankedRule,
    Site,
    at_host,
    backends_of,
    foreign,
    not_granted,
    ranked_rules,
)
from controlplane.model.listener_objects import ListenerGateway, ListenerRoutes
from controlplane.model.persistent import PersistentIndex, PersistentMap
from controlplane.policy.frozen import EMPTY
from controlplane.policy.gateway import Server, ServerPort, ServerTLSMode, ServerTLSSettings
from controlplane.policy.gateway_api import GatewaySpec, Listener, ReferenceGrantSpec, SecretObjectReference
from controlplane.policy.gateway_api_routes import RouteSpec
from controlplane.policy.hosts import covers, is_wildcard, label_wildcards, specificity
from controlplane.policy.kinds import (
    API_GATEWAY,
    GATEWAY,
    GATEWAY_CLASS,
    NAMESPACE,
    REFERENCE_GRANT,
    VIRTUAL_SERVICE,
    KindInfo,
)
from controlplane.policy.objects import Metadata, PolicyObject, canonical_json
from mesh.vocabulary import ObjectRef

Key = tuple[str, str]  # namespace, name
_SHARED = frozenset({GATEWAY_CLASS, NAMESPACE, REFERENCE_GRANT})  # every Gateway may depend on them
_KINDS = _SHARED | {*ROUTE_KINDS, API_GATEWAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeGateway:
    """What is made of one Gateway. `problem`: why nobody serves it; `permits`: references that grants allow it."""

    gateway: PolicyObject
    attached: Attachments
    problem: tuple[str, str] | None = None  # (reason, message)
    permits: Permits = frozenset()
    objects: Mapping[ObjectRef, PolicyObject] = field(default_factory=dict)
    rules: Mapping[tuple[ObjectRef, Site], "_Translated"] = field(default_factory=dict)
    hosts: Mapping[ObjectRef, "_HostInputs"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Translated:
    """Compared by identity: the same object while route and permits are."""

    route: PolicyObject
    permits: Permits
    rules: tuple[RankedRule, ...]


@dataclass(frozen=True, slots=True)
class _HostInputs:
    """All that the VirtualService of a host is made of; `routes`: oldest first, with the rank of their hostname."""

    gateway: PolicyObject
    listener: Listener
    host: str
    routes: tuple[tuple[tuple[int, int], _Translated], ...]


_NOTHING = Attachments(routes={}, verdicts={})


class GatewayApi:
    """Immutable; `updated` gives the next."""

    __slots__ = ("_by_parent", "_classes", "_domain_suffix", "_grants", "_made", "_namespaces", "_routes")

    def __init__(self, domain_suffix: str) -> None:
        self._domain_suffix = domain_suffix
        self._routes: PersistentMap[ObjectRef, PolicyObject] = PersistentMap()
        self._by_parent: PersistentIndex[Key, ObjectRef] = PersistentIndex()  # Gateway -> its routes
        self._classes: PersistentMap[ObjectRef, PolicyObject] = PersistentMap()
        self._namespaces: PersistentMap[ObjectRef, PolicyObject] = PersistentMap()
        self._grants: PersistentIndex[str, PolicyObject] = PersistentIndex()  # by namespace
        self._made: PersistentMap[Key, MadeGateway] = PersistentMap()

    def gateways(self) -> tuple[MadeGateway, ...]:
        """All of them, sorted by namespace and name."""
        return tuple(self._made[key] for key in sorted(self._made))

    def gateway(self, key: Key) -> MadeGateway | None:
        """One, by namespace and name."""
        return self._made.get(key)

    def routes(self) -> tuple[PolicyObject, ...]:
        """All routes of both kinds, sorted."""
        return tuple(self._routes[ref] for ref in sorted(self._routes))

    def classes(self) -> Mapping[str, PolicyObject]:
        """The GatewayClasses that are objects, by name."""
        return {item.metadata.name: item for _, item in sorted(self._classes.items())}

    def updated(
        self, puts: Iterable[PolicyObject], gone: Iterable[PolicyObject]
    ) -> "tuple[GatewayApi, list[PolicyObject], list[PolicyObject]]":
        """The next version, and what is made and unmade. `gone`: also the old form of what is put."""
        after = [item for item in puts if item.kind in _KINDS]
        before = [item for item in gone if item.kind in _KINDS]
        if not after and not before:
            return self, [], []
        following = GatewayApi(self._domain_suffix)
        following._routes = _updated(self._routes, after, before, ROUTE_KINDS)
        following._classes = _updated(self._classes, after, before, (GATEWAY_CLASS,))
        following._namespaces = _updated(self._namespaces, after, before, (NAMESPACE,))
        following._grants = self._grants.updated(_granting(after), _granting(before))
        following._by_parent = self._by_parent.updated(_parents(after), _parents(before))
        present = {_key(item): item for item in after if item.kind is API_GATEWAY}
        deleted = [_key(item) for item in before if item.kind is API_GATEWAY and _key(item) not in present]
        touched = {key for key, _ in (*_parents(after), *_parents(before))}
        if any(item.kind in _SHARED for item in (*after, *before)):
            touched.update(self._made)
        known = {key: made.gateway for key in touched if (made := self._made.get(key)) is not None}
        wanted = {key: item for key, item in {**known, **present}.items() if key not in deleted}
        context = _Context(following)
        renewed = {key: context.made(item, self._made.get(key)) for key, item in wanted.items()}
        following._made = self._made.updated(renewed, deleted)
        return following, *_difference(self._made, renewed, deleted)

    def labels_of_namespaces(self) -> dict[str, Mapping[str, str]]:
        """The labels of those that are objects."""
        return {item.metadata.name: item.metadata.labels for item in self._namespaces.values()}

    def permits_of(self, item: PolicyObject) -> Permits:
        """What of other namespaces the grants let a route or a Gateway refer to, of all that it does."""
        wanted = list(_foreign(item))
        return frozenset(own for own in wanted if self._is_permitted(item, own)) if wanted else frozenset()

    def _is_permitted(self, item: PolicyObject, wanted: tuple[str, str, str, str]) -> bool:
        group, kind, namespace, name = wanted
        from_here = (item.kind.group, item.kind.kind, item.metadata.namespace)
        specs = (grant.spec_as(ReferenceGrantSpec) for grant in self._grants[namespace])
        return any(
            any((own.group, own.kind, own.namespace) == from_here for own in spec.from_)
            and any((own.group, own.kind) == (group, kind) and own.name in ("", name) for own in spec.to)
            for spec in specs
        )

    def routes_at(self, key: Key) -> tuple[PolicyObject, ...]:
        """The routes that name a Gateway as their parent."""
        return tuple(self._routes[ref] for ref in sorted(self._by_parent[key]))


class _Context:
    """Makes the objects of Gateways from one consistent version."""

    def __init__(self, api: GatewayApi) -> None:
        self._api = api
        self._classes = api.classes()
        self._namespaces = api.labels_of_namespaces()

    def made(self, gateway: PolicyObject, before: MadeGateway | None) -> MadeGateway:
        spec = gateway.spec_as(GatewaySpec)
        reason = class_problem(gateway, self._classes)
        if reason:
            problem = ("Pending", f"spec.gatewayClassName: {reason}: nobody serves the Gateway")
            return MadeGateway(gateway=gateway, attached=_NOTHING, problem=problem)
        if spec.addresses:
            message = "spec.addresses: a gateway's address is that of its node: write it into the node's configuration"
            return MadeGateway(gateway=gateway, attached=_NOTHING, problem=("UnsupportedAddress", message))
        attached = attachments(gateway, self._api.routes_at(_key(gateway)), self._namespaces)
        permits = self._api.permits_of(gateway)
        rules = self._rules(gateway, attached, before)
        made = _Making(gateway, permits, before)
        for index, listener in enumerate(spec.listeners):
            made.listener(index, attached.routes[listener.name], rules)
        return MadeGateway(
            gateway=gateway, attached=attached, permits=permits, objects=made.objects, rules=rules, hosts=made.hosts
        )  # fmt: skip

    def _rules(
        self, gateway: PolicyObject, attached: Attachments, before: MadeGateway | None
    ) -> dict[tuple[ObjectRef, Site], _Translated]:
        """Of every route at every site where the Gateway has it; those that stay are not made again."""
        found: dict[tuple[ObjectRef, Site], _Translated] = {}
        for listener in gateway.spec_as(GatewaySpec).listeners:
            for item in attached.routes[listener.name]:
                key = item.route.ref, site_of(listener)
                if key not in found:
                    found[key] = self._translated(item.route, key[1], before.rules.get(key) if before else None)
        return found

    def _translated(self, route: PolicyObject, site: Site, before: _Translated | None) -> _Translated:
        permits = self._api.permits_of(route)
        if before is not None and before.route is route and before.permits == permits:
            return before
        return _Translated(route, permits, ranked_rules(route, site, permits, self._api._domain_suffix))


def site_of(listener: Listener) -> Site:
    """Where redirects lead from."""
    return Site(listener.protocol.lower(), listener.port)


def usable_certificates(gateway: PolicyObject, listener: Listener, permits: Permits) -> tuple[str, ...]:
    """The Secrets that a listener shows: `name`, or `namespace/name` of another namespace; none when one cannot be."""
    refs = listener.tls.certificate_refs if listener.tls is not None else ()
    if any(certificate_problem(own, gateway, permits) is not None for own in refs):
        return ()
    names = (f"{own.namespace}/{own.name}" if _is_foreign(own, gateway) else own.name for own in refs)
    return tuple(dict.fromkeys(names))


def certificate_problem(
    own: SecretObjectReference, gateway: PolicyObject, permits: Permits
) -> tuple[str, str] | None:  # fmt: skip
    """(reason, message) of a reference that cannot lead to a certificate, whatever there is."""
    if not own.is_secret:
        return "InvalidCertificateRef", f"a {own.kind} of group {own.group or 'core'} holds no certificate"
    wanted = ("", "Secret", own.namespace, own.name)
    if _is_foreign(own, gateway) and wanted not in permits:
        who = f"Gateways of namespace {gateway.metadata.namespace}"
        return "RefNotPermitted", not_granted(own.namespace, who, f"Secret {own.name}")
    return None


def _is_foreign(own: SecretObjectReference, gateway: PolicyObject) -> bool:
    return own.namespace not in ("", gateway.metadata.namespace)


class _Making:
    """Makes the objects of one Gateway; what would be equal is the object that it was."""

    def __init__(self, gateway: PolicyObject, permits: Permits, before: MadeGateway | None) -> None:
        self._gateway = gateway
        self._permits = permits
        self._known = before.objects if before is not None else {}
        self._known_hosts = before.hosts if before is not None else {}
        self.objects: dict[ObjectRef, PolicyObject] = {}
        self.hosts: dict[ObjectRef, _HostInputs] = {}

    def listener(
        self, index: int, routes: tuple[AttachedRoute, ...], rules: Mapping[tuple[ObjectRef, Site], _Translated]
    ) -> None:  # fmt: skip
        """All of one listener, unless it cannot be served."""
        listeners = self._gateway.spec_as(GatewaySpec).listeners
        own = listeners[index]
        certificates = usable_certificates(self._gateway, own, self._permits)
        if own.protocol not in PROTOCOLS or (own.tls is not None and not certificates):
            return
        made = _listener_gateway(self._gateway, index, own, certificates)
        self.objects[made.ref] = self._known[made.ref] if self._known.get(made.ref) == made else made
        by_host = _by_host(routes)
        for host in _hosts(own, listeners, by_host):
            found = {place: item for name in (host, *label_wildcards(host)) for place, item in by_host.get(name, ())}
            chosen = tuple(
                (_host_rank(found[place], host), rules[(found[place].route.ref, site_of(own))])
                for place in sorted(found)
            )
            self._host(_HostInputs(self._gateway, own, host, chosen))

    def _host(self, inputs: _HostInputs) -> None:
        ref = _routes_ref(inputs)
        self.hosts[ref] = inputs
        self.objects[ref] = self._known[ref] if self._known_hosts.get(ref) == inputs else _routes(inputs)


_Placed = tuple[int, AttachedRoute]  # its place among the routes of the listener, the oldest first


def _by_host(routes: Iterable[AttachedRoute]) -> dict[str, list[_Placed]]:
    """The routes that share a host with the listener, by that host."""
    found: dict[str, list[_Placed]] = {}
    for place, item in enumerate(routes):
        for host in dict.fromkeys(shared for _, shared in item.hosts):
            found.setdefault(host, []).append((place, item))
    return found


def _listener_gateway(
    gateway: PolicyObject, index: int, listener: Listener, certificates: tuple[str, ...]
) -> PolicyObject:  # fmt: skip
    tls = ServerTLSSettings(mode=ServerTLSMode.SIMPLE, credential_names=certificates) if certificates else None
    port = ServerPort(number=listener.port, protocol=listener.protocol, name=listener.protocol.lower())
    server = Server(port=port, hosts=(listener.hostname or EVERY_HOST,), tls=tls, name=listener.name)
    spec = ListenerGateway(servers=(server,), owner=gateway.metadata.name, index=index)
    return PolicyObject(
        kind=GATEWAY,
        metadata=_metadata(gateway, f"{gateway.metadata.name}/{listener.name}"),
        spec=spec,
        spec_json=canonical_json({"listener": listener.name, "certificates": certificates}),
        parts=(gateway,),
    )


def _metadata(gateway: PolicyObject, name: str) -> Metadata:
    """As old as the Gateway."""
    own = gateway.metadata
    return replace(own, name=name, labels=EMPTY, annotations=EMPTY)


def _hosts(listener: Listener, listeners: Iterable[Listener], shared: Iterable[str]) -> tuple[str, ...]:
    """The listener's own host and those of its routes, but for what another listener of the port names better."""
    own = listener.hostname or EVERY_HOST
    others = [item.hostname or EVERY_HOST for item in listeners if item is not listener and _share(item, listener)]
    better = [host for host in others if specificity(host) > specificity(own)]
    return tuple(host for host in dict.fromkeys([own, *shared]) if not any(covers(other, host) for other in better))


def _share(one: Listener, other: Listener) -> bool:
    return one.port == other.port and one.protocol == other.protocol == "HTTP"


def _routes_ref(inputs: _HostInputs) -> ObjectRef:
    metadata = inputs.gateway.metadata
    name = f"{metadata.name}/{inputs.listener.name}/{inputs.host}"
    return ObjectRef(VIRTUAL_SERVICE.group, VIRTUAL_SERVICE.kind, metadata.namespace, name)


def _routes(inputs: _HostInputs) -> PolicyObject:
    """The VirtualService of one host."""
    gateway, host = inputs.gateway, inputs.host
    ranked: list[tuple[tuple[object, ...], BackendRule]] = []
    for place, (rank, own) in enumerate(inputs.routes):
        # The match, then the older route, then the order within it.
        ranked += [((rank, rule.rank[:-2], place, rule.rank[-2:]), rule.rule) for rule in own.rules]
    ranked.sort(key=lambda pair: pair[0])
    spec = ListenerRoutes(
        hosts=(host,),
        gateways=(f"{gateway.metadata.namespace}/{gateway.metadata.name}/{inputs.listener.name}",),
        http=tuple(at_host(rule, host) for _, rule in ranked),
    )
    granted = sorted({item for _, own in inputs.routes for item in own.permits})
    return PolicyObject(
        kind=VIRTUAL_SERVICE,
        metadata=_metadata(gateway, _routes_ref(inputs).name),
        spec=spec,
        spec_json=canonical_json({"listener": inputs.listener.name, "host": host, "granted": granted}),
        parts=(gateway, *(own.route for _, own in inputs.routes)),
    )


def _host_rank(item: AttachedRoute, host: str) -> tuple[int, int]:
    """Sorts the route first whose hostname for `host` names more: characters of a precise name, then all of them."""
    written = (own for own, shared in item.hosts if covers(shared, host))
    return min((0 if is_wildcard(own) else -len(own), -len(own)) for own in written)


def _key(item: PolicyObject) -> Key:
    return item.metadata.namespace, item.metadata.name


def _parents(items: Iterable[PolicyObject]) -> Iterator[tuple[Key, ObjectRef]]:
    for item in items:
        if item.kind in ROUTE_KINDS:
            for parent in item.spec_as(RouteSpec).parent_refs:
                if parent.is_gateway:
                    yield parent_key(parent, item), item.ref


def _granting(items: Iterable[PolicyObject]) -> Iterator[tuple[str, PolicyObject]]:
    return ((item.metadata.namespace, item) for item in items if item.kind is REFERENCE_GRANT)


def _foreign(item: PolicyObject) -> Iterator[tuple[str, str, str, str]]:
    """What it refers to in other namespaces."""
    if item.kind is API_GATEWAY:
        for listener in item.spec_as(GatewaySpec).listeners:
            for own in listener.tls.certificate_refs if listener.tls is not None else ():
                if own.is_secret and _is_foreign(own, item):
                    yield "", "Secret", own.namespace, own.name
        return
    for located in backends_of(item):
        wanted = foreign(located.backend, item)
        if wanted is not None:
            yield wanted


def _updated(
    known: PersistentMap[ObjectRef, PolicyObject],
    after: Iterable[PolicyObject],
    before: Iterable[PolicyObject],
    kinds: Collection[KindInfo],
) -> PersistentMap[ObjectRef, PolicyObject]:
    puts = {item.ref: item for item in after if item.kind in kinds}
    return known.updated(puts, [item.ref for item in before if item.kind in kinds])


def _difference(
    before: Mapping[Key, MadeGateway], renewed: Mapping[Key, MadeGateway], deleted: Iterable[Key]
) -> tuple[list[PolicyObject], list[PolicyObject]]:
    """(made, unmade); what is replaced is in both."""
    came: list[PolicyObject] = []
    went: list[PolicyObject] = []
    for key in (*renewed, *deleted):
        old = before[key].objects if key in before else {}
        new = renewed[key].objects if key in renewed else {}
        came += [item for ref, item in sorted(new.items()) if old.get(ref) is not item]
        went += [item for ref, item in sorted(old.items()) if new.get(ref) is not item]
    return came, went
