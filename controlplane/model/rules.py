"""VirtualServices, DestinationRules, CircuitBreakers, Bulkheads and PeerAuthentications, found by what they are about.

Owns:   the indexes; which label keys some rule tests.
Not:    which of several rules wins (virtual_services, destination_rules, peer_authentication).
Invariant: sequences of rules are sorted by age, oldest first.
"""

from collections.abc import Callable, Iterable, Iterator

from controlplane.model.circuit_breakers import breaker_host
from controlplane.model.destination_rules import rule_host, selector_of
from controlplane.model.persistent import PersistentIndex
from controlplane.model.virtual_services import destination_host, destinations, hosts_of
from controlplane.policy.hosts import covers, is_wildcard
from controlplane.policy.kinds import BULKHEAD, CIRCUIT_BREAKER, DESTINATION_RULE, PEER_AUTHENTICATION, VIRTUAL_SERVICE
from controlplane.policy.objects import PolicyObject
from controlplane.policy.virtual_service import VirtualService

_Pairs = Iterator[tuple[str, PolicyObject]]

# Under this key stand all rules that have some wildcard host, so that no look-up walks all hosts.
_WILD = ""


class Rules:
    """Immutable; `updated` gives the next."""

    __slots__ = (
        "_bulkheads", "_circuit_breakers", "_destination_rules", "_domain_suffix", "_peers", "_referrers", "_tested",
        "_virtual_services",
    )  # fmt: skip

    def __init__(self, domain_suffix: str) -> None:
        self._domain_suffix = domain_suffix
        self._virtual_services: PersistentIndex[str, PolicyObject] = PersistentIndex()
        self._destination_rules: PersistentIndex[str, PolicyObject] = PersistentIndex()
        self._bulkheads: PersistentIndex[str, PolicyObject] = PersistentIndex()
        self._circuit_breakers: PersistentIndex[str, PolicyObject] = PersistentIndex()
        self._peers: PersistentIndex[str, PolicyObject] = PersistentIndex()
        self._referrers: PersistentIndex[str, PolicyObject] = PersistentIndex()  # destination host -> VirtualServices
        self._tested: PersistentIndex[str, PolicyObject] = PersistentIndex()  # label key -> rules that test it

    def updated(self, puts: Iterable[PolicyObject], gone: Iterable[PolicyObject]) -> "Rules":
        """The next version. `gone`: also the old form of what is put."""
        after, before = tuple(puts), tuple(gone)
        if not after and not before:
            return self
        following = Rules(self._domain_suffix)
        following._virtual_services = self._next(self._virtual_services, self._vs_pairs, after, before)
        following._destination_rules = self._next(self._destination_rules, self._dr_pairs, after, before)
        following._circuit_breakers = self._next(self._circuit_breakers, self._breaker_pairs, after, before)
        following._bulkheads = self._next(self._bulkheads, self._bulkhead_pairs, after, before)
        following._peers = self._next(self._peers, _peer_pairs, after, before)
        following._referrers = self._next(self._referrers, self._referrer_pairs, after, before)
        following._tested = self._next(self._tested, _tested_pairs, after, before)
        return following

    @staticmethod
    def _next(
        index: PersistentIndex[str, PolicyObject],
        pairs: Callable[[Iterable[PolicyObject]], _Pairs],
        after: Iterable[PolicyObject],
        before: Iterable[PolicyObject],
    ) -> PersistentIndex[str, PolicyObject]:
        return index.updated(pairs(after), pairs(before))

    @property
    def tested_labels(self) -> frozenset[str]:
        """The label keys that a rule tests on the caller."""
        return frozenset(self._tested)

    def named_hosts(self, rules: Iterable[PolicyObject]) -> set[str]:
        """The hosts, wildcards among them, that these rules are for."""
        after = tuple(rules)
        pairs = (*self._vs_pairs(after), *self._dr_pairs(after), *self._breaker_pairs(after))
        pairs += tuple(self._bulkhead_pairs(after))
        return {host for host, _ in pairs} - {_WILD}

    def is_named(self, host: str) -> bool:
        """Whether a rule is for exactly this host."""
        indexes = (self._virtual_services, self._destination_rules, self._circuit_breakers, self._bulkheads)
        return any(index[host] for index in indexes)

    def has_virtual_service(self, host: str) -> bool:
        """Whether a VirtualService is for exactly this host."""
        return bool(self._virtual_services[host])

    def virtual_services(self, host: str) -> tuple[PolicyObject, ...]:
        """Those whose hosts cover `host`."""
        wide = (rule for rule in self._virtual_services[_WILD] if self._vs_covers(rule, host))
        return _by_age({*self._virtual_services[host], *wide})

    def destination_rules(self, host: str) -> tuple[PolicyObject, ...]:
        """Those whose host covers `host`."""
        wide = (rule for rule in self._destination_rules[_WILD] if covers(rule_host(rule, self._domain_suffix), host))
        return _by_age({*self._destination_rules[host], *wide})

    def circuit_breakers(self, host: str) -> tuple[PolicyObject, ...]:
        """Those for exactly `host`."""
        return _by_age(self._circuit_breakers[host])

    def bulkheads(self, host: str) -> tuple[PolicyObject, ...]:
        """Those for exactly `host`."""
        return _by_age(self._bulkheads[host])

    def peer_authentications(self, namespace: str) -> tuple[PolicyObject, ...]:
        """Those of a namespace."""
        return _by_age(self._peers[namespace])

    def peer_namespaces(self) -> tuple[str, ...]:
        """Namespaces that have PeerAuthentications, sorted."""
        return tuple(sorted(self._peers))

    def hosts_that_refer_to(self, host: str) -> set[str]:
        """The hosts of the VirtualServices that send to `host`."""
        return {own for rule in self._referrers[host] for own in hosts_of(rule, self._domain_suffix)}

    def _vs_covers(self, rule: PolicyObject, host: str) -> bool:
        return any(covers(own, host) for own in hosts_of(rule, self._domain_suffix))

    def _vs_pairs(self, rules: Iterable[PolicyObject]) -> _Pairs:
        for rule in rules:
            if rule.kind is VIRTUAL_SERVICE:
                for host in hosts_of(rule, self._domain_suffix):
                    yield from _keyed(host, rule)

    def _dr_pairs(self, rules: Iterable[PolicyObject]) -> _Pairs:
        for rule in rules:
            if rule.kind is DESTINATION_RULE:
                yield from _keyed(rule_host(rule, self._domain_suffix), rule)

    def _breaker_pairs(self, rules: Iterable[PolicyObject]) -> _Pairs:
        for rule in rules:
            if rule.kind is CIRCUIT_BREAKER:
                yield breaker_host(rule, self._domain_suffix), rule

    def _bulkhead_pairs(self, rules: Iterable[PolicyObject]) -> _Pairs:
        for rule in rules:
            if rule.kind is BULKHEAD:
                yield breaker_host(rule, self._domain_suffix), rule

    def _referrer_pairs(self, rules: Iterable[PolicyObject]) -> _Pairs:
        for rule in rules:
            if rule.kind is VIRTUAL_SERVICE:
                for destination in destinations(rule):
                    yield destination_host(destination, rule.metadata.namespace, self._domain_suffix), rule


def _peer_pairs(rules: Iterable[PolicyObject]) -> _Pairs:
    return ((rule.metadata.namespace, rule) for rule in rules if rule.kind is PEER_AUTHENTICATION)


def _tested_pairs(rules: Iterable[PolicyObject]) -> _Pairs:
    for rule in rules:
        if rule.kind is VIRTUAL_SERVICE:
            for route in rule.spec_as(VirtualService).http:
                for match in route.match:
                    yield from ((key, rule) for key in match.source_labels)
        elif rule.kind is DESTINATION_RULE:
            yield from ((key, rule) for key in selector_of(rule) or ())


def _keyed(host: str, rule: PolicyObject) -> _Pairs:
    yield host, rule
    if is_wildcard(host):
        yield _WILD, rule


def _by_age(rules: Iterable[PolicyObject]) -> tuple[PolicyObject, ...]:
    return tuple(sorted(rules, key=lambda rule: rule.age_key))
