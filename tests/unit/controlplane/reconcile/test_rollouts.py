"""Staged rollouts end to end in one process: who gets what, what is stored when, takeover, and every way to abort."""

from pathlib import Path
from typing import Any

import pytest

from controlplane.store.keys import ROLLOUT_ACTIVE, ROLLOUT_LEADER
from mesh.xds import type_url
from tests.support.compiling import instance
from tests.support.rollouts import Driven, Fleet, fleet, in_order

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 3001}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
"""
HOST = "reviews.default.svc.cluster.local"
OLD, NEW = f"outbound|80|v1|{HOST}", f"outbound|80|v2|{HOST}"
OBJECT = "/apis/networking.istio.io/v1/namespaces/default/virtualservices/reviews"
ROUTES = f"outbound.default/{HOST}:80"


def route(subset: str) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}]}}
"""


async def begin(made: Fleet, text: str = "", query: str = "stages=1,100%25&pause=30s&minRequests=10") -> str:
    """The id of a rollout of the route to v2 over the stored one to v1."""
    await made.rest.apply(f"{SERVICE}---\n{route('v1')}")
    for one in made.replicas:
        one.acknowledge()
    begun = await made.rest.call("POST", f"/mesh/v1/rollouts?{query}", text or route("v2"), status=201)
    assert [item["action"] for item in begun["results"]] == ["configured"]
    await made.settle()
    return str(begun["rollout"]["id"])


def given(one: Driven, node: str) -> str:
    """The cluster to which the node's proxy is to send requests for reviews."""
    view = one.plane.view.config_dump(node)
    assert view is not None
    routes = view.get(type_url.VIRTUAL_HOST, ROUTES)
    assert routes is not None
    return NEW if NEW.encode() in routes.body else OLD


async def stored(made: Fleet) -> str:
    spec = (await made.rest.get(OBJECT))["spec"]
    return str(spec["http"][0]["route"][0]["destination"]["subset"])


async def test_a_good_rollout_goes_through_its_stages_and_is_stored(tmp_path: Path) -> None:
    nodes = ("n1", "n2", "n3")
    async with fleet(tmp_path, nodes) as made:
        (one,) = made.replicas
        id_ = await begin(made)
        first, *others = in_order(id_, *nodes)
        found = await made.watched(id_)
        assert given(one, first) == NEW
        assert {given(one, node) for node in others} == {OLD}
        assert await stored(made) == "v1"
        assert (found["progress"]["staged"], found["progress"]["interested"]) == (1, 3)
        proxies = (await made.rest.get("/mesh/v1/proxies"))["items"]
        assert {item["node"]: item["rollout"] for item in proxies} == {first: id_, **dict.fromkeys(others, "")}

        made.clock.advance(31)
        one.traffic(first, NEW, 12)
        await made.until_phase(id_, "Spreading")
        assert {given(one, node) for node in nodes} == {NEW}
        assert await stored(made) == "v1", "the store has it only when every stage has passed"
        await made.watched(id_)
        made.clock.advance(31)
        one.traffic(others[0], NEW, 12)
        finished = await made.until_phase(id_, "Finished")

        assert await stored(made) == "v2"
        assert {given(one, node) for node in nodes} == {NEW}
        assert one.plane.reconciler.cache.candidate is None
        assert await made.store.get(ROLLOUT_ACTIVE) is None
        (change, *_) = (await made.rest.get("/mesh/v1/history"))["items"]
        assert (change["revision"], change["author"]) == (finished["revision"], "local")
        assert [item["object"] for item in change["objects"]] == ["VirtualService default/reviews"]
        told = [event["message"] for event in (await made.rest.get("/mesh/v1/events"))["items"]]
        assert told[-1] == "finished: the objects are stored"
        assert len([line for line in finished["log"] if "passed" in line["text"]]) == 2


