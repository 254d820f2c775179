"""Which CircuitBreaker, and which Bulkhead, a call obeys, as one namespace sees it.

Source: the levels of DestinationRules (control-plane.md 2.4.1): the caller's namespace, the service's, the root; the
        first that has one for the call decides. At the callee callers have no say.
Invariants: a call obeys one at most; within a level the most specific target wins, of equal ones the oldest; candidates
        that are handed in are sorted by age, oldest first.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controlplane.model.services import visible
from controlplane.policy.bulkhead import Bulkhead, Side
from controlplane.policy.call_target import CallPolicy, CallTarget
from controlplane.policy.hosts import resolve
from controlplane.policy.http_route import HTTPMatchRequest, HTTPRoute
from controlplane.policy.objects import PolicyObject


def breaker_host(rule: PolicyObject, domain_suffix: str) -> str:
    """The full host that it is for."""
    target = rule.spec_as(CallPolicy).effective_target
    return resolve(target.host, rule.metadata.namespace, domain_suffix=domain_suffix)


def breaker_name(rule: PolicyObject) -> str:
    """How agents know it: all routes that name it share its state."""
    return f"{rule.metadata.namespace}/{rule.metadata.name}"


def route_names(http: HTTPRoute, match: HTTPMatchRequest | None) -> tuple[str, ...]:
    """By what names of the user's a route may be meant: of a rule as proxies see it, joined with its delegate's."""
    own = match.name if match is not None else ""
    return http.name, own, f"{http.name}.{own}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChoice:
    """Those that may be for calls to one destination. `service` and `root`: their namespaces."""

    rules: tuple[PolicyObject, ...] = ()
    service: str = ""
    root: str = ""

    def chosen(self, namespace: str, routes: Collection[str] = ()) -> PolicyObject | None:
        """The one that a call from `namespace` obeys. `routes`: by what names its route may be meant."""
        if not self.rules:
            return None
        for level in dict.fromkeys((namespace, self.service, self.root)):
            found = [
                rule
                for rule in self.rules
                if rule.metadata.namespace == level and _is_for(rule, namespace, routes)
            ]  # fmt: skip
            if found:
                return max(found, key=_narrowness)  # the first of equals: the oldest
        return None


NO_CHOICE = BreakerChoice()


def choice_of(
    rules: Iterable[PolicyObject], subset: str, port: int, *, service: str, root: str, routes: bool = True
) -> BreakerChoice:
    """Those of a host's rules that may be for calls to a subset and port of it. `routes`: also those for one route."""
    found = tuple(rule for rule in rules if _fits(rule.spec_as(CallPolicy).effective_target, subset, port, routes))
    return BreakerChoice(rules=found, service=service, root=root) if found else NO_CHOICE


def enforced_at(side: Side, rules: Iterable[PolicyObject]) -> tuple[PolicyObject, ...]:
    """Those of the Bulkheads that are for one side of calls."""
    return tuple(rule for rule in rules if side in rule.spec_as(Bulkhead).sides)


def inbound_choice(
    rules: Iterable[PolicyObject], subsets: Collection[str], port: int, service: str, root: str
) -> PolicyObject | None:
    """The Bulkhead that one port of an instance enforces. `subsets`: those that the instance is in."""
    found = (rule for rule in rules if rule.spec_as(Bulkhead).effective_target.subset in ("", *subsets))
    fitting = tuple(rule for rule in found if rule.spec_as(Bulkhead).effective_target.port_number in (0, port))
    return BreakerChoice(rules=fitting, service=service, root=root).chosen(service)


def _fits(target: CallTarget, subset: str, port: int, routes: bool) -> bool:
    return (
        target.subset in ("", subset) and target.port_number in (0, port) and (routes or not target.route)
    )  # fmt: skip


def _is_for(rule: PolicyObject, namespace: str, routes: Collection[str]) -> bool:
    spec = rule.spec_as(CallPolicy)
    route = spec.effective_target.route
    return visible(spec.effective_export_to, rule.metadata.namespace, namespace) and (not route or route in routes)


def _narrowness(rule: PolicyObject) -> tuple[bool, bool, bool]:
    return rule.spec_as(CallPolicy).effective_target.narrowness
