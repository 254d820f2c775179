"""traffic and switch: what is asked of the server, what is written, what is said, how it ends."""

import json
from typing import Any

import pytest

from tests.unit.controlplane.cli.splits.samples import (
    HOST,
    destination,
    destination_rule,
    endpoint,
    virtual_service,
)

BATCH = "/mesh/v1/batch"
OBJECTS = "/apis/networking.istio.io/v1/namespaces/shop"
SPLIT = {"route": [destination("v1", weight=90), destination("v2", weight=10)]}


def service(**more: Any) -> dict[str, Any]:
    return {
        "host": HOST, "name": "reviews", "namespace": "shop", "external": False,
        "virtual_services": ["VirtualService shop/reviews"], "destination_rules": ["DestinationRule shop/reviews"],
        **more,
    }  # fmt: skip


def result(kind: str, action: str = "configured") -> dict[str, Any]:
    return {
        "object": f"{kind} shop/reviews", "group": "networking.istio.io", "kind": kind, "namespace": "shop",
        "name": "reviews", "action": action, "warnings": [],
    }  # fmt: skip


@pytest.fixture
def mesh(server):  # type: ignore[no-untyped-def]
    """reviews in shop with v1 and v2, split 90 to 10."""
    server.answer("GET", "/mesh/v1/services", {"items": [service()]})
    server.answer("GET", "/mesh/v1/endpoints", {"items": [endpoint("v1"), endpoint("v2")]})
    server.answer("GET", f"{OBJECTS}/virtualservices/reviews", virtual_service(SPLIT))
    server.answer("GET", f"{OBJECTS}/destinationrules/reviews", destination_rule("v1", "v2"))
    server.answer("POST", BATCH, {"revision": 12, "results": [result("VirtualService")]})
    return server


@pytest.fixture
def run(meshctl, mesh):  # type: ignore[no-untyped-def]
    return lambda *arguments: meshctl("--server", mesh.url, *arguments)


def posted(server: Any, path: str = BATCH) -> Any:
    return next(item for item in server.requests if (item["method"], item["path"]) == ("POST", path))


def weights(manifest: Any, rule: int = 0) -> dict[str, int]:
    return {part["destination"]["subset"]: part["weight"] for part in manifest["spec"]["http"][rule]["route"]}


def test_a_split_is_one_batch_with_the_version_that_was_read(run, mesh) -> None:  # type: ignore[no-untyped-def]
    done = run("traffic", "reviews", "v1=80", "v2=20", "-n", "shop")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "VirtualService shop/reviews, http[0]",
        "virtualservice.networking.istio.io/reviews in shop configured",
        "revision 12",
        "meshctl rollback 11 undoes it",
    ]
    (manifest,) = posted(mesh)["body"]
    assert manifest["metadata"]["resourceVersion"] == "7"
    assert weights(manifest) == {"v1": 80, "v2": 20}
    assert mesh.requests[0]["query"] == "service=reviews&namespace=shop"


def test_nothing_new_is_no_revision(run, mesh) -> None:  # type: ignore[no-untyped-def]
    mesh.answers[("POST", BATCH)] = []
    mesh.answer("POST", BATCH, {"revision": 0, "results": [result("VirtualService", "unchanged")]})
    done = run("traffic", "reviews", "v1=90", "v2=10", "--wait")
    assert (done.code, done.out.splitlines()[1:]) == (
        0,
        ["virtualservice.networking.istio.io/reviews in shop unchanged"],
    )


def test_both_objects_are_made_where_there_is_none(run, mesh) -> None:  # type: ignore[no-untyped-def]
    mesh.answers[("GET", "/mesh/v1/services")] = []
    mesh.answer("GET", "/mesh/v1/services", {"items": [service(virtual_services=[], destination_rules=[])]})
    mesh.answers[("GET", f"{OBJECTS}/virtualservices/reviews")] = []
    done = run("traffic", "reviews", "v1=50", "v2=50")
    assert done.code == 0, done.err
    rule, routes = posted(mesh)["body"]
    assert [subset["name"] for subset in rule["spec"]["subsets"]] == ["v1", "v2"]
    assert weights(routes) == {"v1": 50, "v2": 50}


