"""The fleet's load from the latest report of each proxy."""

from typing import Any

import pytest

from controlplane.distribution.traffic import KEEP_S, LoadRow, TrafficTable
from mesh.vocabulary import Locality

V1, V2 = "outbound|80|v1|users", "outbound|80|v2|users"


def row(cluster: str = V1, **fields: Any) -> LoadRow:
    defaults = {
        "cluster": cluster,
        "locality": Locality("eu"),
        "interval_s": 10.0,
        "issued": 100,
        "succeeded": 90,
        "failed": 10,
        "in_progress": 2,
    }
    return LoadRow(**{**defaults, **fields})


def test_reporters_are_summed_per_cluster_and_locality() -> None:
    table = TrafficTable()
    table.record("n1", row(), 0.0)
    table.record("n2", row(interval_s=5.0, failed=0, succeeded=100), 0.0)
    table.record("n2", row(V2, locality=Locality("us")), 0.0)
    one, two = table.snapshot(1.0)
    assert (one.cluster, one.reporters, one.requests_per_s, one.errors_per_s) == (V1, 2, 30.0, 1.0)
    assert one.success_ratio == pytest.approx(190 / 200)
    assert one.in_progress == 4
    assert (two.cluster, two.locality, two.reporters) == (V2, Locality("us"), 1)


def test_the_latest_report_replaces_the_one_before() -> None:
    table = TrafficTable()
    table.record("n1", row(), 0.0)
    table.record("n1", row(issued=10, succeeded=10, failed=0), 5.0)
    (found,) = table.snapshot(6.0)
    assert (found.requests_per_s, found.success_ratio) == (1.0, 1.0)


def test_what_nobody_reports_any_more_is_gone() -> None:
    table = TrafficTable()
    table.record("n1", row(), 0.0)
    table.record("n2", row(), 30.0)
    assert table.snapshot(KEEP_S)[0].reporters == 2
    assert table.snapshot(KEEP_S + 1)[0].reporters == 1
    table.forget("n2")
    assert table.snapshot(KEEP_S + 1) == ()


def test_silence_and_no_interval_give_no_rates() -> None:
    table = TrafficTable()
    table.record("n1", row(interval_s=0.0, issued=0, succeeded=0, failed=0), 0.0)
    (found,) = table.snapshot(0.0)
    assert (found.requests_per_s, found.errors_per_s, found.success_ratio) == (0.0, 0.0, 1.0)


def test_rows_are_bounded_and_old_ones_make_way() -> None:
    table = TrafficTable(max_rows=2)
    for number in range(4):
        table.record(f"n{number}", row(), 0.0)
    assert table.refused == 2
    assert table.snapshot(0.0)[0].reporters == 2
    table.record("n0", row(issued=0), 1.0)
    table.record("n9", row(), KEEP_S + 0.5)
    assert table.refused == 2
    assert table.snapshot(KEEP_S + 0.5)[0].reporters == 2
