"""RequestAuthentications and AuthorizationPolicies of one port as filters, and what of them it does not do.

Owns:   which filters stand there, in Istio's order: jwt_authn, CUSTOM's marks and question, AUDIT, DENY, ALLOW; what
        stands in the place of a provider that cannot be asked; the findings.
Not:    the filters themselves (filters/jwt_authn, filters/rbac, filters/ext_authz), who is guarded by what
        (controlplane.model.security_policies).
Source: control-plane.md 2.5; istio plugin/authn, plugin/authz; gRFC A41.
Invariant: what cannot be enforced lets nobody in that it would have kept out: requests about which nobody can be asked
        are denied.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from google.protobuf.message import Message

from controlplane.compiler.filters import ext_authz, jwt_authn, rbac
from controlplane.compiler.filters.rbac_rules import Site, rule_policy
from controlplane.compiler.resources import packed
from controlplane.compiler.types import Condition
from controlplane.extension_providers import ExtensionProvider
from controlplane.model.mesh_state import MeshState
from controlplane.model.security_policies import Guard
from controlplane.policy.authorization_policy import Action
from controlplane.policy.objects import PolicyObject
from mesh.vocabulary import Dialect

_BAD_CUSTOM = "default-deny-all-due-to-bad-CUSTOM-action"
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardInputs:
    """A Guard with what is known of its keys and providers.

    `jwks`: (URL, fetched keys) of those that its rules need; `provider`: whom CUSTOM asks, None = nobody, or not one.
    """

    guard: Guard
    jwks: tuple[tuple[str, str], ...] = ()
    provider: ExtensionProvider | None = None
    root: str = ""
    domain_suffix: str = ""


UNGUARDED = GuardInputs(guard=Guard())


def guard_inputs(guard: Guard, mesh: MeshState) -> GuardInputs:
    """Everything that the filters depend on."""
    if not guard.policies:
        return UNGUARDED
    sources = {rule.jwks_source for rule in jwt_authn.rules_of(guard.request_authentications)}
    names = _provider_names(guard)
    return GuardInputs(
        guard=guard,
        jwks=tuple(sorted((url, mesh.jwks[url]) for url in sources if url in mesh.jwks)),
        provider=mesh.settings.extension_provider(next(iter(names))) if len(names) == 1 else None,
        root=mesh.settings.root_namespace,
        domain_suffix=mesh.settings.domain_suffix,
    )


def http_filters(inputs: GuardInputs, site: Site) -> list[HttpFilter]:
    """The filters of a connection manager, in order. gRPC wants a name of its own for each (gRFC A39)."""
    return [HttpFilter(name=name, typed_config=packed(message)) for name, message in _http(inputs, site)]


def network_filters(inputs: GuardInputs, site: Site) -> list[Filter]:
    """The filters before a TCP proxy."""
    return [
        Filter(name=rbac.NETWORK_NAME, typed_config=packed(message)) for message in _network(inputs, site)
    ]  # fmt: skip


def _http(inputs: GuardInputs, site: Site) -> Iterator[tuple[str, Message]]:
    policies = inputs.guard.authorization_policies
    if site.dialect is not Dialect.GRPC:
        fetched: Mapping[str, str] = dict(inputs.jwks)
        tokens = jwt_authn.jwt_authentication(jwt_authn.rules_of(inputs.guard.request_authentications), fetched)
        if tokens is not None:
            yield jwt_authn.NAME, tokens
    custom = rbac.rules(policies, Action.CUSTOM, site)
    if custom.enforced is not None:
        if _unasked(inputs, site):
            denied = custom.enforced if inputs.provider is not None else rbac.deny_everything(_BAD_CUSTOM)
            name = f"{rbac.HTTP_NAME}.custom" if site.dialect is Dialect.GRPC else rbac.HTTP_NAME
            yield name, HttpRbac(rules=denied)
        else:
            assert inputs.provider is not None
            yield rbac.HTTP_NAME, rbac.marking_filter(custom.enforced)
            yield ext_authz.NAME, ext_authz.ext_authz(inputs.provider, inputs.root, inputs.domain_suffix)
    for action in (Action.AUDIT, Action.DENY, Action.ALLOW):
        found = rbac.rules(policies, action, site)
        if site.dialect is Dialect.GRPC:
            if found.enforced is not None and action is not Action.AUDIT:
                yield f"{rbac.HTTP_NAME}.{action.lower()}", HttpRbac(rules=found.enforced)
        elif found:
            yield rbac.HTTP_NAME, rbac.http_filter(found, action)


def _network(inputs: GuardInputs, site: Site) -> Iterator[Message]:
    policies = inputs.guard.authorization_policies
    # Nobody is asked about connections: they are denied as far as the rules might be for them.
    custom = rbac.rules(policies, Action.CUSTOM, site)
    if custom.enforced is not None:
        yield rbac.network_filter(rbac.Rules(custom.enforced), Action.CUSTOM)
    for action in (Action.AUDIT, Action.DENY, Action.ALLOW):
        found = rbac.rules(policies, action, site)
        if found:
            yield rbac.network_filter(found, action)


def _provider_names(guard: Guard) -> frozenset[str]:
    specs = map(rbac.spec_of, (item for item in guard.authorization_policies if not rbac.is_dry_run(item)))
    return frozenset(spec.provider.name for spec in specs if spec.provider is not None)


def _unasked(inputs: GuardInputs, site: Site) -> str:
    """Why the provider of CUSTOM is not asked there, "" when it is."""
    provider = inputs.provider
    if provider is None:
        several = len(_provider_names(inputs.guard)) > 1
        return (
            "a workload can have one extension provider, and several are named"
            if several
            else "the mesh's settings have no extension provider of that name"
        )
    if site.dialect is Dialect.GRPC:
        return "gRPC servers ask no extension provider"
    if not site.http:
        return "extension providers are asked about HTTP requests only"
    return ""


# --- findings


def guard_findings(inputs: GuardInputs, site: Site, where: str) -> Iterator[Condition]:
    """What a port does otherwise than its policies say. `where`: the port in words."""
    for item in inputs.guard.request_authentications:
        reason = _unread(site)
        if reason:
            yield _condition(item, f"{where}: {reason}, so tokens are not looked at")
    for item in inputs.guard.authorization_policies:
        yield from _policy_findings(item, inputs, site, where)


def _unread(site: Site) -> str:
    if site.dialect is Dialect.GRPC:
        return "gRPC servers know no tokens"
    return "" if site.http else "it carries bytes, not HTTP/1.1 requests"


def _policy_findings(item: PolicyObject, inputs: GuardInputs, site: Site, where: str) -> Iterator[Condition]:
    spec = rbac.spec_of(item)
    wide = spec.action is not Action.ALLOW
    effect = "the rule is wider" if wide else "the rule allows nothing there"
    for index, rule in enumerate(spec.rules):
        problems = rule_policy(rule, item.metadata.namespace, site, wide=wide).problems
        if problems and spec.action is not Action.AUDIT and not rbac.is_dry_run(item):
            path = f"spec.rules[{index}]"
            yield _condition(item, f"{where}: {path}: {', '.join(problems[:_SHOWN])}: {effect}", path)
    if spec.action is Action.CUSTOM and rbac.is_dry_run(item):
        yield _condition(item, f"{where}: CUSTOM has no dry run: nobody is asked, nothing is denied")
    elif spec.action is Action.CUSTOM:
        reason = _unasked(inputs, site)
        if reason:
            everything = inputs.provider is None and site.http  # a bytes port denies no more than the rules say
            what = "everything is denied" if everything else "what it matches is denied"
            yield _condition(item, f"{where}: {reason}: {what}", "spec.provider.name")
    if site.dialect is Dialect.GRPC and (spec.action is Action.AUDIT or rbac.is_dry_run(item)):
        yield _condition(item, f"{where}: gRPC servers count nothing that is not decided: the policy has no effect")


def _condition(item: PolicyObject, message: str, path: str = "") -> Condition:
    return Condition(item.ref, "NotEnforced", "True", "UnsupportedField", message, path=path)