async def test_the_end_sends_nothing_to_proxies_that_have_it_already(tmp_path: Path) -> None:
    """The stored object is byte for byte the candidate: its resources are the same ones."""
    async with fleet(tmp_path, ("n1",)) as made:
        (one,) = made.replicas
        id_ = await begin(made, query="stages=100%25&pause=0s&minRequests=0")
        await made.until_phase(id_, "Watching")
        before = one.plane.view.config_dump("n1")
        await made.until_phase(id_, "Finished")
        after = one.plane.view.config_dump("n1")
        assert before is not None
        assert after is not None
        for url in (type_url.CLUSTER, type_url.VIRTUAL_HOST, type_url.CLUSTER_LOAD_ASSIGNMENT):
            old, new = dict(before.items(url)), dict(after.items(url))
            assert old.keys() == new.keys()
            assert all(old[name] is new[name] for name in old)


async def test_endpoints_flow_to_both_sides_meanwhile(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("n1", "n2")) as made:
        (one,) = made.replicas
        id_ = await begin(made)
        await made.watched(id_)
        await one.plane.put_instances(instance("r1", service="reviews", node="n9", version="v2"))
        for node in ("n1", "n2"):
            view = one.plane.view.config_dump(node)
            assert view is not None
            assignment = view.get(type_url.CLUSTER_LOAD_ASSIGNMENT, f"outbound|80||{HOST}")
            assert assignment is not None
            assert b"10.0.0.1" in assignment.body


async def test_other_writes_to_its_objects_are_refused_and_name_it(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("n1",)) as made:
        id_ = await begin(made)
        for method, path, body in (
            ("POST", "/mesh/v1/batch", route("v1").replace("v1}", "v3}")),
            ("DELETE", OBJECT, None),
        ):
            refused = await made.rest.call(method, path, body, status=409)
            assert id_ in refused["message"]
            assert "VirtualService default/reviews" in refused["message"]
        await made.rest.apply(SERVICE.replace("name: http", "name: http-x"))  # others may be written
        second = await made.rest.call("POST", "/mesh/v1/rollouts?stages=100%25", route("v3"), status=409)
        assert id_ in second["message"]
        await made.rest.call("POST", f"/mesh/v1/rollouts/{id_}/abort", status=200)
        await made.rest.apply(route("v3"))


async def test_more_errors_than_the_others_abort_it(tmp_path: Path) -> None:
    nodes = ("n1", "n2", "n3")
    async with fleet(tmp_path, nodes) as made:
        (one,) = made.replicas
        id_ = await begin(made)
        first, second, _ = in_order(id_, *nodes)
        one.traffic(first, OLD, 1000, 900)  # before it had the candidate: nobody's fault
        await made.watched(id_)
        one.traffic(second, OLD, 100, 1)
        one.traffic(first, NEW, 20, 9)
        found = await made.until_phase(id_, "Aborted")
        assert found["reason"] == "ErrorRate"
        assert "9 of 20 requests" in found["message"]
        assert "1 of 100 requests" in found["message"]
        await made.settle()
        assert {given(one, node) for node in nodes} == {OLD}
        assert await stored(made) == "v1"


async def test_errors_of_clusters_that_it_does_not_concern_say_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("n1",)) as made:
        (one,) = made.replicas
        id_ = await begin(made)
        await made.watched(id_)
        one.traffic("n1", "outbound|80||other.default.svc.cluster.local", 500, 500)
        await made.turn(times=3)
        found = await made.rest.get(f"/mesh/v1/rollouts/{id_}")
        assert (found["phase"], found["progress"]["staged_requests"]["requests"]) == ("Watching", 0)


async def test_a_refusal_aborts_it_and_says_who(tmp_path: Path) -> None:
    nodes = ("n1", "n2")
    async with fleet(tmp_path, nodes) as made:
        (one,) = made.replicas
        id_ = await begin(made)
        first, other = in_order(id_, *nodes)
        # What another proxy refuses of the stored configuration is no business of the rollout's.
        one.refuse(other, type_url.VIRTUAL_HOST, ROUTES)
        await made.turn(acknowledge=False, times=2)
        assert given(one, first) == NEW
        one.refuse(first, type_url.VIRTUAL_HOST, ROUTES, "no such filter")
        found = await made.until_phase(id_, "Aborted")
        assert found["reason"] == "Rejected"
        assert found["message"] == f"{first} refuses VHDS {ROUTES}: no such filter"


