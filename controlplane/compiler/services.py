"""What a scope is given for one host: its clusters, their assignments, its virtual hosts.

Owns:   the plan of a host: which resources, from which exact inputs.
Not:    how one is made (clusters, endpoints, virtual_hosts), what gRPC is given instead of virtual hosts (grpc).
Source: control-plane.md 2.2-2.4; decisions 7-9.

    ServiceView + ProxyScope -> rule in effect -> per port and subset: ClusterInputs, AssignmentInputs
                                               -> per caller and routable port: VirtualHostInputs
"""

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.compiler.clusters import ClusterInputs
from controlplane.compiler.endpoints import AssignmentInputs, LbHost, lb_hosts
from controlplane.compiler.load_balancing import effective_hash
from controlplane.compiler.locality import LocalityPolicy, locality_policy
from controlplane.compiler.resources import sources_of
from controlplane.compiler.route_action import DestinationKey, ResolvedDestination, beyond_agents
from controlplane.compiler.virtual_hosts import VirtualHostInputs, destination_key, domains_of
from controlplane.model.circuit_breakers import NO_CHOICE, BreakerChoice, choice_of
from controlplane.model.destination_rules import NO_RULE, Client, MergedRule, find_rule
from controlplane.model.proxy import Caller, ProxyScope
from controlplane.model.services import Discovery, Port, Service
from controlplane.model.traffic_policies import EffectivePolicy, effective_policy
from controlplane.model.views import Endpoint, ServiceView, Target, short_names
from controlplane.model.virtual_services import all_destinations, chosen, destinations
from controlplane.policy.destination_rule import Subset
from controlplane.policy.objects import PolicyObject
from controlplane.policy.protocols import Protocol
from controlplane.policy.selector import selects
from controlplane.policy.traffic_policy import TLSMode
from controlplane.settings import MeshSettings
from mesh.identity.spiffe import workload_id
from mesh.vocabulary import Dialect
from mesh.xds.names import outbound_cluster, virtual_host_resource

DEFAULT_PORT = 80  # of a Host without a port


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """One cluster, with its assignment unless it needs none."""

    cluster: ClusterInputs
    assignment: AssignmentInputs | None


