"""Findings of CircuitBreakers and Bulkheads: what they name and is not there, which of two counts, what others do.

Source: docs/features/circuit-breaker.md; control-plane.md 2.6 for the codes.
"""

from collections.abc import Iterator

from controlplane.compiler.filters.bulkhead import lost as bulkhead_lost
from controlplane.compiler.filters.circuit_breaker import lost
from controlplane.compiler.services import client_rule, scoped_rule
from controlplane.compiler.types import Condition
from controlplane.model.circuit_breakers import breaker_host, route_names
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Caller, ProxyScope
from controlplane.model.traffic_policies import effective_policy
from controlplane.model.views import ServiceView, Target
from controlplane.policy.bulkhead import Bulkhead, Side
from controlplane.policy.call_target import CallPolicy
from controlplane.policy.circuit_breaker import CircuitBreaker
from controlplane.policy.hosts import resolve
from controlplane.policy.kinds import BULKHEAD, CIRCUIT_BREAKER, VIRTUAL_SERVICE
from controlplane.policy.objects import PolicyObject
from controlplane.policy.virtual_service import VirtualService
from controlplane.settings import MeshSettings
from mesh.vocabulary import Dialect

NOT_FOUND = "ReferencedResourceNotFound"
_REASONS = {Dialect.ENVOY: "EnvoyProxy", Dialect.GRPC: "GrpcClient"}


def is_breaker(rule: PolicyObject) -> bool:
    """Whether these findings are about it."""
    return rule.kind in (CIRCUIT_BREAKER, BULKHEAD)


def breaker_findings(rule: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    """Everything about one of them in the mesh."""
    spec, suffix = rule.spec_as(CallPolicy), mesh.settings.domain_suffix
    target, host = spec.effective_target, breaker_host(rule, suffix)
    yield from _named(rule, mesh, "spec.target", (host, target.subset, target.port_number))
    if target.route and not _has_route(mesh, target.route):
        message = f"spec.target.route: no VirtualService has a rule or match named {target.route}"
        yield Condition(rule.ref, NOT_FOUND, "True", "UnknownRoute", message, "IST0101", "spec.target.route")
    found = mesh.target(host)
    yield from _conflicts(rule, spec, found)
    if isinstance(spec, Bulkhead) and Side.INBOUND in spec.sides:
        yield from _foreign(rule, found, mesh.settings)
    fallback = spec.fallback if isinstance(spec, CircuitBreaker) else None
    other = fallback.service if fallback is not None else None
    if other is not None:
        own = resolve(other.host, rule.metadata.namespace, domain_suffix=suffix)
        yield from _named(rule, mesh, "spec.fallback.service", (own, other.subset, other.port_number or 0))


def _named(rule: PolicyObject, mesh: MeshState, path: str, what: tuple[str, str, int]) -> Iterator[Condition]:
    """`what`: host, subset, port as far as they are named."""
    host, subset, port = what
    target = mesh.target(host)
    problem = ""
    if target.service is None:
        problem, path, reason = f"there is no service {host}", f"{path}.host", "UnknownHost"
    elif port and target.service.port(port) is None:
        problem, path, reason = f"{host} has no port {port}", f"{path}.port.number", "UnknownDestination"
    elif subset and not _has_subset(rule, host, target, subset, mesh.settings):
        problem, path, reason = f"subset {subset} of {host} is not defined", f"{path}.subset", "UnknownDestination"
    if problem:
        yield Condition(rule.ref, NOT_FOUND, "True", reason, f"{path}: {problem}", "IST0101", path)


def _has_subset(rule: PolicyObject, host: str, target: Target, subset: str, settings: MeshSettings) -> bool:
    return client_rule(host, target, Caller(rule.metadata.namespace), settings).subset(subset) is not None


def _has_route(mesh: MeshState, name: str) -> bool:
    written = (mesh.joined(item) for item in mesh.objects.values() if item.kind is VIRTUAL_SERVICE)
    made = (item for own in mesh.gateway_api.gateways() for item in own.objects.values())
    rules = (item.spec_as(VirtualService) for item in (*written, *made) if item.kind is VIRTUAL_SERVICE)
    return any(
        name in route_names(http, match)
        for rule in rules
        if not rule.is_delegate
        for http in rule.http
        for match in http.match or (None,)
    )


def _conflicts(rule: PolicyObject, spec: CallPolicy, found: Target) -> Iterator[Condition]:
    """`found`: its host, with all that may stand in its way."""
    others = [(found.breakers, "")]
    if isinstance(spec, Bulkhead):
        by_side = {Side.OUTBOUND: found.bulkheads, Side.INBOUND: found.inbound_bulkheads}
        others = [(by_side[side], f" at {side}" if len(spec.sides) > 1 else "") for side in spec.sides]
    for rules, where in others:
        older = _same_target(rule, rules)
        if older is not None:
            message = f"{older.ref} has the same target and is older; this one has no effect{where}"
            yield Condition(rule.ref, "Conflict", "True", "OtherObjectWins", message, path="spec.target")


def _foreign(rule: PolicyObject, found: Target, settings: MeshSettings) -> Iterator[Condition]:
    """What instances enforce is said by who runs them."""
    service, own = found.service, rule.metadata.namespace
    if service is not None and own not in (service.namespace, settings.root_namespace):
        message = f"instances of {service.host} enforce what {service.namespace} and the root namespace say, not {own}"
        yield Condition(rule.ref, "NotEnforced", "True", "OtherNamespace", message, path="spec.enforceAt")


def _same_target(rule: PolicyObject, rules: tuple[PolicyObject, ...]) -> PolicyObject | None:
    """`rules`: those of the host, oldest first."""
    own = _scope(rule)
    for other in rules:
        if other == rule:
            return None
        if _scope(other) == own:
            return other
    return None


def _scope(rule: PolicyObject) -> tuple[str, str, int, str]:
    target = rule.spec_as(CallPolicy).effective_target
    return rule.metadata.namespace, target.subset, target.port_number, target.route


def stand_in_findings(view: ServiceView, scope: ProxyScope, settings: MeshSettings) -> Iterator[Condition]:
    """What proxies without the filter do instead."""
    if view.service is None:
        return
    for rule in view.target.bulkheads:
        yield Condition(
            rule.ref, "Approximated", "True", _REASONS[scope.dialect], bulkhead_lost(rule, scope.dialect)
        )  # fmt: skip
    if not view.target.breakers:
        return
    policy = effective_policy(scoped_rule(view.host, view.target, scope, settings), 0)
    has = policy.outlier_detection is not None
    for rule in view.target.breakers:
        words = "; ".join(lost(rule, scope.dialect, has_outlier_detection=has))
        if words:
            yield Condition(rule.ref, "Approximated", "True", _REASONS[scope.dialect], words)
