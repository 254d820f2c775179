"""Services by host: from Kubernetes Services, ServiceEntries and bare registrations to one shape.

Owns:   what a service is; which definition of a host wins; which port of a workload a service's port means.
Not:    which workloads belong to it (controlplane.model.views), policies for it (destination_rules, virtual_services).
Source: decisions 7, 8, 33; control-plane.md 2.2.

For one host: a Kubernetes Service wins over a ServiceEntry, that over a bare registration; of several ServiceEntries
the oldest wins, as VirtualServices do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from controlplane.policy.frozen import EMPTY
from controlplane.policy.hosts import is_wildcard
from controlplane.policy.kinds import SERVICE, SERVICE_ENTRY
from controlplane.policy.objects import PolicyObject
from controlplane.policy.protocols import Protocol, declared_protocol
from controlplane.policy.service import Service as KubernetesService
from controlplane.policy.service import ServiceType
from controlplane.policy.service_entry import Location, Resolution, ServiceEntry
from controlplane.policy.workload_entry import WorkloadEntry
from controlplane.registry.instances import Instance, InstancePort

EVERYWHERE = ("*",)


class Origin(StrEnum):
    """What defines a service."""

    SERVICE = "Service"
    SERVICE_ENTRY = "ServiceEntry"
    REGISTRATION = "registration"


class Discovery(StrEnum):
    """Where its hosts come from. PASSTHROUGH: from the connection's own address, which needs traffic capture."""

    ENDPOINTS = "endpoints"
    DNS = "dns"
    PASSTHROUGH = "passthrough"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """`target`: a number or the name of a workload's port."""

    number: int
    name: str
    protocol: Protocol
    target: int | str

    @property
    def is_routable(self) -> bool:
        """Whether HTTP requests can be sent to it: a protocol that nobody declared counts as HTTP."""
        return self.protocol.is_http or self.protocol is Protocol.UNSUPPORTED


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLabel:
    """What a service is called in metrics."""

    host: str
    name: str
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`selector` None: the workloads that registered under its name; `inline`: hosts that the definition itself lists.

    `definition` is None for a bare registration. `external`: not part of the mesh, so plaintext unless a rule says TLS.
    """

    host: str
    name: str
    namespace: str
    ports: tuple[Port, ...]
    origin: Origin
    definition: PolicyObject | None = None
    selector: Mapping[str, str] | None = None
    inline: tuple[Instance, ...] = ()
    discovery: Discovery = Discovery.ENDPOINTS
    external: bool = False
    export_to: tuple[str, ...] = EVERYWHERE

    @property
    def label(self) -> "ServiceLabel":
        """As metrics name it: Istio calls a service outside by its host."""
        name = self.host if self.origin is Origin.SERVICE_ENTRY else self.name
        return ServiceLabel(host=self.host, name=name, namespace=self.namespace)

    @property
    def selects_registered(self) -> bool:
        """Whether it has the workloads that registered under its name."""
        return self.selector is None and self.origin is not Origin.SERVICE_ENTRY

    def port(self, number: int) -> Port | None:
        """The port of that number."""
        return next((port for port in self.ports if port.number == number), None)

    @property
    def only_port(self) -> Port | None:
        """Its port when there is exactly one."""
        return self.ports[0] if len(self.ports) == 1 else None

    def visible_in(self, namespace: str) -> bool:
        """Whether proxies of `namespace` know it."""
        return visible(self.export_to, self.namespace, namespace)


def visible(export_to: Iterable[str], owner: str, namespace: str) -> bool:
    """Whether what `owner`'s namespace exports so is seen in `namespace`."""
    return any(item == "*" or item == namespace or (item == "." and owner == namespace) for item in export_to)


def definition_order(definition: PolicyObject) -> tuple[bool, tuple[str, str, str]]:
    """Sorts the definition that wins first."""
    return definition.kind is not SERVICE, definition.age_key


def defined_hosts(definition: PolicyObject, domain_suffix: str) -> tuple[str, ...]:
    """The hosts that a Service or ServiceEntry defines."""
    if definition.kind is SERVICE:
        return (f"{definition.metadata.name}.{definition.metadata.namespace}.{domain_suffix}",)
    return tuple(dict.fromkeys(host.lower() for host in definition.spec_as(ServiceEntry).hosts))


def service_of(host: str, definition: PolicyObject) -> Service:
    """The service of `host` by its definition."""
    if definition.kind is SERVICE:
        return _of_kubernetes(host, definition)
    return _of_service_entry(host, definition)


