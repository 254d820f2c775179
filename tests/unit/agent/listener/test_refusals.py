"""How much a listener writes about refused connections."""

from typing import Any

from agent.listener.refusals import BURST, PAUSE_S, RefusalLog


def test_a_flood_writes_a_burst_then_a_line_now_and_then() -> None:
    lines: list[dict[str, Any]] = []
    log = RefusalLog(lambda event, **fields: lines.append({"event": event, **fields}))
    for number in range(BURST + 1000):
        log.tell("refused", 100.0 + number / 1000, peer=number)
    assert lines == [{"event": "refused", "peer": number} for number in range(BURST)]
    log.tell("refused", 100.0 + BURST / 1000 + PAUSE_S, peer="later")
    log.tell("refused", 100.0 + BURST / 1000 + PAUSE_S, peer="not told")
    assert lines[BURST:] == [{"event": "refused", "peer": "later", "left_out_before": 1000}]


def test_a_quiet_time_allows_a_burst_again() -> None:
    lines: list[str] = []
    log = RefusalLog(lambda event, **_: lines.append(event))
    for _ in range(BURST * 2):
        log.tell("early", 1.0)
    for _ in range(BURST * 2):
        log.tell("late", 1.0 + BURST * PAUSE_S)
    assert lines == ["early"] * BURST + ["late"] * BURST
