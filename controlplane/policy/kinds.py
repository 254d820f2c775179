"""The kinds that Gossamer serves: their names, the versions that are taken, the version that is stored.

Owns:   the registry KINDS and its look-ups.
Not:    what a kind's spec means (one module per kind), what is refused (controlplane.policy.rules).
Source: istio.io/api's CRD tags and Kubernetes' API reference.
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controlplane.policy.authorization_policy import AuthorizationPolicy
from controlplane.policy.bulkhead import Bulkhead
from controlplane.policy.circuit_breaker import CircuitBreaker
from controlplane.policy.destination_rule import DestinationRule
from controlplane.policy.gateway import Gateway
from controlplane.policy.gateway_api import GROUP, GatewayClassSpec, GatewaySpec, ReferenceGrantSpec
from controlplane.policy.gateway_api_routes import GRPCRouteSpec, HTTPRouteSpec
from controlplane.policy.peer_authentication import PeerAuthentication
from controlplane.policy.rate_limit import RateLimit
from controlplane.policy.request_authentication import RequestAuthentication
from controlplane.policy.secret import Secret
from controlplane.policy.service import Namespace, Service
from controlplane.policy.service_entry import ServiceEntry
from controlplane.policy.spec import Spec
from controlplane.policy.virtual_service import VirtualService
from controlplane.policy.workload_entry import WorkloadEntry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KindInfo:
    """One kind. `group` is empty for Kubernetes' core; every one of `versions` has the same schema. One object each."""

    group: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    versions: tuple[str, ...]  # newest first
    storage_version: str
    namespaced: bool
    spec_model: type[Spec]
    spec_required: bool = True
    dns_label_name: bool = False  # the name is one DNS label instead of a DNS subdomain
    at_root: bool = False  # the fields of the spec stand beside `metadata`; there is no `spec`

    @property
    def storage_api_version(self) -> str:
        """The apiVersion of what is stored."""
        return self.api_version(self.storage_version)

    @property
    def api_versions(self) -> tuple[str, ...]:
        """Every apiVersion that is taken, newest first."""
        return tuple(self.api_version(version) for version in self.versions)

    @property
    def list_kind(self) -> str:
        """The kind of a list of these."""
        return f"{self.kind}List"

    @property
    def group_kind(self) -> str:
        """`kind.group`, or the kind alone for the core group."""
        return f"{self.kind}.{self.group}".rstrip(".")

    @property
    def full_name(self) -> str:
        """`plural.group`, or the plural alone for the core group."""
        return f"{self.plural}.{self.group}".rstrip(".")

    def api_version(self, version: str) -> str:
        """`group/version`, or the version alone for the core group."""
        return f"{self.group}/{version}" if self.group else version

    def __repr__(self) -> str:
        return f"KindInfo({self.storage_api_version}, {self.kind})"


class Kinds:
    """All kinds, with the look-ups by which users and clients name them."""

    def __init__(self, kinds: Iterable[KindInfo]) -> None:
        self._kinds = tuple(kinds)
        self._by_resource = {(info.group, info.plural): info for info in self._kinds}
        self._by_kind = {(info.group, info.kind): info for info in self._kinds}
        self._by_api_version = {
            (api_version, info.kind): info for info in self._kinds for api_version in info.api_versions
        }
        self._by_word = _by_word(self._kinds)

    def __iter__(self) -> Iterator[KindInfo]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def by_resource(self, group: str, plural: str) -> KindInfo | None:
        """By the parts of a REST path."""
        return self._by_resource.get((group, plural))

    def by_group_kind(self, group: str, kind: str) -> KindInfo | None:
        """By an ObjectRef's parts."""
        return self._by_kind.get((group, kind))

    def by_api_version(self, api_version: str, kind: str) -> KindInfo | None:
        """By what stands at the head of a manifest."""
        return self._by_api_version.get((api_version, kind))

    def by_word(self, word: str) -> KindInfo | None:
        """By what a user types: kind, plural, singular, short name, plural.group, kind.group; in any case.

        Where two groups have one name, it means the kind that stands first; with its group it means one for sure.
        """
        return self._by_word.get(word.lower())

    def named(self, kind: str) -> tuple[KindInfo, ...]:
        """By the kind alone, in whatever groups."""
        return tuple(info for info in self._kinds if info.kind == kind)

    def resource(self, info: KindInfo) -> str:
        """The shortest plural that `by_word` takes for the kind."""
        return info.plural if self._by_word[info.plural] is info else info.full_name

    def words(self) -> tuple[str, ...]:
        """Everything that `by_word` knows, sorted."""
        return tuple(sorted(self._by_word))

    def nearest(self, kind: str) -> KindInfo | None:
        """The kind whose name is most like `kind`, or None."""
        names = {info.kind.lower(): info for info in self._kinds}
        close = difflib.get_close_matches(kind[:64].lower(), names, n=1, cutoff=0.7)
        return names[close[0]] if close else None


def _by_word(kinds: Iterable[KindInfo]) -> dict[str, KindInfo]:
    found: dict[str, KindInfo] = {}
    for info in kinds:
        for word in (info.kind, info.plural, info.singular, *info.short_names, info.full_name, info.group_kind):
            found.setdefault(word.lower(), info)
    return found


