"""The bound on joins that one address gets wrong."""

from controlplane.ca.failure_limit import BURST, MAX_ADDRESSES, REFILL_S, FailureLimit


def test_a_burst_is_free_then_it_takes_time() -> None:
    limit = FailureLimit()
    for _ in range(BURST):
        assert limit.wait_s("a", 100.0) == 0
        limit.failed("a", 100.0)
    assert limit.wait_s("a", 100.0) == REFILL_S
    assert limit.wait_s("b", 100.0) == 0
    assert limit.wait_s("a", 100.0 + REFILL_S) == 0
    assert limit.wait_s("a", 100.0 + REFILL_S * BURST) == 0


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    limit = FailureLimit()
    for address in range(MAX_ADDRESSES + 5):
        for _ in range(BURST + 1):
            limit.failed(str(address), 0.0)
    assert limit.wait_s("4", 0.0) == 0
    assert limit.wait_s("5", 0.0) > 0