async def test_what_was_refused_before_does_not_abort_it(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("n1",)) as made:
        (one,) = made.replicas
        id_ = await begin(made, query="stages=1,100%25&pause=30s&minRequests=10")
        one.refuse("n1", type_url.CLUSTER, f"outbound|80||{HOST}")
        found = await made.watched(id_)
        assert found["progress"]["rejected"] == []


async def test_a_proxy_with_traffic_is_chosen_before_idle_ones(tmp_path: Path) -> None:
    nodes = ("n1", "n2", "n3", "n4")
    async with fleet(tmp_path, nodes) as made:
        (one,) = made.replicas
        id_ = await begin(made)
        last = in_order(id_, *nodes)[-1]
        one.traffic(last, OLD, 5)
        await made.watched(id_)
        assert given(one, last) == NEW


async def test_people_promote_and_abort(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("n1",)) as made:
        id_ = await begin(made)
        await made.watched(id_)
        moved = await made.rest.call("POST", f"/mesh/v1/rollouts/{id_}/promote")
        assert (moved["stage"], moved["phase"]) == (2, "Spreading")
        await made.rest.call("POST", f"/mesh/v1/rollouts/{id_}/abort")
        found = await made.rest.get(f"/mesh/v1/rollouts/{id_}")
        assert (found["phase"], found["reason"], found["message"]) == ("Aborted", "Requested", "local aborts it")
        again = await made.rest.call("POST", f"/mesh/v1/rollouts/{id_}/abort", status=409)
        assert "has ended already" in again["message"]
        await made.rest.get("/mesh/v1/rollouts/nothing", status=404)


async def test_an_object_that_changed_past_it_is_not_overwritten(tmp_path: Path) -> None:
    """Something wrote to the store without asking: nothing is stored over it."""
    async with fleet(tmp_path, ("n1",)) as made:
        (one,) = made.replicas
        id_ = await begin(made, query="stages=100%25&pause=0s&minRequests=0")
        await one.plane.put(route("v9"))
        found = await made.until_phase(id_, "Aborted")
        assert found["reason"] == "Conflict"
        assert "VirtualService default/reviews changed past the rollout" in found["message"]
        assert await stored(made) == "v9"


async def test_another_replica_takes_over_where_the_leader_died(tmp_path: Path) -> None:
    """The leader dies in the middle of a stage; the other goes on with the same stage, limit and clock."""
    async with fleet(tmp_path, ("n1", "n2"), ("n3", "n4")) as made:
        one, two = made.replicas
        id_ = await begin(made)
        watched = await made.watched(id_)
        leader = await made.store.get(ROLLOUT_LEADER)
        assert leader is not None
        assert leader.value == b"cp-1"
        staged = {node for item in (one, two) for node in _staged(item)}
        assert len(staged) == 1, "one of all replicas' proxies"
        made.replicas.reverse()  # the second one's REST is asked from now on
        await made.die(one)
        for node in ("n1", "n2"):  # they come back at the other replica
            two.plane.connect(node)
        assert _staged(two) == staged
        found = await made.rest.get(f"/mesh/v1/rollouts/{id_}")
        assert (found["phase"], found["since"], found["stage"]) == ("Watching", watched["since"], 1)
        await made.turn()
        await made.prime()
        made.clock.advance(31)
        two.traffic(next(iter(staged)), NEW, 20)
        await made.until_phase(id_, "Spreading")
        assert _staged(two) == {"n1", "n2", "n3", "n4"}
        leader = await made.store.get(ROLLOUT_LEADER)
        assert leader is not None
        assert leader.value == b"cp-2"
        await made.watched(id_)
        made.clock.advance(31)
        two.traffic("n3", NEW, 20)
        await made.until_phase(id_, "Finished")
        assert await stored(made) == "v2"


