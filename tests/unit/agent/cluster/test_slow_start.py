"""A new host's share, with a clock that is set by hand."""

import random
from collections import Counter

import pytest

from agent.cluster.hosts import LONG_AGO
from agent.cluster.load_balancing import Balancing, balance
from agent.cluster.slow_start import StartingHosts, ratio
from agent.model.cluster import LbPolicy, SlowStart
from agent.stats.names import CLUSTER
from tests.support.clock import ManualClock
from tests.support.hosts import hosts

WINDOW = SlowStart(window_s=10.0)


class Starting:
    """Two old hosts and a new one."""

    def __init__(self, policy: LbPolicy = LbPolicy.ROUND_ROBIN, config: SlowStart | None = WINDOW) -> None:
        self.clock = ManualClock()
        self.members = hosts(1, 1, 1)
        self.members[2].fit_since = self.clock.monotonic()
        self.picker = balance(
            self.members,
            Balancing(
                policy=policy, choice_count=2, panic_threshold_percent=50.0, overprovisioning_factor=140,
                rng=random.Random(1).random, counts=[0] * len(CLUSTER.names), slow_start=config,
                clock=self.clock.monotonic,
            ),
        )  # fmt: skip

    def share(self, picks: int = 2000) -> float:
        """Of the new host, while the clock stands."""
        return Counter(self.picker.pick() for _ in range(picks))[self.members[2]] / picks


@pytest.mark.parametrize(
    ("config", "passed_s", "expected"),
    [
        (WINDOW, 0.0, 0.1),
        (WINDOW, 0.5, 0.1),
        (WINDOW, 5.0, 0.5),
        (WINDOW, 10.0, 1.0),
        (WINDOW, 1e6, 1.0),
        (SlowStart(window_s=10.0, aggression=2.0), 2.5, 0.5),
        (SlowStart(window_s=10.0, aggression=0.5), 5.0, 0.25),
        (SlowStart(window_s=10.0, min_weight_ratio=0.0), 0.0, 0.0001),
        (SlowStart(window_s=10.0, min_weight_ratio=0.3), 1.0, 0.3),
    ],
)
def test_the_weight_grows(config: SlowStart, passed_s: float, expected: float) -> None:
    assert ratio(config, 100.0, 100.0 + passed_s) == pytest.approx(expected)


def test_who_was_never_seen_to_start_is_at_full_weight() -> None:
    assert ratio(WINDOW, LONG_AGO, 0.0) == 1.0


@pytest.mark.parametrize("policy", [LbPolicy.ROUND_ROBIN, LbPolicy.LEAST_REQUEST])
def test_a_new_host_is_picked_more_and_more(policy: LbPolicy) -> None:
    starting = Starting(policy)
    shares = []
    for _ in range(4):
        shares.append(starting.share())
        starting.clock.advance(2.5)
    assert shares == pytest.approx([0.1 / 2.1, 0.25 / 2.25, 0.5 / 2.5, 0.75 / 2.75], abs=0.01)
    assert starting.share() == pytest.approx(1 / 3, abs=0.03)


def test_least_request_looks_at_the_load_meanwhile() -> None:
    starting = Starting(LbPolicy.LEAST_REQUEST)
    starting.clock.advance(9.9)
    starting.members[0].active = 9
    counts = Counter(starting.picker.pick() for _ in range(1000))
    assert counts[starting.members[0]] < 60


def test_it_costs_nothing_when_nobody_is_new() -> None:
    for starting in (Starting(config=None), Starting(LbPolicy.RANDOM)):
        assert not isinstance(starting.picker, StartingHosts)
    late = Starting()
    late.clock.advance(11)
    found = balance(
        late.members,
        Balancing(
            policy=LbPolicy.ROUND_ROBIN, choice_count=2, panic_threshold_percent=50.0, overprovisioning_factor=140,
            rng=lambda: 0.0, counts=[0], slow_start=WINDOW, clock=late.clock.monotonic,
        ),
    )  # fmt: skip
    assert not isinstance(found, StartingHosts)


def test_weights_count_as_well() -> None:
    starting = Starting()
    starting.members[2].weight = 4
    starting.clock.advance(5)
    assert starting.share() == pytest.approx(2 / 4, abs=0.01)
