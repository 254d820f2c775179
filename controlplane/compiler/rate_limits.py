"""Which RateLimits hold at a proxy's listeners, and what of them the proxy cannot do.

Owns:   the choice of rules; conditions that depend on the proxy.
Not:    the filters (filters.rate_limit).
"""

from collections.abc import Iterable, Iterator

from controlplane.compiler.listeners import protocol_of, sees_requests
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Proxy
from controlplane.model.views import Inbound, NodeView
from controlplane.policy.objects import PolicyObject
from controlplane.policy.rate_limit import Place
from controlplane.registry.instances import Instance
from mesh.vocabulary import Dialect


def inbound_limits(mesh: MeshState, inbound: Inbound) -> tuple[PolicyObject, ...]:
    """Those of one instance."""
    return mesh.rate_limits.selecting(inbound.instance.namespace, inbound.instance.labels, Place.INBOUND)


def outbound_limits(mesh: MeshState, instances: Iterable[Instance]) -> tuple[PolicyObject, ...]:
    """Those of all who may send there, oldest first."""
    found = {
        rule
        for instance in instances
        for rule in mesh.rate_limits.selecting(instance.namespace, instance.labels, Place.OUTBOUND)
    }
    return tuple(sorted(found, key=lambda rule: rule.age_key))


def unlimited_findings(mesh: MeshState, proxy: Proxy, node: NodeView | None) -> Iterator[Condition]:
    """What of the rules of its workloads the proxy does not do."""
    for inbound in node.inbounds if node is not None else ():
        for rule in inbound_limits(mesh, inbound):
            yield from _at_port(rule, proxy, inbound)
    if proxy.dialect is Dialect.GRPC:
        for rule in outbound_limits(mesh, proxy.workloads):
            message = f"the gRPC client {proxy.id} has no rate limits"
            yield _not_enforced(rule, "UnsupportedField", message, "spec.enforceAt")


def _at_port(rule: PolicyObject, proxy: Proxy, inbound: Inbound) -> Iterator[Condition]:
    where = f"port {inbound.port.port} of {inbound.instance.id} on {proxy.id}"
    protocol = protocol_of(inbound.port.protocol)
    if proxy.dialect is Dialect.GRPC:
        yield _not_enforced(rule, "UnsupportedField", f"{where}: a gRPC server has no rate limits", "spec.selector")
    elif not sees_requests(protocol, proxy.dialect):
        message = f"{where}: what comes as {protocol.value} is passed through, its requests are not counted"
        yield _not_enforced(rule, "UnsupportedProtocol", message, "spec.selector")


def _not_enforced(rule: PolicyObject, reason: str, message: str, path: str) -> Condition:
    return Condition(rule.ref, "NotEnforced", "True", reason, message, path=path)
