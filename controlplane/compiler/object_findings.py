"""Findings of one object by itself, and of a selector against the workloads there are.

Owns:   rules that are never reached, TLS without verification, HTTP/2 ports, selectors that select nothing.
Not:    what a dialect does not do (limits), findings of a host with everything about it (findings).
Source: control-plane.md 2.6: IST0127 to IST0130.
"""

from collections.abc import Iterator, Mapping

from controlplane.compiler.route_reach import unreachable_rules
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import MeshState
from controlplane.model.security_policies import SECURITY_KINDS, selected_labels
from controlplane.policy.destination_rule import DestinationRule
from controlplane.policy.kinds import (
    DESTINATION_RULE,
    PEER_AUTHENTICATION,
    RATE_LIMIT,
    SERVICE,
    SERVICE_ENTRY,
    VIRTUAL_SERVICE,
)
from controlplane.policy.objects import PolicyObject
from controlplane.policy.peer_authentication import PeerAuthentication
from controlplane.policy.protocols import Protocol
from controlplane.policy.rate_limit import RateLimit
from controlplane.policy.service import Service
from controlplane.policy.service_entry import ServiceEntry
from controlplane.policy.traffic_policy import ClientTLSSettings, TLSMode, TrafficPolicy
from controlplane.policy.virtual_service import VirtualService

_NOTHING: Mapping[str, str] = {}


def unreachable_findings(rule: PolicyObject) -> Iterator[Condition]:
    """Rules of a VirtualService whose requests earlier ones take; those that merge are ordered otherwise."""
    if rule.kind is not VIRTUAL_SERVICE or rule.wants_merge:
        return
    spec = rule.spec_as(VirtualService)
    for index, other in unreachable_rules(spec):
        name = f" ({spec.http[index].name})" if spec.http[index].name else ""
        message = f"spec.http[{index}]{name} is never reached: spec.http[{other}] takes all of its requests"
        yield Condition(
            rule.ref, "Unreachable", "True", "RuleNeverReached", message, "IST0130", f"spec.http[{index}]"
        )  # fmt: skip


def unverified_findings(rule: PolicyObject) -> Iterator[Condition]:
    """TLS to servers that anybody could be."""
    for path, settings, code in tls_blocks(rule):
        if settings.mode in (TLSMode.SIMPLE, TLSMode.MUTUAL) and settings.insecure_skip_verify:
            message = f"{path}: mode {settings.mode} with insecureSkipVerify takes whatever certificate comes"
            yield Condition(rule.ref, "NotVerified", "True", "InsecureSkipVerify", message, code, path)


def http2_findings(rule: PolicyObject) -> Iterator[Condition]:
    """Ports of a service whose protocol our agents do not speak to servers."""
    ports: list[tuple[int, Protocol]] = []
    if rule.kind is SERVICE:
        ports = [(port.port, port.effective_protocol) for port in rule.spec_as(Service).ports]
    elif rule.kind is SERVICE_ENTRY:
        ports = [(port.number, port.effective_protocol) for port in rule.spec_as(ServiceEntry).ports]
    for index, (number, protocol) in enumerate(ports):
        if protocol.is_http2:
            message = (
                f"port {number} ({protocol.value}) is for HTTP/2: what enters an agent's HTTP port for it is answered "
                "501; Envoys and gRPC clients call it"
            )
            path = f"spec.ports[{index}]"
            yield Condition(rule.ref, "NotEnforced", "True", "UnsupportedProtocol", message, path=path)


def tls_blocks(rule: PolicyObject) -> Iterator[tuple[str, ClientTLSSettings, str]]:
    """(field, its contents, Istio's code of what is wrong there) of a DestinationRule; of other kinds none."""
    if rule.kind is not DESTINATION_RULE:
        return
    spec = rule.spec_as(DestinationRule)
    yield from _tls_blocks("spec.trafficPolicy", spec.traffic_policy)
    for index, subset in enumerate(spec.subsets):
        yield from _tls_blocks(f"spec.subsets[{index}].trafficPolicy", subset.traffic_policy)


def _tls_blocks(path: str, policy: TrafficPolicy | None) -> Iterator[tuple[str, ClientTLSSettings, str]]:
    if policy is None:
        return
    if policy.tls is not None:
        yield f"{path}.tls", policy.tls, "IST0128"
    for index, port in enumerate(policy.port_level_settings):
        if port.tls is not None:
            yield f"{path}.portLevelSettings[{index}].tls", port.tls, "IST0129"


def selector_of(rule: PolicyObject) -> Mapping[str, str]:
    """The labels by which the object selects workloads; none when it selects all, or is of another kind."""
    if rule.kind is PEER_AUTHENTICATION:
        selector = rule.spec_as(PeerAuthentication).selector
        return selector.match_labels if selector is not None else _NOTHING
    if rule.kind is DESTINATION_RULE:
        selector = rule.spec_as(DestinationRule).workload_selector
        return selector.match_labels if selector is not None else _NOTHING
    if rule.kind is RATE_LIMIT:
        return rule.spec_as(RateLimit).selected
    if rule.kind in SECURITY_KINDS:
        return selected_labels(rule)
    if rule.kind is SERVICE_ENTRY:
        labels = rule.spec_as(ServiceEntry).workload_selector
        return labels.labels if labels is not None else _NOTHING
    return _NOTHING


def selector_findings(rule: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    """A selector without workloads. In the root namespace a PeerAuthentication's selects nothing anyway, and that
    of a RateLimit, RequestAuthentication or AuthorizationPolicy selects in all namespaces."""
    namespace, labels = rule.metadata.namespace, selector_of(rule)
    in_root = namespace == mesh.settings.root_namespace
    if rule.kind is PEER_AUTHENTICATION and in_root:
        return
    everywhere = in_root and (rule.kind is RATE_LIMIT or rule.kind in SECURITY_KINDS)
    namespaces = mesh.workloads.namespaces() if everywhere else (namespace,)
    if not any(mesh.selects_any(own, labels) for own in namespaces):
        whose = "the mesh" if everywhere else f"namespace {namespace}"
        wanted = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
        labelled = rule.kind in (PEER_AUTHENTICATION, RATE_LIMIT) or rule.kind in SECURITY_KINDS
        path = "spec.selector" if labelled else "spec.workloadSelector"
        message = f"{path}: no workload of {whose} carries {wanted}"
        yield Condition(rule.ref, "SelectsNothing", "True", "NoMatchingWorkload", message, "IST0127", path)