def test_one_of_its_name_that_is_for_something_else_is_left_alone(run, mesh) -> None:  # type: ignore[no-untyped-def]
    mesh.answers[("GET", "/mesh/v1/services")] = []
    mesh.answer("GET", "/mesh/v1/services", {"items": [service(virtual_services=[])]})
    done = run("traffic", "reviews", "v1=50", "v2=50")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("meshctl: VirtualService shop/reviews: it exists, but is not for this service")
    assert not any(item["method"] == "POST" for item in mesh.requests)


def test_the_one_that_is_named_is_edited(run, mesh) -> None:  # type: ignore[no-untyped-def]
    routes = virtual_service({"route": [destination("v1", host=HOST)]})
    path = "/apis/networking.istio.io/v1/namespaces/edge/virtualservices/public"
    mesh.answer("GET", path, {**routes, "metadata": {"name": "public", "namespace": "edge"}})
    done = run("traffic", "reviews", "v2=100", "--virtual-service", "edge/public")
    assert done.code == 0, done.err
    (manifest,) = posted(mesh)["body"]
    assert manifest["metadata"]["name"] == "public"
    assert weights(manifest) == {"v1": 0, "v2": 100}


def test_dry_run_shows_the_diff_and_asks_the_server(run, mesh) -> None:  # type: ignore[no-untyped-def]
    done = run("traffic", "reviews", "--header", "x-canary=yes", "v2=100", "--dry-run")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[:3] == [
        "VirtualService shop/reviews, http[0] reviews-x-canary-yes",
        "--- live VirtualService shop/reviews",
        "+++ applied VirtualService shop/reviews",
    ]
    assert "+          exact: 'yes'" in lines
    assert not [line for line in lines[3:] if line.startswith("-")]
    assert posted(mesh)["query"] == "dryRun=All"


def test_a_subset_that_cannot_serve_is_refused_unless_forced(run, mesh) -> None:  # type: ignore[no-untyped-def]
    mesh.answers[("GET", "/mesh/v1/endpoints")] = []
    mesh.answer("GET", "/mesh/v1/endpoints", {"items": [endpoint("v1"), endpoint("v2", "UNHEALTHY")]})
    refused = run("switch", "reviews", "v2")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "meshctl: subset v2: none of its 1 instances is healthy (--force sends requests there all the same)\n"
    )
    assert not any(item["method"] == "POST" for item in mesh.requests)
    forced = run("switch", "reviews", "v2", "--force")
    assert forced.code == 0
    assert forced.err == "Warning: subset v2: none of its 1 instances is healthy\n"
    assert run("traffic", "reviews", "v1=100", "v2=0").code == 0, "0 percent need no instance"


def test_switch_gives_one_everything_and_warns_of_rules_that_do_not(run, mesh) -> None:  # type: ignore[no-untyped-def]
    before = virtual_service(
        {"name": "beta", "match": [{"uri": {"prefix": "/b"}}], "route": [destination("v1")]}, SPLIT
    )
    mesh.answers[("GET", f"{OBJECTS}/virtualservices/reviews")] = []
    mesh.answer("GET", f"{OBJECTS}/virtualservices/reviews", before)
    done = run("switch", "reviews", "v2", "--mirror", "v1=5")
    assert done.code == 0
    assert done.err == "Warning: rule http[0] beta still sends requests to v1\n"
    (manifest,) = posted(mesh)["body"]
    assert weights(manifest, 1) == {"v1": 0, "v2": 100}
    assert manifest["spec"]["http"][1]["mirrors"] == [{**destination("v1"), "percentage": {"value": 5.0}}]


