"""The Kubernetes Gateway API: GatewayClass, Gateway and ReferenceGrant, and the references that its kinds share.

Owns:   the shape of their specs.
Not:    routes (gateway_api_routes), what is refused (rules.gateway_api), which route belongs to which listener
        (controlplane.model.gateway_attachments).
Source: kubernetes-sigs/gateway-api apis/v1 gateway_types.go, gatewayclass_types.go, shared_types.go,
        apis/v1beta1 referencegrant_types.go. Fields of its experimental channel are not known.
"""

from enum import StrEnum
from typing import Annotated

from controlplane.policy.frozen import EMPTY
from controlplane.policy.scalars import Int32, Text, TextMap, enum_parser
from controlplane.policy.spec import Spec

GROUP = "gateway.networking.k8s.io"
CONTROLLER = "gossamer.mesh/gateway-controller"
# Classes that are there without an object, and the controllers whose GatewayClasses are served too.
BUILT_IN_CLASSES = ("gossamer", "istio")
CONTROLLERS = (CONTROLLER, "istio.io/gateway-controller")
# The label by which a gateway proxy is of one Gateway alone, and the one of those that serve all others.
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
DEFAULT_LABEL = ("istio", "ingressgateway")
NAMESPACE_NAME = "kubernetes.io/metadata.name"


class ParentReference(Spec):
    """What a route is attached to; `namespace` empty = that of the route."""

    group: Text = GROUP
    kind: Text = "Gateway"
    namespace: Text = ""
    name: Text = ""
    section_name: Text = ""
    port: Int32 | None = None

    @property
    def is_gateway(self) -> bool:
        """Whether it names a Gateway of this API."""
        return (self.group, self.kind) == (GROUP, "Gateway")


class SecretObjectReference(Spec):
    """A Secret; `namespace` empty = that of the Gateway."""

    group: Text = ""
    kind: Text = "Secret"
    name: Text = ""
    namespace: Text = ""

    @property
    def is_secret(self) -> bool:
        """Whether it names a Secret."""
        return (self.group, self.kind) == ("", "Secret")


class ParametersReference(Spec):
    """An object of an implementation's own; none is known here."""

    group: Text = ""
    kind: Text = ""
    name: Text = ""
    namespace: Text = ""


class GatewayClassSpec(Spec):
    """Which controller serves the Gateways of the class."""

    controller_name: Text = ""
    parameters_ref: ParametersReference | None = None
    description: Text = ""


class TLSMode(StrEnum):
    """Terminate ends TLS here; Passthrough leaves it closed."""

    TERMINATE = "Terminate"
    PASSTHROUGH = "Passthrough"


class ListenerTLS(Spec):
    """`options` are an implementation's own; none is known here."""

    mode: Annotated[TLSMode, enum_parser(TLSMode)] = TLSMode.TERMINATE
    certificate_refs: tuple[SecretObjectReference, ...] = ()
    options: TextMap = EMPTY


class FromNamespaces(StrEnum):
    """Of which namespaces routes may attach."""

    ALL = "All"
    SAME = "Same"
    SELECTOR = "Selector"
    NONE = "None"


class SelectorOperator(StrEnum):
    """How a label is compared with the values of an expression."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelSelectorRequirement(Spec):
    """One condition."""

    key: Text = ""
    operator: Annotated[SelectorOperator | None, enum_parser(SelectorOperator)] = None
    values: tuple[Text, ...] = ()


class LabelSelector(Spec):
    """All conditions must hold; none selects everything."""

    match_labels: TextMap = EMPTY
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class RouteNamespaces(Spec):
    """`selector` counts only with `from: Selector`."""

    from_: Annotated[FromNamespaces, enum_parser(FromNamespaces)] = FromNamespaces.SAME
    selector: LabelSelector | None = None


class RouteGroupKind(Spec):
    """A kind of routes."""

    group: Text = GROUP
    kind: Text = ""


class AllowedRoutes(Spec):
    """Which routes may attach to a listener; no `kinds` = all that fit its protocol."""

    namespaces: RouteNamespaces | None = None
    kinds: tuple[RouteGroupKind, ...] = ()

    @property
    def effective_namespaces(self) -> RouteNamespaces:
        """The Gateway's own when unset."""
        return self.namespaces or RouteNamespaces()


class Listener(Spec):
    """One port with one hostname; an empty one is every host."""

    name: Text = ""
    hostname: Text = ""
    port: Int32 = 0
    protocol: Text = ""
    tls: ListenerTLS | None = None
    allowed_routes: AllowedRoutes | None = None

    @property
    def effective_routes(self) -> AllowedRoutes:
        """Those of the Gateway's namespace when unset."""
        return self.allowed_routes or AllowedRoutes()


class GatewayAddress(Spec):
    """An address that the Gateway shall have."""

    type: Text = "IPAddress"
    value: Text = ""


class LocalParametersReference(Spec):
    """An object of an implementation's own; none is known here."""

    group: Text = ""
    kind: Text = ""
    name: Text = ""


class GatewayInfrastructure(Spec):
    """About objects that a cluster would make for the Gateway: here its proxies are nodes of the mesh."""

    labels: TextMap = EMPTY
    annotations: TextMap = EMPTY
    parameters_ref: LocalParametersReference | None = None


class GatewaySpec(Spec):
    """Ports at the edge of the mesh."""

    gateway_class_name: Text = ""
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[GatewayAddress, ...] = ()
    infrastructure: GatewayInfrastructure | None = None


class ReferenceGrantFrom(Spec):
    """Whose references are permitted: of a kind in a namespace."""

    group: Text = ""
    kind: Text = ""
    namespace: Text = ""


class ReferenceGrantTo(Spec):
    """What may be referred to in the grant's namespace; no name = all of the kind."""

    group: Text = ""
    kind: Text = ""
    name: Text = ""


class ReferenceGrantSpec(Spec):
    """Any of `from` may refer to any of `to`."""

    from_: tuple[ReferenceGrantFrom, ...] = ()
    to: tuple[ReferenceGrantTo, ...] = ()
