"""Virtual hosts: the routes of one service port as one caller sees them.

Owns:   domains, the order of routes, where translation stops; the virtual host for unknown hosts.
Not:    matches and actions of one route (route_match, route_action), RouteConfigurations (scopes).
Source: decisions 4, 7; control-plane.md 2.3.3-2.3.9; istio httproute.go generateVirtualHostDomains.

Differs: a port without a declared protocol is routed as HTTP: what comes to an explicit HTTP proxy port is HTTP.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, Route, RouteMatch, VirtualHost

from controlplane.compiler.backend_shares import lost_route, present
from controlplane.compiler.filters import bulkhead, circuit_breaker, cors, fault
from controlplane.compiler.header_operations import set_header_operations
from controlplane.compiler.resources import make_resource, packed
from controlplane.compiler.route_action import (
    DestinationKey,
    Forwarding,
    ResolvedDestination,
    set_action,
    set_default_action,
)
from controlplane.compiler.route_match import can_be_matched, holds_for, route_match
from controlplane.compiler.types import Resource, Source
from controlplane.model.circuit_breakers import route_names
from controlplane.model.gateway_rules import BackendRule
from controlplane.model.proxy import Caller
from controlplane.model.virtual_services import destination_host
from controlplane.policy.http_route import Destination, HTTPMatchRequest, HTTPRoute
from controlplane.policy.objects import PolicyObject
from controlplane.policy.string_match import StringMatch
from controlplane.policy.virtual_service import MESH_GATEWAY, VirtualService
from mesh.vocabulary import Dialect
from mesh.xds import type_url

UNKNOWN_HOST = "block_all"
_UNKNOWN_STATUS = 502
DEFAULT_ROUTE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHostInputs:
    """All that a virtual host is made of.

    `rules`: the VirtualServices in effect, none = the default route to `default`; neither = no route (404 NR).
    `gateway`: `namespace/name` of the Gateway whose routes these are. `istio`: what `compat: istio` asks for holds for
    all rules.
    """

    name: str
    domains: tuple[str, ...]
    dialect: Dialect
    caller: Caller
    port: int
    rules: tuple[PolicyObject, ...]
    destinations: tuple[tuple[DestinationKey, ResolvedDestination], ...]
    default: ResolvedDestination | None
    domain_suffix: str
    sources: tuple[Source, ...]
    gateway: str = MESH_GATEWAY
    istio: bool = False


def build_virtual_host(inputs: VirtualHostInputs) -> Resource:
    """The resource."""
    return make_resource(type_url.VIRTUAL_HOST, inputs.name, virtual_host(inputs), inputs.sources)


def virtual_host(inputs: VirtualHostInputs) -> VirtualHost:
    """The message. Its name is the resource's, by which Envoy removes it."""
    return VirtualHost(
        name=inputs.name,
        domains=inputs.domains,
        routes=_routes(inputs),
        include_request_attempt_count=inputs.dialect is not Dialect.GRPC,
    )


def unknown_host(name: str) -> VirtualHost:
    """Takes what no other virtual host takes: registry only (decision 7)."""
    route = Route(
        name=UNKNOWN_HOST,
        match=RouteMatch(prefix="/"),
        direct_response=DirectResponseAction(status=_UNKNOWN_STATUS),
    )
    return VirtualHost(name=name, domains=["*"], routes=[route])


def domains_of(host: str, aliases: tuple[str, ...], port: int, *, without_port: bool) -> tuple[str, ...]:
    """The host and its short forms, each with the port, and without it where the port needs no naming."""
    names = (host, *aliases)
    bare = names if without_port else ()
    return (*bare, *(f"{name}:{port}" for name in names))


def _routes(inputs: VirtualHostInputs) -> list[Route]:
    if not inputs.rules:
        return [] if inputs.default is None else [_default_route(inputs, inputs.default)]
    found = list(translated(inputs))
    if len(inputs.rules) > 1:
        # Python's sort is stable: ties keep the order of age, then of the list.
        found.sort(key=lambda item: _precedence(item[0]))
    return [route for _, route in found]


def _default_route(inputs: VirtualHostInputs, target: ResolvedDestination) -> Route:
    route = Route(name=DEFAULT_ROUTE, match=RouteMatch(prefix="/"))
    set_default_action(route, target, inputs.dialect)
    _set_call_policies(route, inputs, (target,), ())
    return route


def translated(inputs: VirtualHostInputs) -> Iterator[tuple[HTTPMatchRequest | None, Route]]:
    """The routes of the rules, in their order, each with the match that it was made of."""
    destinations = dict(inputs.destinations)
    for rule in inputs.rules:
        for index, http in enumerate(rule.spec_as(VirtualService).http):
            if http.delegate is not None:
                continue
            stop = False
            for match in http.match or (None,):
                if match is not None and not _applies(inputs, rule, match):
                    continue
                route = Route(name=route_name(rule, index, http, match), match=route_match(match))
                forwarding = _forwarding(inputs, rule, http, destinations)
                lost, all_is = lost_route(route, http, forwarding) if isinstance(http, BackendRule) else (None, False)
                if lost is not None:
                    yield match, lost
                if not all_is:
                    set_action(route, http, forwarding, inputs.dialect)
                    own = [target for _, target in forwarding.targets]
                    _set_call_policies(route, inputs, own, route_names(http, match))
                    _set_extras(route, http, inputs.dialect, istio=inputs.istio or rule.wants_istio_behaviour)
                    yield match, route
                stop = stop or is_catch_all(match)
            if stop:
                break  # what follows can never be reached (2.3.3)


