"""The status of an object as all replicas together say it."""

import json
from typing import Any

from controlplane.api.status import is_problem, merge_status, problems


def report(*conditions: dict[str, Any], generation: int = 1) -> bytes:
    return json.dumps({"observedGeneration": generation, "conditions": list(conditions)}).encode()


def condition(
    type_: str = "Conflict", status: str = "True", since: str = "2026-01-01T00:00:00Z", message: str = "m"
) -> Any:
    return {"type": type_, "status": status, "reason": "r", "message": message, "lastTransitionTime": since}


def test_no_report_is_no_status() -> None:
    assert merge_status([]) == {}
    assert merge_status([b"{", b"[]", b"{}"]) == {}


def test_one_report_is_shown_as_it_is() -> None:
    assert merge_status([report(condition())]) == {"observedGeneration": 1, "conditions": [condition()]}


def test_the_problem_wins_and_the_oldest_says_since_when() -> None:
    merged = merge_status(
        [
            report(condition(status="False"), generation=4),
            report(condition(since="2026-01-03T00:00:00Z", message="later"), generation=3),
            report(condition(since="2026-01-02T00:00:00Z", message="first"), generation=4),
        ]
    )
    assert merged["observedGeneration"] == 3
    (found,) = merged["conditions"]
    assert (found["status"], found["message"], found["replicas"]) == ("True", "first", 2)


def test_what_is_good_when_it_is_true() -> None:
    assert is_problem(condition("Accepted", "False"))
    assert not is_problem(condition("Accepted", "True"))
    assert is_problem(condition("Conflict", "True"))
    assert not is_problem(condition("Conflict", "False"))
    found = problems({"conditions": [condition("Accepted", "True"), condition("NoPort", "True")]})
    assert [item["type"] for item in found] == ["NoPort"]


def programmed(acknowledged: int, pending: int, rejected: int, since: str, status: str) -> bytes:
    counts = {"acknowledged": acknowledged, "pending": pending, "rejected": rejected}
    value = {"observedGeneration": 1, "conditions": [condition("Programmed", status, since)], "proxies": counts}
    return json.dumps(value).encode()


def test_proxies_are_the_sum_of_all_replicas() -> None:
    merged = merge_status(
        [
            programmed(3, 0, 0, "2026-01-01T00:00:00Z", "True"),
            programmed(1, 2, 0, "2026-01-03T00:00:00Z", "Unknown"),
            programmed(0, 1, 0, "2026-01-02T00:00:00Z", "Unknown"),
            report(condition("Conflict")),
            b'{"observedGeneration": 1, "proxies": {"acknowledged": "many"}}',
        ]
    )
    assert merged["proxies"] == {"interested": 7, "acknowledged": 4, "pending": 3, "rejected": 0}
    conflict, found = merged["conditions"]
    assert conflict["type"] == "Conflict"
    assert found == {
        "type": "Programmed", "status": "Unknown", "reason": "Pending",
        "message": "acknowledged by 4 of 7 interested proxies, 3 pending", "lastTransitionTime": "2026-01-02T00:00:00Z",
    }  # fmt: skip


def test_how_many_have_it_is_no_problem_of_its_own() -> None:
    """What counts comes and goes with proxies; a refusal has a condition of its own."""
    assert not any(is_problem(condition("Programmed", status)) for status in ("True", "False", "Unknown"))


def test_details_are_those_of_the_newest_report() -> None:
    """Of the Gateway API's kinds: each replica finds the same, as far as it has come."""

    def detailed(generation: int, routes: int) -> bytes:
        listeners = [{"name": "http", "attachedRoutes": routes, "conditions": []}]
        return json.dumps({"observedGeneration": generation, "conditions": [], "listeners": listeners}).encode()

    merged = merge_status([detailed(1, 5), detailed(2, 7), detailed(1, 6)])
    assert merged == {
        "observedGeneration": 1,
        "listeners": [{"name": "http", "attachedRoutes": 7, "conditions": []}],
    }