class HostPlan:
    """The plan of one host in one scope."""

    def __init__(self, view: ServiceView, scope: ProxyScope, settings: MeshSettings) -> None:
        self._view = view
        self._scope = scope
        self._settings = settings
        self._rule = scoped_rule(view.host, view.target, scope, settings)

    def clusters(self) -> Iterator[ClusterPlan]:
        """One per port, then one per port and subset."""
        service = self._view.service
        if service is None or not _is_seen(service, self._scope):
            return
        for port in service.ports:
            if port.protocol is Protocol.UDP:
                continue
            yield self._cluster(service, port, None)
            for subset, _ in self._rule.subsets:
                yield self._cluster(service, port, subset)

    def virtual_hosts(self, caller: Caller) -> Iterator[VirtualHostInputs]:
        """One per routable port; one more for a host whose port has to be named (404 NR without)."""
        service = self._view.service
        if self._view.host == "*" or (service is not None and not service.visible_in(caller.namespace)):
            return  # unknown hosts have their own answer
        rules = chosen(self._view.virtual_services, self._view.host, caller.namespace, self._settings.domain_suffix)
        ports = self._ports(service, rules)
        for number in ports:
            yield self._virtual_host(caller, number, rules, without_port=self._needs_no_port(service, number))
        if ports and not any(self._needs_no_port(service, number) for number in ports):
            yield self._nameless(caller)

    # --- clusters

    def _cluster(self, service: Service, port: Port, subset: Subset | None) -> ClusterPlan:
        policy = effective_policy(self._rule, port.number, subset)
        endpoints = self._view.endpoints.get(port.number, ())
        name = outbound_cluster(service.host, port.number, subset.name if subset is not None else "")
        localities = locality_policy(
            policy.load_balancer.locality_lb_setting, policy.outlier_detection, self._scope.locality
        )
        mode = self._mode(service, policy, endpoints)
        hosts = self._hosts(service, endpoints, subset, policy, mode)
        by_name = service.discovery is Discovery.DNS and self._scope.dialect is Dialect.ENVOY
        own = self._view.target
        breaker = self._stands_in_for(own.breakers, port.number, subset)
        bulkhead = self._stands_in_for(own.bulkheads, port.number, subset)
        sources = sources_of((service.definition, *self._rule.rules, breaker, bulkhead))
        cluster = ClusterInputs(
            name=name,
            host=service.host,
            dialect=self._scope.dialect,
            http2=port.protocol.is_http2,
            policy=policy,
            istio=self._wants_istio(),
            weighted_localities=localities.weights is not None,
            mode=mode,
            tls=self._scope.tls,
            tls_dir=self._scope.tls_dir,
            peers=self._peers(endpoints, policy, mode),
            names=self._names(service),
            dns=hosts if by_name else None,
            credentials=self._credentials(mode, policy),
            service=service.label,
            breaker=breaker,
            bulkhead=bulkhead,
            sources=sources,
        )
        return ClusterPlan(
            cluster=cluster, assignment=None if by_name else self._assignment(name, hosts, localities, service)
        )

    def _assignment(
        self, name: str, hosts: tuple[LbHost, ...], localities: LocalityPolicy, service: Service
    ) -> AssignmentInputs:
        return AssignmentInputs(
            name=name,
            dialect=self._scope.dialect,
            hosts=hosts,
            policy=localities,
            sources=sources_of((service.definition,)),
        )

    def _stands_in_for(
        self, rules: tuple[PolicyObject, ...], port: int, subset: Subset | None
    ) -> PolicyObject | None:  # fmt: skip
        """The CircuitBreaker or Bulkhead for which a cluster stands in, where proxies have no such filter."""
        if self._scope.dialect is Dialect.GOSSAMER:
            return None
        name = subset.name if subset is not None else ""
        choice = choice_for(rules, self._view.target, name, port, self._settings, routes=False)
        return choice.chosen(self._scope.namespaces[0])

    def _hosts(
        self,
        service: Service,
        endpoints: tuple[Endpoint, ...],
        subset: Subset | None,
        policy: EffectivePolicy,
        mode: TLSMode | None,
    ) -> tuple[LbHost, ...]:
        """None at all where the wanted TLS is beyond the proxy: better no answer than plaintext."""
        if not can_do(mode, policy, self._scope) or self._lacks_credentials(mode, policy):
            return ()
        picked = [item for item in endpoints if subset is None or selects(subset.labels, item.workload.labels)]
        names = service.discovery is Discovery.DNS and self._scope.dialect is Dialect.ENVOY
        marks = self._scope.tls and self._scope.dialect is not Dialect.GRPC  # gRPC reads none
        tell = self._scope.dialect is Dialect.GOSSAMER
        return lb_hosts(picked, tls=marks, names=names, workloads=tell)

    def _credentials(self, mode: TLSMode | None, policy: EffectivePolicy) -> str:
        """The namespace of the Secrets that `credentialName` means, if these proxies are given them."""
        if mode not in (TLSMode.SIMPLE, TLSMode.MUTUAL) or policy.tls is None or not policy.tls.credential_name:
            return ""
        namespace = self._rule.rules[0].metadata.namespace
        return namespace if gets_secrets(self._scope, namespace) else ""

    def _lacks_credentials(self, mode: TLSMode | None, policy: EffectivePolicy) -> bool:
        named = policy.tls is not None and bool(policy.tls.credential_name)
        return named and mode in (TLSMode.SIMPLE, TLSMode.MUTUAL) and not self._credentials(mode, policy)

    def _mode(self, service: Service, policy: EffectivePolicy, endpoints: tuple[Endpoint, ...]) -> TLSMode | None:
        """The mode in effect; None = automatic mTLS (2.4.8)."""
        if policy.tls is not None:
            return policy.tls.mode
        if service.external or not self._scope.tls:
            return TLSMode.DISABLE
        if self._scope.dialect is Dialect.GRPC:
            # gRPC cannot choose per endpoint.
            return TLSMode.ISTIO_MUTUAL if endpoints and all(item.tls for item in endpoints) else TLSMode.DISABLE
        return None

    def _peers(self, endpoints: tuple[Endpoint, ...], policy: EffectivePolicy, mode: TLSMode | None) -> tuple[str, ...]:
        """Who may answer: what the user says, else the service accounts of the instances."""
        if mode not in (None, TLSMode.ISTIO_MUTUAL):
            return ()
        if policy.tls is not None and policy.tls.subject_alt_names:
            return tuple(sorted(policy.tls.subject_alt_names))
        accounts = {
            (item.workload.namespace, item.workload.service_account) for item in endpoints if item.workload.agent
        }
        domain = self._settings.trust_domain
        return tuple(str(workload_id(domain, namespace, account)) for namespace, account in sorted(accounts))

    def _names(self, service: Service) -> tuple[str, ...]:
        if service.definition is None:
            return ()
        return tuple(getattr(service.definition.spec, "subject_alt_names", ()))

    def _wants_istio(self) -> bool:
        if self._settings.compat_istio:
            return True
        return any(rule.wants_istio_behaviour for rule in self._rule.rules)

    # --- virtual hosts

    def _ports(self, service: Service | None, rules: tuple[PolicyObject, ...]) -> tuple[int, ...]:
        if service is not None:
            return tuple(port.number for port in service.ports if port.is_routable)
        return (DEFAULT_PORT,) if rules else ()

    def _needs_no_port(self, service: Service | None, number: int) -> bool:
        if number == DEFAULT_PORT or service is None:
            return True
        return service.only_port is not None

    def _virtual_host(
        self, caller: Caller, port: int, rules: tuple[PolicyObject, ...], *, without_port: bool
    ) -> VirtualHostInputs:
        service, suffix = self._view.service, self._settings.domain_suffix
        resolved = resolve_destinations(self._view, rules, port, self._scope, self._settings)
        default = self._resolved(port) if service is not None and not rules else None
        definition = service.definition if service is not None else None
        return VirtualHostInputs(
            name=virtual_host_resource(caller.route_configuration, f"{self._view.host}:{port}"),
            domains=domains_of(self._view.host, self.aliases(caller), port, without_port=without_port),
            dialect=self._scope.dialect,
            caller=caller,
            port=port,
            rules=rules,
            destinations=resolved,
            default=default,
            domain_suffix=suffix,
            sources=sources_of((definition, *rules, *breakers_of(resolved, default))),
            istio=self._settings.compat_istio,
        )

    def _nameless(self, caller: Caller) -> VirtualHostInputs:
        service = self._view.service
        return VirtualHostInputs(
            name=virtual_host_resource(caller.route_configuration, self._view.host),
            domains=(self._view.host, *self.aliases(caller)),
            dialect=self._scope.dialect,
            caller=caller,
            port=0,
            rules=(),
            destinations=(),
            default=None,
            domain_suffix=self._settings.domain_suffix,
            sources=sources_of((service.definition if service is not None else None,)),
        )

    def aliases(self, caller: Caller) -> tuple[str, ...]:
        """The short forms by which this caller may name the host."""
        names = short_names(self._view.host, self._settings)
        if not names:
            return ()
        namespace = names[1].partition(".")[2]
        near = names if namespace == caller.namespace else names[1:]
        return tuple(name for name in near if name not in self._view.reserved)

    def _resolved(self, port: int) -> ResolvedDestination:
        policy, service = effective_policy(self._rule, port), self._view.service
        own = service.port(port) if service is not None else None
        return ResolvedDestination(
            cluster=outbound_cluster(self._view.host, port),
            beyond=beyond_agents(self._view.host, own, self._scope.dialect),
            hashing=effective_hash(policy.load_balancer, self._scope.dialect),
            breakers=_filtered(self._view.target.breakers, self._view.target, "", port, self._scope, self._settings),
            bulkheads=_filtered(self._view.target.bulkheads, self._view.target, "", port, self._scope, self._settings),
            port=port,
        )


