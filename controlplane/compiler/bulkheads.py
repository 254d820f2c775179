"""What of the Bulkheads that a proxy's instances should enforce it does not do, or does otherwise.

Not:    which one holds for a port (controlplane.model.views), the filter (filters.bulkhead), what callers do instead
        (circuit_breaker_findings).
"""

from collections.abc import Iterator

from controlplane.compiler.filters.bulkhead import lost_at_instance
from controlplane.compiler.listeners import protocol_of, sees_requests
from controlplane.compiler.types import Condition
from controlplane.model.proxy import Proxy
from controlplane.model.views import NodeView
from mesh.vocabulary import Dialect

_PATH = "spec.enforceAt"


def unshared_findings(proxy: Proxy, node: NodeView | None) -> Iterator[Condition]:
    """One for each port that does not share its room out."""
    for inbound in node.inbounds if node is not None else ():
        rule = inbound.bulkhead
        if rule is None:
            continue
        where = f"port {inbound.port.port} of {inbound.instance.id} on {proxy.id}"
        protocol = protocol_of(inbound.port.protocol)
        if proxy.dialect is Dialect.GRPC:
            message = f"{where}: a gRPC server has no bulkhead"
            yield Condition(rule.ref, "NotEnforced", "True", "UnsupportedField", message, path=_PATH)
        elif not sees_requests(protocol, proxy.dialect):
            message = f"{where}: what comes as {protocol.value} is passed through, its requests are not counted"
            yield Condition(rule.ref, "NotEnforced", "True", "UnsupportedProtocol", message, path=_PATH)
        elif proxy.dialect is Dialect.ENVOY:
            message = f"{where}: {lost_at_instance(rule)}"
            yield Condition(rule.ref, "Approximated", "True", "EnvoyProxy", message, path=_PATH)
