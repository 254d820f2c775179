"""Findings of Gateways and of the VirtualServices that are bound to them, as the mesh now is.

Owns:   selectors without gateways, servers that others displace, Secrets that are not there, names that lead nowhere,
        what agents do not serve.
Not:    what depends on which proxies are connected (gateways).
Source: control-plane.md 2.6: IST0101, IST0112, IST0127, IST0132, IST0145, IST0161.
Without a registered gateway the selectors stand for the proxies that they would select.
"""

from collections.abc import Iterable, Iterator, Mapping

from controlplane.compiler.findings import (
    NOT_FOUND,
    destination_findings,
    http_destinations,
    tls_and_tcp_destinations,
)
from controlplane.compiler.gateway_tls import beyond_agent, needed
from controlplane.compiler.secrets import missing
from controlplane.compiler.types import Condition
from controlplane.model.gateway_ports import GatewayServer, ServerConflict, bound_server, merged_ports, served_hosts
from controlplane.model.gateways import gateway_name, gateway_names, name_of
from controlplane.model.listener_objects import ListenerGateway
from controlplane.model.mesh_state import MeshState
from controlplane.policy.gateway import Gateway, ServerTLSMode
from controlplane.policy.gateway_api import GATEWAY_NAME, GROUP
from controlplane.policy.kinds import VIRTUAL_SERVICE
from controlplane.policy.objects import PolicyObject
from controlplane.policy.selector import selects
from controlplane.policy.virtual_service import MESH_GATEWAY, VirtualService

_ABSENT = "there is no Secret"


def is_bound(rule: PolicyObject) -> bool:
    """Whether it is a VirtualService that names a Gateway."""
    return rule.kind is VIRTUAL_SERVICE and bool(gateway_names(rule))


def gateway_findings(mesh: MeshState) -> Iterator[Condition]:
    """Everything about all Gateways."""
    gateways = mesh.gateways.all()
    for gateway in gateways:
        if not isinstance(gateway.spec, ListenerGateway):  # gateway_api_findings speaks of those
            yield from _selection(gateway, mesh)
            for item in _servers(gateway):
                yield from _secrets(item, mesh)
    yield from _conflicts(gateways, mesh)


def limit_findings(gateway: PolicyObject) -> Iterator[Condition]:
    """What is not served, or not by agents, whatever else is in the mesh."""
    for item in _servers(gateway):
        tls = item.server.tls
        if tls is not None and tls.mode is ServerTLSMode.AUTO_PASSTHROUGH:
            path = f"{item.path}.tls.mode"
            message = f"{path}: AUTO_PASSTHROUGH joins networks of several clusters, which there are not: not served"
            yield Condition(gateway.ref, "NotEnforced", "True", "UnsupportedField", message, path=path)
        fields = beyond_agent(tls) if tls is not None and item.server.ends_tls else ()
        if fields:
            path = f"{item.path}.tls.{fields[0]}"
            named = ", ".join(f"{item.path}.tls.{name}" for name in fields)
            message = f"Gossamer agents do not serve a server with {named}"
            yield Condition(gateway.ref, "NotEnforced", "True", "UnsupportedField", message, path=path)
        if item.server.protocol.is_http2 and not item.server.is_tls:
            path = f"{item.path}.port.protocol"
            message = f"{path}: Gossamer agents speak HTTP/1.1 with clients; Envoys speak both"
            yield Condition(gateway.ref, "NotEnforced", "True", "UnsupportedProtocol", message, path=path)


