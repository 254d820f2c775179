"""Stages and places, reports of several replicas together, the overlay, and the stored forms."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.mesh_state import Changes
from controlplane.model.rollout import LogLine, Phase, Plan, Reason, Rollout, State
from controlplane.model.rollout_observation import (
    NO_COUNTS,
    SPACE,
    Counts,
    Refusal,
    Report,
    Stage,
    joined,
    parse_stages,
    place_of,
    wanted_limit,
)
from controlplane.model.rollout_overlay import Overlay, followed
from controlplane.model.rollout_record import (
    Active,
    Planned,
    Record,
    decode_active,
    decode_record,
    decode_report,
    encode_active,
    encode_record,
    encode_report,
)
from mesh.errors import MeshError
from mesh.vocabulary import ObjectRef
from tests.support.compiling import instance, mesh_of, parse, put

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: {app: a}, ports: [{port: 80}]}\n"
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}
"""
HOST = "a.default.svc.cluster.local"


@pytest.mark.parametrize("text", ["1", "100", "1%", "0.5%", "100%"])
def test_stages_read_as_they_are_written(text: str) -> None:
    assert str(Stage.parse(text)) == text


@pytest.mark.parametrize("text", ["", "0", "101", "0%", "101%", "-1", "1.5", "x", "٣", "1%%", "1e3%", "999999999999%"])
def test_what_is_no_stage(text: str) -> None:
    with pytest.raises(ValueError, match=r"found .* expected a number of proxies"):
        Stage.parse(text)


@pytest.mark.parametrize("text", ["1,1,100%", "2,1,100%", "10%,1,100%", "10%,5%,100%", "1", "50%", "100%,100%"])
def test_stages_grow_up_to_all(text: str) -> None:
    with pytest.raises(ValueError, match="found"):
        parse_stages(text, most=20)


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_place_depends_on_rollout_and_node_alone(rollout: str, node: str) -> None:
    assert 0 <= place_of(rollout, node) < SPACE
    assert place_of(rollout, node) == place_of(rollout, node)


def test_places_are_spread_evenly_and_anew_for_each_rollout() -> None:
    nodes = [f"node-{number}" for number in range(2000)]
    for rollout in ("r1", "r2"):
        staged = sum(place_of(rollout, node) < wanted_limit(Stage(percent=10), ()) for node in nodes)
        assert 140 <= staged <= 260, "200 of 2000, within four standard deviations"
    first = {rollout: min(nodes, key=lambda node, rollout=rollout: place_of(rollout, node)) for rollout in ("r1", "r2")}
    assert first["r1"] != first["r2"], "not always the same proxy goes first"


@given(st.lists(st.integers(0, SPACE - 1), max_size=20, unique=True), st.integers(1, 100))
def test_a_limit_takes_in_what_the_stage_wants(places: list[int], count: int) -> None:
    lowest = sorted(places)
    limit = wanted_limit(Stage(count=count), lowest)
    assert sum(place < limit for place in places) == min(count, len(places))
    share = wanted_limit(Stage(percent=0.001), lowest)
    assert not places or any(place < share for place in places)
    assert all(place < wanted_limit(Stage(percent=100), lowest) for place in places)


def report(replica: str, **fields: object) -> Report:
    return replace(Report(rollout="r", replica=replica, epoch=3), **fields)  # type: ignore[arg-type]


def test_reports_are_added_up() -> None:
    seen = joined(
        [
            report("b", interested=2, lowest=(5, 9), staged=1, own=Counts(10, 1), others=Counts(5, 0)),
            report("a", interested=1, lowest=(7,), staged=1, pending=("n",), pending_count=1, own=Counts(2, 2)),
            report("old", epoch=2, interested=50, lowest=(1,), rejected=(Refusal("x", "CDS c", "bad"),)),
            report("other", rollout="q", interested=50, rejected=(Refusal("y", "CDS c", "bad"),)),
        ],
        ["a", "b", "old"],
        "r",
        3,
    )
    assert (seen.interested, seen.lowest, seen.staged) == (3, (5, 7, 9), 2)
    assert (seen.own, seen.others, seen.pending) == (Counts(12, 3), Counts(5, 0), ("n",))
    assert seen.missing == ("old",)
    assert [item.node for item in seen.rejected] == ["x"], "a refusal counts whatever the epoch, of this rollout"