def can_do(mode: TLSMode | None, policy: EffectivePolicy, scope: ProxyScope) -> bool:
    """Whether proxies of the scope can speak the TLS that is wanted."""
    match mode:
        case None | TLSMode.DISABLE:
            return True
        case TLSMode.ISTIO_MUTUAL:
            return scope.tls
        case TLSMode.SIMPLE | TLSMode.MUTUAL:
            settings = policy.tls
            if settings is None or (settings.credential_name and scope.dialect is not Dialect.ENVOY):
                return False
            # The agent reads no files of the user's; it can check against the machine's own roots.
            own_files = settings.mode is TLSMode.MUTUAL or bool(settings.ca_certificates or settings.ca_crl)
            return scope.dialect is Dialect.ENVOY or (scope.dialect is Dialect.GOSSAMER and not own_files)


def gets_secrets(scope: ProxyScope, namespace: str) -> bool:
    """Whether proxies of the scope are given the Secrets of a namespace: it is theirs, and they have shown it."""
    return scope.secrets and scope.dialect is Dialect.ENVOY and scope.namespaces == (namespace,)


def scoped_rule(host: str, target: Target, scope: ProxyScope, settings: MeshSettings) -> MergedRule:
    """The DestinationRule in effect for a host.

    Clusters are shared by all callers of an agent: the first caller, by namespace, that has a rule decides.
    """
    if target.service is None or not target.rules:
        return NO_RULE
    found = [client_rule(host, target, caller, settings) for caller in scope.callers]
    own = (rule for rule, caller in zip(found, scope.callers, strict=True) if _is_own(rule, caller))
    return next(own, next((rule for rule in found if rule.rules), NO_RULE))


