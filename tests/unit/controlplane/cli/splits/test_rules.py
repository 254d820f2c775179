"""Which http rule is edited, what it becomes, and that nothing else changes."""

import copy
from typing import Any

import pytest

from controlplane.cli.splits import rules
from controlplane.cli.splits.wanted import Mirror, Wanted
from controlplane.policy.admission import Admitted, admit
from mesh.errors import MeshError
from tests.unit.controlplane.cli.splits.samples import HOST, destination, target, virtual_service

PATH = {"uri": {"prefix": "/v2"}}
CANARY = {"headers": {"x-canary": {"exact": "yes"}}}
SPLIT = [destination("v1", weight=90), destination("v2", weight=10)]


def edit(item: dict[str, Any], wanted: Wanted, route: str = "") -> tuple[dict[str, Any], int]:
    """What it becomes; the original is left alone and the result is admitted."""
    found = target(item)
    kept = copy.deepcopy(item)
    after, index = rules.edited(item, found, wanted, rules.chosen(item, found, route))
    assert item == kept
    assert isinstance(admit(after), Admitted)
    return after, index


def split(item: dict[str, Any], wanted: Wanted, route: str = "") -> dict[str, int]:
    after, index = edit(item, wanted, route)
    return {part["destination"].get("subset", ""): part["weight"] for part in after["spec"]["http"][index]["route"]}


def refused(item: dict[str, Any], wanted: Wanted, route: str = "") -> str:
    with pytest.raises(MeshError) as found:
        edit(item, wanted, route)
    return str(found.value)


V2 = Wanted(weights={"v2": 100})


def test_weights_change_and_everything_else_stays() -> None:
    rule = {
        "name": "main", "timeout": "3s", "retries": {"attempts": 1}, "route": [
            destination("v1", weight=90, headers={"request": {"set": {"a": "b"}}}), destination("v2", weight=10),
        ],
    }  # fmt: skip
    other = {"match": [PATH], "redirect": {"uri": "/"}}
    before = virtual_service(other, rule)
    after, index = edit(before, Wanted(weights={"v1": 80, "v2": 20}))
    assert index == 1
    wanted = copy.deepcopy(before)
    wanted["spec"]["http"][1]["route"][0]["weight"], wanted["spec"]["http"][1]["route"][1]["weight"] = 80, 20
    assert after == wanted
    assert after["metadata"]["resourceVersion"] == "7", "so that nobody's change is written over"


def test_who_is_not_named_gets_nothing_and_keeps_its_place() -> None:
    rule = {"route": [destination("v1", weight=50), destination("v3", weight=50)]}
    assert split(virtual_service(rule), V2) == {"v1": 0, "v3": 0, "v2": 100}


def test_a_destination_without_a_subset_is_replaced_and_its_host_and_port_kept() -> None:
    whole = {"destination": {"host": HOST, "port": {"number": 80}}}
    after, _ = edit(virtual_service({"route": [whole]}), Wanted(weights={"v1": 60, "v2": 40}))
    assert after["spec"]["http"][0]["route"] == [
        {"destination": {"host": HOST, "port": {"number": 80}, "subset": "v1"}, "weight": 60},
        {"destination": {"host": HOST, "port": {"number": 80}, "subset": "v2"}, "weight": 40},
    ]


@pytest.mark.parametrize(
    ("http", "route", "index"),
    [
        ([{"route": SPLIT}], "", 0),
        ([{"match": [PATH], "route": SPLIT}, {"route": SPLIT}], "", 1),
        ([{"match": [PATH], "route": SPLIT}, {"match": [{"uri": {"prefix": "/"}}], "route": SPLIT}], "", 1),
        ([{"match": [PATH], "route": SPLIT}], "", 0),  # the only one that routes to it
        ([{"match": [PATH], "route": SPLIT}, {"redirect": {"uri": "/"}}], "", 0),
        ([{"match": [PATH], "route": SPLIT}, {"route": SPLIT}], "http[0]", 0),
        ([{"name": "a", "match": [PATH], "route": SPLIT}, {"route": SPLIT}], "a", 0),
    ],
)
def test_which_rule(http: list[dict[str, Any]], route: str, index: int) -> None:
    assert rules.chosen(virtual_service(*http), target(), route) == index


