"""VirtualService: where requests for a host go.

Owns:   the shape of the spec. HTTP rules are in http_route, what is refused in rules.virtual_service.
Source: istio.io/api networking/v1 virtual_service.proto.
"""

from controlplane.policy.frozen import EMPTY
from controlplane.policy.http_route import Destination, HTTPRoute
from controlplane.policy.scalars import Int32, Text, TextMap, UInt32
from controlplane.policy.spec import Spec

MESH_GATEWAY = "mesh"


class RouteDestination(Spec):
    """One target of a TLS or TCP route."""

    destination: Destination | None = None
    weight: Int32 = 0


class TLSMatchAttributes(Spec):
    """Selects connections by the server name in their ClientHello."""

    sni_hosts: tuple[Text, ...] = ()
    destination_subnets: tuple[Text, ...] = ()
    port: UInt32 = 0
    source_labels: TextMap = EMPTY
    gateways: tuple[Text, ...] = ()
    source_namespace: Text = ""


class L4MatchAttributes(Spec):
    """Selects connections by address and port."""

    destination_subnets: tuple[Text, ...] = ()
    port: UInt32 = 0
    source_subnet: Text = ""
    source_labels: TextMap = EMPTY
    gateways: tuple[Text, ...] = ()
    source_namespace: Text = ""


class TLSRoute(Spec):
    """A rule for TLS that is passed through unopened."""

    match: tuple[TLSMatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class TCPRoute(Spec):
    """A rule for TCP."""

    match: tuple[L4MatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class VirtualService(Spec):
    """`hosts` is empty only for a delegate."""

    hosts: tuple[Text, ...] = ()
    gateways: tuple[Text, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[Text, ...] = ()

    @property
    def effective_gateways(self) -> tuple[str, ...]:
        """The gateways, `("mesh",)` when unset."""
        return self.gateways or (MESH_GATEWAY,)

    @property
    def applies_to_mesh(self) -> bool:
        """Whether proxies beside workloads use it."""
        return MESH_GATEWAY in self.effective_gateways

    @property
    def is_delegate(self) -> bool:
        """Whether other VirtualServices refer to it instead of a host."""
        return not self.hosts

    @property
    def effective_export_to(self) -> tuple[str, ...]:
        """Namespaces that see it; `.` = its own, `*` = all."""
        return self.export_to or ("*",)
