"""What users of the Gateway API read on their objects: conditions of Gateways, listeners, routes and classes.

Owns:   the status in the form that its users know, and what of it needs attention.
Not:    which route has which listener (controlplane.model.gateway_attachments), since when (controlplane.reconcile).
Source: kubernetes-sigs/gateway-api apis/v1 gateway_types.go, shared_types.go: types and reasons of conditions.
Without a registered gateway nothing is `Programmed`; whether proxies have taken it, the object's own condition counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from controlplane.compiler.gateway_findings import server_conflicts
from controlplane.compiler.gateway_tls import needed
from controlplane.compiler.secrets import missing
from controlplane.compiler.types import Condition, StatusDetails, StatusPart
from controlplane.model.gateway_api import MadeGateway, certificate_problem
from controlplane.model.gateway_attachments import (
    ACCEPTED,
    PROTOCOLS,
    Verdict,
    parent_key,
    supported_kinds,
    unsupported_kinds,
)
from controlplane.model.gateway_ports import ServerConflict
from controlplane.model.gateway_rules import backend_problem, backends_of, extension_filters
from controlplane.model.listener_objects import ListenerGateway, is_served_by
from controlplane.model.mesh_state import MeshState
from controlplane.policy.gateway import ServerTLSMode, ServerTLSSettings
from controlplane.policy.gateway_api import (
    CONTROLLER,
    CONTROLLERS,
    DEFAULT_LABEL,
    GATEWAY_NAME,
    GROUP,
    GatewayClassSpec,
    GatewaySpec,
    Listener,
    ParentReference,
)
from controlplane.policy.gateway_api_routes import RouteSpec
from controlplane.policy.kinds import GRPC_ROUTE
from controlplane.policy.objects import PolicyObject
from controlplane.registry.instances import Instance
from mesh.vocabulary import ObjectRef

_NOT_ACCEPTED = "GSM0120"
_NOT_RESOLVED = "GSM0121"
_ABSENT = "there is no Secret"
_SHOWN = 4
Problem = tuple[str, str, str, str]  # reason, message, code, path


class GatewayApiStatus:
    """The status of every object of the Gateway API, renewed when something that it depends on is another object."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()
        self._details: Mapping[ObjectRef, StatusDetails] = {}

    def of(self, mesh: MeshState) -> Mapping[ObjectRef, StatusDetails]:
        """By object."""
        seen = mesh.gateway_api, mesh.gateways, mesh.views, mesh.workloads, mesh.secrets
        if len(self._seen) != len(seen) or any(old is not new for old, new in zip(self._seen, seen, strict=True)):
            self._seen, self._details = seen, dict(_details(mesh))
        return self._details


def gateway_api_findings(mesh: MeshState) -> Iterator[Condition]:
    """What needs attention."""
    states = tuple(_gateway_states(mesh))
    for state in states:
        yield from state.findings()
    for route in mesh.gateway_api.routes():
        yield from _route_findings(route, mesh)


def _details(mesh: MeshState) -> Iterator[tuple[ObjectRef, StatusDetails]]:
    for name, item in sorted(mesh.gateway_api.classes().items()):
        if item.spec_as(GatewayClassSpec).controller_name in CONTROLLERS:
            told = _told(item, "Accepted", ACCEPTED, f"Gateways of class {name} are served")
            yield item.ref, StatusDetails(conditions=(told,))
    for state in _gateway_states(mesh):
        yield state.gateway.ref, state.details()
    for route in mesh.gateway_api.routes():
        yield route.ref, StatusDetails(parts={"parents": tuple(_parents(route, mesh))})


def _told(item: PolicyObject, kind: str, reason: str, message: str = "", status: str = "True") -> Condition:
    return Condition(item.ref, kind, status, reason, message)


# --- Gateways


@dataclass(frozen=True, slots=True, kw_only=True)
class _ListenerState:
    """`accepted`, `resolved`, `conflict`: what is wrong, None when nothing is. `usable`: it has what TLS needs."""

    index: int
    listener: Listener
    attached: int
    accepted: Problem | None
    resolved: Problem | None
    conflict: tuple[str, str] | None
    usable: bool

    @property
    def is_valid(self) -> bool:
        return self.accepted is None and self.conflict is None and self.usable


