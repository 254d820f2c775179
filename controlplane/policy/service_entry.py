"""ServiceEntry: a service that no registration announces.

Source: istio.io/api networking/v1 service_entry.proto.
"""

from enum import StrEnum
from typing import Annotated

from controlplane.policy.protocols import Protocol, declared_protocol
from controlplane.policy.scalars import Text, UInt32, enum_parser
from controlplane.policy.selector import LabelSelector
from controlplane.policy.spec import Spec
from controlplane.policy.workload_entry import WorkloadEntry


class Location(StrEnum):
    """MESH_EXTERNAL endpoints have no proxy; MESH_INTERNAL ones are part of the mesh."""

    MESH_EXTERNAL = "MESH_EXTERNAL"
    MESH_INTERNAL = "MESH_INTERNAL"


class Resolution(StrEnum):
    """How addresses are found."""

    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


class ServicePort(Spec):
    """`number` is the service's port, `target_port` that of its endpoints, 0 = the same."""

    number: UInt32 = 0
    protocol: Text = ""
    name: Text = ""
    target_port: UInt32 = 0

    @property
    def effective_protocol(self) -> Protocol:
        """Of `protocol`; unset = UNSUPPORTED, which is treated as TCP or sniffed."""
        return declared_protocol(self.protocol)

    @property
    def effective_target_port(self) -> int:
        """Where the endpoints listen."""
        return self.target_port or self.number


class ServiceEntry(Spec):
    """`endpoints` and `workload_selector` exclude each other."""

    hosts: tuple[Text, ...] = ()
    addresses: tuple[Text, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    location: Annotated[Location, enum_parser(Location)] = Location.MESH_EXTERNAL
    resolution: Annotated[Resolution, enum_parser(Resolution)] = Resolution.NONE
    endpoints: tuple[WorkloadEntry, ...] = ()
    workload_selector: LabelSelector | None = None
    export_to: tuple[Text, ...] = ()
    subject_alt_names: tuple[Text, ...] = ()

    @property
    def effective_export_to(self) -> tuple[str, ...]:
        """Namespaces that see it; `.` = its own, `*` = all, `~` = nobody."""
        return self.export_to or ("*",)