def _applies(inputs: VirtualHostInputs, rule: PolicyObject, match: HTTPMatchRequest) -> bool:
    own = holds_for(match, inputs.caller, inputs.port, inputs.gateway, rule.metadata.namespace)
    return own and can_be_matched(match, inputs.dialect)


def route_name(rule: PolicyObject, index: int, http: HTTPRoute, match: HTTPMatchRequest | None) -> str:
    """The names that the user gave, else where the rule stands: it is what access logs show."""
    named = ".".join(part for part in (http.name, match.name if match is not None else "") if part)
    return named or f"{rule.metadata.namespace}/{rule.metadata.name}.http[{index}]"


def is_catch_all(match: HTTPMatchRequest | None) -> bool:
    """Whether it matches every request of a caller for whom it holds."""
    if match is None:
        return True
    tested = (match.headers, match.without_headers, match.query_params)
    if any(tested) or any(item is not None for item in (match.scheme, match.method, match.authority)):
        return False
    return match.uri is None or match.uri in (StringMatch(prefix="/"), StringMatch(regex=".*"), StringMatch(regex="*"))


def _forwarding(
    inputs: VirtualHostInputs,
    rule: PolicyObject,
    http: HTTPRoute,
    destinations: Mapping[DestinationKey, ResolvedDestination],
) -> Forwarding:
    def resolved(destination: Destination) -> ResolvedDestination:
        return destinations[destination_key(destination, rule, inputs.domain_suffix)]

    named = tuple((item, resolved(item.destination)) for item in http.route if item.destination is not None)
    if isinstance(http, BackendRule):
        targets = present(named)
    else:
        targets = named if len(http.route) == 1 else tuple(pair for pair in named if pair[0].weight > 0)
    mirrors = tuple(
        (resolved(item.destination), item.effective_percent)
        for item in http.mirror_policies
        if item.destination is not None and item.effective_percent > 0
    )
    if isinstance(http, BackendRule):
        mirrors = tuple((target, percent) for target, percent in mirrors if not target.missing)
    return Forwarding(targets=targets, mirrors=mirrors)


def destination_key(destination: Destination, rule: PolicyObject, domain_suffix: str) -> DestinationKey:
    """The destination with its full host."""
    host = destination_host(destination, rule.metadata.namespace, domain_suffix)
    return host, destination.subset, destination.port_number or 0


def _set_extras(route: Route, http: HTTPRoute, dialect: Dialect, *, istio: bool) -> None:
    """Header operations, and filters that are configured per route."""
    if dialect is Dialect.GRPC:
        return
    set_header_operations(route, http.headers)
    for name, config in (
        (fault.name_for(dialect, istio=istio), fault.http_fault(http.fault)),
        (cors.NAME, cors.cors_policy(http.cors_policy)),
    ):
        if config is not None:
            route.typed_per_filter_config[name].CopyFrom(packed(config))


def _set_call_policies(
    route: Route, inputs: VirtualHostInputs, targets: Sequence[ResolvedDestination], names: tuple[str, ...]
) -> None:
    """The CircuitBreakers and Bulkheads that the route's calls obey, each with the clusters that it is for."""
    breakers: dict[PolicyObject, tuple[list[str], int]] = {}
    bulkheads: dict[PolicyObject, list[str]] = {}
    for target in targets:
        rule = target.breakers.chosen(inputs.caller.namespace, names)
        if rule is not None:
            breakers.setdefault(rule, ([], target.port))[0].append(target.cluster)
        rule = target.bulkheads.chosen(inputs.caller.namespace, names)
        if rule is not None:
            bulkheads.setdefault(rule, []).append(target.cluster)
    if not route.HasField("route"):
        return
    if breakers:
        told = circuit_breaker.per_route([(rule, *rest) for rule, rest in breakers.items()], inputs.domain_suffix)
        route.typed_per_filter_config[circuit_breaker.NAME].CopyFrom(packed(told))
    if bulkheads:
        route.typed_per_filter_config[bulkhead.NAME].CopyFrom(packed(bulkhead.per_route(list(bulkheads.items()))))


def _precedence(match: HTTPMatchRequest | None) -> tuple[int, int, int, int, int]:
    """Of rules that merge, the Gateway API's order: exact path, longest prefix, method, headers, query parameters."""
    if match is None:
        return 2, 0, 1, 0, 0
    uri = match.uri
    if uri is not None and uri.exact is not None:
        path = (0, 0)
    elif uri is not None and uri.regex is not None and not uri.is_presence:
        path = (1, 0)
    else:
        path = (2, -len(uri.prefix or "") if uri is not None else 0)
    headers = len(match.headers) + len(match.without_headers)
    return *path, 0 if match.method is not None else 1, -headers, -len(match.query_params)
