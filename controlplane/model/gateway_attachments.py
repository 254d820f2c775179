"""Which routes of the Gateway API belong to which listeners of a Gateway, and why the others do not.

Owns:   what a listener serves, which namespaces and kinds it admits, hostnames that listener and route share.
Not:    what is made of a rule (gateway_rules), what users are told (controlplane.compiler.gateway_api_status).
Source: kubernetes-sigs/gateway-api apis/v1 gateway_types.go (Listener, AllowedRoutes), httproute_types.go (Hostnames),
        shared_types.go (RouteConditionReason).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controlplane.model.gateway_rules import unsupported
from controlplane.policy.gateway_api import (
    BUILT_IN_CLASSES,
    CONTROLLERS,
    GROUP,
    NAMESPACE_NAME,
    FromNamespaces,
    GatewayClassSpec,
    GatewaySpec,
    LabelSelector,
    Listener,
    ParentReference,
    SelectorOperator,
)
from controlplane.policy.gateway_api_routes import RouteSpec
from controlplane.policy.hosts import covers, label_wildcards
from controlplane.policy.kinds import GRPC_ROUTE, HTTP_ROUTE, KindInfo
from controlplane.policy.objects import PolicyObject
from controlplane.policy.selector import selects
from mesh.vocabulary import ObjectRef

ROUTE_KINDS = (HTTP_ROUTE, GRPC_ROUTE)
PROTOCOLS = ("HTTP", "HTTPS")
EVERY_HOST = "*"
ACCEPTED = "Accepted"
Labels = Mapping[str, Mapping[str, str]]  # of namespaces that are objects


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a route belongs to a parent. `reason` is Accepted, or why not; `listeners`: names of those it has."""

    reason: str
    message: str
    listeners: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether some listener has it."""
        return self.reason == ACCEPTED


@dataclass(frozen=True, slots=True)
class AttachedRoute:
    """A route of a listener. `hosts`: (as the route writes it, as listener and route share it), each once."""

    route: PolicyObject
    hosts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachments:
    """Of one Gateway: the routes of each listener by name, oldest first; a verdict on each parentRef of each route."""

    routes: Mapping[str, tuple[AttachedRoute, ...]]
    verdicts: Mapping[tuple[ObjectRef, int], Verdict]


def parent_key(parent: ParentReference, route: PolicyObject) -> tuple[str, str]:
    """Namespace and name of a parent."""
    return parent.namespace or route.metadata.namespace, parent.name


def class_problem(gateway: PolicyObject, classes: Mapping[str, PolicyObject]) -> str:
    """Why nobody serves the Gateway's class; nothing when somebody does. An object decides about its own name."""
    name = gateway.spec_as(GatewaySpec).gateway_class_name
    found = classes.get(name)
    if found is None:
        known = ", ".join((*BUILT_IN_CLASSES, *sorted(classes)))
        return "" if name in BUILT_IN_CLASSES else f"there is no GatewayClass {name}, only {known}"
    controller = found.spec_as(GatewayClassSpec).controller_name
    return "" if controller in CONTROLLERS else f"GatewayClass {name} is of another controller, {controller}"


def supported_kinds(listener: Listener) -> tuple[str, ...]:
    """The kinds of routes that a listener takes."""
    if listener.protocol not in PROTOCOLS:
        return ()
    wanted = listener.effective_routes.kinds
    known = [info.kind for info in ROUTE_KINDS]
    return tuple(kind for kind in known if not wanted or any((own.group, own.kind) == (GROUP, kind) for own in wanted))


def unsupported_kinds(listener: Listener) -> tuple[str, ...]:
    """The kinds that it asks for and that no listener of its protocol takes."""
    known = {(GROUP, info.kind) for info in ROUTE_KINDS} if listener.protocol in PROTOCOLS else set()
    return tuple(own.kind for own in listener.effective_routes.kinds if (own.group, own.kind) not in known)


@dataclass(slots=True)
class _OfKind:
    """The routes of one kind that a listener has, oldest first. `above`: the wildcards that cover one of `hosts`."""

    routes: list[AttachedRoute] = field(default_factory=list)
    hosts: dict[str, PolicyObject] = field(default_factory=dict)
    above: dict[str, PolicyObject] = field(default_factory=dict)

    def add(self, item: AttachedRoute) -> None:
        self.routes.append(item)
        for _, host in item.hosts:
            self.hosts.setdefault(host, item.route)
            for wildcard in label_wildcards(host):
                self.above.setdefault(wildcard, item.route)

    def at(self, host: str) -> PolicyObject | None:
        """The first that has a host in common with `host`."""
        wider = (self.hosts.get(own) for own in (host, *label_wildcards(host)))
        return self.above.get(host) or next((route for route in wider if route is not None), None)


_Taken = dict[KindInfo, _OfKind]


def attachments(gateway: PolicyObject, routes: Iterable[PolicyObject], namespaces: Labels) -> Attachments:
    """Of one Gateway that is served. A listener has routes of one kind for a host: the oldest decides which."""
    found: dict[str, _Taken] = {own.name: {} for own in gateway.spec_as(GatewaySpec).listeners}
    verdicts: dict[tuple[ObjectRef, int], Verdict] = {}
    for route in sorted(routes, key=age):
        for index, parent in enumerate(route.spec_as(RouteSpec).parent_refs):
            if parent.is_gateway and parent_key(parent, route) == (gateway.metadata.namespace, gateway.metadata.name):
                verdicts[(route.ref, index)] = _attach(route, parent, gateway, namespaces, found)
    taken = {name: [item for kind in own.values() for item in kind.routes] for name, own in found.items()}
    ordered = {name: tuple(sorted(own, key=lambda item: age(item.route))) for name, own in taken.items()}
    return Attachments(routes=ordered, verdicts=verdicts)


