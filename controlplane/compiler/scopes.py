"""The resources of one scope, kept up to date host by host.

Owns:   which hosts are planned anew, joining the parts of all hosts, RouteConfigurations.
Not:    the plan of one host (services, grpc).
Invariants: work is proportional to the hosts whose views changed; a resource, a type's mapping and the whole are the
        same objects as before when nothing of them changed.

    delta: RouteConfiguration with vhds, VirtualHosts as resources    SotW: RouteConfiguration with all virtual hosts
    gRPC:  Listeners with their routes inline
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration, Vhds

from controlplane.compiler.circuit_breaker_findings import stand_in_findings
from controlplane.compiler.clusters import build_cluster
from controlplane.compiler.credential_findings import ungiven_findings
from controlplane.compiler.endpoints import build_assignment
from controlplane.compiler.findings import envoy_findings, grpc_findings, shared_cluster_findings
from controlplane.compiler.grpc import build_grpc_listener, grpc_listeners
from controlplane.compiler.memo import Memo
from controlplane.compiler.resources import ADS, make_resource
from controlplane.compiler.secrets import (
    Credential,
    build_credential,
    build_trust,
    bundle,
    credential_inputs,
    credentials_of,
)
from controlplane.compiler.services import HostPlan
from controlplane.compiler.types import Compiled, Condition, Resource, Source
from controlplane.compiler.virtual_hosts import UNKNOWN_HOST, build_virtual_host, unknown_host
from controlplane.model.mesh_state import MeshState
from controlplane.model.persistent import PersistentMap
from controlplane.model.proxy import Caller, ProxyScope
from controlplane.model.views import ServiceView
from controlplane.policy.objects import PolicyObject
from controlplane.settings import MeshSettings
from mesh.vocabulary import Dialect
from mesh.xds import type_url
from mesh.xds.names import virtual_host_resource

Part = Mapping[tuple[str, str], Resource]  # by type and name

_TRUST = "/trust"  # a part beside those of hosts; no host has a slash
_SECRETS = "/secrets"
_MAX_DIRECT_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfigurationInputs:
    """`virtual_hosts`: (name, version) of all, sorted; None = they come by VHDS."""

    name: str
    virtual_hosts: tuple[tuple[str, str], ...] | None
    sources: tuple[Source, ...]


class ScopeCompiler:
    """One scope."""

    def __init__(self, scope: ProxyScope, memo: Memo) -> None:
        self._scope = scope
        self._memo = memo
        self._parts: dict[str, Part] = {}
        self._conditions: dict[str, tuple[Condition, ...]] = {}
        self._virtual_hosts: dict[str, Resource] = {}  # of all callers, by resource name; SotW puts them together
        self._resources: dict[str, Mapping[str, Resource]] = {}
        self._roots: PersistentMap[str, str] | None = None
        self._secrets: PersistentMap[tuple[str, str], PolicyObject] | None = None
        self._credentials: dict[str, frozenset[Credential]] = {}  # by host, of its clusters
        self.views: PersistentMap[str, ServiceView] | None = None
        self.compiled = Compiled(resources={})

    def compile(self, mesh: MeshState) -> Compiled:
        """Bring everything up to `mesh`."""
        if self.views is mesh.views and self._roots is mesh.roots and self._secrets is mesh.secrets:
            return self.compiled
        before: PersistentMap[str, ServiceView] = PersistentMap() if self.views is None else self.views
        dirty = sorted(mesh.views.changed_since(before))
        wanted = dict(self._credentials) if dirty else self._credentials
        made = {host: self._part(host, mesh.views.get(host), mesh.settings) for host in dirty}
        changed = self._exchange(made)
        if self.views is None:
            changed |= self._exchange({"": self._fixed()})
        if self._roots is not mesh.roots:
            changed |= self._exchange({_TRUST: self._trust(mesh)})
        if self._secrets is not mesh.secrets or wanted != self._credentials:
            changed |= self._exchange({_SECRETS: self._given(mesh)})
        self.views, self._roots, self._secrets = mesh.views, mesh.roots, mesh.secrets
        if changed and self._sends_whole_routes:
            self._join_routes()
        conditions_changed = self._note_conditions(mesh, dirty)
        if changed or conditions_changed:
            self._publish()
        return self.compiled

    @property
    def _sends_whole_routes(self) -> bool:
        return not self._scope.delta and self._scope.dialect is not Dialect.GRPC

    # --- one host

    def _part(self, host: str, view: ServiceView | None, settings: MeshSettings) -> Part:
        credentials: set[Credential] = set()
        resources = self._plan(HostPlan(view, self._scope, settings), credentials) if view is not None else ()
        part = {(resource.type_url, resource.name): resource for resource in resources}
        if credentials:
            self._credentials[host] = frozenset(credentials)
        else:
            self._credentials.pop(host, None)
        return part

    def _plan(self, plan: HostPlan, credentials: set[Credential]) -> Iterator[Resource]:
        build = self._memo.build
        for cluster in plan.clusters():
            if cluster.cluster.credentials:
                credentials.update(credentials_of(cluster.cluster.policy.tls, cluster.cluster.credentials))
            yield build("Cluster", cluster.cluster, build_cluster)
            if cluster.assignment is not None:
                yield build("ClusterLoadAssignment", cluster.assignment, build_assignment)
        for caller in self._scope.callers:
            for routes in plan.virtual_hosts(caller):
                if self._scope.dialect is Dialect.GRPC:
                    for listener in grpc_listeners(routes):
                        yield build("Listener", listener, build_grpc_listener)
                else:
                    yield build("VirtualHost", routes, build_virtual_host)

    def _fixed(self) -> Part:
        """What a scope has whatever the mesh is."""
        if self._scope.dialect is Dialect.GRPC:
            return {}
        made = [self._memo.build("VirtualHost", caller, _build_unknown_host) for caller in self._scope.callers]
        if self._scope.delta:
            made += [
                self._memo.build("RouteConfiguration", inputs, _build_dynamic)
                for inputs in map(_dynamic_inputs, self._scope.callers)
            ]
        return {(resource.type_url, resource.name): resource for resource in made}

    def _trust(self, mesh: MeshState) -> Part:
        """The mesh's roots, for those who take them by SDS."""
        certificates = bundle(mesh.roots)
        if not certificates or not self._scope.tls or self._scope.dialect is Dialect.GRPC:
            return {}
        resource = self._memo.build("Secret", certificates, build_trust)
        return {(resource.type_url, resource.name): resource}

    def _given(self, mesh: MeshState) -> Part:
        """The user's Secrets that clusters of the scope name; only such as are given to it."""
        wanted = sorted({item for own in self._credentials.values() for item in own})
        found = (credential_inputs(item, mesh.secrets) for item in wanted)
        made = [self._memo.build("Secret", inputs, build_credential) for inputs in found if inputs is not None]
        return {(resource.type_url, resource.name): resource for resource in made}

    # --- all hosts

    def _exchange(self, made: Mapping[str, Part]) -> bool:
        """Put new parts in place of the old ones; says whether a resource changed."""
        gone: dict[str, set[str]] = {}
        new: dict[str, dict[str, Resource]] = {}
        for host, part in made.items():
            before = self._parts.get(host, {})
            for url, name in before.keys() - part.keys():
                gone.setdefault(url, set()).add(name)
            for (url, name), resource in part.items():
                if before.get((url, name)) is not resource:
                    new.setdefault(url, {})[name] = resource
            if part:
                self._parts[host] = part
            else:
                self._parts.pop(host, None)
        for url in {**gone, **new}:
            self._exchange_type(url, gone.get(url, set()), new.get(url, {}))
        return bool(gone or new)

    def _exchange_type(self, url: str, gone: set[str], new: dict[str, Resource]) -> None:
        inline = url == type_url.VIRTUAL_HOST and self._sends_whole_routes
        mapping = dict(self._virtual_hosts if inline else self._resources.get(url, {}))
        for name in gone - new.keys():
            mapping.pop(name, None)
        mapping.update(new)
        if inline:
            self._virtual_hosts = mapping
        else:
            self._resources[url] = mapping

    def _join_routes(self) -> None:
        """Whole RouteConfigurations of SotW, made anew where a virtual host changed."""
        made: dict[str, Resource] = {}
        for caller in self._scope.callers:
            name = caller.route_configuration
            prefix = virtual_host_resource(name, "")
            hosts = [self._virtual_hosts[own] for own in sorted(self._virtual_hosts) if own.startswith(prefix)]
            inputs = RouteConfigurationInputs(
                name=name,
                virtual_hosts=tuple((item.name, item.version) for item in hosts),
                sources=tuple(dict.fromkeys(source for item in hosts for source in item.sources)),
            )
            made[name] = self._memo.build("RouteConfiguration", inputs, partial(_build_whole, hosts))
        before = self._resources.get(type_url.ROUTE_CONFIGURATION, {})
        if before.keys() != made.keys() or any(before[name] is not made[name] for name in made):
            self._resources[type_url.ROUTE_CONFIGURATION] = made

    def _note_conditions(self, mesh: MeshState, dirty: list[str]) -> bool:
        """What this scope's proxies do otherwise than their rules say; says whether that changed."""
        before = dict(self._conditions)
        for host in dirty:
            view = mesh.views.get(host)
            found = tuple(self._findings(view, mesh.settings)) if view is not None else ()
            if found:
                self._conditions[host] = found
            else:
                self._conditions.pop(host, None)
        return before != self._conditions

    def _findings(self, view: ServiceView, settings: MeshSettings) -> Iterator[Condition]:
        if self._scope.dialect is Dialect.GRPC:
            yield from grpc_findings((*view.rules, *view.virtual_services))
        elif self._scope.dialect is Dialect.ENVOY and not settings.compat_istio:
            yield from envoy_findings(view.virtual_services)
        if self._scope.dialect is not Dialect.GOSSAMER:
            yield from stand_in_findings(view, self._scope, settings)
        yield from shared_cluster_findings(view, self._scope, settings)
        yield from ungiven_findings(view, self._scope, settings)

    def _publish(self) -> None:
        conditions = sorted({item for found in self._conditions.values() for item in found})
        resources = {url: mapping for url, mapping in self._resources.items() if mapping}
        self.compiled = Compiled(resources=resources, conditions=tuple(conditions))


