"""The log of events: bounded and readable."""

from controlplane.distribution.events import EventLog


def test_events_are_bounded_and_readable() -> None:
    log = EventLog(size=2)
    for number in range(3):
        log.add(1_790_000_000.5, "ProxyConnected", f"node n{number}", "x" * 5000)
    first, last = log.events()
    assert (first.subject, last.subject) == ("node n1", "node n2")
    assert len(last.message) == 2000
    assert last.as_json()["at"] == "2026-09-21T14:13:20.500Z"