def age(route: PolicyObject) -> tuple[str, str]:
    """Sorts the oldest first, then by `namespace/name`."""
    return route.metadata.creation_timestamp, f"{route.metadata.namespace}/{route.metadata.name}"


def _attach(
    route: PolicyObject,
    parent: ParentReference,
    gateway: PolicyObject,
    namespaces: Labels,
    found: Mapping[str, _Taken],
) -> Verdict:
    beyond = unsupported(route)
    if beyond is not None:
        return Verdict("UnsupportedValue", beyond)
    listeners = [own for own in gateway.spec_as(GatewaySpec).listeners if _is_named(own, parent)]
    routed = [own for own in listeners if own.protocol in PROTOCOLS]
    if not routed:
        return Verdict("NoMatchingParent", _no_listener(parent, gateway, listeners))
    allowed = [own for own in routed if _admits(own, route, gateway, namespaces)]
    if not allowed:
        what = f"{route.kind.kind}s of namespace {route.metadata.namespace}"
        return Verdict("NotAllowedByListeners", f"{gateway.ref} takes no {what} at {_names(routed)}")
    fitting = [(own, hosts) for own in allowed if (hosts := shared_hosts(own, route.spec_as(RouteSpec).hostnames))]
    if not fitting:
        served = ", ".join(own.hostname for own in allowed)
        return Verdict("NoMatchingListenerHostname", f"spec.hostnames: {gateway.ref} has none of them, only {served}")
    free = [(own, hosts) for own, hosts in fitting if _rival(route, hosts, found[own.name]) is None]
    if not free:
        rival = next(other for own, hosts in fitting if (other := _rival(route, hosts, found[own.name])) is not None)
        message = f"{rival.ref} is older and of another kind: a listener has one kind of routes for a host of it"
        return Verdict("RouteConflict", message)
    for own, hosts in free:
        present = found[own.name].setdefault(route.kind, _OfKind())
        if not present.routes or present.routes[-1].route is not route:  # by another of its parentRefs
            present.add(AttachedRoute(route, hosts))
    taking = [own for own, _ in free]
    return Verdict(ACCEPTED, f"{gateway.ref} has it at {_names(taking)}", tuple(own.name for own in taking))


def _names(listeners: Iterable[Listener]) -> str:
    names = [own.name for own in listeners]
    return f"listener{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _is_named(listener: Listener, parent: ParentReference) -> bool:
    own_section = parent.section_name in ("", listener.name)
    return own_section and (parent.port is None or parent.port == listener.port)


def _no_listener(parent: ParentReference, gateway: PolicyObject, named: list[Listener]) -> str:
    if named:
        return f"listener {named[0].name} of {gateway.ref} has protocol {named[0].protocol}, which has no routes"
    wanted = [f"named {parent.section_name}"] if parent.section_name else []
    wanted += [f"with port {parent.port}"] if parent.port is not None else []
    return f"{gateway.ref} has no listener {' and '.join(wanted)}"


def _admits(listener: Listener, route: PolicyObject, gateway: PolicyObject, namespaces: Labels) -> bool:
    own = listener.effective_routes.effective_namespaces
    namespace = route.metadata.namespace
    if route.kind.kind not in supported_kinds(listener):
        return False
    match own.from_:
        case FromNamespaces.ALL:
            return True
        case FromNamespaces.SAME:
            return namespace == gateway.metadata.namespace
        case FromNamespaces.NONE:
            return False
        case FromNamespaces.SELECTOR:
            labels = {**namespaces.get(namespace, {}), NAMESPACE_NAME: namespace}
            return own.selector is not None and selected(own.selector, labels)


def selected(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether the selector takes what carries `labels`."""
    return selects(selector.match_labels, labels) and all(
        _expressed(item.operator, labels.get(item.key), item.values) for item in selector.match_expressions
    )


def _expressed(operator: SelectorOperator | None, value: str | None, values: tuple[str, ...]) -> bool:
    match operator:
        case SelectorOperator.IN:
            return value in values
        case SelectorOperator.NOT_IN:
            return value not in values
        case SelectorOperator.EXISTS:
            return value is not None
        case SelectorOperator.DOES_NOT_EXIST:
            return value is None
    return False


def shared_hosts(listener: Listener, hostnames: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(as the route writes it, the narrower of it and the listener's) of every host that both have."""
    own = listener.hostname or EVERY_HOST
    if not hostnames:
        return ((EVERY_HOST, own),)
    found = [(host, host) for host in hostnames if covers(own, host)]
    found += [(host, own) for host in hostnames if host != own and covers(host, own)]
    return tuple(dict.fromkeys(found))


def _rival(
    route: PolicyObject, hosts: tuple[tuple[str, str], ...], taken: _Taken
) -> PolicyObject | None:  # fmt: skip
    """A route of the other kind that is there already and has a host of these."""
    others = [own for kind, own in taken.items() if kind is not route.kind]
    found = (own.at(host) for own in others for _, host in hosts)
    return next((rival for rival in found if rival is not None), None)
