"""What the compiler sees of one host and of one node: small immutable values that a change replaces one by one.

Owns:   ServiceView, NodeView and how they are made from the indexes.
Not:    when one is made anew (controlplane.model.mesh_state).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from controlplane.model.catalog import Catalog
from controlplane.model.circuit_breakers import enforced_at, inbound_choice
from controlplane.model.destination_rules import Client, MergedRule, find_rule
from controlplane.model.peer_authentication import PeerPolicies
from controlplane.model.rules import Rules
from controlplane.model.security_policies import NO_GUARD, Guard, SecurityPolicies
from controlplane.model.services import Port, Service, ServiceLabel, registered_service, workload_port
from controlplane.model.traffic_policies import effective_policy
from controlplane.model.virtual_services import destination_host, destinations
from controlplane.model.workloads import Workloads, service_key
from controlplane.policy.bulkhead import Side
from controlplane.policy.objects import PolicyObject
from controlplane.policy.peer_authentication import MutualTLSMode
from controlplane.policy.selector import selects
from controlplane.policy.traffic_policy import DEFAULT_CONNECTION_POOL, ConnectionPoolSettings
from controlplane.registry.instances import Instance, InstancePort
from controlplane.settings import MeshSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One host of a service's port. `tls`: an agent, or an Envoy with certificates, takes mTLS there."""

    address: str
    port: int
    tls: bool
    workload: Instance

    @property
    def key(self) -> str:
        """`address:port`, IPv6 in brackets: the name of the host in ejections, logs and reports."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A host as far as VirtualServices that send to it depend on it. `labels`: all pairs that its workloads carry."""

    service: Service | None
    rules: tuple[PolicyObject, ...]  # DestinationRules whose host covers it, oldest first
    labels: frozenset[tuple[str, str]]
    breakers: tuple[PolicyObject, ...] = ()  # CircuitBreakers for it, oldest first
    bulkheads: tuple[PolicyObject, ...] = ()  # those that its callers enforce
    inbound_bulkheads: tuple[PolicyObject, ...] = ()  # those that its instances enforce


NO_TARGET = Target(service=None, rules=(), labels=frozenset())


_Meant = tuple[Service, Port, Target]  # with the service's own port


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """Everything about one host. `service` is None for a host that only rules name.

    `endpoints`: by service port, sorted by address and port. `portless`: workloads without a port that fits.
    `targets`: the hosts that its VirtualServices send to. `reserved`: short forms of the host that are hosts of
    their own. `definitions`: all that define the host, the one in effect first.
    """

    host: str
    target: Target
    endpoints: Mapping[int, tuple[Endpoint, ...]]
    portless: tuple[tuple[int, Instance], ...]
    virtual_services: tuple[PolicyObject, ...]
    targets: Mapping[str, Target]
    reserved: frozenset[str]
    definitions: tuple[PolicyObject, ...]

    @property
    def service(self) -> Service | None:
        """The service, if the host is one."""
        return self.target.service

    @property
    def rules(self) -> tuple[PolicyObject, ...]:
        """The DestinationRules whose host covers it, oldest first."""
        return self.target.rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """One port of one local instance. `pool` is that of its service's DestinationRule (2.4.5); `service`: the first, by
    name, of those that have the port; `bulkhead`: of the first that has one for it.
    """

    instance: Instance
    port: InstancePort
    mode: MutualTLSMode
    pool: ConnectionPoolSettings
    service: ServiceLabel | None
    sources: tuple[PolicyObject, ...]
    guard: Guard = NO_GUARD
    bulkhead: PolicyObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """The instances of one node with what concerns them."""

    node: str
    instances: tuple[Instance, ...]
    inbounds: tuple[Inbound, ...]

    def __hash__(self) -> int:
        # By identity, so that it can stand in a cache key: labels cannot be hashed, and an equal view is the same one.
        return id(self)