def registered_service(host: str, name: str, namespace: str, workloads: Iterable[Instance]) -> Service:
    """The service that registrations make by themselves: its ports are those of its workloads (decision 33)."""
    ports: dict[int, Port] = {}
    for workload in workloads:
        for port in workload.ports:
            ports.setdefault(
                port.port,
                Port(number=port.port, name=port.name, protocol=declared_protocol(port.protocol), target=port.port),
            )
    return Service(
        host=host,
        name=name,
        namespace=namespace,
        ports=tuple(ports[number] for number in sorted(ports)),
        origin=Origin.REGISTRATION,
    )


def workload_port(port: Port, workload: Instance) -> InstancePort | None:
    """The port of `workload` that the service's `port` means, or None (decision 8).

    By name, then by the target's number, then by the service's number, else the only one. A workload that lists no
    ports has whatever number the service names.
    """
    if not workload.ports:
        number = port.target if isinstance(port.target, int) else port.number
        return InstancePort(name=port.name, port=number, protocol=port.protocol.value)
    name = port.target if isinstance(port.target, str) else port.name
    for wanted in (port.target, port.number):
        if name and (found := next((item for item in workload.ports if item.name == name), None)):
            return found
        if found := next((item for item in workload.ports if item.port == wanted), None):
            return found
    return workload.ports[0] if len(workload.ports) == 1 else None


def workload_of_entry(entry: WorkloadEntry, namespace: str, name: str) -> Instance:
    """A WorkloadEntry as a workload that no agent stands before."""
    ports = tuple(InstancePort(name=key, port=number, protocol="") for key, number in sorted(entry.ports.items()))
    return Instance(
        id=name,
        node="",
        namespace=namespace,
        service="",
        service_account=entry.service_account or "default",
        labels=entry.labels,
        address=entry.address,
        ports=ports,
        locality=entry.parsed_locality,
        weight=entry.effective_weight,
        agent=False,
    )


def _of_kubernetes(host: str, definition: PolicyObject) -> Service:
    spec = definition.spec_as(KubernetesService)
    metadata = definition.metadata
    ports = tuple(
        Port(
            number=port.port, name=port.name, protocol=port.effective_protocol, target=port.effective_target_port
        )
        for port in spec.ports
    )  # fmt: skip
    is_alias = spec.type is ServiceType.EXTERNAL_NAME
    return Service(
        host=host,
        name=metadata.name,
        namespace=metadata.namespace,
        ports=ports,
        origin=Origin.SERVICE,
        definition=definition,
        selector=spec.selector if spec.selector and not is_alias else None,
        inline=(_named_host(spec.external_name, metadata.namespace),) if is_alias else (),
        discovery=Discovery.DNS if is_alias else Discovery.ENDPOINTS,
        external=is_alias,
    )


def _of_service_entry(host: str, definition: PolicyObject) -> Service:
    spec = definition.spec_as(ServiceEntry)
    metadata = definition.metadata
    by_name = spec.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN, Resolution.DYNAMIC_DNS)
    inline = tuple(
        workload_of_entry(entry, metadata.namespace, f"{metadata.name}-{index}")
        for index, entry in enumerate(spec.endpoints)
    )
    if by_name and not inline and spec.workload_selector is None and not is_wildcard(host):
        inline = (_named_host(host, metadata.namespace),)
    return Service(
        host=host,
        name=metadata.name,
        namespace=metadata.namespace,
        ports=tuple(
            Port(
                number=port.number,
                name=port.name,
                protocol=port.effective_protocol,
                target=port.effective_target_port,
            )
            for port in spec.ports
        ),
        origin=Origin.SERVICE_ENTRY,
        definition=definition,
        selector=spec.workload_selector.labels if spec.workload_selector is not None else None,
        inline=inline,
        discovery=Discovery.DNS if by_name else _discovery(spec.resolution),
        external=spec.location is Location.MESH_EXTERNAL,
        export_to=spec.effective_export_to,
    )


def _discovery(resolution: Resolution) -> Discovery:
    return Discovery.PASSTHROUGH if resolution is Resolution.NONE else Discovery.ENDPOINTS


def _named_host(name: str, namespace: str) -> Instance:
    return Instance(
        id=name, node="", namespace=namespace, service="", service_account="default", labels=EMPTY, address=name,
        ports=(), agent=False,
    )  # fmt: skip


DEFINING_KINDS = frozenset({SERVICE, SERVICE_ENTRY})