@dataclass(frozen=True, slots=True, kw_only=True)
class _GatewayState:
    """A Gateway with its listeners and the proxies that serve it."""

    made: MadeGateway
    listeners: tuple[_ListenerState, ...]
    proxies: tuple[Instance, ...]

    @property
    def gateway(self) -> PolicyObject:
        return self.made.gateway

    @property
    def lonely(self) -> str:
        """Why no proxy serves it; nothing when one does."""
        if self.proxies or self.made.problem is not None:
            return ""
        metadata, default = self.gateway.metadata, "=".join(DEFAULT_LABEL)
        wanted = f"{GATEWAY_NAME}={metadata.name} or {default}"
        return f"no gateway of namespace {metadata.namespace} carries {wanted}"

    def findings(self) -> Iterator[Condition]:
        ref = self.gateway.ref
        if self.made.problem is not None:
            status = "Unknown" if self.made.problem[0] == "Pending" else "False"
            yield Condition(ref, "Accepted", status, *self.made.problem, _NOT_ACCEPTED,
                            self.made.problem[1].partition(":")[0])  # fmt: skip
            return
        if self.lonely:
            yield Condition(ref, "SelectsNothing", "True", "NoMatchingGateway", self.lonely, "IST0127", "metadata.name")
        for item in self.listeners:
            for kind, problem in (("ListenerNotAccepted", item.accepted), ("ListenerNotResolved", item.resolved)):
                if problem is not None:
                    yield Condition(ref, kind, "True", *problem)
            refs = item.listener.tls.certificate_refs if item.listener.tls is not None else ()
            if len(refs) > 1:
                path = f"spec.listeners[{item.index}].tls.certificateRefs[1]"
                message = f"Gossamer agents do not serve a listener with a second certificate: {path}"
                yield Condition(ref, "NotEnforced", "True", "UnsupportedField", message, path=path)

    def details(self) -> StatusDetails:
        """With every condition that the API has."""
        return StatusDetails(
            conditions=tuple(self._own_conditions()),
            parts={"listeners": tuple(self._part(item) for item in self.listeners)},
            facts={"addresses": [{"type": "IPAddress", "value": value} for value in self._addresses()]},
        )

    def _addresses(self) -> list[str]:
        return sorted({item.address for item in self.proxies})

    def _own_conditions(self) -> Iterator[Condition]:
        gateway, problem = self.gateway, self.made.problem
        if problem is not None:
            status = "Unknown" if problem[0] == "Pending" else "False"
            yield _told(gateway, "Accepted", *problem, status)
            yield _told(gateway, "Programmed", "Pending", problem[1], status)
            return
        wrong = [item.listener.name for item in self.listeners if not item.is_valid]
        every = len(wrong) == len(self.listeners)
        if wrong:
            message, status = f"listeners {', '.join(wrong)} are not valid", "False" if every else "True"
            yield _told(gateway, "Accepted", "ListenersNotValid", message, status)
        else:
            yield _told(gateway, "Accepted", ACCEPTED, "every listener is valid")
        if every:
            yield _told(gateway, "Programmed", "Invalid", "no listener is served", "False")
        elif self.lonely:
            yield _told(gateway, "Programmed", "Pending", self.lonely, "False")

    def _part(self, item: _ListenerState) -> StatusPart:
        listener = item.listener
        kinds = [{"group": GROUP, "kind": kind} for kind in supported_kinds(listener)]
        facts = {"name": listener.name, "supportedKinds": kinds, "attachedRoutes": item.attached}
        return StatusPart(key=listener.name, facts=facts, conditions=tuple(self._listener_conditions(item)))

    def _listener_conditions(self, item: _ListenerState) -> Iterator[Condition]:
        gateway = self.gateway
        yield _judged(gateway, "Accepted", ACCEPTED, item.accepted)
        if item.conflict is not None:
            yield _told(gateway, "Conflicted", *item.conflict)
        else:
            yield _told(gateway, "Conflicted", "NoConflicts", status="False")
        yield _judged(gateway, "ResolvedRefs", "ResolvedRefs", item.resolved)
        if not item.is_valid:
            yield _told(gateway, "Programmed", "Invalid", "the listener is not served", "False")
        elif self.lonely:
            yield _told(gateway, "Programmed", "Pending", self.lonely, "False")
        else:
            nodes = ", ".join(dict.fromkeys(own.node for own in self.proxies))
            yield _told(gateway, "Programmed", "Programmed", f"served by {nodes}")


def _judged(item: PolicyObject, kind: str, good: str, problem: Problem | None) -> Condition:
    if problem is None:
        return _told(item, kind, good)
    return _told(item, kind, problem[0], problem[1], "False")


