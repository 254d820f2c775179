"""A proxy's own resources: its listeners and inbound clusters.

Owns:   which listeners a proxy has, by its instances and its dialect.
Not:    how one is made (listeners), what it has as a gateway (gateways).
Source: decisions 9, 10.
Invariant: nothing is made anew while the node view, the tested labels, the RateLimits and the gateway part are the same
        objects.
"""

from collections.abc import Iterator

from controlplane.compiler.bulkheads import unshared_findings
from controlplane.compiler.gateways import GatewayCompiler, GatewayPart
from controlplane.compiler.grpc import build_grpc_server_listener
from controlplane.compiler.guards import guard_findings, guard_inputs
from controlplane.compiler.listeners import (
    InboundInputs,
    OutboundInputs,
    build_inbound_cluster,
    build_inbound_listener,
    build_outbound_listener,
    protocol_of,
    sees_requests,
)
from controlplane.compiler.memo import Memo
from controlplane.compiler.rate_limits import inbound_limits, outbound_limits, unlimited_findings
from controlplane.compiler.resources import sources_of
from controlplane.compiler.types import Compiled, Condition, Resource
from controlplane.model.mesh_state import MeshState
from controlplane.model.persistent import PersistentMap
from controlplane.model.proxy import Proxy
from controlplane.model.rate_limits import RateLimits
from controlplane.model.views import Inbound, NodeView
from controlplane.model.workloads import workload_name
from controlplane.policy.kinds import PEER_AUTHENTICATION
from controlplane.policy.objects import PolicyObject
from controlplane.policy.peer_authentication import MutualTLSMode
from controlplane.registry.instances import Instance
from mesh.identity.spiffe import node_id, workload_id
from mesh.vocabulary import Dialect

_NOTHING = Compiled(resources={})
_Inbounds = tuple[tuple[Inbound, InboundInputs | None], ...]  # None: the port stays closed


