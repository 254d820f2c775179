"""Findings of RequestAuthentications and AuthorizationPolicies that depend on no proxy.

Owns:   keys that were never fetched, providers that are not there.
Not:    what a port does otherwise than they say (guards), selectors without workloads (object_findings).
Source: control-plane.md 2.6.
"""

from collections.abc import Iterator

from controlplane.compiler.filters.ext_authz import provider_cluster
from controlplane.compiler.filters.rbac import spec_of
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import MeshState
from controlplane.policy.authorization_policy import Action
from controlplane.policy.kinds import AUTHORIZATION_POLICY, REQUEST_AUTHENTICATION
from controlplane.policy.objects import PolicyObject
from controlplane.policy.request_authentication import RequestAuthentication
from mesh.xds.names import ClusterKey

NOT_FOUND = "ReferencedResourceNotFound"


def depends_on_others(item: PolicyObject) -> bool:
    """Whether it needs fetched keys or a provider."""
    if item.kind is REQUEST_AUTHENTICATION:
        return any(rule.jwks_source for rule in item.spec_as(RequestAuthentication).jwt_rules)
    return item.kind is AUTHORIZATION_POLICY and spec_of(item).action is Action.CUSTOM


def guard_object_findings(item: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    """Of an object that does."""
    if item.kind is REQUEST_AUTHENTICATION:
        yield from _keys(item, mesh)
    else:
        yield from _provider(item, mesh)


def _keys(item: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    for index, rule in enumerate(item.spec_as(RequestAuthentication).jwt_rules):
        if rule.jwks_source and rule.jwks_source not in mesh.jwks:
            path = f"spec.jwtRules[{index}].{'jwksUri' if rule.jwks_uri else 'issuer'}"
            message = f"{path}: no keys could be fetched from {rule.jwks_source}; every token of this issuer is refused"
            yield Condition(item.ref, "NoKeys", "True", "KeysNotFetched", message, path=path)


def _provider(item: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    named = spec_of(item).provider
    path, name = "spec.provider.name", named.name if named is not None else ""
    provider = mesh.settings.extension_provider(name)
    if provider is None:
        known = ", ".join(one.name for one in mesh.settings.extension_providers) or "none"
        message = f"{path}: the mesh's settings have no extension provider {name} (they have {known})"
        yield Condition(item.ref, NOT_FOUND, "True", "UnknownProvider", message, "IST0101", path)
        return
    authorizer = provider.envoy_ext_authz_http or provider.envoy_ext_authz_grpc
    assert authorizer is not None
    cluster = provider_cluster(authorizer, mesh.settings.root_namespace, mesh.settings.domain_suffix)
    key = ClusterKey.parse(cluster)
    service = mesh.service(key.host) if key is not None else None
    if service is None or service.port(authorizer.port) is None:
        asked = f"{authorizer.service}, port {authorizer.port}"
        message = f"{path}: {name} is {asked}, which is no service's: nobody can be asked"
        yield Condition(item.ref, NOT_FOUND, "True", "UnknownProvider", message, "IST0101", path)
