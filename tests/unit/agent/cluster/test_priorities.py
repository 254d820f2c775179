"""How load is shared among priority levels. Source: Envoy's documentation tables (data-plane.md 1.2)."""

import pytest

from agent.cluster.priorities import LevelSize, level_loads


def loads(*healthy_of_100: int, threshold: float = 50.0, degraded: tuple[int, ...] = ()) -> list[tuple[int, int, bool]]:
    """(healthy, degraded, panic) per level of 100 hosts."""
    others = degraded or (0,) * len(healthy_of_100)
    levels = [LevelSize(100, healthy, some) for healthy, some in zip(healthy_of_100, others, strict=True)]
    found = level_loads(levels, overprovisioning_factor=140, panic_threshold_percent=threshold)
    return [(load.healthy, load.degraded, load.panic) for load in found]


@pytest.mark.parametrize(
    ("healthy", "expected"),
    [
        ((72, 100), [100, 0]),
        ((71, 100), [99, 1]),
        ((50, 100), [70, 30]),
        ((25, 100), [35, 65]),
        ((25, 25), [50, 50]),
        ((25, 25, 100), [35, 35, 30]),
        ((25, 25, 20), [37, 35, 28]),  # the documentation rounds; Envoy gives the rest to the first level
        ((0, 100), [0, 100]),
    ],
)
def test_spill_over(healthy: tuple[int, ...], expected: list[int]) -> None:
    """A level keeps its load down to 72 % of healthy hosts, then the rest goes to the next."""
    assert [load[0] for load in loads(*healthy, threshold=0)] == expected


def test_panic_only_when_all_levels_together_are_short() -> None:
    """(5 %, 65 %): level 0 is in panic and keeps its few percent; with a full level 1 nobody is."""
    assert loads(5, 65) == [(8, 0, True), (92, 0, False)]
    assert [panic for _, _, panic in loads(5, 100)] == [False, False]


def test_panic_threshold_is_strict() -> None:
    """Exactly the threshold is no panic."""
    assert loads(50) == [(100, 0, False)]
    assert loads(49) == [(100, 0, True)]


def test_the_threshold_counts_in_whole_percents_and_degraded_hosts_count() -> None:
    assert loads(49, threshold=49.9) == [(100, 0, False)]
    assert loads(30, degraded=(19,)) == [(100, 0, True)]
    assert not loads(30, degraded=(20,))[0][2]


def test_total_panic_shares_by_number_of_hosts() -> None:
    """With every level in panic health does not matter; the rest of the division goes to the first with hosts."""
    levels = [LevelSize(0, 0, 0), LevelSize(1, 0, 0), LevelSize(2, 0, 0)]
    found = level_loads(levels, overprovisioning_factor=140, panic_threshold_percent=50)
    assert [(load.healthy, load.panic) for load in found] == [(0, True), (34, True), (66, True)]


def test_no_panic_and_nobody_healthy_is_no_load() -> None:
    assert loads(0, 0, threshold=0) == [(0, 0, False), (0, 0, False)]


def test_degraded_hosts_get_what_healthy_ones_cannot_carry() -> None:
    """Source: Envoy's load_balancing/degraded documentation."""
    assert loads(50, degraded=(50,)) == [(70, 30, False)]
    assert loads(0, degraded=(100,)) == [(0, 100, False)]
    assert loads(10, 20, 10, degraded=(20, 10, 0), threshold=0) == [(16, 28, False), (28, 14, False), (14, 0, False)]


def test_the_factor_is_the_assignments() -> None:
    levels = [LevelSize(100, 50, 0), LevelSize(100, 100, 0)]
    found = level_loads(levels, overprovisioning_factor=200, panic_threshold_percent=0)
    assert [load.healthy for load in found] == [100, 0]