def _dynamic_inputs(caller: Caller) -> RouteConfigurationInputs:
    return RouteConfigurationInputs(name=caller.route_configuration, virtual_hosts=None, sources=())


def _build_dynamic(inputs: RouteConfigurationInputs) -> Resource:
    message = _route_configuration(inputs.name)
    message.vhds.CopyFrom(Vhds(config_source=ADS))
    return make_resource(type_url.ROUTE_CONFIGURATION, inputs.name, message)


def _build_whole(hosts: list[Resource], inputs: RouteConfigurationInputs) -> Resource:
    message = _route_configuration(inputs.name)
    message.virtual_hosts.extend(VirtualHost.FromString(item.body) for item in hosts)
    return make_resource(type_url.ROUTE_CONFIGURATION, inputs.name, message, inputs.sources)


def _route_configuration(name: str) -> RouteConfiguration:
    message = RouteConfiguration(name=name)
    # A route may name a cluster that comes later, or never: then it answers 503 NC (2.3.13).
    message.validate_clusters.value = False
    message.max_direct_response_body_size_bytes.value = _MAX_DIRECT_BODY
    return message


def _build_unknown_host(caller: Caller) -> Resource:
    name = virtual_host_resource(caller.route_configuration, UNKNOWN_HOST)
    return make_resource(type_url.VIRTUAL_HOST, name, unknown_host(name))