class ProxyCompiler:
    """One proxy."""

    def __init__(self, proxy: Proxy, memo: Memo) -> None:
        self._proxy = proxy
        self._memo = memo
        self._gateway = GatewayCompiler(proxy, memo)
        self._inputs: (
            tuple[NodeView | None, frozenset[str], RateLimits, PersistentMap[str, str], GatewayPart] | None
        ) = None  # fmt: skip
        self.revision = -1  # of the latest state that it was compiled from
        self.compiled = _NOTHING

    def compile(self, mesh: MeshState) -> Compiled:
        """Bring everything up to `mesh`. A gRPC client has nothing of its own, a gRPC server its Listeners."""
        self.revision = mesh.revision
        node = mesh.node_views.get(self._proxy.id)
        gateway = self._gateway.compile(mesh)
        known, self._inputs = self._inputs, (node, mesh.tested_labels, mesh.rate_limits, mesh.jwks, gateway)
        if known is not None and all(old is new for old, new in zip(known, self._inputs, strict=True)):
            return self.compiled
        inbounds = tuple(
            (item, self._inbound_inputs(mesh, item)) for item in (node.inbounds if node is not None else ())
        )
        made: dict[str, dict[str, Resource]] = {}
        for resource in (*self._resources(mesh, node, inbounds), *gateway.resources):
            made.setdefault(resource.type_url, {}).setdefault(resource.name, resource)
        self.compiled = _settled(self.compiled, made, (*self._conditions(mesh, node, inbounds), *gateway.conditions))
        return self.compiled

    def _resources(self, mesh: MeshState, node: NodeView | None, inbounds: _Inbounds) -> Iterator[Resource]:
        grpc = self._proxy.dialect is Dialect.GRPC
        if not grpc:
            yield from self._outbound(mesh, node)
        for _, inputs in inbounds:
            if inputs is not None and grpc:
                yield self._memo.build("Listener", inputs, build_grpc_server_listener)
            elif inputs is not None:
                yield self._memo.build("Listener", inputs, build_inbound_listener)
                yield self._memo.build("Cluster", inputs, build_inbound_cluster)

    def _outbound(self, mesh: MeshState, node: NodeView | None) -> Iterator[Resource]:
        proxy = self._proxy
        instances = node.instances if node is not None else ()
        identities = {self._identity(mesh, item) for item in instances}
        shared = identities.pop() if len(identities) == 1 else str(node_id(mesh.settings.trust_domain, proxy.id))
        names = {str(workload_name(item)) for item in instances}
        workload = names.pop() if len(names) == 1 else ""
        routes = mesh.caller_of(proxy).route_configuration
        limits = outbound_limits(mesh, instances)
        yield self._outbound_listener(proxy.outbound_port, shared, workload, routes, limits)
        if proxy.dialect is Dialect.GOSSAMER:
            for item in instances:
                if item.outbound_port:
                    routes = mesh.caller_of_instance(item).route_configuration
                    own, identity = str(workload_name(item)), self._identity(mesh, item)
                    limits = outbound_limits(mesh, (item,))
                    yield self._outbound_listener(item.outbound_port, identity, own, routes, limits)

    def _outbound_listener(
        self, port: int, identity: str, workload: str, routes: str, limits: tuple[PolicyObject, ...]
    ) -> Resource:
        inputs = OutboundInputs(
            dialect=self._proxy.dialect,
            address=self._proxy.outbound_address,
            port=port,
            identity=identity,
            route_configuration=routes,
            workload=workload,
            limits=limits,
        )
        return self._memo.build("Listener", inputs, build_outbound_listener)

    def _inbound_inputs(self, mesh: MeshState, inbound: Inbound) -> InboundInputs | None:
        mode = self._mode(inbound)
        if mode is None:
            return None
        protocol = protocol_of(inbound.port.protocol)
        sees = sees_requests(protocol, self._proxy.dialect)
        limits = inbound_limits(mesh, inbound) if sees else ()
        bulkhead = inbound.bulkhead if sees else None
        return InboundInputs(
            dialect=self._proxy.dialect,
            address=inbound.instance.address,
            inbound_port=inbound.port.inbound_port,
            app_address=inbound.instance.app_address,
            app_port=inbound.port.port,
            protocol=protocol,
            mode=mode,
            identity=self._identity(mesh, inbound.instance),
            tls_dir=self._proxy.tls_dir,
            pool=inbound.pool,
            workload=str(workload_name(inbound.instance)),
            service=inbound.service,
            limits=limits,
            guard=guard_inputs(inbound.guard, mesh),
            bulkhead=bulkhead,
            instance=inbound.instance.id if bulkhead is not None else "",
            sources=sources_of((*inbound.sources, *limits, *inbound.guard.policies, bulkhead)),
        )

    def _mode(self, inbound: Inbound) -> MutualTLSMode | None:
        """The mode as far as the proxy can keep it; None = the port stays closed."""
        if self._proxy.tls or inbound.mode is MutualTLSMode.DISABLE:
            return MutualTLSMode.STRICT if self._is_stricter(inbound) else inbound.mode
        return None if inbound.mode is MutualTLSMode.STRICT else MutualTLSMode.DISABLE

    def _is_stricter(self, inbound: Inbound) -> bool:
        """A gRPC server cannot tell TLS from plaintext on one port: with certificates it takes mTLS only."""
        grpc = self._proxy.dialect is Dialect.GRPC and self._proxy.tls
        return grpc and inbound.mode is MutualTLSMode.PERMISSIVE

    def _conditions(self, mesh: MeshState, node: NodeView | None, inbounds: _Inbounds) -> Iterator[Condition]:
        """Ports that stay closed, or are stricter than asked, on the policy that says so; limits that do not hold."""
        yield from unlimited_findings(mesh, self._proxy, node)
        yield from unshared_findings(self._proxy, node)
        yield from self._unguarded(inbounds)
        for inbound, inputs in inbounds:
            policies = [item for item in inbound.sources if item.kind is PEER_AUTHENTICATION]
            if self._is_stricter(inbound):
                for policy in policies[-1:]:
                    message = (
                        f"PERMISSIVE is STRICT for the gRPC server {inbound.instance.id} on {self._proxy.id}: "
                        "it cannot tell TLS from plaintext on one port"
                    )
                    yield Condition(policy.ref, "Approximated", "True", "GrpcServer", message)
            if inputs is None:
                for policy in policies[-1:]:
                    message = (
                        f"{self._proxy.id} has no certificates: port {inbound.port.inbound_port} of "
                        f"{inbound.instance.id} stays closed under STRICT"
                    )
                    yield Condition(policy.ref, "NotEnforced", "True", "NoCertificates", message)

    def _unguarded(self, inbounds: _Inbounds) -> Iterator[Condition]:
        """What ports do not do of their RequestAuthentications and AuthorizationPolicies."""
        for inbound, inputs in inbounds:
            if inputs is not None and inbound.guard.policies:
                where = f"port {inbound.port.port} of {inbound.instance.id} on {self._proxy.id}"
                yield from guard_findings(inputs.guard, inputs.site, where)

    def _identity(self, mesh: MeshState, instance: Instance) -> str:
        return str(workload_id(mesh.settings.trust_domain, instance.namespace, instance.service_account))


def _settled(before: Compiled, made: dict[str, dict[str, Resource]], conditions: tuple[Condition, ...]) -> Compiled:
    """The new whole; what is equal stays the object that it was."""
    resources = {
        url: known if (known := before.resources.get(url)) is not None and _same(known, mapping) else mapping
        for url, mapping in made.items()
    }
    unchanged = resources.keys() == before.resources.keys() and all(
        resources[url] is before.resources[url] for url in resources
    )
    return before if unchanged and conditions == before.conditions else Compiled(resources, conditions)


def _same(known: object, mapping: dict[str, Resource]) -> bool:
    if not isinstance(known, dict) or known.keys() != mapping.keys():
        return False
    return all(known[name] is resource for name, resource in mapping.items())
