"""Admission: from a manifest to a PolicyObject, or to everything that is wrong with it.

Owns:   the order of the checks: limits, envelope, metadata, the spec's shape, the rules between fields.
Not:    anything about other objects (a missing subset is a condition, not a refusal: 2.6).

Invariants:
  `admit` never raises on anything that JSON can say, and collects all violations of one manifest.
  What is admitted, encoded and admitted again is the same object.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.policy import shape
from controlplane.policy.authorization_policy import AuthorizationPolicy
from controlplane.policy.bulkhead import Bulkhead
from controlplane.policy.circuit_breaker import CircuitBreaker
from controlplane.policy.destination_rule import DestinationRule
from controlplane.policy.gateway import Gateway
from controlplane.policy.gateway_api import GatewayClassSpec, GatewaySpec, ReferenceGrantSpec
from controlplane.policy.gateway_api_routes import GRPCRouteSpec, HTTPRouteSpec
from controlplane.policy.kinds import KINDS, KindInfo
from controlplane.policy.limits import bounded_copy
from controlplane.policy.objects import ENVELOPE, Metadata, PolicyObject, canonical_json
from controlplane.policy.peer_authentication import PeerAuthentication
from controlplane.policy.rate_limit import RateLimit
from controlplane.policy.request_authentication import RequestAuthentication
from controlplane.policy.rules.authorization_policy import check_authorization_policy
from controlplane.policy.rules.bulkhead import check_bulkhead
from controlplane.policy.rules.circuit_breaker import check_circuit_breaker
from controlplane.policy.rules.destination_rule import check_destination_rule
from controlplane.policy.rules.gateway import check_gateway
from controlplane.policy.rules.gateway_api import check_gateway_class, check_gateway_spec, check_reference_grant
from controlplane.policy.rules.gateway_api_routes import check_grpc_route_spec, check_http_route_spec
from controlplane.policy.rules.metadata import check_metadata
from controlplane.policy.rules.peer_authentication import check_peer_authentication
from controlplane.policy.rules.rate_limit import check_rate_limit
from controlplane.policy.rules.request_authentication import check_request_authentication
from controlplane.policy.rules.secret import check_secret
from controlplane.policy.rules.service import check_service
from controlplane.policy.rules.service_entry import check_service_entry
from controlplane.policy.rules.virtual_service import check_virtual_service
from controlplane.policy.rules.workload_entry import check_workload_entry
from controlplane.policy.scalars import shown
from controlplane.policy.secret import Secret, folded
from controlplane.policy.service import Service
from controlplane.policy.service_entry import ServiceEntry
from controlplane.policy.spec import Spec
from controlplane.policy.violations import SPEC, Path, Report, Violation
from controlplane.policy.virtual_service import VirtualService
from controlplane.policy.workload_entry import WorkloadEntry
from mesh.vocabulary import DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class Admitted:
    """The object, without the server's part of its metadata, and what is probably not meant."""

    object: PolicyObject
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """Everything that is wrong, at least one."""

    violations: tuple[Violation, ...]
    warnings: tuple[str, ...] = ()


_RULES: dict[type[Spec], Callable[[Any, Path, Report], None]] = {
    VirtualService: check_virtual_service,
    DestinationRule: check_destination_rule,
    ServiceEntry: check_service_entry,
    WorkloadEntry: check_workload_entry,
    Gateway: check_gateway,
    PeerAuthentication: check_peer_authentication,
    RequestAuthentication: check_request_authentication,
    AuthorizationPolicy: check_authorization_policy,
    CircuitBreaker: check_circuit_breaker,
    Bulkhead: check_bulkhead,
    RateLimit: check_rate_limit,
    GatewayClassSpec: check_gateway_class,
    GatewaySpec: check_gateway_spec,
    HTTPRouteSpec: check_http_route_spec,
    GRPCRouteSpec: check_grpc_route_spec,
    ReferenceGrantSpec: check_reference_grant,
    Service: check_service,
    Secret: check_secret,
}
# What is stored in another form than it was written in.
_STORED: dict[type[Spec], Callable[[Mapping[str, Any]], dict[str, Any]]] = {Secret: folded}


