"""Which DestinationRules hold for a host as one client sees it, and what they say together.

Source: control-plane.md 2.4.1-2.4.3.
Invariant: the candidates that are handed in are sorted by age, oldest first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.model.services import visible
from controlplane.policy.destination_rule import DestinationRule, Subset
from controlplane.policy.hosts import covers, most_specific, resolve
from controlplane.policy.objects import PolicyObject
from controlplane.policy.selector import selects
from controlplane.policy.traffic_policy import TrafficPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks: its namespace and those of its labels that a rule tests."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedRule:
    """Several rules for one host as one. `policy_source` is the rule that `traffic_policy` came from.

    `subsets`: name -> (subset, its rule); of several with one name the first.
    """

    rules: tuple[PolicyObject, ...]
    traffic_policy: TrafficPolicy | None
    policy_source: PolicyObject | None
    subsets: tuple[tuple[Subset, PolicyObject], ...]

    def subset(self, name: str) -> Subset | None:
        """The subset of that name, or None."""
        return next((subset for subset, _ in self.subsets if subset.name == name), None)


NO_RULE = MergedRule(rules=(), traffic_policy=None, policy_source=None, subsets=())


def rule_host(rule: PolicyObject, domain_suffix: str) -> str:
    """The full host that a DestinationRule is for."""
    return resolve(rule.spec_as(DestinationRule).host, rule.metadata.namespace, domain_suffix=domain_suffix)


def find_rule(
    candidates: Sequence[PolicyObject],
    host: str,
    client: Client,
    *,
    service_namespace: str,
    root_namespace: str,
    domain_suffix: str,
) -> MergedRule:
    """The rule for `host`: of the client's namespace, else of the service's, else of the root; the first hit wins."""
    if not candidates:
        return NO_RULE
    levels = (
        [rule for rule in candidates if _is_local(rule, client, root_namespace)],
        [rule for rule in candidates if _is_exported(rule, service_namespace, client)],
        [rule for rule in candidates if _is_exported(rule, root_namespace, client)],
    )
    for level in levels:
        chosen = _most_specific_group(level, host, client, domain_suffix)
        if chosen:
            return merge(chosen)
    return NO_RULE


def merge(rules: Sequence[PolicyObject]) -> MergedRule:
    """Subsets are joined, of one name the first counts; the first top-level policy counts, whole (2.4.3)."""
    subsets: dict[str, tuple[Subset, PolicyObject]] = {}
    source: PolicyObject | None = None
    for rule in rules:
        spec = rule.spec_as(DestinationRule)
        if source is None and spec.traffic_policy is not None:
            source = rule
        for subset in spec.subsets:
            subsets.setdefault(subset.name, (subset, rule))
    return MergedRule(
        rules=tuple(rules),
        traffic_policy=source.spec_as(DestinationRule).traffic_policy if source is not None else None,
        policy_source=source,
        subsets=tuple(subsets.values()),
    )


def losers(rules: Iterable[PolicyObject]) -> dict[PolicyObject, tuple[PolicyObject, str]]:
    """Of rules that merge: those of which a part is ignored -> (the rule that wins, what is ignored)."""
    found: dict[PolicyObject, tuple[PolicyObject, str]] = {}
    policy_from: PolicyObject | None = None
    subset_from: dict[str, PolicyObject] = {}
    for rule in rules:
        spec = rule.spec_as(DestinationRule)
        for subset in spec.subsets:
            winner = subset_from.setdefault(subset.name, rule)
            if winner is not rule:
                found[rule] = (winner, f"subset {subset.name}")
        if spec.traffic_policy is not None:
            if policy_from is not None:
                found[rule] = (policy_from, "trafficPolicy")
            policy_from = policy_from or rule
    return found


def selector_of(rule: PolicyObject) -> Mapping[str, str] | None:
    """The labels of its workloadSelector, or None."""
    selector = rule.spec_as(DestinationRule).workload_selector
    return None if selector is None else selector.match_labels


def merge_group(rule: PolicyObject, domain_suffix: str) -> tuple[str, str, Mapping[str, str] | None]:
    """Rules merge when this is equal: namespace, host, selector."""
    return rule.metadata.namespace, rule_host(rule, domain_suffix), selector_of(rule)


def _is_local(rule: PolicyObject, client: Client, root_namespace: str) -> bool:
    if rule.metadata.namespace != client.namespace:
        return False
    # A client in the root namespace must not take what is meant for the whole mesh as its own (2.4.1).
    return client.namespace != root_namespace or rule.spec_as(DestinationRule).effective_export_to == (".",)


def _is_exported(rule: PolicyObject, namespace: str, client: Client) -> bool:
    if rule.metadata.namespace != namespace or selector_of(rule) is not None:
        return False
    return visible(rule.spec_as(DestinationRule).effective_export_to, namespace, client.namespace)


def _most_specific_group(
    level: Sequence[PolicyObject], host: str, client: Client, domain_suffix: str
) -> list[PolicyObject]:
    by_host: dict[str, list[PolicyObject]] = {}
    for rule in level:
        pattern = rule_host(rule, domain_suffix)
        selector = selector_of(rule)
        if covers(pattern, host) and (selector is None or selects(selector, dict(client.labels))):
            by_host.setdefault(pattern, []).append(rule)
    best = most_specific(host, by_host)
    if best is None:
        return []
    group = sorted(by_host[best], key=lambda rule: selector_of(rule) is None)  # those with a selector first; stable
    first = selector_of(group[0])
    return [rule for rule in group if selector_of(rule) == first]
