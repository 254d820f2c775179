"""RequestAuthentications and AuthorizationPolicies: which of them guard a workload or a gateway.

Owns:   the index by namespace, the choice by selector and target.
Not:    what is made of them (controlplane.compiler.guards).
Source: control-plane.md 2.5: those of the root namespace and of the workload's add up; a selector in the root namespace
        selects in every namespace. istio policyattachment.go for targetRefs; a Service's workloads are its own.
Invariant: sequences are sorted by age, the oldest first, those of the root namespace before the others.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from controlplane.model.persistent import PersistentIndex
from controlplane.policy.authorization_policy import AuthorizationPolicy
from controlplane.policy.frozen import EMPTY
from controlplane.policy.kinds import AUTHORIZATION_POLICY, REQUEST_AUTHENTICATION, KindInfo
from controlplane.policy.objects import PolicyObject
from controlplane.policy.request_authentication import RequestAuthentication
from controlplane.policy.selector import selects
from controlplane.policy.target_reference import GATEWAY, SERVICE

SECURITY_KINDS = frozenset({REQUEST_AUTHENTICATION, AUTHORIZATION_POLICY})
NOBODY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What holds for one workload or gateway."""

    request_authentications: tuple[PolicyObject, ...] = ()
    authorization_policies: tuple[PolicyObject, ...] = ()

    @property
    def policies(self) -> tuple[PolicyObject, ...]:
        """All of them."""
        return (*self.request_authentications, *self.authorization_policies)


NO_GUARD = Guard()


class SecurityPolicies:
    """Immutable; `updated` gives the next."""

    __slots__ = ("_by_namespace",)

    def __init__(self) -> None:
        self._by_namespace: PersistentIndex[str, PolicyObject] = PersistentIndex()

    def updated(self, puts: Iterable[PolicyObject], gone: Iterable[PolicyObject]) -> "SecurityPolicies":
        """The next version; the same object when nothing changes. `gone`: also the old form of what is put."""
        after, before = tuple(_pairs(puts)), tuple(_pairs(gone))
        if not after and not before:
            return self
        following = SecurityPolicies()
        following._by_namespace = self._by_namespace.updated(after, before)
        return following

    def guard(
        self,
        root: str,
        namespace: str,
        labels: Mapping[str, str],
        *,
        services: Set[str] = NOBODY,
        gateways: Set[str] = NOBODY,
    ) -> Guard:
        """For a workload of `namespace`. `services`: `namespace/name` of those that it belongs to; `gateways`: of those
        that select it; `root`: the root namespace."""
        found = [
            item
            for own in dict.fromkeys((root, namespace))
            for item in sorted(self._by_namespace[own], key=lambda item: item.age_key)
            if _is_for(item, labels, services, gateways)
        ]
        if not found:
            return NO_GUARD
        return Guard(
            request_authentications=_of(found, REQUEST_AUTHENTICATION),
            authorization_policies=_of(found, AUTHORIZATION_POLICY),
        )

    def jwks_sources(self) -> frozenset[tuple[str, float]]:
        """(URL, seconds that its server may take) of all keys that have to be fetched; the longest time counts."""
        found: dict[str, float] = {}
        for namespace in self._by_namespace:
            for item in self._by_namespace[namespace]:
                if item.kind is REQUEST_AUTHENTICATION:
                    for rule in item.spec_as(RequestAuthentication).jwt_rules:
                        if rule.jwks_source:
                            found[rule.jwks_source] = max(found.get(rule.jwks_source, 0.0), rule.timeout_s)
        return frozenset(found.items())


def _pairs(objects: Iterable[PolicyObject]) -> Iterator[tuple[str, PolicyObject]]:
    return ((item.metadata.namespace, item) for item in objects if item.kind in SECURITY_KINDS)


def _of(items: Iterable[PolicyObject], kind: KindInfo) -> tuple[PolicyObject, ...]:
    return tuple(item for item in items if item.kind is kind)


def selected_labels(item: PolicyObject) -> Mapping[str, str]:
    """The labels that its selector asks for; none when it has none, or another way to choose."""
    selector = _spec(item).selector
    return selector.match_labels if selector is not None else EMPTY


def _spec(item: PolicyObject) -> RequestAuthentication | AuthorizationPolicy:
    if item.kind is REQUEST_AUTHENTICATION:
        return item.spec_as(RequestAuthentication)
    return item.spec_as(AuthorizationPolicy)


def _is_for(item: PolicyObject, labels: Mapping[str, str], services: Set[str], gateways: Set[str]) -> bool:
    spec = _spec(item)
    if spec.target_refs:
        known = {SERVICE: services, GATEWAY: gateways}
        return any(f"{item.metadata.namespace}/{one.name}" in known.get(one.kind, NOBODY) for one in spec.target_refs)
    return selects(selected_labels(item), labels)