def test_busy_proxies_come_before_idle_ones_of_all_replicas() -> None:
    reports = [report("a", lowest=(1, 2), busy=()), report("b", lowest=(3, 4), busy=(4,))]
    assert joined(reports, ["a", "b"], "r", 3).lowest == (4,)


# --- the overlay


def overlay(text: str, *, limit: int = SPACE, epoch: int = 1, rollout: str = "r") -> Overlay:
    objects, _, _ = parse(text)
    return Overlay(rollout, {item.ref: item for item in objects}, limit, epoch)


def test_the_candidate_is_the_base_with_the_overlay_and_follows_its_changes() -> None:
    base = mesh_of(SERVICE)
    laid = overlay(ROUTE)
    first = followed(None, laid, base, Changes(revision=base.revision))
    assert first is not None
    (route,) = laid.objects
    assert route in first.mesh.objects
    assert route not in base.objects
    assert first.mesh.views[HOST].target is base.views[HOST].target, "what the overlay does not touch is shared"

    after = put(base, instance("a1", service="a"))
    changes = Changes(revision=after.revision, instances=after.instances())
    second = followed(first, laid, after, changes)
    assert second is not None
    assert [item.workload.id for item in second.mesh.endpoints(HOST)] == ["a1"]
    assert second.mesh.revision == after.revision


def test_the_store_does_not_reach_the_overlays_objects() -> None:
    base, laid = mesh_of(f"{SERVICE}---\n{ROUTE}"), overlay(ROUTE.replace("hosts: [a]", "hosts: [b.example, a]"))
    first = followed(None, laid, base, Changes(revision=base.revision))
    (route,) = laid.objects
    gone = Changes(revision=9, deleted_objects=(route,))
    second = followed(first, laid, base.with_changes(gone), gone)
    assert second is not None
    assert second.mesh.objects[route] is laid.objects[route]
    assert followed(second, None, base, gone) is None


def test_another_rollout_begins_anew() -> None:
    base = mesh_of(SERVICE)
    first = followed(None, overlay(ROUTE), base, Changes(revision=1))
    second = followed(first, overlay(ROUTE.replace("name: a", "name: z"), rollout="q"), base, Changes(revision=1))
    assert second is not None
    assert [ref.name for ref in second.mesh.objects if ref.kind == "VirtualService"] == ["z"]


# --- stored forms


def record(phase: Phase = Phase.WATCHING) -> Record:
    objects, _, _ = parse(f"{SERVICE}---\n{ROUTE}")
    state = State(
        phase=phase, stage=1, since=1.5, limit=77, epoch=9, others=Counts(3, 1), reason=Reason.ERRORS, message="m",
        log=(LogLine(1.0, "a"), LogLine(1.5, "b")),
    )  # fmt: skip
    plan = Plan(
        stages=parse_stages("1,10%,100%", most=20), pause_s=1.5, min_requests=7, max_error_points=2.5, wait_s=9.0
    )
    planned = tuple(
        Planned(ref=item.ref, action="configured", revision=number, generation=2, object=item)
        for number, item in enumerate(objects)
    )
    return Record(rollout=Rollout(id="01R", author="ann", plan=plan, state=state), objects=planned)


def test_a_record_is_what_was_stored() -> None:
    assert decode_record("01R", encode_record(record())) == record()


def test_an_ended_record_keeps_names_only() -> None:
    ended = record().moved(record(Phase.FINISHED).rollout)
    assert [str(item.ref) for item in ended.objects] == ["Service default/a", "VirtualService default/a"]
    assert decode_record("01R", encode_record(ended)) == ended
    assert ended.overlay() is None
    assert b"spec" not in encode_record(ended)


def test_reports_and_the_active_key_are_what_was_stored() -> None:
    full = report(
        "cp", interested=3, lowest=(1, 2), busy=(2,), staged=2, pending=("n",), pending_count=1,
        rejected=(Refusal("n", "CDS c", "bad"),), own=Counts(5, 1), others=NO_COUNTS,
    )  # fmt: skip
    assert decode_report("cp", encode_report(full)) == full
    active = Active("01R", frozenset({ObjectRef("", "Service", "default", "a"), ObjectRef("g", "K", "n", "b")}))
    assert decode_active(encode_active(active)) == active


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"epoch":"x"}', b'{"plan":{"stages":["0"]}}', b"\xff"])
def test_what_is_none_of_them_is_unreadable(data: bytes) -> None:
    for read in (lambda: decode_record("r", data), lambda: decode_report("r", data), lambda: decode_active(data)):
        with pytest.raises(MeshError, match="expected"):
            read()
