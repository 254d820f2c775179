"""When a change is published: the first at once, those that follow merged, none kept for long."""

from controlplane.reconcile.debounce import Debounce


def test_the_first_change_is_due_at_once() -> None:
    debounce = Debounce()
    assert debounce.due is None
    debounce.changed(10.0)
    assert debounce.due == 10.0
    debounce.changed(10.5)
    assert debounce.due == 10.0
    debounce.flushed(10.6)
    assert debounce.due is None


def test_changes_after_a_flush_wait_for_quiet() -> None:
    debounce = Debounce(quiet_s=0.05, max_s=1.0)
    debounce.changed(10.0)
    debounce.flushed(10.0)
    debounce.changed(10.01)
    assert debounce.due == 10.01 + 0.05
    debounce.changed(10.04)
    assert debounce.due == 10.04 + 0.05


def test_a_steady_stream_is_published_after_the_maximum() -> None:
    debounce = Debounce(quiet_s=0.05, max_s=1.0)
    debounce.changed(10.0)
    debounce.flushed(10.0)
    for step in range(1, 200):
        debounce.changed(10.0 + step * 0.01)
    assert debounce.due == 10.01 + 1.0


def test_after_quiet_the_next_is_a_first_again() -> None:
    debounce = Debounce(quiet_s=0.05)
    debounce.changed(10.0)
    debounce.flushed(10.0)
    debounce.changed(10.06)
    assert debounce.due == 10.06