async def test_a_stage_waits_for_the_proxies_of_every_replica(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("n1", "n2"), ("n3", "n4")) as made:
        one, two = made.replicas
        id_ = await begin(made, query="stages=100%25")
        for _ in range(4):
            await made.turn(acknowledge=False)
            one.acknowledge()
        found = await made.rest.get(f"/mesh/v1/rollouts/{id_}")
        assert (found["phase"], found["progress"]["pending"]) == ("Spreading", ["n3", "n4"])
        assert found["progress"]["acknowledged"] == 2
        two.acknowledge()
        await made.watched(id_)


def _staged(one: Driven) -> set[str]:
    return {node for node in one.plane.view.connected() if given(one, node) == NEW}


REFUSED: tuple[tuple[str, str, str], ...] = (
    (
        "peer-authentication",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {}\n",
        "kind",
    ),
    ("tls", "{host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}", "spec.trafficPolicy.tls"),
    (
        "port",
        "{host: reviews, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}}",
        "spec.trafficPolicy.portLevelSettings[0].tls",
    ),
    (
        "subset",
        "{host: reviews, subsets: [{name: v1}, {name: v2, trafficPolicy: {tls: {mode: DISABLE}}}]}",
        "spec.subsets[1].trafficPolicy.tls",
    ),
)


@pytest.mark.parametrize(("text", "field"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_what_both_ends_must_agree_on_is_refused(tmp_path: Path, text: str, field: str) -> None:
    if text.startswith("{"):
        text = _rule(text)
    async with fleet(tmp_path, ("n1",)) as made:
        refused = await made.rest.call(
            "POST", "/mesh/v1/rollouts?stages=100%25", f"{route('v2')}---\n{text}", status=422
        )
        (cause,) = refused["details"]["causes"]
        assert (cause["field"], cause["document"]) == (field, 1)
        assert await made.store.get(ROLLOUT_ACTIVE) is None


async def test_removing_a_tls_block_is_refused_too(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("n1",)) as made:
        await made.rest.apply(_rule("{host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}"))
        refused = await made.rest.call("POST", "/mesh/v1/rollouts?stages=100%25", _rule("{host: reviews}"), status=422)
        assert refused["details"]["causes"][0]["field"] == "spec.trafficPolicy.tls"


def _rule(spec: str) -> str:
    return f"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: other}}\nspec: {spec}\n"


@pytest.mark.parametrize(
    ("query", "subject"),
    [
        ("", "stages"),
        ("stages=50%25", "stages"),
        ("stages=100%25,1", "stages"),
        ("stages=10%25,10%25,100%25", "stages"),
        ("stages=0,100%25", "stages"),
        ("stages=1001,100%25", "stages"),
        ("stages=-1%25,100%25", "stages"),
        ("stages=x", "stages"),
        ("stages=100%25&pause=ever", "pause"),
        ("stages=100%25&pause=800h", "pause"),
        ("stages=100%25&minRequests=1.5", "minRequests"),
        ("stages=100%25&maxErrorPoints=101", "maxErrorPoints"),
    ],
)
async def test_a_plan_that_cannot_be_is_refused_by_name(tmp_path: Path, query: str, subject: str) -> None:
    async with fleet(tmp_path, ()) as made:
        refused = await made.rest.call("POST", f"/mesh/v1/rollouts?{query}", route("v2"), status=400)
        assert refused["message"].startswith(f"{subject}: found ")


async def test_bad_objects_and_dry_runs_begin_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path, ("n1",)) as made:
        bad = await made.rest.call(
            "POST", "/mesh/v1/rollouts?stages=100%25", route("v2") + "---\nkind: X\n", status=422
        )
        assert {cause["document"] for cause in bad["details"]["causes"]} == {1}
        dry: Any = await made.rest.call("POST", "/mesh/v1/rollouts?stages=100%25&dryRun=All", route("v2"), status=200)
        assert (dry["rollout"], dry["results"][0]["action"]) == (None, "created")
        await made.rest.apply(route("v2"))
        same = await made.rest.call("POST", "/mesh/v1/rollouts?stages=100%25", route("v2"), status=200)
        assert (same["rollout"], same["results"][0]["action"]) == (None, "unchanged")
        assert (await made.rest.get("/mesh/v1/rollouts"))["items"] == []
