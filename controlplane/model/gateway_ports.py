"""The servers of all Gateways that select one proxy, merged by port; those that cannot be are said with the reason.

Owns:   which servers share a port, the names of their routes, which hosts of a server a VirtualService has.
Not:    listeners and routes (controlplane.compiler).
Source: istio pilot/pkg/model/gateway.go mergeGateways and gatewayRDSRouteName; pkg/config/host.
Differs: hosts of a TLS port are compared without their namespace: Envoy cannot tell `a/*` from `b/*`.

    on one port and bind       plain HTTP             plain TCP    TLS
    plain HTTP                 one route configuration  refused    refused
    TLS                        refused                refused      a filter chain for each, by server name
Invariants: the oldest Gateway decides what a port is; a server name leads to one server.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from controlplane.model.gateways import name_of
from controlplane.model.listener_objects import ListenerGateway, ListenerRoutes
from controlplane.policy.gateway import EVERY_HOST, Gateway, Server, host_parts
from controlplane.policy.hosts import covers, resolve
from controlplane.policy.objects import PolicyObject
from controlplane.policy.virtual_service import VirtualService
from mesh.vocabulary import ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayServer:
    """One server in use. `hosts`: (namespace whose VirtualServices may use it, host), lower-case."""

    gateway: PolicyObject
    index: int
    server: Server
    hosts: tuple[tuple[str, str], ...]

    @property
    def gateway_name(self) -> str:
        """`namespace/name` of its Gateway."""
        return name_of(self.gateway)

    @property
    def path(self) -> str:
        """Where it stands in what the user wrote."""
        spec = self.gateway.spec
        return f"spec.listeners[{spec.index}]" if isinstance(spec, ListenerGateway) else f"spec.servers[{self.index}]"

    @property
    def ref(self) -> ObjectRef:
        """What the user wrote it in."""
        return self.gateway.stored[0].ref

    @property
    def names(self) -> tuple[str, ...]:
        """Its hosts without namespaces, each once."""
        return tuple(dict.fromkeys(host for _, host in self.hosts))

    @property
    def route_name(self) -> str:
        """The RouteConfiguration of its requests; empty when they are not looked at."""
        server, metadata = self.server, self.gateway.metadata
        bind = f".{server.bind}" if server.bind else ""
        if not server.is_routed or server.port is None:
            return ""
        if server.protocol.is_http:
            return f"http.{server.number}{bind}"
        return f"https.{server.number}.{server.port.name}.{metadata.name}.{metadata.namespace}{bind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPort:
    """One listener. Plain HTTP servers share one set of routes; every TLS server has its own."""

    bind: str
    number: int
    servers: tuple[GatewayServer, ...]

    @property
    def is_tls(self) -> bool:
        """Whether connections begin with TLS."""
        return self.servers[0].server.is_tls


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConflict:
    """A server that is not in use, because of another one."""

    loser: GatewayServer
    winner: GatewayServer
    reason: str


@dataclass(slots=True)
class _Merging:
    ports: dict[tuple[int, str], list[GatewayServer]] = field(default_factory=dict)
    names: dict[tuple[int, str], dict[str, GatewayServer]] = field(default_factory=dict)  # of TLS ports
    conflicts: list[ServerConflict] = field(default_factory=list)


def merged_ports(gateways: Iterable[PolicyObject]) -> tuple[tuple[GatewayPort, ...], tuple[ServerConflict, ...]]:
    """(ports by number and bind, servers that have no effect). `gateways`: the oldest first."""
    merging = _Merging()
    for gateway in gateways:
        for index, server in enumerate(gateway.spec_as(Gateway).servers):
            _add(merging, bound_server(gateway, index, server))
    ports = (
        GatewayPort(bind=bind, number=number, servers=tuple(servers))
        for (number, bind), servers in sorted(merging.ports.items())
    )
    return tuple(ports), tuple(merging.conflicts)


def bound_server(gateway: PolicyObject, index: int, server: Server) -> GatewayServer:
    """A server with its place and its hosts."""
    parts = tuple(host_parts(host, gateway.metadata.namespace) for host in server.hosts)
    return GatewayServer(gateway=gateway, index=index, server=server, hosts=parts)


def _add(merging: _Merging, item: GatewayServer) -> None:
    key = item.server.number, item.server.bind
    present = merging.ports.get(key, [])
    if present and not _fit(present[0].server, item.server):
        protocol = present[0].server.protocol.value
        merging.conflicts.append(ServerConflict(loser=item, winner=present[0], reason=f"the port is {protocol} there"))
        return
    if item.server.is_tls:
        names = merging.names.setdefault(key, {})
        taken = next((name for name in item.names if name in names), None)
        if taken is not None:
            merging.conflicts.append(
                ServerConflict(loser=item, winner=names[taken], reason=f"the host {taken} is served there")
            )  # fmt: skip
            return
        names.update(dict.fromkeys(item.names, item))
    merging.ports.setdefault(key, []).append(item)


def _fit(first: Server, other: Server) -> bool:
    if first.is_tls or other.is_tls:
        return first.is_tls and other.is_tls
    return first.protocol.is_http and other.protocol.is_http


def served_hosts(item: GatewayServer, rule: PolicyObject, domain_suffix: str) -> tuple[str, ...]:
    """The hosts that a server and a VirtualService have in common, the narrower of each pair; in order, each once."""
    namespace, spec = rule.metadata.namespace, rule.spec_as(VirtualService)
    if isinstance(spec, ListenerRoutes):
        return spec.hosts
    return served_names(item, namespace, [resolve(host, namespace, domain_suffix=domain_suffix) for host in spec.hosts])


def served_names(item: GatewayServer, namespace: str, names: Sequence[str]) -> tuple[str, ...]:
    """Those of a rule's `names`, lower-case, that a server has for the rule's namespace."""
    found: dict[str, None] = {}
    for owner, host in item.hosts:
        if owner in (EVERY_HOST, namespace):
            found.update(dict.fromkeys(_narrower(host, names)))
    return tuple(found)


def _narrower(host: str, others: Iterable[str]) -> Iterator[str]:
    for other in others:
        if covers(host, other):
            yield other
        elif covers(other, host):
            yield host
