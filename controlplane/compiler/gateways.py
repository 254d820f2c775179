"""What one gateway proxy is given for the Gateways that select it: listeners, routes, Secrets.

Owns:   the plan: which filter chains and routes each port has, from which exact inputs; servers that it is not given.
Not:    how one is made (gateway_listeners, gateway_routes, secrets), findings that no proxy changes (gateway_findings).
Source: control-plane.md 2.3.2; istio pilot/pkg/networking/core/gateway.go.
Invariants: nothing is planned again while the Gateways, their VirtualServices and what these send to are the same
        objects; a changed Secret makes a new Secret resource and nothing else; a server whose Secrets are not there, or
        not for this proxy, has no filter chain, so that it cannot hold up the others of its port.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from controlplane.compiler.filters.rbac_rules import Site
from controlplane.compiler.gateway_listeners import (
    ChainInputs,
    GatewayListenerInputs,
    WeightedNames,
    build_gateway_listener,
)
from controlplane.compiler.gateway_routes import GatewayHost, GatewayRoutesInputs, gateway_routes
from controlplane.compiler.gateway_tls import beyond_agent, needed
from controlplane.compiler.guards import GuardInputs, guard_findings, guard_inputs
from controlplane.compiler.memo import Memo
from controlplane.compiler.resources import sources_of
from controlplane.compiler.route_match import ProxyMatch, holds_for
from controlplane.compiler.secrets import Credential, CredentialInputs, build_credential, credential_inputs
from controlplane.compiler.services import breakers_of, resolve_destinations
from controlplane.compiler.types import Condition, Resource
from controlplane.compiler.virtual_hosts import VirtualHostInputs, destination_key
from controlplane.model.gateway_ports import GatewayPort, GatewayServer, merged_ports, served_hosts, served_names
from controlplane.model.gateways import owner_of
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import GATEWAY_ID, Caller, Proxy, ProxyScope
from controlplane.model.security_policies import Guard
from controlplane.model.views import NO_TARGET, ServiceView, Target
from controlplane.model.virtual_services import all_destinations, destination_host
from controlplane.policy.gateway import EVERY_HOST, ServerTLSMode
from controlplane.policy.objects import PolicyObject
from controlplane.policy.rate_limit import Place
from controlplane.policy.virtual_service import RouteDestination, VirtualService
from mesh.identity.spiffe import workload_id
from mesh.vocabulary import Dialect
from mesh.xds.workload_name import WorkloadName


@dataclass(frozen=True, slots=True, eq=False)
class GatewayPart:
    """Compared by identity: the same object while nothing changed."""

    resources: tuple[Resource, ...] = ()
    conditions: tuple[Condition, ...] = ()


NOTHING = GatewayPart()


class GatewayCompiler:
    """The gateway part of one proxy."""

    def __init__(self, proxy: Proxy, memo: Memo) -> None:
        self._proxy = proxy
        self._memo = memo
        self._seen: tuple[object, ...] = ()  # parts of the mesh, compared by identity
        self._scope: tuple[ProxyScope, Caller, frozenset[str]] | None = None
        self._targets: Mapping[str, Target] = {}  # of every host that its routes send to
        self._part = NOTHING

    def compile(self, mesh: MeshState) -> GatewayPart:
        """Bring it up to `mesh`."""
        if not self._proxy.gateway:
            return NOTHING
        scope = mesh.scope_of(self._proxy)
        scoped = scope, mesh.own_caller(self._proxy), mesh.workloads.named_gateways(self._proxy.namespace)
        seen = mesh.gateways, mesh.secrets, mesh.rate_limits, mesh.security, mesh.jwks
        if (
            _same(self._seen, seen)
            and self._scope == scoped
            and all(mesh.target(host) is target for host, target in self._targets.items())
        ):
            return self._part
        plan = GatewayPlan(self._proxy, mesh, scope)
        resources = tuple(self._built(plan))
        self._seen, self._scope, self._targets = seen, scoped, plan.targets
        conditions = tuple(plan.conditions)
        if not _same(self._part.resources, resources) or conditions != self._part.conditions:
            self._part = GatewayPart(resources, conditions)
        return self._part

    def _built(self, plan: "GatewayPlan") -> Iterator[Resource]:
        build = self._memo.build
        for listener in plan.listeners():
            yield build("Listener", listener, build_gateway_listener)
        for routes in plan.routes:
            yield gateway_routes(routes, self._memo)
        for credential in plan.secrets():
            yield build("Secret", credential, build_credential)


class GatewayPlan:
    """The plan for one proxy in one MeshState. `routes` and `conditions` are filled by `listeners`."""

    def __init__(self, proxy: Proxy, mesh: MeshState, scope: ProxyScope) -> None:
        self._proxy = proxy
        self._mesh = mesh
        self._scope = scope
        self._credentials: set[Credential] = set()
        self._connecting: list[PolicyObject] = []  # VirtualServices whose tcp and tls rules a listener holds
        self.targets: dict[str, Target] = {}
        self.routes: list[GatewayRoutesInputs] = []
        self.conditions: list[Condition] = []

    def listeners(self) -> Iterator[GatewayListenerInputs]:
        """One for each port that has something to serve."""
        proxy, domain = self._proxy, self._mesh.settings.trust_domain
        named = self._mesh.workloads.named_gateways(proxy.namespace)
        gateways = self._mesh.gateways.selecting(proxy.labels, proxy.namespace, named)
        ports, _ = merged_ports(gateways)
        name = WorkloadName.of(GATEWAY_ID, proxy.namespace, proxy.service_account, proxy.labels)
        guard = guard_inputs(self._guard(gateways), self._mesh)
        for port in ports:
            self._connecting.clear()
            chains = tuple(self._chains(port))
            if not chains:
                continue
            limits = self._limits_of(chains)
            yield GatewayListenerInputs(
                dialect=proxy.dialect,
                address=port.bind or proxy.gateway_address,
                port=port.number,
                identity=str(workload_id(domain, proxy.namespace, proxy.service_account)),
                workload=str(name),
                tls_dir=proxy.tls_dir,
                chains=chains,
                limits=limits,
                guard=guard,
                sources=sources_of(
                    [*(item.gateway for item in port.servers), *self._connecting, *limits, *guard.guard.policies]
                ),
            )
            self._tell_unguarded(guard, port, chains)

    def _guard(self, gateways: Iterable[PolicyObject]) -> Guard:
        """Who may ask what of the proxy, which these select."""
        proxy, mesh = self._proxy, self._mesh
        names = frozenset(owner_of(item) for item in gateways)
        return mesh.security.guard(mesh.settings.root_namespace, proxy.namespace, proxy.labels, gateways=names)

    def _tell_unguarded(self, guard: GuardInputs, port: GatewayPort, chains: tuple[ChainInputs, ...]) -> None:
        for http in sorted({bool(own.routes) for own in chains}):
            site = Site(dialect=self._proxy.dialect, port=port.number, http=http)
            where = f"port {port.number} of gateway {self._proxy.id}"
            self.conditions += guard_findings(guard, site, where)

    def _limits_of(self, chains: tuple[ChainInputs, ...]) -> tuple[PolicyObject, ...]:
        """The RateLimits of a listener, where it looks at requests."""
        if not any(own.routes for own in chains):
            return ()
        return self._mesh.rate_limits.selecting(self._proxy.namespace, self._proxy.labels, Place.GATEWAY)

    def secrets(self) -> Iterator[CredentialInputs]:
        """The inputs of the Secrets that its servers show."""
        for wanted in sorted(self._credentials):
            inputs = credential_inputs(wanted, self._mesh.secrets)
            if inputs is not None:
                yield inputs

    # --- filter chains

    def _chains(self, port: GatewayPort) -> Iterator[ChainInputs]:
        first = port.servers[0]
        if not port.is_tls and first.server.is_routed:
            self._add_routes(first.route_name, port.servers)
            yield ChainInputs(name=first.route_name, routes=first.route_name)
        elif not port.is_tls:
            yield from self._tcp_chain(first)
        else:
            taken = {name for item in port.servers if item.server.ends_tls for name in item.names}
            for item in port.servers:
                yield from self._tls_chains(item, taken)

    def _tls_chains(self, item: GatewayServer, taken: set[str]) -> Iterator[ChainInputs]:
        """`taken`: server names that lead to a chain already."""
        tls = item.server.tls
        if tls is None or not self._can_serve(item):
            return
        if tls.mode is ServerTLSMode.PASSTHROUGH:
            yield from self._passthrough_chains(item, taken)
        elif item.server.is_routed:
            self._add_routes(item.route_name, (item,))
            yield ChainInputs(
                name=item.route_name, server_names=_server_names(item.names), tls=tls, routes=item.route_name
            )  # fmt: skip
        else:
            for chain in self._tcp_chain(item):
                yield replace(chain, server_names=_server_names(item.names), tls=tls)

    def _tcp_chain(self, item: GatewayServer) -> Iterator[ChainInputs]:
        """The first `tcp` rule of the server's VirtualServices takes all connections."""
        for rule in self._rules(item):
            for tcp in rule.spec_as(VirtualService).tcp:
                if not tcp.match or any(self._holds(match, item, rule) for match in tcp.match):
                    clusters = self._clusters(tcp.route, rule, item.server.number)
                    yield ChainInputs(name=_chain_name(item), clusters=clusters)
                    return
        self._tell(item, "NoRoute", f"{item.path}: no VirtualService of it has a tcp rule: nothing is served")

    def _passthrough_chains(self, item: GatewayServer, taken: set[str]) -> Iterator[ChainInputs]:
        """One for each match of a `tls` rule, by its server names."""
        found = False
        for rule in self._rules(item):
            for index, tls in enumerate(rule.spec_as(VirtualService).tls):
                for number, match in enumerate(tls.match):
                    wanted = served_names(item, rule.metadata.namespace, [name.lower() for name in match.sni_hosts])
                    names = tuple(name for name in wanted if _can_be_named(name) and name not in taken)
                    if not names or not self._holds(match, item, rule):
                        continue
                    taken.update(names)
                    found = True
                    yield ChainInputs(
                        name=f"{_chain_name(item)}.{rule.metadata.namespace}.{rule.metadata.name}.{index}.{number}",
                        server_names=_server_names(names),
                        clusters=self._clusters(tls.route, rule, item.server.number),
                    )
        if not found:
            self._tell(item, "NoRoute", f"{item.path}: no VirtualService of it has a tls rule: nothing is served")

    # --- whether a server is this proxy's to serve

    def _can_serve(self, item: GatewayServer) -> bool:
        tls, proxy = item.server.tls, self._proxy
        assert tls is not None
        where = f"{item.path}.tls"
        if tls.mode is ServerTLSMode.AUTO_PASSTHROUGH:
            return False  # gateway_findings says so
        if tls.mode is ServerTLSMode.ISTIO_MUTUAL and not proxy.tls:
            return self._tell(item, "NoCertificates", f"{where}: {proxy.id} has no certificates of the mesh")
        if proxy.dialect is Dialect.GOSSAMER and beyond_agent(tls):
            return False
        wanted = tuple(needed(tls, proxy.namespace))
        if wanted and not proxy.secrets:
            message = (
                f"{where}: the Secret is for gateways of its namespace whose certificate and join token say so, "
                f"not for {proxy.id} of namespace {proxy.namespace}"
            )
            return self._tell(item, "SecretNotGiven", message)
        if any(credential_inputs(own, self._mesh.secrets) is None for own in wanted):
            return False
        self._credentials.update(wanted)
        return True

    def _tell(self, item: GatewayServer, reason: str, message: str) -> bool:
        path = item.path if reason == "NoRoute" else f"{item.path}.tls"
        self.conditions.append(Condition(item.ref, "NotEnforced", "True", reason, message, path=path))
        return False

    # --- routes

    def _served(self, item: GatewayServer) -> Iterator[tuple[PolicyObject, tuple[str, ...]]]:
        """The VirtualServices of a server that have hosts of it, each with these."""
        for rule in self._mesh.gateways.virtual_services(item.gateway_name, self._proxy.namespace):
            hosts = served_hosts(item, rule, self._mesh.settings.domain_suffix)
            if hosts:
                yield rule, hosts

    def _rules(self, item: GatewayServer) -> tuple[PolicyObject, ...]:
        return tuple(rule for rule, _ in self._served(item))

    def _holds(self, match: ProxyMatch, item: GatewayServer, rule: PolicyObject) -> bool:
        caller = self._mesh.own_caller(self._proxy)
        namespace = rule.metadata.namespace
        return holds_for(match, caller, item.server.number, item.gateway_name, namespace)

    def _add_routes(self, name: str, servers: Iterable[GatewayServer]) -> None:
        """Plan the RouteConfiguration that these servers share."""
        hosts: dict[str, GatewayHost] = {}
        sources: list[PolicyObject] = []
        number = 0
        for item in servers:
            number = item.server.number
            sources.append(item.gateway)
            names = set(item.names)
            for rule, served in self._served(item):
                part = self._part(item, rule)
                sources += [rule, *breakers_of(part.destinations)]
                names.update(served)
                for host in served:
                    _add_part(hosts, host, part)
            if item.server.redirects:
                for host in names:
                    own = hosts.get(host, GatewayHost(host=host, parts=(), redirects=True))
                    hosts[host] = replace(own, redirects=True)
        inputs = GatewayRoutesInputs(
            name=name, port=number, hosts=tuple(hosts[host] for host in sorted(hosts)), sources=sources_of(sources)
        )
        self.routes.append(inputs)

    def _part(self, item: GatewayServer, rule: PolicyObject) -> VirtualHostInputs:
        """The routes of one VirtualService at one server."""
        number, settings = item.server.number, self._mesh.settings
        view = self._view(rule)
        return VirtualHostInputs(
            name="",
            domains=(),
            dialect=self._proxy.dialect,
            caller=self._mesh.own_caller(self._proxy),
            port=number,
            rules=(rule,),
            destinations=resolve_destinations(view, (rule,), number, self._scope, settings),
            default=None,
            domain_suffix=settings.domain_suffix,
            sources=(),
            gateway=item.gateway_name,
            istio=settings.compat_istio,
        )

    def _view(self, rule: PolicyObject) -> ServiceView:
        """What a VirtualService sends to, as a host's view holds it."""
        namespace, suffix = rule.metadata.namespace, self._mesh.settings.domain_suffix
        named = {destination_host(item, namespace, suffix) for item in all_destinations(rule)}
        targets = {host: self._mesh.target(host) for host in sorted(named)}
        self.targets.update(targets)
        return ServiceView(
            host="",
            target=NO_TARGET,
            endpoints={},
            portless=(),
            virtual_services=(),
            targets=targets,
            reserved=frozenset(),
            definitions=(),
        )

    def _clusters(self, route: Iterable[RouteDestination], rule: PolicyObject, port: int) -> WeightedNames:
        """Where connections go, with weights; of several those without weight get none."""
        settings = self._mesh.settings
        self._connecting.append(rule)
        view, wanted = self._view(rule), [item for item in route if item.destination is not None]
        found = dict(resolve_destinations(view, (rule,), port, self._scope, settings, every=True))
        named = [
            (found[destination_key(item.destination, rule, settings.domain_suffix)].cluster, item.weight)
            for item in wanted
            if item.destination is not None
        ]
        if len(named) == 1:
            return ((named[0][0], 1),)
        return tuple((cluster, weight) for cluster, weight in named if weight > 0)


def _same(known: Sequence[object], found: Sequence[object]) -> bool:
    """Whether they are the same objects."""
    return len(known) == len(found) and all(old is new for old, new in zip(known, found, strict=True))


def _add_part(hosts: dict[str, GatewayHost], host: str, part: VirtualHostInputs) -> None:
    own = hosts.get(host, GatewayHost(host=host, parts=(), redirects=False))
    if part not in own.parts:
        hosts[host] = replace(own, parts=(*own.parts, part))


def _can_be_named(name: str) -> bool:
    """Whether Envoy and the agent match it: server names are whole labels."""
    return not name.startswith("*") or name == EVERY_HOST or name.startswith("*.")


def _server_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """As a filter chain's match; a server of every host takes whatever is left."""
    return () if EVERY_HOST in names else names


def _chain_name(item: GatewayServer) -> str:
    metadata, port = item.gateway.metadata, item.server.port
    name = port.name if port is not None else ""
    return f"{item.server.protocol.value.lower()}.{item.server.number}.{name}.{metadata.name}.{metadata.namespace}"