def _gateway_states(mesh: MeshState) -> Iterator[_GatewayState]:
    gateways = mesh.gateway_api.gateways()
    conflicts = _conflicts(mesh) if gateways else {}
    for made in gateways:
        metadata, listeners = made.gateway.metadata, made.gateway.spec_as(GatewaySpec).listeners
        named = mesh.workloads.named_gateways(metadata.namespace)
        proxies = tuple(
            own
            for own in mesh.workloads.gateways()
            if own.namespace == metadata.namespace and is_served_by(metadata.name, own.labels, named)
        )
        states = (
            _listener_state(made, index, own, conflicts.get((made.gateway.ref, index)), mesh)
            for index, own in enumerate(listeners)
        )
        served = made.problem is None
        yield _GatewayState(made=made, listeners=tuple(states) if served else (), proxies=proxies if served else ())


def _conflicts(mesh: MeshState) -> dict[tuple[ObjectRef, int], tuple[str, str]]:
    """By Gateway and listener: (reason, message)."""
    found: dict[tuple[ObjectRef, int], tuple[str, str]] = {}
    for conflict in server_conflicts(mesh.gateways.all(), mesh):
        spec = conflict.loser.gateway.spec
        if isinstance(spec, ListenerGateway):
            found.setdefault((conflict.loser.ref, spec.index), _conflict(conflict))
    return found


def _conflict(conflict: ServerConflict) -> tuple[str, str]:
    winner, loser = conflict.winner, conflict.loser
    tls = winner.server.is_tls and loser.server.is_tls
    reason = "HostnameConflict" if tls else "ProtocolConflict"
    return reason, f"{conflict.reason}, in {winner.path} of {winner.ref}"


def _listener_state(
    made: MadeGateway, index: int, listener: Listener, conflict: tuple[str, str] | None, mesh: MeshState
) -> _ListenerState:
    path = f"spec.listeners[{index}]"
    accepted: Problem | None = None
    if listener.protocol not in PROTOCOLS:
        message = f"{path}.protocol: {listener.protocol} has no routes of version v1: only HTTP and HTTPS are served"
        accepted = "UnsupportedProtocol", message, _NOT_ACCEPTED, f"{path}.protocol"
    problems = list(chain(_kind_problems(listener, path), _certificate_problems(made, listener, path, mesh)))
    refs = listener.tls.certificate_refs if listener.tls is not None else ()
    broken = sum(problem[0] != "InvalidRouteKinds" for problem in problems)
    return _ListenerState(
        index=index,
        listener=listener,
        attached=len(made.attached.routes.get(listener.name, ())),
        accepted=accepted,
        resolved=_first(problems),
        conflict=conflict,
        usable=listener.tls is None or (bool(refs) and not broken),
    )


def _kind_problems(listener: Listener, path: str) -> Iterator[Problem]:
    if listener.protocol in PROTOCOLS:
        for kind in unsupported_kinds(listener):
            message = f"{path}.allowedRoutes.kinds: {kind} is no kind of routes for {listener.protocol}"
            yield "InvalidRouteKinds", message, _NOT_RESOLVED, f"{path}.allowedRoutes.kinds"


def _certificate_problems(made: MadeGateway, listener: Listener, path: str, mesh: MeshState) -> Iterator[Problem]:
    tls = listener.tls
    if tls is None or listener.protocol not in PROTOCOLS:
        return
    if not tls.certificate_refs:
        where = f"{path}.tls.certificateRefs"
        yield "InvalidCertificateRef", f"{where}: there is none, and options are not known", _NOT_RESOLVED, where
    for number, own in enumerate(tls.certificate_refs):
        where = f"{path}.tls.certificateRefs[{number}]"
        problem = certificate_problem(own, made.gateway, made.permits)
        if problem is not None:
            yield problem[0], f"{where}: {problem[1]}", _NOT_RESOLVED, where
            continue
        namespace = own.namespace or made.gateway.metadata.namespace
        settings = ServerTLSSettings(mode=ServerTLSMode.SIMPLE, credential_name=own.name)
        for wanted in needed(settings, namespace):
            text = missing(wanted, mesh.secrets)
            if text:
                code = "IST0101" if text.startswith(_ABSENT) else "IST0161"
                yield "InvalidCertificateRef", f"{where}: {text}", code, where


