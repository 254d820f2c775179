"""Findings of `credentialName`: Secrets that are not there, and proxies that are not given them.

Source: docs/features/security.md; Istio's ReferencedResourceNotFound.
"""

from collections.abc import Iterator

from controlplane.compiler.object_findings import tls_blocks
from controlplane.compiler.secrets import credentials_of, missing
from controlplane.compiler.services import gets_secrets, scoped_rule
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import ProxyScope
from controlplane.model.views import ServiceView
from controlplane.policy.objects import PolicyObject
from controlplane.policy.traffic_policy import ClientTLSSettings
from controlplane.settings import MeshSettings
from mesh.vocabulary import Dialect


def names_credentials(rule: PolicyObject) -> bool:
    """Whether it is a DestinationRule with a `credentialName`."""
    return next(_named(rule), None) is not None


def credential_findings(rule: PolicyObject, mesh: MeshState) -> Iterator[Condition]:
    """What is missing of the Secrets that the rule names."""
    for path, settings in _named(rule):
        for wanted in credentials_of(settings, rule.metadata.namespace):
            problem = missing(wanted, mesh.secrets)
            if problem:
                message = f"{path}: {problem}; Envoys wait for it and answer 503"
                yield Condition(
                    rule.ref, "ReferencedResourceNotFound", "True", "UnknownSecret", message, "IST0101", path
                )  # fmt: skip


def ungiven_findings(view: ServiceView, scope: ProxyScope, settings: MeshSettings) -> Iterator[Condition]:
    """Envoys that a rule's Secrets are not given to."""
    if scope.dialect is not Dialect.ENVOY:
        return
    for rule in scoped_rule(view.host, view.target, scope, settings).rules:
        namespace = rule.metadata.namespace
        if gets_secrets(scope, namespace):
            continue
        for path, _ in _named(rule):
            message = (
                f"{path}: Envoys of namespace {', '.join(scope.namespaces)} get no endpoints of {view.host}: the "
                f"Secret is for Envoys of namespace {namespace} whose certificate and join token say so"
            )
            yield Condition(rule.ref, "NotEnforced", "True", "SecretNotGiven", message, path=path)


def _named(rule: PolicyObject) -> Iterator[tuple[str, ClientTLSSettings]]:
    for path, settings, _ in tls_blocks(rule):
        if next(credentials_of(settings, ""), None) is not None:
            yield f"{path}.credentialName", settings