def test_stages_are_a_rollout(run, mesh) -> None:  # type: ignore[no-untyped-def]
    begun = {"results": [result("VirtualService")], "rollout": {"id": "01X"}}
    mesh.answer("POST", "/mesh/v1/rollouts", begun)
    done = run("switch", "reviews", "v2", "--stage", "1,100%", "--pause", "3s", "--detach")
    assert done.code == 0, done.err
    request = posted(mesh, "/mesh/v1/rollouts")
    assert "stages=1,100%25&pause=3s" in request["query"]
    assert weights(request["body"][0]) == {"v1": 0, "v2": 100}
    assert "rollout 01X" in done.out


def test_what_the_server_refuses_names_the_object_and_the_field(run, mesh) -> None:  # type: ignore[no-untyped-def]
    mesh.answers[("POST", BATCH)] = []
    cause = {"field": "spec.http[0]", "message": "found x", "object": "VirtualService shop/reviews", "document": 0}
    mesh.refuse("POST", BATCH, 422, "Invalid", "1 problem", [cause])
    done = run("traffic", "reviews", "v1=1", "v2=99")
    assert done.code == 1
    assert done.err == ("meshctl: VirtualService shop/reviews: spec.http[0]: found x\nmeshctl: nothing was changed\n")


def test_somebody_else_was_faster(run, mesh) -> None:  # type: ignore[no-untyped-def]
    mesh.answers[("POST", BATCH)] = []
    mesh.refuse("POST", BATCH, 409, "Conflict", "VirtualService shop/reviews: found 7, expected 9")
    done = run("traffic", "reviews", "v1=1", "v2=99")
    assert (done.code, done.err.splitlines()[0]) == (1, "meshctl: VirtualService shop/reviews: found 7, expected 9")


def test_without_a_change_it_shows_the_split(run, mesh) -> None:  # type: ignore[no-untyped-def]
    load = {"service": HOST, "subset": "v1", "requests_per_s": 4.0, "errors_per_s": 0.0}
    mesh.answer("GET", "/mesh/v1/traffic", {"items": [load]})
    done = run("traffic", "reviews")
    assert done.code == 0
    assert "http[0]   all others   v1       90       90.0%" in done.out
    found = json.loads(run("traffic", "reviews", "-o", "json").out)
    assert [item["live_share"] for item in found["subsets"]] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ([], "meshctl: reviews: no such service (meshctl services lists them"),
        (
            [service(host="reviews.a.svc", namespace="a"), service(host="reviews.b.svc", namespace="b")],
            "found reviews.a.svc, reviews.b.svc, expected one service",
        ),
    ],
)
def test_not_one_service(run, mesh, services: list[Any], words: str) -> None:  # type: ignore[no-untyped-def]
    mesh.answers[("GET", "/mesh/v1/services")] = []
    mesh.answer("GET", "/mesh/v1/services", {"items": services})
    done = run("traffic", "reviews", "v1=100")
    assert done.code == 1
    assert words in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["traffic"], "required: SERVICE"),
        (["traffic", "reviews", "v1=90"], "found a sum of 90"),
        (["traffic", "reviews", "--header", "a=b"], "found --header alone"),
        (["traffic", "reviews", "--remove"], "it goes with --header alone"),
        (["traffic", "reviews", "v1=100", "--header", "a=b", "--remove"], "it goes with --header alone"),
        (["traffic", "reviews", "--mirror", "v1", "--no-mirror"], "found --mirror and --no-mirror"),
        (["traffic", "reviews", "v1=100", "--virtual-service", "a/b/c"], "expected NAME or NAMESPACE/NAME"),
        (["switch", "reviews"], "required: SUBSET"),
        (["switch", "reviews", "v1=3"], "expected a subset and its percent"),
    ],
)
def test_wrong_usage(run, arguments: list[str], words: str) -> None:  # type: ignore[no-untyped-def]
    done = run(*arguments)
    assert done.code == 64
    assert words in done.err
