"""Round robin, least request and random over a fixed set of hosts."""

import random
from collections import Counter

import pytest

from agent.cluster.pickers import NoHost, OneHost, Picker, Schedule, picker
from agent.model.cluster import LbPolicy
from tests.support.hosts import hosts

START = lambda: 0.0  # noqa: E731 - the first place


def picked(chosen: Picker, count: int) -> list[str]:
    found = [chosen.pick() for _ in range(count)]
    return [host.endpoint.address.rpartition(".")[2] for host in found if host is not None]


def test_round_robin_takes_turns() -> None:
    """Source: the oracle's three equal hosts: 2 3 1 2 3 1."""
    assert picked(picker(hosts(1, 1, 1), LbPolicy.ROUND_ROBIN, 2, lambda: 0.5), 6) == list("231231")


def test_weighted_round_robin_bursts_as_envoys_does() -> None:
    """Weights 5, 1, 1: earliest deadline first, so the heavy host comes in a row."""
    assert picked(picker(hosts(5, 1, 1), LbPolicy.ROUND_ROBIN, 2, START), 14) == list("11111231111123")


def test_equal_weights_need_no_schedule_and_keep_turns() -> None:
    assert picked(picker(hosts(7, 7), LbPolicy.ROUND_ROBIN, 2, START), 4) == list("1212")


@pytest.mark.parametrize("policy", list(LbPolicy))
def test_one_host_or_none(policy: LbPolicy) -> None:
    one = hosts(3)
    assert type(picker(one, policy, 2, START)) is OneHost
    assert picker(one, policy, 2, START).pick() is one[0]
    assert type(picker([], policy, 2, START)) is NoHost
    assert picker([], policy, 2, START).pick() is None


def test_least_request_takes_the_less_loaded_of_two() -> None:
    """The first drawn wins among equals."""
    three = hosts(1, 1, 1)
    three[0].active = 2
    draws = iter([1 / 9, 0 / 9, 5 / 9])  # places (0, 1), (0, 0), (1, 2)
    chosen = picker(three, LbPolicy.LEAST_REQUEST, 2, lambda: next(draws))
    assert picked(chosen, 3) == ["2", "1", "2"]


def test_least_request_compares_as_many_as_asked() -> None:
    four = hosts(1, 1, 1, 1)
    for load, host in enumerate(reversed(four)):
        host.active = load
    draws = iter([1 / 16, 0.5, 0.75])  # places (0, 1), then 2 and 3
    assert picked(picker(four, LbPolicy.LEAST_REQUEST, 4, lambda: next(draws)), 1) == ["4"]


def test_weighted_least_request_lowers_the_share_of_a_busy_host() -> None:
    """Weight 2 with one request on its way counts as 2 / 2: as often as the idle host of weight 1."""
    two = hosts(2, 1)
    two[0].active = 1
    assert Counter(picked(picker(two, LbPolicy.LEAST_REQUEST, 2, START), 60)) == {"1": 30, "2": 30}
    two[0].active = 0
    assert Counter(picked(picker(two, LbPolicy.LEAST_REQUEST, 2, START), 60)) == {"1": 40, "2": 20}


def test_random_ignores_weights() -> None:
    rng = random.Random(7)
    counts = Counter(picked(picker(hosts(50, 1), LbPolicy.RANDOM, 2, rng.random), 2000))
    assert 900 < counts["2"] < 1100


def test_a_schedule_does_not_drift() -> None:
    """After a hundred thousand turns the shares are still exact."""
    schedule = Schedule([3.0, 7.0], START)
    counts = Counter(schedule.next() for _ in range(100_000))
    assert counts == {0: 30_000, 1: 70_000}
