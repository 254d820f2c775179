"""Which VirtualServices hold for a host as one namespace sees it.

Source: control-plane.md 2.3.1, 2.3.5; decision 4 (the oldest wins; merging is opt-in on both).
Invariant: the candidates that are handed in are sorted by age, oldest first.
"""

from collections.abc import Iterator, Sequence

from controlplane.model.services import visible
from controlplane.policy.hosts import covers, resolve, specificity
from controlplane.policy.http_route import Destination, HTTPRoute
from controlplane.policy.objects import PolicyObject
from controlplane.policy.virtual_service import VirtualService


def hosts_of(rule: PolicyObject, domain_suffix: str) -> tuple[str, ...]:
    """Its full hosts; none for a delegate or for one that no workload's proxy uses."""
    spec = rule.spec_as(VirtualService)
    if not spec.applies_to_mesh:
        return ()
    return tuple(
        dict.fromkeys(resolve(host, rule.metadata.namespace, domain_suffix=domain_suffix) for host in spec.hosts)
    )


def chosen(
    candidates: Sequence[PolicyObject], host: str, namespace: str, domain_suffix: str
) -> tuple[PolicyObject, ...]:
    """The VirtualServices for `host`: none, the one that wins, or the winner with those that merge with it."""
    ranked: list[tuple[tuple[tuple[bool, int], int], PolicyObject]] = []
    for rule in candidates:
        spec = rule.spec_as(VirtualService)
        if not visible(spec.effective_export_to, rule.metadata.namespace, namespace):
            continue
        best = max((specificity(own) for own in hosts_of(rule, domain_suffix) if covers(own, host)), default=None)
        if best is not None:
            ranked.append(((best, -publicity(spec, rule.metadata.namespace, namespace)), rule))
    if not ranked:
        return ()
    best_rank = max(rank for rank, _ in ranked)
    winner = next(rule for rank, rule in ranked if rank == best_rank)
    if not winner.wants_merge:
        return (winner,)
    merging = [rule for rank, rule in ranked if rank[0] == best_rank[0] and rule.wants_merge and rule is not winner]
    return (winner, *merging)


def destinations(rule: PolicyObject) -> Iterator[Destination]:
    """Every destination that its HTTP routes name, mirrors included."""
    for route in rule.spec_as(VirtualService).http:
        yield from route_destinations(route)


def all_destinations(rule: PolicyObject) -> Iterator[Destination]:
    """Every destination that it names, those of its TLS and TCP routes included."""
    yield from destinations(rule)
    spec = rule.spec_as(VirtualService)
    routes = (*(own.route for own in spec.tls), *(own.route for own in spec.tcp))
    yield from (item.destination for route in routes for item in route if item.destination is not None)


def route_destinations(route: HTTPRoute) -> Iterator[Destination]:
    """The destinations of one rule."""
    yield from (item.destination for item in route.route if item.destination is not None)
    yield from (item.destination for item in route.mirror_policies if item.destination is not None)


def destination_host(destination: Destination, namespace: str, domain_suffix: str) -> str:
    """The full host, by the namespace of the rule that names it."""
    return resolve(destination.host, namespace, domain_suffix=domain_suffix)


def publicity(spec: VirtualService, owner: str, namespace: str) -> int:
    """0 = private to the namespace, 1 = exported to it by name, 2 = public."""
    exported = spec.effective_export_to
    if owner == namespace and exported in ((".",), (namespace,)):
        return 0
    return 2 if "*" in exported else 1