def admit(
    manifest: Mapping[str, Any], *, default_namespace: str = DEFAULT_NAMESPACE, strict: bool = True
) -> Admitted | Rejected:
    """Check one manifest. `strict`: an unknown field is a violation; else it is left out, with a warning.

    `status` and the server's metadata (uid, creationTimestamp, generation, resourceVersion, managedFields) are
    accepted and ignored.
    """
    written, breaches = bounded_copy(manifest)
    if not isinstance(written, dict):
        return Rejected((Violation("", f"found {shown(manifest)}, expected an object"),))
    report = Report(written)
    for path, message in breaches:
        report.add(path, message)
    report.spoil(path for path, _ in breaches)
    info = _kind(report)
    _check_envelope(report, info, strict=strict)
    metadata = check_metadata(report, info, default_namespace=default_namespace, strict=strict)
    report.namespace = metadata.namespace
    if info is None:
        return Rejected(tuple(report.violations), tuple(report.warnings))
    return _admit_spec(info, metadata, report, strict=strict)


def _admit_spec(info: KindInfo, metadata: Metadata, report: Report, *, strict: bool) -> Admitted | Rejected:
    root = Path() if info.at_root else SPEC
    raw = _raw_spec(info, report)
    stored = None if raw is None else _without_nulls(raw)
    spec = None
    if raw is not None:
        spec, errors = shape.parse(info.spec_model, raw, root)
        for error in errors:
            if error.unknown and not strict:
                report.warn(error.path, error.message)
                shape.remove(stored, error.loc)
            else:
                report.add(error.path, error.message)
        report.spoil(error.path for error in errors if strict or not error.unknown)
        report.spoil(error.nearest for error in errors if error.nearest is not None and strict)
        check = _RULES.get(info.spec_model)
        if spec is not None and check is not None:
            check(spec, root, report)
    if report.violations or spec is None:
        return Rejected(tuple(report.violations), tuple(report.warnings))
    if info.spec_model in _STORED:
        stored = _STORED[info.spec_model](stored or {})
        spec = shape.parse_known(info.spec_model, stored)
    obj = PolicyObject(kind=info, metadata=metadata, spec=spec, spec_json=canonical_json(stored))
    return Admitted(obj, tuple(report.warnings))


def _kind(report: Report) -> KindInfo | None:
    """The kind of the manifest; with an unknown version of a known kind still that kind, and a violation."""
    api_version, kind = report.manifest.get("apiVersion"), report.manifest.get("kind")
    if not isinstance(kind, str) or not kind:
        report.refuse(Path(("kind",)), f"one of {_kind_names()}")
        if not isinstance(api_version, str) or not api_version:
            report.refuse(Path(("apiVersion",)), "the group and version of the kind, such as networking.istio.io/v1")
        return None
    info = KINDS.by_api_version(api_version, kind) if isinstance(api_version, str) else None
    if info is not None:
        return info
    known = KINDS.named(kind)
    if known:
        served = ", ".join(version for info in known for version in info.api_versions)
        report.refuse(Path(("apiVersion",)), f"one of {served} for a {kind}")
        return _meant(known, api_version)
    nearest = KINDS.nearest(kind)
    hint = f": did you mean {nearest.kind}?" if nearest is not None else ""
    report.refuse(Path(("kind",)), f"one of {_kind_names()}{hint}")
    return None


def _meant(known: tuple[KindInfo, ...], api_version: object) -> KindInfo:
    """The one of several kinds of one name whose group was written, else the first."""
    group = str(api_version).partition("/")[0]
    return next((info for info in known if info.group == group), known[0])


def _kind_names() -> str:
    return ", ".join(dict.fromkeys(info.kind for info in KINDS))


def _check_envelope(report: Report, info: KindInfo | None, *, strict: bool) -> None:
    own = shape.known_fields(info.spec_model) if info is not None and info.at_root else ("spec",)
    known = (*ENVELOPE, *own)
    for name in report.manifest:
        if name not in known:
            message, _ = shape.unknown_field(name, known, "a manifest")
            (report.add if strict else report.warn)(Path((name,)), message)


def _raw_spec(info: KindInfo, report: Report) -> dict[str, Any] | None:
    """A private copy of the spec; an absent one is empty where the kind allows that."""
    if info.at_root:
        own = shape.known_fields(info.spec_model)
        return {key: shape.deep_copy(value) for key, value in report.manifest.items() if key in own}
    spec = report.manifest.get("spec")
    if isinstance(spec, dict):
        return {key: shape.deep_copy(value) for key, value in spec.items()}
    if spec is None and not info.spec_required:
        return {}
    report.refuse(SPEC, f"the spec of a {info.kind}" if spec is None else "an object")
    return None


def _without_nulls(value: Any) -> Any:
    """Null is the same as absent wherever the spec was accepted: a null in a list or a map's value never is."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
