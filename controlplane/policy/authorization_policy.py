"""AuthorizationPolicy: who may ask what of a workload.

Owns:   the shape.
Not:    which policies a workload has (controlplane.model.security_policies), how they are enforced
        (controlplane.compiler.filters.rbac and the proxies).
Source: istio.io/api security/v1 authorization_policy.proto.
"""

from enum import StrEnum
from typing import Annotated

from controlplane.policy.scalars import Text, enum_parser
from controlplane.policy.selector import WorkloadSelector
from controlplane.policy.spec import Spec
from controlplane.policy.target_reference import PolicyTargetReference

DRY_RUN = "istio.io/dry-run"  # annotation; "true": matches are counted, nothing is decided
Texts = tuple[Text, ...]


class Action(StrEnum):
    """CUSTOM asks a service, then DENY denies what matches, then ALLOW, where there is any, denies the rest."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class Source(Spec):
    """Who asks: all fields that are set must hold, one of the values of each."""

    principals: Texts = ()
    not_principals: Texts = ()
    request_principals: Texts = ()
    not_request_principals: Texts = ()
    namespaces: Texts = ()
    not_namespaces: Texts = ()
    service_accounts: Texts = ()
    not_service_accounts: Texts = ()
    trust_domains: Texts = ()
    not_trust_domains: Texts = ()
    ip_blocks: Texts = ()
    not_ip_blocks: Texts = ()
    remote_ip_blocks: Texts = ()
    not_remote_ip_blocks: Texts = ()


class Operation(Spec):
    """What is asked, likewise."""

    hosts: Texts = ()
    not_hosts: Texts = ()
    ports: Texts = ()
    not_ports: Texts = ()
    methods: Texts = ()
    not_methods: Texts = ()
    paths: Texts = ()
    not_paths: Texts = ()


class From(Spec):
    """One way for a caller to fit."""

    source: Source | None = None


class To(Spec):
    """One way for an operation to fit."""

    operation: Operation | None = None


class When(Spec):
    """An attribute that must have one of the values and none of the others."""

    key: Text = ""
    values: Texts = ()
    not_values: Texts = ()


class Rule(Spec):
    """One of `from_`, one of `to` and all of `when`; what is absent holds."""

    from_: tuple[From, ...] = ()
    to: tuple[To, ...] = ()
    when: tuple[When, ...] = ()


class Provider(Spec):
    """The service that decides (CUSTOM), by its name among the mesh's extension providers."""

    name: Text = ""


class AuthorizationPolicy(Spec):
    """Matches when one of its rules does; without rules never."""

    selector: WorkloadSelector | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    rules: tuple[Rule, ...] = ()
    action: Annotated[Action, enum_parser(Action)] = Action.ALLOW
    provider: Provider | None = None
