"""AuthorizationPolicies as Envoy's RBAC filters.

Owns:   one filter per action, rules and shadow rules (dry run), the names of rules.
Not:    one rule (rbac_rules), CUSTOM's provider (ext_authz), which filters stand where (controlplane.compiler.guards).
Source: istio pilot/pkg/security/authz/builder builder.go.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbac

from controlplane.compiler.filters.ext_authz import MATCH_PREFIX, STAT_PREFIX
from controlplane.compiler.filters.rbac_rules import Site, always, never, rule_policy
from controlplane.policy.authorization_policy import DRY_RUN, Action, AuthorizationPolicy
from controlplane.policy.objects import PolicyObject

HTTP_NAME = "envoy.filters.http.rbac"
NETWORK_NAME = "envoy.filters.network.rbac"
TCP_STAT_PREFIX = "tcp."
Filter = TypeVar("Filter", HttpRbac, NetworkRbac)
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_ACTIONS = {Action.ALLOW: RBAC.ALLOW, Action.DENY: RBAC.DENY, Action.AUDIT: RBAC.LOG, Action.CUSTOM: RBAC.DENY}
_SHADOW_PREFIXES = {Action.ALLOW: "istio_dry_run_allow_", Action.DENY: "istio_dry_run_deny_"}


@dataclass(frozen=True, slots=True)
class Rules:
    """What policies of one action come to; None where there are none of that sort."""

    enforced: RBAC | None = None
    shadow: RBAC | None = None

    def __bool__(self) -> bool:
        return self.enforced is not None or self.shadow is not None


def spec_of(policy: PolicyObject) -> AuthorizationPolicy:
    """Its spec."""
    return policy.spec_as(AuthorizationPolicy)


def is_dry_run(policy: PolicyObject) -> bool:
    """Whether it only counts what it would decide."""
    return policy.metadata.annotations.get(DRY_RUN, "") in _TRUE


def rules(policies: Iterable[PolicyObject], action: Action, site: Site) -> Rules:
    """Those policies that have the action."""
    own = [item for item in policies if spec_of(item).action is action]
    real = [item for item in own if not is_dry_run(item)]
    dry = [item for item in own if is_dry_run(item)]
    return Rules(_rbac(real, action, site) if real else None, _rbac(dry, action, site) if dry else None)


def _rbac(policies: Iterable[PolicyObject], action: Action, site: Site) -> RBAC:
    message = RBAC(action=_ACTIONS[action])
    prefix = f"{MATCH_PREFIX}-" if action is Action.CUSTOM else ""
    for item in policies:
        metadata = item.metadata
        name = f"{prefix}ns[{metadata.namespace}]-policy[{metadata.name}]-rule["
        for index, rule in enumerate(spec_of(item).rules):
            made = rule_policy(rule, metadata.namespace, site, wide=action is not Action.ALLOW).policy
            if made is not None:
                message.policies[f"{name}{index}]"].CopyFrom(made)
        if not spec_of(item).rules:
            message.policies[f"{name}0]"].CopyFrom(never())
    return message


def http_filter(found: Rules, action: Action) -> HttpRbac:
    """The filter that decides."""
    return _filled(HttpRbac(), found, action)


def marking_filter(found: RBAC) -> HttpRbac:
    """The filter that notes which requests the provider is asked about."""
    return HttpRbac(shadow_rules=found, shadow_rules_stat_prefix=STAT_PREFIX)


def network_filter(found: Rules, action: Action) -> NetworkRbac:
    """The same for connections."""
    return _filled(NetworkRbac(stat_prefix=TCP_STAT_PREFIX), found, action)


def _filled(message: Filter, found: Rules, action: Action) -> Filter:
    if found.enforced is not None:
        message.rules.CopyFrom(found.enforced)
    if found.shadow is not None:
        message.shadow_rules.CopyFrom(found.shadow)
        message.shadow_rules_stat_prefix = _SHADOW_PREFIXES.get(action, "")
    return message


def deny_everything(reason: str) -> RBAC:
    """Rules that let nothing in; `reason`: the name of the policy, which answers and logs show."""
    message = RBAC(action=RBAC.DENY)
    message.policies[reason].CopyFrom(always())
    return message
