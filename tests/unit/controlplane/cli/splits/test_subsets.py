"""Subsets: what they have, what stands in the way of using them, defining those that are missing."""

import copy

import pytest

from controlplane.cli.splits import subsets
from controlplane.policy.admission import Admitted, admit
from mesh.errors import MeshError
from tests.unit.controlplane.cli.splits.samples import destination_rule, endpoint, target


def test_what_they_have() -> None:
    found = target(endpoints=(endpoint("v1"), endpoint("v1", "UNHEALTHY"), endpoint("v2", "UNKNOWN", ejected=True)))
    v1, v2 = subsets.all_of(found)
    assert (v1.name, v1.total, v1.healthy, v1.ejected, v1.defined) == ("v1", 2, 1, 0, True)
    assert (v2.name, v2.total, v2.healthy, v2.ejected) == ("v2", 1, 1, 1)
    assert list(subsets.obstacles(found, ["v1", "v2"])) == []
    assert list(subsets.concerns(found, ["v1", "v2"])) == [
        "subset v1: 1 of its 2 instances are healthy",
        "subset v2: 1 of its 1 instances are ejected by some node",
    ]


def test_of_two_rules_with_one_name_the_first_counts_and_other_hosts_do_not() -> None:
    first = destination_rule("v1")
    second = destination_rule("v1", "v2", name="b")
    second["spec"]["subsets"][0]["labels"] = {"track": "old"}
    wide = destination_rule("v3", name="wide", host="*.svc.cluster.local")
    found = target(rules=(first, second, wide))
    assert [(item.name, dict(item.labels)) for item in subsets.all_of(found)] == [
        ("v1", {"version": "v1"}),
        ("v2", {"version": "v2"}),
    ]


def test_obstacles() -> None:
    rule = destination_rule("v1", "v2")
    rule["spec"]["subsets"].append({"name": "old", "labels": {"track": "old"}})
    found = target(rules=(rule,), endpoints=(endpoint("v1"), endpoint("v2", "UNHEALTHY")))
    assert list(subsets.obstacles(found, ["v1", "v2", "old", "v9"])) == [
        "subset v2: none of its 1 instances is healthy",
        "subset old: no instance has track=old",
        "subset v9: no instance has version=v9; there are old, v1, v2",
    ]
    nothing = target(rules=(), endpoints=())
    assert list(subsets.obstacles(nothing, ["v1"])) == [
        "subset v1: no instance has version=v1; the service has no subset and no instance with a version"
    ]


def test_missing_ones_are_added_and_the_rest_of_the_rule_stays() -> None:
    before = destination_rule("v1", trafficPolicy={"connectionPool": {"tcp": {"maxConnections": 3}}})
    kept = copy.deepcopy(before)
    pair = subsets.defining(target(rules=(before,)), ["v1", "v2"])
    assert pair is not None
    assert pair[0] == before == kept
    kept["spec"]["subsets"].append({"name": "v2", "labels": {"version": "v2"}})
    assert pair[1] == kept
    assert isinstance(admit(pair[1]), Admitted)


def test_nothing_is_written_when_all_are_there() -> None:
    assert subsets.defining(target(), ["v1", "v2"]) is None


def test_a_rule_with_subsets_is_preferred_and_one_is_made_where_there_is_none() -> None:
    bare, with_some = destination_rule(name="bare"), destination_rule("v1", name="some")
    pair = subsets.defining(target(rules=(bare, with_some)), ["v2"])
    assert pair is not None
    assert pair[0] is with_some
    made = subsets.defining(target(rules=()), ["v2"])
    assert made is not None
    assert made[0] is None
    assert made[1]["spec"] == {"host": "reviews", "subsets": [{"name": "v2", "labels": {"version": "v2"}}]}
    assert isinstance(admit(made[1]), Admitted)


ELSEWHERE = {
    **destination_rule(name="wide", host="reviews.shop.svc.cluster.local"),
    "metadata": {"name": "wide", "namespace": "else"},
}


@pytest.mark.parametrize(
    "rule",
    [
        destination_rule(name="wide", host="*.svc.cluster.local"),
        destination_rule(name="wide", workloadSelector={"matchLabels": {"app": "a"}}),
        ELSEWHERE,
    ],
    ids=["wildcard", "selector", "other-namespace"],
)
def test_a_rule_for_more_or_for_less_is_not_edited_and_not_shadowed(rule) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MeshError, match=r"/wide for .*which gets no subsets from here"):
        subsets.defining(target(rules=(rule,)), ["v2"])
