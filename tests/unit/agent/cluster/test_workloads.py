"""Who an identity may be: what all that have it agree on."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agent.cluster.workloads import CallerIndex
from mesh.xds.workload_name import WorkloadName

V1 = "reviews;default;sa;reviews;v1;reviews;v1"
V2 = "reviews;default;sa;reviews;v2;reviews;v2"
RATINGS = "ratings;default;sa;ratings;v1;ratings;v1"


def index(*entries: tuple[str, str]) -> CallerIndex:
    made = CallerIndex()
    for address, workload in entries:
        made.add(address, workload)
    return made


def test_one_workload_is_known_wherever_it_calls_from() -> None:
    assert index(("10.0.0.1", V1)).find("default", "sa", "10.9.9.9") == WorkloadName.parse(V1)


def test_several_are_told_apart_by_their_address() -> None:
    known = index(("10.0.0.1", V1), ("10.0.0.2", V2))
    assert known.find("default", "sa", "10.0.0.2").version == "v2"
    elsewhere = known.find("default", "sa", "10.0.0.3")
    assert (elsewhere.workload, elsewhere.app, elsewhere.version) == ("reviews", "reviews", "")


def test_what_is_ambiguous_is_not_guessed() -> None:
    found = index(("10.0.0.1", V1), ("10.0.0.1", RATINGS)).find("default", "sa", "10.0.0.1")
    assert (found.workload, found.version, found.namespace, found.service_account) == ("", "v1", "default", "sa")


def test_an_identity_that_nobody_has_keeps_its_namespace() -> None:
    assert index().find("ns", "x", "10.0.0.1") == WorkloadName(workload="", namespace="ns", service_account="x")


def test_endpoints_without_a_name_say_nothing() -> None:
    known = index(("10.0.0.1", ""))
    known.remove("10.0.0.1", "")
    assert known.find("", "", "10.0.0.1").workload == ""


@given(st.lists(st.tuples(st.sampled_from("123"), st.sampled_from([V1, V2, RATINGS]), st.booleans())))
def test_it_holds_exactly_what_is_there(changes: list[tuple[str, str, bool]]) -> None:
    """Against a plain count of endpoints."""
    known, there = CallerIndex(), Counter[tuple[str, str]]()
    for address, workload, comes in changes:
        if comes:
            known.add(address, workload)
            there[address, workload] += 1
        elif there[address, workload]:
            known.remove(address, workload)
            there[address, workload] -= 1
    left = {pair for pair, count in there.items() if count}
    for address in "123":
        near = {workload for own, workload in left if own == address} or {workload for _, workload in left}
        found = known.find("default", "sa", address)
        apps = {WorkloadName.parse(workload).app for workload in near}
        assert found.app == (apps.pop() if len(apps) == 1 else "")
    if not left:
        assert not known._by_account