# Those that mean something without a spec.
_MAY_BE_EMPTY = (PeerAuthentication, RequestAuthentication, AuthorizationPolicy)


def _istio(group: str, kind: str, plural: str, short: str, versions: tuple[str, ...], model: type[Spec]) -> KindInfo:
    return KindInfo(
        group=group,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        short_names=(short,),
        versions=versions,
        storage_version="v1",
        namespaced=True,
        spec_model=model,
        spec_required=model not in _MAY_BE_EMPTY,
    )


def _core(kind: str, short: str, model: type[Spec], *, namespaced: bool) -> KindInfo:
    return KindInfo(
        group="",
        kind=kind,
        plural=f"{kind.lower()}s",
        singular=kind.lower(),
        short_names=(short,),
        versions=("v1",),
        storage_version="v1",
        namespaced=namespaced,
        spec_model=model,
        spec_required=namespaced,
        dns_label_name=True,
    )


def _own(kind: str, plural: str, short: str, model: type[Spec]) -> KindInfo:
    """Of our own group: what neither Istio nor Kubernetes has."""
    return KindInfo(
        group="gossamer.mesh",
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        short_names=(short,),
        versions=("v1",),
        storage_version="v1",
        namespaced=True,
        spec_model=model,
    )


def _gateway_api(
    kind: str, plural: str, model: type[Spec], *short: str, versions: tuple[str, ...] = ("v1", "v1beta1"),
    namespaced: bool = True,
) -> KindInfo:  # fmt: skip
    return KindInfo(
        group=GROUP,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        short_names=short,
        versions=versions,
        storage_version="v1",
        namespaced=namespaced,
        spec_model=model,
    )


_NETWORKING = "networking.istio.io"
_SECURITY = "security.istio.io"
_ALL = ("v1", "v1beta1", "v1alpha3")

VIRTUAL_SERVICE = _istio(_NETWORKING, "VirtualService", "virtualservices", "vs", _ALL, VirtualService)
DESTINATION_RULE = _istio(_NETWORKING, "DestinationRule", "destinationrules", "dr", _ALL, DestinationRule)
SERVICE_ENTRY = _istio(_NETWORKING, "ServiceEntry", "serviceentries", "se", _ALL, ServiceEntry)
GATEWAY = _istio(_NETWORKING, "Gateway", "gateways", "gw", _ALL, Gateway)
WORKLOAD_ENTRY = _istio(_NETWORKING, "WorkloadEntry", "workloadentries", "we", _ALL, WorkloadEntry)
PEER_AUTHENTICATION = _istio(
    _SECURITY, "PeerAuthentication", "peerauthentications", "pa", ("v1", "v1beta1"), PeerAuthentication
)
REQUEST_AUTHENTICATION = _istio(
    _SECURITY, "RequestAuthentication", "requestauthentications", "ra", ("v1", "v1beta1"), RequestAuthentication
)
AUTHORIZATION_POLICY = _istio(
    _SECURITY, "AuthorizationPolicy", "authorizationpolicies", "ap", ("v1", "v1beta1"), AuthorizationPolicy
)
CIRCUIT_BREAKER = _own("CircuitBreaker", "circuitbreakers", "cb", CircuitBreaker)
BULKHEAD = _own("Bulkhead", "bulkheads", "bh", Bulkhead)
RATE_LIMIT = _own("RateLimit", "ratelimits", "rl", RateLimit)
GATEWAY_CLASS = _gateway_api("GatewayClass", "gatewayclasses", GatewayClassSpec, "gc", namespaced=False)
API_GATEWAY = _gateway_api("Gateway", "gateways", GatewaySpec, "gtw")
HTTP_ROUTE = _gateway_api("HTTPRoute", "httproutes", HTTPRouteSpec)
GRPC_ROUTE = _gateway_api("GRPCRoute", "grpcroutes", GRPCRouteSpec, versions=("v1",))
REFERENCE_GRANT = _gateway_api("ReferenceGrant", "referencegrants", ReferenceGrantSpec, "refgrant")
SECRET = KindInfo(
    group="",
    kind="Secret",
    plural="secrets",
    singular="secret",
    short_names=(),
    versions=("v1",),
    storage_version="v1",
    namespaced=True,
    spec_model=Secret,
    spec_required=False,
    at_root=True,
)
SERVICE = _core("Service", "svc", Service, namespaced=True)
NAMESPACE = _core("Namespace", "ns", Namespace, namespaced=False)

KINDS = Kinds(
    (
        VIRTUAL_SERVICE,
        DESTINATION_RULE,
        SERVICE_ENTRY,
        WORKLOAD_ENTRY,
        GATEWAY,
        PEER_AUTHENTICATION,
        REQUEST_AUTHENTICATION,
        AUTHORIZATION_POLICY,
        CIRCUIT_BREAKER,
        BULKHEAD,
        RATE_LIMIT,
        GATEWAY_CLASS,
        API_GATEWAY,
        HTTP_ROUTE,
        GRPC_ROUTE,
        REFERENCE_GRANT,
        SERVICE,
        SECRET,
        NAMESPACE,
    )
)