def client_rule(host: str, target: Target, caller: Caller, settings: MeshSettings) -> MergedRule:
    """The DestinationRule that one caller's own proxy would use."""
    if target.service is None:
        return NO_RULE
    return find_rule(
        target.rules,
        host,
        Client(namespace=caller.namespace, labels=caller.labels),
        service_namespace=target.service.namespace,
        root_namespace=settings.root_namespace,
        domain_suffix=settings.domain_suffix,
    )


def _is_own(rule: MergedRule, caller: Caller) -> bool:
    return bool(rule.rules) and rule.rules[0].metadata.namespace == caller.namespace


def destination_port(written: int, service: Service | None, listener_port: int) -> int:
    """The port of a destination: as written, else the service's only one, else that of the request (2.2)."""
    if written:
        return written
    only = service.only_port if service is not None else None
    return only.number if only is not None else listener_port


def resolve_destinations(
    view: ServiceView,
    rules: tuple[PolicyObject, ...],
    port: int,
    scope: ProxyScope,
    settings: MeshSettings,
    *,
    every: bool = False,
) -> tuple[tuple[DestinationKey, ResolvedDestination], ...]:
    """Every destination that the HTTP routes of the rules name, sorted; with `every` those of all routes."""
    found: dict[DestinationKey, ResolvedDestination] = {}
    for rule in rules:
        for destination in all_destinations(rule) if every else destinations(rule):
            key = destination_key(destination, rule, settings.domain_suffix)
            host, subset, written = key
            target = view.targets[host]
            number = destination_port(written, target.service, port)
            merged = scoped_rule(host, target, scope, settings)
            policy = effective_policy(merged, number, merged.subset(subset) if subset else None)
            own = target.service.port(number) if target.service is not None else None
            found[key] = ResolvedDestination(
                cluster=outbound_cluster(host, number, subset),
                beyond=beyond_agents(host, own, scope.dialect),
                hashing=effective_hash(policy.load_balancer, scope.dialect),
                breakers=_filtered(target.breakers, target, subset, number, scope, settings),
                bulkheads=_filtered(target.bulkheads, target, subset, number, scope, settings),
                port=number,
                missing=own is None or not _is_seen(target.service, scope),
            )
    return tuple(sorted(found.items(), key=lambda item: item[0]))


def _is_seen(service: Service | None, scope: ProxyScope) -> bool:
    return service is not None and any(service.visible_in(namespace) for namespace in scope.namespaces)


def choice_for(
    rules: tuple[PolicyObject, ...], target: Target, subset: str, port: int, settings: MeshSettings, *, routes: bool
) -> BreakerChoice:  # fmt: skip
    """Those of a host's CircuitBreakers or Bulkheads that are for calls to a subset and port of it."""
    if not rules:
        return NO_CHOICE
    service = target.service.namespace if target.service is not None else ""
    return choice_of(rules, subset, port, service=service, root=settings.root_namespace, routes=routes)


def _filtered(
    rules: tuple[PolicyObject, ...], target: Target, subset: str, port: int, scope: ProxyScope, settings: MeshSettings
) -> BreakerChoice:  # fmt: skip
    """Those that routes tell proxies of, as far as these have the filter."""
    if scope.dialect is not Dialect.GOSSAMER:
        return NO_CHOICE
    return choice_for(rules, target, subset, port, settings, routes=True)


def breakers_of(
    destinations: tuple[tuple[DestinationKey, ResolvedDestination], ...], default: ResolvedDestination | None = None
) -> Iterator[PolicyObject]:
    """All CircuitBreakers and Bulkheads that routes to these destinations may tell of."""
    found = [destination for _, destination in destinations]
    for destination in found if default is None else [*found, default]:
        yield from destination.breakers.rules
        yield from destination.bulkheads.rules
