"""Counting the two groups of a rollout from totals that only grow."""

from controlplane.distribution.rollout_meter import RolloutMeter
from controlplane.distribution.traffic import LoadRow, TrafficTable
from controlplane.model.rollout_observation import NO_COUNTS, Counts
from mesh.vocabulary import Locality


def row(cluster: str, succeeded: int, failed: int = 0, *, zone: str = "") -> LoadRow:
    return LoadRow(
        cluster=cluster, locality=Locality("eu", zone), interval_s=5.0, issued=succeeded + failed,
        succeeded=succeeded, failed=failed, in_progress=0,
    )  # fmt: skip


def test_only_what_grew_of_the_clusters_that_count() -> None:
    table = TrafficTable()
    table.record("n1", row("c", 100, 50), 1.0)
    meter = RolloutMeter(table.totals())
    for node in ("n1", "n2"):
        table.record(node, row("c", 3, 3), 1.5)  # the first report covers time from before
    meter.read(table.totals(), {"c"}, lambda node: node == "n1")
    assert (meter.own, meter.others) == (NO_COUNTS, NO_COUNTS)
    table.record("n1", row("c", 8, 2), 2.0)
    table.record("n1", row("c", 1, 0, zone="b"), 2.0)
    table.record("n2", row("c", 5), 2.0)
    table.record("n1", row("other", 99, 99), 2.0)
    for _ in range(2):  # reading again counts nothing again
        meter.read(table.totals(), {"c"}, lambda node: node == "n1")
        assert (meter.own, meter.others) == (Counts(11, 2), Counts(5, 0))


def test_a_new_stream_begins_again() -> None:
    table = TrafficTable()
    table.record("n1", row("c", 100), 1.0)
    meter = RolloutMeter(table.totals())
    table.record("n1", row("other", 1), 1.0)
    meter.read(table.totals(), {"c"}, lambda _: True)
    table.forget("n1")
    meter.read(table.totals(), {"c"}, lambda _: True)
    table.record("n1", row("c", 7, 3), 2.0)
    meter.read(table.totals(), {"c"}, lambda _: True)
    assert meter.own == Counts(10, 3)
    table.forget("n1")
    table.record("n1", row("c", 1), 3.0)  # between two looks: the total went back
    meter.read(table.totals(), {"c"}, lambda _: True)
    assert meter.own == Counts(11, 3)


def test_totals_are_bounded() -> None:
    table = TrafficTable(max_rows=2)
    for number in range(4):
        table.record(f"n{number}", row("c", 1), float(number * 100))  # old rows expire, totals stay
    assert len(table.totals()) == 2