@pytest.mark.parametrize(
    ("http", "wanted", "route", "words"),
    [
        ([{"redirect": {"uri": "/"}}], V2, "", "no rule routes to reviews.shop.svc.cluster.local; http[0]"),
        ([{"route": [destination(host="other")]}], V2, "", "which takes the other requests, routes elsewhere"),
        ([], V2, "", "no http rule routes to"),
        ([{"match": [PATH], "route": SPLIT}] * 2, V2, "", "none of them takes all other requests (--route names"),
        ([{"route": SPLIT}], V2, "b", "found 0 rules 'b', expected one of http[0]"),
        ([{"name": "b", "route": SPLIT}] * 2, V2, "b", "found 2 rules 'b', expected one of http[0] b, http[1] b"),
        ([{"redirect": {"uri": "/"}}], V2, "http[0]", "rule http[0] redirects, expected a route"),
        ([{"directResponse": {"status": 200}}], V2, "http[0]", "answers by itself"),
        ([{"delegate": {"name": "d"}}], V2, "http[0]", "delegates, expected a route (--virtual-service names"),
        ([{"route": [*SPLIT, destination(host="other", weight=1)]}], V2, "", "routes to other, expected only"),
        ([{"route": [*SPLIT, destination("v1", weight=1)]}], V2, "", "subset v1 stands twice"),
        ([{"route": [destination(headers={"request": {"remove": ["a"]}})]}], V2, "", "which a subset would lose"),
        ([{"route": SPLIT, "mirror": {"host": "other"}}], Wanted(mirror=Mirror("v2")), "", "write it as mirrors"),
        ([{"match": [CANARY], "route": SPLIT}], Wanted(weights={"v2": 100}, headers={"x-canary": "no"}), "", "already"),
        ([{"route": SPLIT}], Wanted(headers={"x-canary": "yes"}, remove=True), "", "no rule matches exactly"),
    ],
)
def test_another_shape_is_refused(http: list[dict[str, Any]], wanted: Wanted, route: str, words: str) -> None:
    assert words in refused(virtual_service(*http), wanted, route)


def test_which_virtual_service() -> None:
    own = virtual_service({"route": SPLIT})
    wide = virtual_service({"route": SPLIT}, name="wide", hosts=("*.svc.cluster.local",))
    full = virtual_service({"route": SPLIT}, name="full", hosts=(HOST,))
    assert rules.virtual_service_of(target()) is None
    assert rules.virtual_service_of(target(wide)) is wide
    assert rules.virtual_service_of(target(wide, own)) is own
    with pytest.raises(MeshError, match="found VirtualServices shop/reviews, shop/full, expected one"):
        rules.virtual_service_of(target(own, full))


def test_a_service_without_one_gets_one_that_changes_nothing_by_itself() -> None:
    made = rules.new_virtual_service(target())
    assert made["metadata"] == {"name": "reviews", "namespace": "shop"}
    assert made["spec"] == {"hosts": ["reviews"], "http": [{"route": [destination()]}]}
    assert split(made, V2) == {"v2": 100}


# --- headers


def test_a_rule_for_a_header_stands_in_front_and_is_a_copy() -> None:
    main = {"name": "main", "timeout": "3s", "route": SPLIT}
    first = {"match": [PATH], "route": [destination("v1")]}
    after, index = edit(virtual_service(first, main), Wanted(weights={"v2": 100}, headers={"x-canary": "yes"}))
    assert index == 1
    one, canary, rest = after["spec"]["http"]
    assert (one, rest) == (first, main)
    assert canary["match"] == [CANARY]
    assert (canary["name"], canary["timeout"]) == ("main-x-canary-yes", "3s")
    assert [part["weight"] for part in canary["route"]] == [0, 100]


