"""The circuit breakers of the nodes that report here."""

from dataclasses import replace

from controlplane.distribution.breakers import BreakerRow, BreakerTable

ROW = BreakerRow(
    node="n1", breaker="default/web", caller="", state="CLOSED", since_ms=1, why="", opened=0
)  # fmt: skip
OPEN = replace(ROW, state="OPEN", why="9 of 9 requests failed, 50 % open it", opened=1)


def test_news_are_changes_of_state() -> None:
    table = BreakerTable()
    assert table.report("n1", [ROW]) == ()
    assert table.report("n1", [OPEN]) == (OPEN,)
    assert table.report("n1", [replace(OPEN, opened=2)]) == ()
    assert table.report("n1", [ROW]) == (ROW,)
    assert table.report("n2", [replace(OPEN, node="n2")]) == (replace(OPEN, node="n2"),)


def test_a_set_is_whole_and_goes_with_its_node() -> None:
    table = BreakerTable()
    table.report("n2", [replace(ROW, node="n2", caller="b"), replace(ROW, node="n2", caller="a")])
    table.report("n1", [ROW])
    assert [(row.node, row.caller) for row in table.rows()] == [("n1", ""), ("n2", "a"), ("n2", "b")]
    table.report("n2", [])
    assert [row.node for row in table.rows()] == ["n1"]
    table.forget("n1")
    assert table.rows() == ()
