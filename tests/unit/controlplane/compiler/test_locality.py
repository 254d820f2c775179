"""Priorities and weights by locality (2.4.7)."""

import pytest

from controlplane.compiler.locality import NO_LOCALITY, locality_policy, priorities, weights
from controlplane.policy.load_balancer import LocalityLoadBalancerSetting
from controlplane.policy.traffic_policy import OutlierDetection
from mesh.vocabulary import Locality

OWN = Locality("eu", "a", "1")
OUTLIER = OutlierDetection()


def places(*texts: str) -> list[Locality]:
    return [Locality.parse(text) for text in texts]


def setting(**fields: object) -> LocalityLoadBalancerSetting:
    return LocalityLoadBalancerSetting.model_validate(fields)


def ranks(policy_setting: LocalityLoadBalancerSetting | None, *texts: str) -> list[int]:
    policy = locality_policy(policy_setting, OUTLIER, OWN)
    found = priorities(policy, places(*texts))
    return [found[place] for place in places(*texts)]


def test_by_distance() -> None:
    assert ranks(None, "eu/a/1", "eu/a/2", "eu/b/1", "us/a/1") == [0, 1, 2, 3]


def test_no_gaps() -> None:
    """Priorities that nobody has are skipped: gRPC refuses gaps, Envoy spills over wrongly."""
    assert ranks(None, "eu/b/1", "us/a/1", "asia") == [0, 1, 1]


def test_preferred_region() -> None:
    wanted = setting(failover=[{"from": "eu", "to": "us"}])
    assert ranks(wanted, "eu/a/1", "us/a/1", "asia/a/1") == [0, 1, 2]


def test_failover_priority() -> None:
    """The more of the first keys agree, the better."""
    wanted = setting(failoverPriority=["topology.kubernetes.io/region", "topology.kubernetes.io/zone"])
    assert ranks(wanted, "eu/a/9", "eu/b/1", "us/a/1") == [0, 1, 2]


@pytest.mark.parametrize(
    ("policy_setting", "outlier", "own"),
    [
        (None, None, OWN),  # failover needs outlier detection
        (setting(enabled=False), OUTLIER, OWN),
        (None, OUTLIER, Locality()),  # a proxy that does not say where it is
    ],
)
def test_no_failover(
    policy_setting: LocalityLoadBalancerSetting | None, outlier: OutlierDetection | None, own: Locality
) -> None:
    policy = locality_policy(policy_setting, outlier, own)
    assert policy == NO_LOCALITY
    assert set(priorities(policy, places("eu/a/1", "us/a/1")).values()) == {0}


def test_distribute() -> None:
    """Localities under one pattern share its weight by size; what no pattern names gets nothing."""
    wanted = setting(distribute=[{"from": "eu/*", "to": {"eu/a/*": 60, "us": 40}}])
    policy = locality_policy(wanted, None, OWN)
    one, two, far, none = places("eu/a/1", "eu/a/2", "us/x/y", "asia")
    assert weights(policy, {one: 1, two: 2, far: 5, none: 1}) == {one: 20, two: 40, far: 40}
    assert weights(locality_policy(wanted, None, Locality("us")), {one: 1}) == {}
