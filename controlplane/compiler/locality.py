"""Which localities a proxy prefers: priorities for failover, weights for distribution.

Source: control-plane.md 2.4.7. Priorities: 0 same subzone, 1 same zone, 2 same region, 3 elsewhere (4 = elsewhere, but
        not in the region that `failover.to` names), then compacted to 0..N.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from controlplane.policy.load_balancer import LocalityFailover, LocalityLoadBalancerSetting
from controlplane.policy.traffic_policy import OutlierDetection
from mesh.vocabulary import Locality

TOPOLOGY_KEYS = {
    "topology.kubernetes.io/region": "region",
    "topology.kubernetes.io/zone": "zone",
    "topology.istio.io/subzone": "sub_zone",
}
_DEFAULT = LocalityLoadBalancerSetting()


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalityPolicy:
    """What of it takes effect for a proxy in `own`. `weights`: (pattern, weight) of `distribute`, or None."""

    own: Locality
    failover: tuple[LocalityFailover, ...] | None = None  # None: no failover
    priority_keys: tuple[str, ...] = ()
    weights: tuple[tuple[str, int], ...] | None = None


NO_LOCALITY = LocalityPolicy(own=Locality())


def locality_policy(
    setting: LocalityLoadBalancerSetting | None, outlier: OutlierDetection | None, own: Locality
) -> LocalityPolicy:
    """The policy for a proxy in `own`; nothing for one that does not say where it is."""
    setting = setting or _DEFAULT
    if own == Locality() or setting.enabled is False:
        return NO_LOCALITY
    for rule in setting.distribute:
        if _fits(rule.from_, own):
            return LocalityPolicy(own=own, weights=tuple(sorted(rule.to.items())))
    if outlier is None:
        return NO_LOCALITY
    return LocalityPolicy(own=own, failover=setting.failover, priority_keys=setting.failover_priority)


def priorities(policy: LocalityPolicy, localities: Iterable[Locality]) -> dict[Locality, int]:
    """The priority of each locality, without gaps."""
    places = sorted(set(localities))
    if policy.failover is None:
        return dict.fromkeys(places, 0)
    rank: Callable[[Locality], int] = _by_keys(policy) if policy.priority_keys else _by_distance(policy)
    ranks = {place: rank(place) for place in places}
    order = {value: index for index, value in enumerate(sorted(set(ranks.values())))}
    return {place: order[value] for place, value in ranks.items()}


def weights(policy: LocalityPolicy, sizes: Mapping[Locality, int]) -> dict[Locality, int]:
    """The weights under `distribute`; nothing when there is no distribution.

    `sizes`: the sum of the hosts' weights in each locality. Localities under one pattern share its weight by size;
    one that no pattern names gets nothing and is absent.
    """
    found: dict[Locality, int] = {}
    chosen = {place: _pattern(policy, place) for place in sizes}
    for pattern, share in policy.weights or ():
        places = [place for place, own in chosen.items() if own == pattern]
        total = sum(sizes[place] for place in places)
        if share:
            found |= {place: max(1, round(share * sizes[place] / total)) for place in places}
    return found


def _pattern(policy: LocalityPolicy, place: Locality) -> str:
    """The most specific pattern that a locality falls under."""
    return max((pattern for pattern, _ in policy.weights or () if _fits(pattern, place)), key=len, default="")


def _by_distance(policy: LocalityPolicy) -> Callable[[Locality], int]:
    own = policy.own
    preferred = {rule.to for rule in policy.failover or () if rule.from_ == own.region}

    def rank(place: Locality) -> int:
        if place == own:
            return 0
        if (place.region, place.zone) == (own.region, own.zone):
            return 1
        if place.region == own.region:
            return 2
        return 4 if preferred and place.region not in preferred else 3

    return rank


def _by_keys(policy: LocalityPolicy) -> Callable[[Locality], int]:
    """The more of the first keys agree, the better."""
    parts = [TOPOLOGY_KEYS[key] for key in policy.priority_keys if key in TOPOLOGY_KEYS]

    def rank(place: Locality) -> int:
        for index, part in enumerate(parts):
            if getattr(place, part) != getattr(policy.own, part):
                return len(parts) - index
        return 0

    return rank


def _fits(pattern: str, place: Locality) -> bool:
    """`region/zone/*`, `region/*`, `*`, or whole."""
    wanted = pattern.split("/")
    actual = (place.region, place.zone, place.sub_zone)
    for index, part in enumerate(wanted):
        if part == "*":
            return True
        if index >= len(actual) or part != actual[index]:
            return False
    return True