def test_the_same_header_again_changes_its_rule_and_remove_takes_it_away() -> None:
    headers = {"x-canary": "yes", "x-team": "a"}
    before = virtual_service({"route": SPLIT})
    once, _ = edit(before, Wanted(weights={"v2": 100}, headers=headers))
    assert once["spec"]["http"][0]["match"] == [{"headers": {k: {"exact": v} for k, v in headers.items()}}]
    assert split(once, Wanted(weights={"v1": 50, "v2": 50}, headers=headers)) == {"v1": 50, "v2": 50}
    again, index = edit(once, Wanted(headers=headers, remove=True))
    assert (again, index) == (before, -1)


def test_a_header_is_added_to_each_match_of_the_rule() -> None:
    matches = [PATH, {"headers": {"x-a": {"prefix": "b"}}}]
    wanted = Wanted(mirror=Mirror("v2"), headers={"x-canary": "yes"})
    after, index = edit(virtual_service({"match": matches, "route": SPLIT}), wanted)
    assert index == 0
    assert after["spec"]["http"][0]["match"] == [
        {**PATH, **CANARY},
        {"headers": {"x-a": {"prefix": "b"}, "x-canary": {"exact": "yes"}}},
    ]
    assert after["spec"]["http"][1]["match"] == matches


def test_a_rule_for_a_header_that_goes_elsewhere_is_refused() -> None:
    elsewhere = {"match": [CANARY], "route": [destination(host="other")]}
    words = refused(
        virtual_service(elsewhere, {"route": SPLIT}), Wanted(weights={"v2": 100}, headers={"x-canary": "yes"})
    )
    assert "rule http[0] routes to other, expected only" in words


# --- mirrors


def test_a_mirror_replaces_that_to_the_service_and_keeps_others() -> None:
    others = {"destination": {"host": "audit"}, "percentage": {"value": 5.0}}
    before = virtual_service({"route": SPLIT, "mirrors": [others, destination("v1")]})
    after, _ = edit(before, Wanted(mirror=Mirror("v2", 10.0)))
    rule = after["spec"]["http"][0]
    assert rule["mirrors"] == [others, {**destination("v2"), "percentage": {"value": 10.0}}]
    assert rule["route"] == SPLIT
    gone, _ = edit(after, Wanted(no_mirror=True))
    assert gone["spec"]["http"][0]["mirrors"] == [others]


def test_the_older_form_of_a_mirror_is_replaced() -> None:
    old = {"mirror": {"host": HOST, "subset": "v1"}, "mirrorPercentage": {"value": 5.0}}
    after, _ = edit(virtual_service({"route": SPLIT, **old}), Wanted(mirror=Mirror("v2")))
    assert after["spec"]["http"][0] == {"route": SPLIT, "mirrors": [destination("v2")]}
    gone, _ = edit(virtual_service({"route": SPLIT, **old}), Wanted(no_mirror=True))
    assert gone["spec"]["http"][0] == {"route": SPLIT}


def test_an_older_mirror_to_another_service_is_no_concern_of_no_mirror() -> None:
    before = virtual_service({"route": SPLIT, "mirror": {"host": "audit"}})
    assert edit(before, Wanted(no_mirror=True))[0] == before


# --- what remains


def test_rules_that_still_send_requests_elsewhere_are_named() -> None:
    item = virtual_service(
        {"name": "beta", "match": [PATH], "route": [destination("v1")]},
        {"match": [CANARY], "route": [destination("v1", weight=0), destination("v2", weight=1)]},
        {"match": [PATH], "route": [destination()]},
        {"route": SPLIT},
    )
    assert rules.elsewhere(item, target(), V2, 3) == [
        "rule http[0] beta still sends requests to v1",
        "rule http[2] still sends requests to all",
    ]
