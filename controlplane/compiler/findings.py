"""What users should know about their objects as the mesh now is: conditions.

Owns:   findings of one object by itself, and of one host with everything about it.
Not:    findings that depend on which proxies are connected (scopes), when they are computed (compile).
Source: control-plane.md 2.6 (Istio's message codes); decisions 4, 5, 8.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from typing import Protocol

from controlplane.compiler.delegation_findings import delegation_findings
from controlplane.compiler.limits import (
    destination_rule_limits,
    envoy_approximations,
    grpc_approximations,
    resolution_problem,
    virtual_service_limits,
)
from controlplane.compiler.object_findings import http2_findings, unreachable_findings, unverified_findings
from controlplane.compiler.services import client_rule, scoped_rule
from controlplane.compiler.types import Condition
from controlplane.model.destination_rules import losers, merge_group, rule_host
from controlplane.model.peer_authentication import has_selector, shadowed
from controlplane.model.proxy import Caller, ProxyScope
from controlplane.model.services import Service
from controlplane.model.views import ServiceView, Target
from controlplane.model.virtual_services import chosen, destination_host, hosts_of
from controlplane.policy.destination_rule import DestinationRule
from controlplane.policy.hosts import is_wildcard
from controlplane.policy.http_route import Destination
from controlplane.policy.kinds import DESTINATION_RULE, SERVICE_ENTRY, VIRTUAL_SERVICE
from controlplane.policy.objects import PolicyObject
from controlplane.policy.selector import selects
from controlplane.policy.service_entry import ServiceEntry
from controlplane.policy.virtual_service import VirtualService
from controlplane.settings import MeshSettings
from mesh.vocabulary import Dialect

NOT_FOUND = "ReferencedResourceNotFound"
Located = tuple[str, str, Destination]  # path of the rule, path within the rule
_SHOWN = 8


def condition(
    rule: PolicyObject, kind: str, reason: str, message: str, code: str = "", path: str = ""
) -> Condition:  # fmt: skip
    """Something that needs attention. `path`: the field that it is about."""
    return Condition(rule.ref, kind, "True", reason, message, code, path)


def object_findings(rule: PolicyObject, dialect: Dialect = Dialect.GOSSAMER) -> Iterator[Condition]:
    """What the dialect does not do of one object, whatever else is in the mesh."""
    fields: tuple[str, ...] = ()
    if rule.kind is VIRTUAL_SERVICE:
        fields = virtual_service_limits(rule.spec_as(VirtualService), dialect)
    elif rule.kind is DESTINATION_RULE:
        fields = destination_rule_limits(rule.spec_as(DestinationRule), dialect)
    elif rule.kind is SERVICE_ENTRY:
        yield from _resolution(rule, dialect)
    if dialect is Dialect.GOSSAMER:
        yield from unreachable_findings(rule)
        yield from unverified_findings(rule)
        yield from http2_findings(rule)
    if fields:
        who = {Dialect.GOSSAMER: "Gossamer agents do", Dialect.GRPC: "gRPC clients do", Dialect.ENVOY: "Envoys do"}
        message = f"{who[dialect]} not enforce {', '.join(fields[:_SHOWN])}" + _more(fields)
        yield condition(rule, "NotEnforced", "UnsupportedField", message, path=fields[0])


def _resolution(rule: PolicyObject, dialect: Dialect) -> Iterator[Condition]:
    problem = resolution_problem(rule.spec_as(ServiceEntry), dialect)
    if problem:
        yield condition(
            rule, "NotEnforced", "UnsupportedField", f"spec.resolution: {problem}", path="spec.resolution"
        )  # fmt: skip


def grpc_findings(rules: Iterable[PolicyObject]) -> Iterator[Condition]:
    """What gRPC clients do otherwise or not at all."""
    for rule in _stored(rules):
        if rule.kind is DESTINATION_RULE:
            approximated = grpc_approximations(rule.spec_as(DestinationRule))
            if approximated:
                yield condition(rule, "Approximated", "GrpcClient", "; ".join(approximated))
        yield from object_findings(rule, Dialect.GRPC)


def envoy_findings(rules: Iterable[PolicyObject]) -> Iterator[Condition]:
    """What Envoys do otherwise."""
    for rule in _stored(rule for rule in rules if not rule.wants_istio_behaviour):  # a root decides for its delegates
        approximated = envoy_approximations(rule.spec_as(VirtualService))
        if approximated:
            yield condition(rule, "Approximated", "EnvoyProxy", "; ".join(approximated))


def _stored(rules: Iterable[PolicyObject]) -> Iterator[PolicyObject]:
    """What users wrote, where joined rules no longer stand in their places."""
    return (part for rule in rules for part in rule.stored)


def shared_cluster_findings(view: ServiceView, scope: ProxyScope, settings: MeshSettings) -> Iterator[Condition]:
    """DestinationRules that one workload of a node would use, were there not another's for the same host.

    All workloads of an agent share its clusters, so only one rule for a host can hold on a node.
    """
    if len(scope.callers) < 2:
        return
    used = scoped_rule(view.host, view.target, scope, settings)
    for caller in scope.callers:
        wanted = client_rule(view.host, view.target, caller, settings)
        for rule in wanted.rules if used.rules else ():
            if rule not in used.rules:
                message = (
                    f"for {view.host}, a node with workloads of {' and '.join(scope.namespaces)} uses "
                    f"{used.rules[0].ref} for all of them"
                )
                yield condition(rule, "NotEnforced", "SharedClusters", message)


def peer_findings(policies: Iterable[PolicyObject], *, in_root: bool) -> Iterator[Condition]:
    """The PeerAuthentications of one namespace, the oldest first."""
    known = tuple(policies)
    for loser, winner in shadowed(known).items():
        message = f"{winner.ref} is older and decides for the whole namespace; this one has no effect"
        yield condition(loser, "Conflict", "OtherObjectWins", message)
    if in_root:
        for item in known:
            if has_selector(item):
                message = "a selector in the root namespace selects nothing; write it into the workloads' namespace"
                yield condition(item, "NotEnforced", "SelectorInRootNamespace", message, path="spec.selector")


def host_findings(view: ServiceView, settings: MeshSettings) -> Iterator[Condition]:
    """Everything about one host."""
    for loser in view.definitions[1:]:
        message = f"{view.definitions[0].ref} defines {view.host} already; this definition of it has no effect"
        yield condition(loser, "Conflict", "HostAlreadyDefined", message)
    if view.service is not None:
        yield from _portless(view, view.service)
    yield from _destination_rules(view, settings)
    for rule in view.virtual_services:
        if view.host in hosts_of(rule, settings.domain_suffix):
            yield from _virtual_service(view, rule, settings)


def _portless(view: ServiceView, service: Service) -> Iterator[Condition]:
    if service.definition is None or not view.portless:
        return
    number, workload = view.portless[0]
    port = service.port(number)
    ports = ", ".join(f"{item.name or 'unnamed'}:{item.port}" for item in workload.ports)
    target = port.target if port is not None else number
    yield condition(
        service.definition,
        "NoPort",
        "NoMatchingPort",
        f"port {number} (targetPort {target}) fits no port of {workload.id}, which has {ports}"
        + _more(view.portless, shown=1),
        path=next((f"spec.ports[{index}]" for index, own in enumerate(service.ports) if own.number == number), ""),
    )


# --- DestinationRules


def _destination_rules(view: ServiceView, settings: MeshSettings) -> Iterator[Condition]:
    own = [rule for rule in view.rules if rule_host(rule, settings.domain_suffix) == view.host]
    groups: dict[str, list[PolicyObject]] = {}
    for rule in own:
        groups.setdefault(repr(merge_group(rule, settings.domain_suffix)), []).append(rule)
    for group in groups.values():
        for loser, (winner, what) in losers(group).items():
            yield condition(loser, "Conflict", "OtherObjectWins", f"{what} is ignored: {winner.ref} is older")
    for rule in own:
        if view.service is None:
            if not is_wildcard(view.host):
                message = f"spec.host: there is no service {view.host}"
                yield condition(rule, NOT_FOUND, "UnknownHost", message, "IST0174", "spec.host")
        else:
            yield from _empty_subsets(view, rule)


def _empty_subsets(view: ServiceView, rule: PolicyObject) -> Iterator[Condition]:
    workloads = {id(item.workload): item.workload for own in view.endpoints.values() for item in own}.values()
    empty = [
        (index, subset)
        for index, subset in enumerate(rule.spec_as(DestinationRule).subsets)
        if not any(selects(subset.labels, workload.labels) for workload in workloads)
    ]
    if empty:
        names = ", ".join(f"{item.name} ({_pairs(item.labels.items())})" for _, item in empty[:_SHOWN])
        message = f"no instance is selected by subset {names}{_more(empty)}; {instances_hint(view.host, view.target)}"
        path = f"spec.subsets[{empty[0][0]}]"
        yield condition(rule, "SubsetSelectsNothing", "NoMatchingInstance", message, "IST0173", path)


# --- VirtualServices


def _virtual_service(view: ServiceView, rule: PolicyObject, settings: MeshSettings) -> Iterator[Condition]:
    winners = chosen(view.virtual_services, view.host, rule.metadata.namespace, settings.domain_suffix)
    if winners and rule not in winners:
        why = "is older" if winners[0].age_key <= rule.age_key else "is for this namespace alone"
        message = f"{winners[0].ref} {why} and decides for {view.host}; this one has no effect for it"
        hosts = hosts_of(rule, settings.domain_suffix)
        yield condition(
            rule, "Conflict", "OtherObjectWins", message, "IST0109", f"spec.hosts[{hosts.index(view.host)}]"
        )  # fmt: skip
    listener = {own.number for own in view.service.ports} if view.service is not None else set()
    for part in rule.stored:
        namespace, suffix = part.metadata.namespace, settings.domain_suffix
        located = [
            item
            for item in http_destinations(part.spec_as(VirtualService))
            if destination_host(item[2], namespace, suffix) in view.targets  # not of a delegate's rule that is left out
        ]
        yield from destination_findings(part, located, lambda host: view.targets[host], listener, settings)
    yield from delegation_findings(rule)


def destination_findings(
    rule: PolicyObject,
    located: Iterable[Located],
    target_of: Callable[[str], Target],
    ports: Collection[int],
    settings: MeshSettings,
) -> Iterator[Condition]:
    """Where a VirtualService sends to, as far as `located` says. `ports`: those that its requests come to."""
    found = Destinations()
    for path, place, destination in located:
        host = destination_host(destination, rule.metadata.namespace, settings.domain_suffix)
        _examine(rule, destination, (path, place), (host, target_of(host)), ports, settings, found)
    for message, path in found.missing():
        yield condition(rule, NOT_FOUND, "UnknownDestination", message, "IST0101", path)
    for message, path in found.unclear:
        yield condition(rule, "NoPort", "PortRequired", message, "IST0112", path)


def http_destinations(spec: VirtualService) -> Iterator[Located]:
    """Every destination of HTTP rules, with its place."""
    for index, http in enumerate(spec.http):
        path = f"spec.http[{index}]"
        yield from ((path, *item) for item in _targets(http.route))
        yield from ((path, *item) for item in _targets(http.mirrors, "mirrors"))
        if http.mirror is not None:
            yield path, "mirror", http.mirror


def tls_and_tcp_destinations(spec: VirtualService) -> Iterator[Located]:
    """Every destination of the other rules, with its place."""
    routes = [("tls", own.route) for own in spec.tls], [("tcp", own.route) for own in spec.tcp]
    for of_kind in routes:
        for index, (kind, route) in enumerate(of_kind):
            yield from ((f"spec.{kind}[{index}]", *item) for item in _targets(route))


class _HasDestination(Protocol):
    @property
    def destination(self) -> Destination | None: ...


def _targets(items: Iterable[_HasDestination], name: str = "route") -> Iterator[tuple[str, Destination]]:
    for index, item in enumerate(items):
        if item.destination is not None:
            yield f"{name}[{index}].destination", item.destination


class Destinations:
    """What is wrong with the destinations of one VirtualService: words and path."""

    def __init__(self) -> None:
        self.absent: list[tuple[str, str]] = []
        self.subsets: dict[tuple[str, str], dict[str, str]] = {}  # (host, hint) -> name -> path
        self.unclear: list[tuple[str, str]] = []

    def missing(self) -> list[tuple[str, str]]:
        """In words, the subsets of one host together."""
        subsets = [
            (_undefined(list(names), host, hint), next(iter(names.values())))
            for (host, hint), names in self.subsets.items()
        ]
        return [*self.absent, *subsets]


def _undefined(names: list[str], host: str, hint: str) -> str:
    what = f"subset {names[0]} of {host} is" if len(names) == 1 else f"subsets {', '.join(names)} of {host} are"
    return f"{what} not defined; {hint}; define the subsets in a DestinationRule"


def _examine(
    rule: PolicyObject,
    destination: Destination,
    at: tuple[str, str],
    to: tuple[str, Target],
    ports: Collection[int],
    settings: MeshSettings,
    found: Destinations,
) -> None:
    """`at`: path of the rule and of the destination within it; `to`: the destination's host."""
    (path, place), (host, target) = at, to
    service = target.service
    number = destination.port_number
    if service is None:
        found.absent.append((f"{path}: there is no service {host}", f"{path}.{place}.host"))
        return
    if number is not None and service.port(number) is None:
        message = f"{path}: {host} has no port {number}, only {_ports(service)}"
        found.absent.append((message, f"{path}.{place}.port.number"))
        return
    caller = Caller(rule.metadata.namespace)
    if destination.subset and client_rule(host, target, caller, settings).subset(destination.subset) is None:
        names = found.subsets.setdefault((host, instances_hint(host, target)), {})
        names.setdefault(destination.subset, f"{path}.{place}.subset")
    if number is None and service.only_port is None and any(service.port(own) is None for own in ports):
        message = f"{path}: {host} has several ports ({_ports(service)}); name one in destination.port.number"
        found.unclear.append((message, f"{path}.{place}"))


def instances_hint(host: str, target: Target) -> str:
    """Which labels the instances of a host carry, for whoever defines subsets."""
    short = host.partition(".")[0]
    selected = target.service.selector if target.service is not None else None
    telling = sorted(pair for pair in target.labels if pair not in (selected or {}).items())
    if not target.labels:
        return f"{short} has no instances with labels yet"
    if not telling:
        return f"the instances of {short} differ in no label"
    shown = ", ".join(f"{key}={value}" for key, value in telling[:_SHOWN])
    return f"{short} has instances labelled {shown}{_more(telling)}"


def _ports(service: Service) -> str:
    return ", ".join(str(port.number) for port in service.ports) or "none"


def _pairs(items: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(items)) or "no labels"


def _more(items: Sized, *, shown: int = _SHOWN) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
