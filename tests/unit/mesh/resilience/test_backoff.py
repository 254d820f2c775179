"""Back-off with jitter. Source: data-plane.md 1.5 (Envoy's backoff_strategy.cc)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.backoff import Backoff, delay_s, interval_s

chances = st.floats(0, 1, exclude_max=True)
seconds = st.floats(0.001, 1000)


@pytest.mark.parametrize(
    ("attempt", "expected"), [(1, 0.025), (2, 0.05), (3, 0.1), (4, 0.2), (5, 0.25), (6, 0.25), (10**9, 0.25)]
)
def test_the_interval_doubles_up_to_its_cap(attempt: int, expected: float) -> None:
    assert interval_s(attempt, base_s=0.025, max_s=0.25) == pytest.approx(expected)


@given(st.integers(-3, 10**6), seconds, seconds, chances)
def test_a_delay_is_full_jitter_below_the_interval(attempt: int, base_s: float, max_s: float, chance: float) -> None:
    bound = interval_s(attempt, base_s=base_s, max_s=max_s)
    assert bound <= max_s
    assert 0 <= delay_s(attempt, base_s=base_s, max_s=max_s, rng=lambda: chance) <= bound
    assert delay_s(attempt, base_s=base_s, max_s=max_s, rng=lambda: 0.0) == 0.0


@given(st.lists(chances, min_size=1, max_size=40), seconds)
def test_a_reconnecting_client_never_spins_and_never_waits_above_the_cap(draws: list[float], base_s: float) -> None:
    backoff = Backoff(base_s, base_s * 100)
    for attempt, chance in enumerate(draws, start=1):
        bound = interval_s(attempt, base_s=base_s, max_s=base_s * 100)
        delay = backoff.next_delay_s(lambda chance=chance: chance)  # type: ignore[misc]
        assert bound * 0.1 <= delay <= bound * 1.0000001
    backoff.reset()
    assert backoff.next_delay_s(lambda: 0.5) == pytest.approx(base_s * 0.55)
