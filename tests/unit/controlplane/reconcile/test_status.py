"""The status of an object: the compiler's conditions, unreadable values and refusals of proxies in one value."""

import json
from typing import Any

from controlplane.compiler.types import Condition, Source, StatusDetails, StatusPart
from controlplane.distribution.reach import Reach
from controlplane.distribution.stream_sync import Rejection, Span
from controlplane.reconcile.status import StatusBook, rejection_conditions
from mesh.vocabulary import ObjectRef
from mesh.xds import type_url

VS = ObjectRef("networking.istio.io", "VirtualService", "default", "a")
DR = ObjectRef("networking.istio.io", "DestinationRule", "default", "a")


def rejection(*refs: ObjectRef, certain: bool = True, reason: str = "no") -> Rejection:
    return Rejection(
        type_url=type_url.CLUSTER,
        name="outbound|80||a",
        version="v",
        sources=tuple(Source(ref, 1) for ref in refs),
        reason=reason,
        span=Span(0, 5),
        certain=certain,
    )


def test_a_refusal_becomes_a_condition_on_every_source() -> None:
    found = rejection_conditions([("node-1", rejection(VS, DR)), ("node-2", rejection(VS, DR))])
    assert {item.ref for item in found} == {VS, DR}
    assert {(item.type, item.status) for item in found} == {("Rejected", "True")}
    assert "refused by 2 of this replica's proxies (node-1, node-2): CDS outbound|80||a: no" in found[0].message


def test_an_unclear_refusal_only_suspects() -> None:
    (found,) = rejection_conditions([("node-1", rejection(VS, certain=False))])
    assert found.type == "Suspected"
    assert "did not say which" in found.message


def test_many_nodes_are_cut_short() -> None:
    (found,) = rejection_conditions([(f"node-{index}", rejection(VS)) for index in range(9)])
    assert "refused by 9" in found.message
    assert "node-4, ...)" in found.message


def test_the_value_changes_only_with_its_content() -> None:
    book = StatusBook()
    conflict = Condition(VS, "Conflict", "True", "OtherObjectWins", "x", "IST0109")
    first = book.values([conflict], {VS: 3}, 1_790_000_000.7)
    assert book.values([conflict], {VS: 3}, 1_790_000_099.0) == first
    value = json.loads(first[VS])
    assert value == {
        "observedGeneration": 3,
        "conditions": [
            {
                "type": "Conflict",
                "status": "True",
                "reason": "OtherObjectWins",
                "message": "x",
                "code": "IST0109",
                "lastTransitionTime": "2026-09-21T14:13:20Z",
            }
        ],
    }


def test_a_condition_that_went_and_came_back_has_a_new_time() -> None:
    book = StatusBook()
    conflict = Condition(VS, "Conflict", "True", "OtherObjectWins", "x")
    first = json.loads(book.values([conflict], {}, 1_790_000_000)[VS])
    assert book.values([], {}, 1_790_000_001) == {}
    again = json.loads(book.values([conflict], {}, 1_790_000_050)[VS])
    times = [item["conditions"][0]["lastTransitionTime"] for item in (first, again)]
    assert times[0] < times[1]


def test_what_proxies_have_is_a_condition_and_counts() -> None:
    book = StatusBook()
    value = json.loads(book.values([], {VS: 2}, 1_790_000_000, {VS: Reach(1, 1)})[VS])
    assert value["observedGeneration"] == 2
    assert value["proxies"] == {"interested": 2, "acknowledged": 1, "pending": 1, "rejected": 0}
    (condition,) = value["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Programmed", "Unknown", "Pending")
    later = json.loads(book.values([], {VS: 2}, 1_790_000_009, {VS: Reach(2)})[VS])
    assert later["conditions"][0]["lastTransitionTime"] > condition["lastTransitionTime"]
    more = json.loads(book.values([], {VS: 2}, 1_790_000_019, {VS: Reach(3)})[VS])
    assert more["conditions"][0]["lastTransitionTime"] == later["conditions"][0]["lastTransitionTime"]


def test_details_have_times_and_generations_of_their_own() -> None:
    """A listener's condition keeps the time at which it became what it is, whatever another listener's says."""
    book = StatusBook()

    def values(*statuses: str, now: float) -> dict[str, Any]:
        parts = tuple(
            StatusPart(
                key=str(number),
                facts={"name": str(number)},
                conditions=(Condition(VS, "Accepted", status, "r", "m"),),
            )
            for number, status in enumerate(statuses)
        )
        own = (Condition(VS, "Accepted", "True", "Accepted", "all"),)
        details = {VS: StatusDetails(conditions=own, parts={"listeners": parts}, facts={"addresses": ["a"]})}
        return json.loads(book.values([], {VS: 4}, now, None, details)[VS])  # type: ignore[no-any-return]

    first = values("True", "False", now=1_790_000_000.0)
    assert [item["type"] for item in first["conditions"]] == ["Accepted"]
    assert first["conditions"][0]["observedGeneration"] == 4
    assert (first["addresses"], first["observedGeneration"]) == (["a"], 4)
    since = first["listeners"][0]["conditions"][0]["lastTransitionTime"]
    assert first["listeners"][0] == {
        "name": "0",
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": since,
             "observedGeneration": 4}
        ],
    }  # fmt: skip
    second = values("True", "True", now=1_790_000_060.0)
    times = [item["conditions"][0]["lastTransitionTime"] for item in second["listeners"]]
    assert times[0] == since
    assert times[1] > since


def test_what_needs_attention_stands_before_the_details_of_its_type() -> None:
    details = {VS: StatusDetails(conditions=(Condition(VS, "Accepted", "True", "Accepted", "good"),))}
    problem = Condition(VS, "Accepted", "False", "Bad", "bad")
    (found,) = json.loads(StatusBook().values([problem], {}, 0.0, None, details)[VS])["conditions"]
    assert (found["status"], found["message"]) == ("False", "bad")
