"""The present split as data and as tables."""

from typing import Any

from controlplane.cli.output.terminal import Terminal
from controlplane.cli.splits.present import present, render
from tests.unit.controlplane.cli.splits.samples import HOST, destination, endpoint, target, virtual_service

MATCHES = [{"headers": {"x-a": {"exact": "b"}}, "uri": {"prefix": "/p"}}, {"port": 80, "name": "n"}]
RULES = (
    {"name": "beta", "match": MATCHES,
     "route": [destination("v2")], "mirror": {"host": HOST}, "mirrorPercent": 5},
    {"match": [{"uri": {"exact": "/x"}}], "redirect": {"uri": "/"}},
    {"route": [destination("v1", weight=3), destination("v2", weight=1)],
     "mirrors": [{**destination("v2"), "percentage": {"value": 10.0}}, destination(host="audit")]},
)  # fmt: skip


def load(subset: str, requests: float, errors: float = 0.0, service: str = HOST) -> dict[str, Any]:
    return {"service": service, "subset": subset, "requests_per_s": requests, "errors_per_s": errors}


TRAFFIC = [load("v1", 20.0), load("v1", 10.0, 3.0), load("v2", 10.0), load("v2", 99.0, service="other")]


def test_rules_and_live_shares() -> None:
    found = present(target(virtual_service(*RULES)), TRAFFIC)
    assert (found["service"], found["virtualService"]) == (HOST, "shop/reviews")
    assert [rule["rule"] for rule in found["rules"]] == ["http[0] beta", "http[2]"]
    assert found["rules"][0]["split"] == [{"subset": "v2", "weight": 100, "share": 1.0}]
    assert found["rules"][0]["mirrors"] == [{"subset": "", "percent": 5}]
    assert [part["share"] for part in found["rules"][1]["split"]] == [0.75, 0.25]
    assert found["rules"][1]["mirrors"] == [{"subset": "v2", "percent": 10.0}]
    v1, v2 = found["subsets"]
    assert (v1["requests_per_s"], v1["live_share"], v1["error_share"]) == (30.0, 0.75, 0.1)
    assert (v2["requests_per_s"], v2["live_share"], v2["error_share"]) == (10.0, 0.25, 0.0)


def test_the_tables() -> None:
    found = present(target(virtual_service(*RULES), endpoints=(endpoint("v1", ejected=True), endpoint("v2"))), TRAFFIC)
    assert render(found, Terminal(colour=False)).splitlines() == [
        f"Service:            {HOST}",
        "VirtualService:     shop/reviews",
        "DestinationRules:   shop/reviews",
        "",
        "RULE           REQUESTS                               SUBSET   WEIGHT   SHARE    COPIES TO",
        "http[0] beta   header x-a b, uri prefix /p; port 80   v2       100      100.0%   (all) 5%",
        "http[2]        all others                             v1       3        75.0%    v2 10%",
        "http[2]        all others                             v2       1        25.0%    v2 10%",
        "",
        "SUBSET   LABELS       HEALTHY           REQUESTS/S   LIVE SHARE   ERRORS",
        "v1       version=v1   1/1 (1 ejected)   30.0         75.0%        10.0%",
        "v2       version=v2   1/1               10.0         25.0%        0.0%",
    ]


def test_ejections_are_counted_without_subsets_too() -> None:
    found = present(target(rules=(), endpoints=(endpoint("v1", ejected=True), endpoint("v2"))), [])
    assert found["subsets"][0]["endpoints"] == {"total": 2, "healthy": 2, "ejected": 1}


def test_a_service_without_any_policy() -> None:
    found = present(target(rules=()), [])
    assert found["subsets"][0]["endpoints"] == {"total": 2, "healthy": 2, "ejected": 0}
    text = render(found, Terminal(colour=False))
    assert "none: requests go to every instance" in text
    assert text.splitlines()[-1].split() == ["(all)", "-", "2/2", "0.0", "-", "-"]


def test_requests_without_a_subset_have_a_row() -> None:
    found = present(target(virtual_service(*RULES)), [load("", 5.0), load("v1", 5.0)])
    assert [(item["subset"], item["live_share"]) for item in found["subsets"]] == [("v1", 0.5), ("v2", 0.0), ("", 0.5)]