class ViewMaker:
    """Makes views from one consistent set of indexes."""

    def __init__(
        self,
        settings: MeshSettings,
        workloads: Workloads,
        catalog: Catalog,
        rules: Rules,
        security: SecurityPolicies,
    ) -> None:
        self._settings = settings
        self._workloads = workloads
        self._catalog = catalog
        self._rules = rules
        self._security = security
        self._peers: dict[str, PeerPolicies] = {}

    def service(self, host: str) -> Service | None:
        """The service of a host: defined, or made by registrations."""
        defined = self._catalog.get(host)
        if defined is not None:
            return defined
        name = self._registered_name(host)
        if name is None:
            return None
        workloads = self._workloads.named(name[0], name[1])
        return registered_service(host, name[1], name[0], workloads) if workloads else None

    def members(self, service: Service) -> tuple[Instance, ...]:
        """Its workloads, those that its definition lists included."""
        if service.selector is not None:
            return (*service.inline, *self._workloads.selected(service.namespace, service.selector))
        if service.selects_registered and not service.inline:
            return self._workloads.named(service.namespace, service.name)
        return service.inline

    def target(self, host: str) -> Target:
        """The host as others depend on it."""
        service = self.service(host)
        rules = self._rules.destination_rules(host)
        members = self.members(service) if service is not None else ()
        labels = frozenset(pair for member in members for pair in member.labels.items())
        bulkheads = self._rules.bulkheads(host)
        return Target(
            service=service,
            rules=rules,
            labels=labels,
            breakers=self._rules.circuit_breakers(host),
            bulkheads=enforced_at(Side.OUTBOUND, bulkheads),
            inbound_bulkheads=enforced_at(Side.INBOUND, bulkheads),
        )

    def view(self, host: str, targets: Mapping[str, Target]) -> ServiceView | None:
        """The view, or None when nothing names the host. `targets`: of all hosts that may be named."""
        target = targets.get(host, NO_TARGET)
        if target.service is None and not self._rules.is_named(host):
            return None
        virtual_services = self._rules.virtual_services(host)
        named = {
            destination_host(destination, rule.metadata.namespace, self._settings.domain_suffix)
            for rule in virtual_services
            for destination in destinations(rule)
        }
        endpoints, portless = self._endpoints(target.service)
        return ServiceView(
            host=host,
            target=target,
            endpoints=endpoints,
            portless=portless,
            virtual_services=virtual_services,
            targets={own: targets.get(own, NO_TARGET) for own in sorted(named)},
            reserved=frozenset(alias for alias in short_names(host, self._settings) if self._answers(alias, targets)),
            definitions=self._catalog.definitions(host),
        )

    def _answers(self, host: str, targets: Mapping[str, Target]) -> bool:
        """Whether requests for the host itself have routes."""
        return targets.get(host, NO_TARGET).service is not None or self._rules.has_virtual_service(host)

    def node_view(self, node: str, targets: Mapping[str, Target]) -> NodeView | None:
        """The view, or None when the node has no instances."""
        instances = self._workloads.on_node(node)
        if not instances:
            return None
        inbounds = tuple(inbound for instance in instances for inbound in self._inbounds(instance, targets))
        return NodeView(node=node, instances=instances, inbounds=inbounds)

    def hosts_of(self, workload: Instance) -> set[str]:
        """The hosts whose services may have the workload: those that select it, and that of its own name."""
        hosts = self._catalog.hosts_selecting(workload)
        name = service_key(workload)
        if name is not None:
            hosts.add(f"{name[1]}.{name[0]}.{self._settings.domain_suffix}")
        return hosts

    def namesakes(self, host: str) -> tuple[Instance, ...]:
        """The workloads that have registered under the host's name, whether its service has them or not."""
        name = self._registered_name(host)
        return self._workloads.named(name[0], name[1]) if name is not None else ()

    def _registered_name(self, host: str) -> tuple[str, str] | None:
        """(namespace, name) when the host has the form of a registration's."""
        head = host.removesuffix(f".{self._settings.domain_suffix}")
        name, dot, namespace = head.partition(".")
        return (namespace, name) if head != host and dot and "." not in namespace else None

    def _peer_policies(self, namespace: str) -> PeerPolicies:
        if namespace not in self._peers:
            root = self._settings.root_namespace
            self._peers[namespace] = PeerPolicies(
                self._rules.peer_authentications(root),
                self._rules.peer_authentications(namespace),
                in_root=namespace == root,
            )
        return self._peers[namespace]

    def _endpoints(
        self, service: Service | None
    ) -> tuple[dict[int, tuple[Endpoint, ...]], tuple[tuple[int, Instance], ...]]:
        endpoints: dict[int, tuple[Endpoint, ...]] = {}
        portless: list[tuple[int, Instance]] = []
        if service is None:
            return endpoints, ()
        members = self.members(service)
        for port in service.ports:
            found: dict[tuple[str, int], Endpoint] = {}
            for member in members:
                own = workload_port(port, member)
                if own is None:
                    portless.append((port.number, member))
                else:
                    endpoint = self._endpoint(member, own)
                    # Addresses are unique in an assignment (rule 30).
                    found.setdefault((endpoint.address, endpoint.port), endpoint)
            endpoints[port.number] = tuple(found[key] for key in sorted(found))
        return endpoints, tuple(portless)

    def _endpoint(self, workload: Instance, port: InstancePort) -> Endpoint:
        tls = workload.agent and port.inbound_port != 0 and self._takes_tls(workload, port)
        return Endpoint(
            address=workload.address, port=port.inbound_port or port.port, tls=tls, workload=workload
        )  # fmt: skip

    def _takes_tls(self, workload: Instance, port: InstancePort) -> bool:
        mode = self._peer_policies(workload.namespace).mode(workload.labels, port.port)
        return mode is not MutualTLSMode.DISABLE

    def _inbounds(self, instance: Instance, targets: Mapping[str, Target]) -> Iterator[Inbound]:
        """One for each port that the mesh reaches."""
        peers = self._peer_policies(instance.namespace)
        hosts = sorted(self.hosts_of(instance))
        guard = self._guard(instance, hosts)
        for port in instance.ports:
            if port.inbound_port:
                meant = _meant(instance, port, [targets.get(host, NO_TARGET) for host in hosts])
                pool, rules = self._inbound_pool(meant)
                yield Inbound(
                    instance=instance,
                    port=port,
                    mode=peers.mode(instance.labels, port.port),
                    pool=pool,
                    service=meant[0][0].label if meant else None,
                    sources=(*peers.sources(instance.labels), *rules),
                    guard=guard,
                    bulkhead=self._inbound_bulkhead(instance, meant),
                )

    def _guard(self, instance: Instance, hosts: Iterable[str]) -> Guard:
        suffix = f".{self._settings.domain_suffix}"
        names = [host.removesuffix(suffix).split(".") for host in hosts if host.endswith(suffix)]
        services = frozenset(f"{parts[1]}/{parts[0]}" for parts in names if len(parts) == 2)
        root = self._settings.root_namespace
        return self._security.guard(root, instance.namespace, instance.labels, services=services)

    def _inbound_pool(self, meant: Iterable[_Meant]) -> tuple[ConnectionPoolSettings, tuple[PolicyObject, ...]]:
        """The pool of the first service that has rules."""
        for service, port, target in meant:
            if target.rules:
                rule = self._own_rule(service, target)
                pool = effective_policy(rule, port.number).connection_pool
                source = rule.policy_source if pool is not DEFAULT_CONNECTION_POOL else None
                return pool, () if source is None else (source,)
        return DEFAULT_CONNECTION_POOL, ()

    def _inbound_bulkhead(self, instance: Instance, meant: Iterable[_Meant]) -> PolicyObject | None:
        """The bulkhead of the first service that has one for the port."""
        for service, port, target in meant:
            if target.inbound_bulkheads:
                rule = self._own_rule(service, target)
                named = {subset.name for subset, _ in rule.subsets if selects(subset.labels, instance.labels)}
                root = self._settings.root_namespace
                found = inbound_choice(target.inbound_bulkheads, named, port.number, service.namespace, root)
                if found is not None:
                    return found
        return None

    def _own_rule(self, service: Service, target: Target) -> MergedRule:
        """The DestinationRule of a service as its own namespace sees it."""
        return find_rule(
            target.rules,
            service.host,
            Client(namespace=service.namespace),
            service_namespace=service.namespace,
            root_namespace=self._settings.root_namespace,
            domain_suffix=self._settings.domain_suffix,
        )


def _meant(instance: Instance, port: InstancePort, targets: Iterable[Target]) -> list[_Meant]:
    """The services that have this port of the instance, in order."""
    found: list[_Meant] = []
    for target in targets:
        service = target.service
        ports = service.ports if service is not None else ()
        own = next((item for item in ports if workload_port(item, instance) == port), None)
        if service is not None and own is not None:
            found.append((service, own, target))
    return found


def short_names(host: str, settings: MeshSettings) -> tuple[str, ...]:
    """The short forms of `<name>.<namespace>.<suffix>`: name, name.namespace, name.namespace.svc; none otherwise."""
    head = host.removesuffix(f".{settings.domain_suffix}")
    name, dot, namespace = head.partition(".")
    if head == host or not dot or "." in namespace:
        return ()
    first = settings.domain_suffix.partition(".")[0]
    return (name, f"{name}.{namespace}", f"{name}.{namespace}.{first}")