def _first(problems: list[Problem]) -> Problem | None:
    """The first, with the words of all."""
    if not problems:
        return None
    reason, _, code, path = problems[0]
    words = list(dict.fromkeys(item[1] for item in problems))
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return reason, "; ".join(words[:_SHOWN]) + more, code, path


# --- routes


def _parents(route: PolicyObject, mesh: MeshState) -> Iterator[StatusPart]:
    resolved = _judged(route, "ResolvedRefs", "ResolvedRefs", _first(list(_backend_problems(route, mesh))))
    for index, parent in enumerate(route.spec_as(RouteSpec).parent_refs):
        verdict = _verdict(route, index, parent, mesh)
        accepted = _told(route, "Accepted", verdict.reason, verdict.message, "True" if verdict.accepted else "False")
        facts = {"parentRef": _reference(parent), "controllerName": CONTROLLER}
        yield StatusPart(key=str(index), facts=facts, conditions=(accepted, resolved))


def _reference(parent: ParentReference) -> dict[str, object]:
    """As Kubernetes shows it: with the group and kind that are meant."""
    pairs = {
        "group": parent.group,
        "kind": parent.kind,
        "namespace": parent.namespace or None,
        "name": parent.name,
        "sectionName": parent.section_name or None,
        "port": parent.port,
    }
    return {name: value for name, value in pairs.items() if value is not None}


def _verdict(route: PolicyObject, index: int, parent: ParentReference, mesh: MeshState) -> Verdict:
    path = f"spec.parentRefs[{index}]"
    if not parent.is_gateway:
        message = f"{path}: a {parent.kind} of group {parent.group or 'core'} is no parent here, only a Gateway is"
        hint = "; in the mesh requests are routed by VirtualServices" if parent.kind == "Service" else ""
        return Verdict("UnsupportedValue", message + hint)
    namespace, name = parent_key(parent, route)
    made = mesh.gateway_api.gateway((namespace, name))
    if made is None:
        also = mesh.gateways.get(f"{namespace}/{name}") is not None
        hint = ", only one of networking.istio.io" if also else ""
        return Verdict("NoMatchingParent", f"{path}: there is no Gateway {namespace}/{name}{hint}")
    if made.problem is not None:
        return Verdict("NoMatchingParent", f"{path}: Gateway {namespace}/{name} is not served: {made.problem[1]}")
    found = made.attached.verdicts[(route.ref, index)]
    return Verdict(found.reason, f"{path}: {found.message}", found.listeners)


def _backend_problems(route: PolicyObject, mesh: MeshState) -> Iterator[Problem]:
    for path, kind in extension_filters(route):
        message = f"{path}: {kind} is not known here: requests that the rule takes are answered as errors"
        yield "InvalidKind", message, _NOT_RESOLVED, path
    permits = mesh.gateway_api.permits_of(route)
    for located in backends_of(route):
        own, path = located.backend, located.path
        problem = backend_problem(own, route, permits)
        if problem is not None:
            yield problem[0], f"{path}: {problem[1]}", _NOT_RESOLVED, path
            continue
        host = f"{own.name}.{own.namespace or route.metadata.namespace}.{mesh.settings.domain_suffix}"
        service = mesh.target(host).service
        if service is None:
            yield "BackendNotFound", f"{path}: there is no service {host}", "IST0101", f"{path}.name"
        elif own.port is not None and service.port(own.port) is None:
            ports = ", ".join(str(port.number) for port in service.ports) or "none"
            message = f"{path}: {host} has no port {own.port}, only {ports}"
            yield "BackendNotFound", message, "IST0101", f"{path}.port"


def _route_findings(route: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    for index, parent in enumerate(route.spec_as(RouteSpec).parent_refs):
        verdict = _verdict(route, index, parent, mesh)
        if not verdict.accepted:
            path = f"spec.parentRefs[{index}]"
            yield Condition(route.ref, "Accepted", "False", verdict.reason, verdict.message, _NOT_ACCEPTED, path)
    for reason, message, code, path in _backend_problems(route, mesh):
        yield Condition(route.ref, "ResolvedRefs", "False", reason, message, code, path)
    if route.kind is GRPC_ROUTE:
        message = "Gossamer agents speak HTTP/1.1 with clients and answer 501 for HTTP/2 ports; Envoys serve GRPCRoutes"
        yield Condition(route.ref, "NotEnforced", "True", "UnsupportedProtocol", message, path="spec.rules")