def bound_findings(rule: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    """Everything about one VirtualService that names Gateways."""
    for index, written in enumerate(rule.spec_as(VirtualService).gateways):
        if written == MESH_GATEWAY:
            continue
        path = f"spec.gateways[{index}]"
        name = gateway_name(written, rule.metadata.namespace)
        gateway = mesh.gateways.get(name)
        if gateway is None:
            message = f"{path}: there is no Gateway {name}{_other(name, mesh)}"
            yield Condition(rule.ref, NOT_FOUND, "True", "UnknownGateway", message, "IST0101", path)
        else:
            yield from _hosts(rule, gateway, mesh)
    spec = rule.spec_as(VirtualService)
    # What the mesh routes too is looked at beside its hosts (findings).
    located = () if spec.applies_to_mesh else tuple(http_destinations(spec))
    located += tuple(tls_and_tcp_destinations(spec))
    yield from destination_findings(rule, located, mesh.target, set(_bound_ports(rule, mesh)), mesh.settings)


def _other(name: str, mesh: MeshState) -> str:
    """That there is one of the Gateway API, which VirtualServices cannot name."""
    namespace, _, own = name.partition("/")
    known = mesh.gateway_api.gateway((namespace, own)) is not None
    return f", only one of {GROUP}, which has HTTPRoutes" if known else ""


# --- Gateways


def _servers(gateway: PolicyObject) -> Iterator[GatewayServer]:
    for index, server in enumerate(gateway.spec_as(Gateway).servers):
        yield bound_server(gateway, index, server)


def _selection(gateway: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    selector = gateway.spec_as(Gateway).selector
    if any(selects(selector, own.labels) for own in mesh.workloads.gateways()):
        return
    wanted = ", ".join(f"{key}={value}" for key, value in sorted(selector.items())) or "any labels"
    message = f"spec.selector: no gateway of the mesh carries {wanted}"
    yield Condition(gateway.ref, "SelectsNothing", "True", "NoMatchingGateway", message, "IST0127", "spec.selector")


def _secrets(item: GatewayServer, mesh: MeshState) -> Iterator[Condition]:
    """In the namespaces of the proxies that serve it."""
    tls = item.server.tls
    if tls is None or not item.server.ends_tls:
        return
    selector = item.gateway.spec_as(Gateway).selector
    namespaces = {own.namespace for own in mesh.workloads.gateways() if selects(selector, own.labels)}
    path = f"{item.path}.tls.credentialName" + ("s" if tls.credential_names else "")
    for namespace in sorted(namespaces):
        for wanted in needed(tls, namespace):
            problem = missing(wanted, mesh.secrets)
            if problem:
                code = "IST0101" if problem.startswith(_ABSENT) else "IST0161"
                message = f"{path}: {problem}: gateways of that namespace do not serve {', '.join(item.names)}"
                yield Condition(item.gateway.ref, NOT_FOUND, "True", "UnknownSecret", message, code, path)


def _conflicts(gateways: tuple[PolicyObject, ...], mesh: MeshState) -> Iterator[Condition]:
    """Servers that some gateway proxy does not have, because an older one has their port or host."""
    for conflict in server_conflicts(gateways, mesh):
        loser, winner = conflict.loser, conflict.winner
        where = f"{winner.path} of {winner.ref}" if winner.ref != loser.ref else winner.path
        message = f"{loser.path} has no effect on port {loser.server.number}: {conflict.reason}, in {where}"
        yield Condition(loser.ref, "Conflict", "True", "OtherServerWins", message, "IST0145", loser.path)


def server_conflicts(gateways: Iterable[PolicyObject], mesh: MeshState) -> Iterator[ServerConflict]:
    """At every set of labels that a gateway proxy has."""
    for namespace, labels in _label_sets(gateways, mesh):
        named = mesh.workloads.named_gateways(namespace)
        _, conflicts = merged_ports(mesh.gateways.selecting(labels, namespace, named))
        yield from conflicts


def _label_sets(gateways: Iterable[PolicyObject], mesh: MeshState) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Namespaces and labels of proxies."""
    registered = mesh.workloads.gateways()
    found = [(own.namespace, own.labels) for own in registered] or [
        (gateway.metadata.namespace, _labels_for(gateway.spec_as(Gateway))) for gateway in gateways
    ]
    distinct = {(namespace, *sorted(labels.items())): (namespace, labels) for namespace, labels in found}
    return iter(distinct.values())


def _labels_for(spec: Gateway) -> Mapping[str, str]:
    return {GATEWAY_NAME: spec.owner} if isinstance(spec, ListenerGateway) else spec.selector


# --- VirtualServices


def _hosts(rule: PolicyObject, gateway: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    suffix = mesh.settings.domain_suffix
    servers = tuple(_servers(gateway))
    if any(served_hosts(item, rule, suffix) for item in servers):
        return
    served = ", ".join(dict.fromkeys(host for item in servers for host in item.server.hosts))
    message = f"spec.hosts: Gateway {name_of(gateway)} has none of them for namespace {rule.metadata.namespace}, only "
    yield Condition(
        rule.ref, "HostNotServed", "True", "HostNotInGateway", f"{message}{served}"[:1000], "IST0132", "spec.hosts"
    )


def _bound_ports(rule: PolicyObject, mesh: MeshState) -> Iterator[int]:
    for name in gateway_names(rule):
        gateway = mesh.gateways.get(name)
        for item in _servers(gateway) if gateway is not None else ():
            yield item.server.number
