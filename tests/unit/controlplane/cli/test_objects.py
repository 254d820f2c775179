"""apply, get, diff, delete, describe: what is sent, what is said, how it ends."""

from pathlib import Path
from typing import Any

import pytest

from controlplane.cli.commands.diff import unified, users_part

BATCH = "/mesh/v1/batch"
RULES = "/apis/networking.istio.io/v1/namespaces/default/destinationrules"
RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "rule.yaml").write_text(RULE)
    return str(tmp_path / "rule.yaml")


def result(action: str = "created", **fields: Any) -> dict[str, Any]:
    return {
        "object": "DestinationRule default/reviews", "group": "networking.istio.io", "kind": "DestinationRule",
        "namespace": "default", "name": "reviews", "action": action, "warnings": [], **fields,
    }  # fmt: skip


def manifest(host: str = "reviews", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "reviews", "namespace": "default", **metadata},
        "spec": {"host": host},
    }


# --- apply


def test_apply_sends_one_batch_and_says_what_became_of_each_object(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    results = [
        result(warnings=["DestinationRule default/reviews: odd", "spec.x: odd too"]),
        result("unchanged", namespace="shop"),
    ]
    server.answer("POST", BATCH, {"revision": 7, "results": results})
    done = meshctl("--server", server.url, "apply", "-f", file)
    assert done.code == 0
    assert done.out == (
        "destinationrule.networking.istio.io/reviews created\n"
        "destinationrule.networking.istio.io/reviews in shop unchanged\n"
        "revision 7\n"
    )
    assert done.err == (
        "Warning: DestinationRule default/reviews: odd\nWarning: DestinationRule default/reviews: spec.x: odd too\n"
    )
    (request,) = server.requests
    assert [item["metadata"]["name"] for item in request["body"]] == ["reviews"]
    assert request["query"] == ""


def test_apply_dry_run_stores_nothing(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", BATCH, {"revision": 7, "results": [result()]})
    done = meshctl("--server", server.url, "apply", "-f", file, "--dry-run", "--wait")
    assert (done.code, done.out) == (0, "destinationrule.networking.istio.io/reviews created (dry run)\n")
    assert [request["query"] for request in server.requests] == ["dryRun=All"]


def test_apply_dry_run_without_a_server(meshctl, file: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("--server", "http://127.0.0.1:1", "apply", "-f", file, "--dry-run=client")
    assert (done.code, done.out) == (0, "destinationrule.networking.istio.io/reviews valid (client dry run)\n")
    (tmp_path / "bad.yaml").write_text(RULE + "  sbusets: []\n")
    done = meshctl("apply", "-f", str(tmp_path / "bad.yaml"), "--dry-run=client")
    assert done.code == 1
    assert f"{tmp_path}/bad.yaml:7 (document 1): spec.sbusets: found the unknown field" in done.err
    assert "did you mean subsets?" in done.err


def test_apply_explains_a_refusal_with_file_line_and_field(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    cause = {"field": "spec.host", "message": "found 7, expected a name", "object": "DestinationRule default/reviews"}
    server.refuse("POST", BATCH, 422, "Invalid", "invalid", [{**cause, "document": 0}])
    done = meshctl("--server", server.url, "apply", "-f", file)
    assert done.code == 1
    assert done.out == ""
    assert done.err == (
        f"meshctl: {file}:6 (document 1): DestinationRule default/reviews: spec.host: found 7, expected a name\n"
        "meshctl: nothing was changed\n"
    )


def test_apply_waits_until_every_proxy_has_it(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    state = {"acked": ["node-1"], "pending": ["node-2"], "rejected": [], "settled": False}
    server.answer("POST", BATCH, {"revision": 7, "results": [result()]})
    server.answer("GET", "/mesh/v1/revisions/7", state)
    server.answer(
        "GET", "/mesh/v1/revisions/7", {**state, "acked": ["node-1", "node-2"], "pending": [], "settled": True}
    )
    done = meshctl("--server", server.url, "apply", "-f", file, "--wait=20s")
    assert done.code == 0
    assert done.out.endswith("revision 7\nacknowledged by node-1, node-2\n")
    assert [request["path"] for request in server.requests] == [BATCH, *["/mesh/v1/revisions/7"] * 2]


def test_apply_says_who_is_silent_and_who_refuses(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", BATCH, {"revision": 7, "results": [result()]})
    rejected = [{"node": "node-3", "reasons": [{"name": "outbound|80||a", "reason": "too\nbad"}]}]
    state = {"acked": [], "pending": ["node-2"], "rejected": rejected, "settled": False}
    server.answer("GET", "/mesh/v1/revisions/7", state)
    done = meshctl("--server", server.url, "apply", "-f", file, "--wait=0.1s")
    assert done.code == 1
    assert "meshctl: node-3 refuses outbound|80||a: too bad\n" in done.err
    assert "meshctl: not acknowledged within 0.1 s by node-2\n" in done.err


def test_apply_gives_the_others_a_moment_after_a_refusal(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    """All that refuse are named, but a proxy that waits for ever does not make the refusal wait as long."""
    server.answer("POST", BATCH, {"revision": 7, "results": [result()]})
    rejected = [{"node": "a", "reasons": [{"name": "c", "reason": "bad"}]}]
    held = {"node": "b", "type": "RDS", "name": "8080", "waits_for": "CDS outbound|80||x"}
    state = {"acked": [], "pending": ["b", "d"], "rejected": rejected, "settled": False, "waits_for": [held]}
    server.answer("GET", "/mesh/v1/revisions/7", state)
    late = {"node": "d", "reasons": [{"name": "c", "reason": "bad too"}]}
    server.answer("GET", "/mesh/v1/revisions/7", {**state, "pending": ["b"], "rejected": [*rejected, late]})
    done = meshctl("--server", server.url, "apply", "-f", file, "--wait=1h")
    assert done.code == 1
    assert done.err.splitlines() == [
        "meshctl: a refuses c: bad",
        "meshctl: d refuses c: bad too",
        "meshctl: not acknowledged yet by b",
        "meshctl: b: RDS 8080 waits for CDS outbound|80||x",
    ]


def test_apply_is_not_done_while_a_replica_is_silent(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", BATCH, {"revision": 7, "results": [result()]})
    state = {"acked": ["a"], "pending": [], "rejected": [], "settled": True}
    silent = [{"replica": "cp-2", "reason": "no answer within 3 s"}]
    server.answer("GET", "/mesh/v1/revisions/7", {**state, "partial": True, "silent": silent})
    done = meshctl("--server", server.url, "apply", "-f", file, "--wait=0.1s")
    assert (done.code, done.err) == (1, "meshctl: not acknowledged within 0.1 s by replica cp-2\n")
    assert len(server.requests) > 2


def test_apply_shows_progress_where_somebody_looks(  # type: ignore[no-untyped-def]
    meshctl, server, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    server.answer("POST", BATCH, {"revision": 7, "results": [result()]})
    waits = [{"node": "b", "type": "", "name": "", "waits_for": "being sent"}]
    state = {"acked": ["a"], "pending": ["b"], "rejected": [], "settled": False, "waits_for": waits}
    for _ in range(2):
        server.answer("GET", "/mesh/v1/revisions/7", state)
    done_state = {"acked": ["a", "b"], "pending": [], "rejected": [], "settled": True}
    server.answer("GET", "/mesh/v1/revisions/7", done_state)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    done = meshctl("--no-color", "--server", server.url, "apply", "-f", file, "--wait")
    assert done.out.splitlines()[1:] == [
        "revision 7", "  a acknowledged", "  b pending: waits for being sent", "  b acknowledged",
        "acknowledged by a, b",
    ]  # fmt: skip
    assert server.requests[1]["query"] == "wait=1.000s"


def test_apply_with_nobody_connected(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", BATCH, {"revision": 7, "results": [result()]})
    server.answer("GET", "/mesh/v1/revisions/7", {"acked": [], "pending": [], "rejected": [], "settled": True})
    done = meshctl("--server", server.url, "apply", "--wait", "-f", file)
    assert (done.code, done.out.splitlines()[-1]) == (0, "no proxy is connected")


# --- get

TABLE = {
    "kind": "Table",
    "columnDefinitions": [{"name": "Name"}, {"name": "Host"}, {"name": "Selector", "priority": 1}, {"name": "Age"}],
    "rows": [{"cells": ["reviews", "reviews", "app=a", "5s"], "object": {"metadata": {"namespace": "default"}}}],
}


def test_get_prints_the_servers_table(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", RULES, TABLE)
    done = meshctl("--server", server.url, "get", "dr", "-l", "app=a,b!=c")
    assert done.out == "NAME      HOST      AGE\nreviews   reviews   5s\n"
    assert server.requests[0]["query"] == "labelSelector=app%3Da,b!%3Dc"
    assert server.requests[0]["headers"]["accept"].startswith("application/json;as=Table")
    wide = meshctl("--server", server.url, "get", "destinationrules", "-o", "wide")
    assert wide.out == "NAME      HOST      SELECTOR   AGE\nreviews   reviews   app=a      5s\n"


def test_get_in_every_namespace(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", RULES.replace("/namespaces/default", ""), TABLE)
    done = meshctl("--server", server.url, "get", "dr", "-A")
    assert done.out == "NAMESPACE   NAME      HOST      AGE\ndefault     reviews   reviews   5s\n"


def test_get_nothing(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", RULES.replace("default", "shop", 1), {**TABLE, "rows": []})
    done = meshctl("--server", server.url, "get", "dr", "-n", "shop")
    assert (done.code, done.out, done.err) == (0, "", "no object found in namespace shop\n")


def test_get_what_is_there_and_say_what_is_not(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", f"{RULES}/reviews", manifest())
    server.refuse("GET", f"{RULES}/nope", 404, "NotFound", "DestinationRule default/nope: not found")
    done = meshctl("--server", server.url, "get", "dr/reviews", "dr/nope", "-o", "name")
    assert done.code == 1
    assert done.out == "destinationrule.networking.istio.io/reviews\n"
    assert done.err == "meshctl: DestinationRule default/nope: not found\n"


def test_get_one_object_as_yaml_and_a_list_as_json(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", f"{RULES}/reviews", manifest())
    one = meshctl("--server", server.url, "get", "dr", "reviews", "-o", "yaml")
    assert one.out.startswith("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: reviews\n")
    bare = {key: value for key, value in manifest().items() if key in ("metadata", "spec")}
    items = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRuleList", "items": [bare]}
    server.answer("GET", RULES, items)
    several = meshctl("--server", server.url, "get", "dr", "-o", "yaml")
    assert several.out.startswith(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.istio.io/v1\n  kind: DestinationRule\n"
    )


def test_a_failure_of_the_server_is_not_taken_for_a_missing_object(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.refuse("GET", f"{RULES}/reviews", 503, "ServiceUnavailable", "the store does not answer")
    done = meshctl("--server", server.url, "get", "dr", "reviews")
    assert (done.code, done.err) == (1, "meshctl: the store does not answer\n")


# --- diff


def test_diff_of_a_changed_object(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", BATCH, {"revision": 0, "results": [result("configured")]})
    server.answer("GET", f"{RULES}/reviews", {**manifest("old", uid="u", generation=3), "status": {"x": 1}})
    server.answer("PUT", f"{RULES}/reviews", manifest("reviews", uid="u", generation=4))
    done = meshctl("--server", server.url, "diff", "-f", file)
    assert done.code == 1
    assert "-  host: old\n+  host: reviews\n" in done.out
    assert "generation" not in done.out
    assert [request["query"] for request in server.requests] == ["dryRun=All", "", "dryRun=All"]


def test_diff_of_a_new_object_and_of_nothing(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", BATCH, {"revision": 0, "results": [result("created")]})
    server.answer("POST", BATCH, {"revision": 0, "results": [result("unchanged")]})
    server.answer("POST", RULES, manifest())
    new = meshctl("--server", server.url, "diff", "-f", file)
    assert new.code == 1
    assert new.out.startswith(
        "--- live DestinationRule default/reviews\n+++ applied DestinationRule default/reviews\n@@ -0,0"
    )
    same = meshctl("--server", server.url, "diff", "-f", file)
    assert (same.code, same.out) == (0, "")


def test_diff_that_cannot_compare_exits_2(meshctl, server, file: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    server.refuse("POST", BATCH, 422, "Invalid", "x", [{"field": "spec", "message": "bad", "document": 0}])
    assert meshctl("--server", server.url, "diff", "-f", file).code == 2
    assert meshctl("--server", server.url, "diff", "-f", str(tmp_path / "none.yaml")).code == 2
    assert meshctl("--server", "http://127.0.0.1:1", "diff", "-f", file).code == 2
    assert meshctl("--server", "ftp://x", "diff", "-f", file).code == 64


def test_a_diff_ignores_what_the_server_writes_and_the_order_of_keys() -> None:
    before = manifest(uid="a", resourceVersion="1", creationTimestamp="t", generation=1)
    after = {key: manifest()[key] for key in ("spec", "metadata", "kind", "apiVersion")}
    assert unified("x", before, after) == ""
    assert list(users_part(after)) == ["apiVersion", "kind", "metadata", "spec"]


def test_diff_at_the_proxies(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    changes = [
        {"type": "CDS", "name": "c", "change": "changed", "before": {"b": 1, "a": 2}, "after": {"a": 3, "b": 1},
         "nodes": ["n1", "n2"]},
        {"type": "EDS", "name": "e", "change": "added", "before": None, "after": {"x": 1}, "nodes": ["n1"]},
    ]  # fmt: skip
    server.answer("POST", "/mesh/v1/diff", {"objects": [], "changes": changes, "unaffected": ["n3"], "partial": False})
    done = meshctl("--server", server.url, "diff", "-f", file, "--proxies", "-n", "default")
    assert done.code == 1
    assert done.out == (
        "CDS c changed at n1, n2\n@@ -1,2 +1,2 @@\n-a: 2\n+a: 3\n b: 1\n"
        "EDS e added at n1\n@@ -0,0 +1 @@\n+x: 1\n"
        "unaffected: n3\n"
    )
    assert server.requests[0]["query"] == "namespace=default"
    server.answers.clear()
    silent = [{"replica": "cp-2", "reason": "x"}]
    server.answer("POST", "/mesh/v1/diff", {"objects": [], "changes": [], "unaffected": [], "silent": silent})
    same = meshctl("--server", server.url, "diff", "-f", file, "--proxies")
    assert (same.code, same.out) == (0, "")
    assert same.err == "Warning: cp-2 does not answer; its proxies are missing here\n"


# --- delete


def test_delete_goes_on_after_what_is_not_there(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("DELETE", f"{RULES}/reviews", {"kind": "Status", "status": "Success"})
    done = meshctl("--server", server.url, "delete", "dr", "nope", "reviews")
    assert done.code == 1
    assert done.out == "destinationrule.networking.istio.io/reviews deleted\n"
    assert "nope: not found" in done.err
    assert meshctl("--server", server.url, "delete", "dr/nope", "--ignore-not-found").code == 0


def test_delete_by_file_is_one_batch_of_heads(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", "/mesh/v1/delete", {"revision": 9, "results": [result("deleted")]})
    server.answer("GET", "/mesh/v1/revisions/9", {"acked": ["n"], "pending": [], "rejected": [], "settled": True})
    done = meshctl("--server", server.url, "delete", "-f", file, "--wait")
    assert done.code == 0
    assert done.out == "destinationrule.networking.istio.io/reviews deleted\nrevision 9\nacknowledged by n\n"
    head = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "reviews"}}
    assert server.requests[0]["body"] == [head]
    dry = meshctl("--server", server.url, "delete", "-f", file, "--dry-run", "--ignore-not-found")
    assert (dry.code, dry.out) == (0, "destinationrule.networking.istio.io/reviews deleted (dry run)\n")
    assert server.requests[-1]["query"] == "dryRun=All&ignoreNotFound=true"


def test_delete_by_file_of_what_is_not_there(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.refuse("POST", "/mesh/v1/delete", 404, "NotFound", "DestinationRule default/reviews: not found")
    done = meshctl("--server", server.url, "delete", "-f", file)
    assert done.code == 1
    assert done.err == "meshctl: DestinationRule default/reviews: not found\nmeshctl: nothing was changed\n"


def test_delete_by_name_waits_for_the_last_revision(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("DELETE", f"{RULES}/reviews", {"kind": "Status"}, **{"Gossamer-Revision": "12"})
    rejected = [{"node": "n", "reasons": [{"name": "c", "reason": "bad"}]}]
    server.answer("GET", "/mesh/v1/revisions/12", {"acked": [], "pending": [], "rejected": rejected, "settled": True})
    done = meshctl("--server", server.url, "delete", "dr", "reviews", "--wait=5s")
    assert (done.code, done.err) == (1, "meshctl: n refuses c: bad\n")


def test_delete_by_a_file_that_names_no_known_object(meshctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.yaml"
    path.write_text("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n")
    done = meshctl("delete", "-f", str(path))
    assert done.code == 1
    assert done.err == f"meshctl: {path}:1 (document 1): expected apiVersion and kind of a known kind\n"


# --- describe


def test_describe_has_conditions_proxies_changes_and_events(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    condition = {"type": "Conflict", "status": "True", "reason": "OlderWins", "message": "the\nolder one wins"}
    server.answer("GET", f"{RULES}/reviews", {**manifest(labels={"a": "b"}), "status": {"conditions": [condition]}})
    touched = {
        "group": "networking.istio.io", "kind": "DestinationRule", "namespace": "default", "name": "reviews",
        "action": "configured", "generation": 2,
    }  # fmt: skip
    records = [
        {"revision": 9, "author": "admin", "at": "", "objects": [touched]},
        {"revision": 8, "author": "eve", "at": "", "objects": [{**touched, "name": "other"}]},
    ]
    server.answer("GET", "/mesh/v1/history", {"items": records})
    event = {"at": "", "type": "ConfigRejected", "subject": "node n", "message": "DestinationRule default/reviews: bad"}
    server.answer("GET", "/mesh/v1/events", {"items": [event, {**event, "message": "else"}]})
    rejected = [{"node": "n", "reasons": [{"name": "c", "reason": "bad"}]}]
    server.answer(
        "GET", "/mesh/v1/revisions/9", {"revision": 9, "acked": ["m"], "pending": ["o"], "rejected": rejected}
    )
    done = meshctl("--server", server.url, "describe", "dr", "reviews")
    assert done.code == 0
    assert done.out == (
        "Name:        reviews\n"
        "Namespace:   default\n"
        "Kind:        DestinationRule (networking.istio.io/v1)\n"
        "Labels:      a=b\n"
        "Conditions:\n"
        "  Conflict=True (OlderWins)\n"
        "    the older one wins\n"
        "Spec:\n"
        "  host: reviews\n"
        "Proxies:\n"
        "  revision 9 acknowledged by m\n"
        "  pending at o\n"
        "  refused by n: bad\n"
        "Changes:\n"
        "  REVISION   AGE   AUTHOR   ACTION       GENERATION\n"
        "  9          -     admin    configured   2\n"
        "Events:\n"
        "  AGE   TYPE             MESSAGE\n"
        "  -     ConfigRejected   DestinationRule default/reviews: bad\n"
    )


def test_describe_has_the_parents_of_a_route_and_the_listeners_of_a_gateway(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    """Of the Gateway API's Gateway, whose history is asked for by its full name."""
    good = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}
    bad = {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "there is no service a"}
    parent = {"parentRef": {"kind": "Gateway", "namespace": "edge", "name": "g", "sectionName": "http"},
              "conditions": [good, bad]}  # fmt: skip
    api = "/apis/gateway.networking.k8s.io/v1/namespaces/default"
    head = {"apiVersion": "gateway.networking.k8s.io/v1", "metadata": {"name": "g", "namespace": "default"}}
    listener = {"name": "http", "attachedRoutes": 2, "conditions": [good]}
    server.answer("GET", f"{api}/httproutes/g", {**head, "kind": "HTTPRoute", "status": {"parents": [parent]}})
    server.answer("GET", f"{api}/gateways/g", {**head, "kind": "Gateway", "status": {"listeners": [listener]}})
    for view in ("history", "events"):
        server.answer("GET", f"/mesh/v1/{view}", {"items": []})
    done = meshctl("--server", server.url, "describe", "httproute", "g")
    assert done.out.partition("Parents:\n")[2] == (
        "  Gateway edge/g/http\n"
        "    Accepted=True (Accepted)\n"
        "    ResolvedRefs=False (BackendNotFound)\n"
        "      there is no service a\n"
    )
    done = meshctl("--server", server.url, "describe", "gtw", "g")
    assert done.out.partition("Listeners:\n")[2] == "  http, routes: 2\n    Accepted=True (Accepted)\n"
    asked = [item for item in server.requests if "history" in str(item)]
    assert "object=Gateway.gateway.networking.k8s.io+default/g" in str(asked[-1])


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (("gw", "g"), "Gateway default/g"),
        (("gtw", "g"), "Gateway.gateway.networking.k8s.io default/g"),
        (("svc", "g"), "Service default/g"),
    ],
)
def test_describe_has_the_events_of_its_object_alone(meshctl, server, words: tuple[str, ...], own: str) -> None:  # type: ignore[no-untyped-def]
    kinds = ("Gateway", "Gateway.gateway.networking.k8s.io", "Service", "VirtualService")
    named = [f"{kind} default/{name}" for kind in kinds for name in ("g", "g2", "g-a", "g.b")]
    events = [{"at": "", "type": "ConfigRejected", "subject": name, "message": f"of {name}"} for name in named]
    events.append({"at": "", "type": "Told", "subject": "node n", "message": f"it is about {own}."})
    plain = {"metadata": {"name": "g", "namespace": "default"}}
    server.answer("GET", f"{RULES.rpartition('/')[0]}/gateways/g", {**plain, "apiVersion": "a/v1", "kind": "Gateway"})
    api = "/apis/gateway.networking.k8s.io/v1/namespaces/default"
    server.answer("GET", f"{api}/gateways/g", {**plain, "apiVersion": "b/v1", "kind": "Gateway"})
    server.answer("GET", "/api/v1/namespaces/default/services/g", {**plain, "apiVersion": "v1", "kind": "Service"})
    for view, found in (("history", []), ("endpoints", []), ("events", events)):
        server.answer("GET", f"/mesh/v1/{view}", {"items": found})
    done = meshctl("--server", server.url, "describe", *words)
    told = [line.split(maxsplit=2)[2] for line in done.out.partition("Events:\n")[2].splitlines()[1:]]
    assert told == [f"of {own}", f"it is about {own}."]


# --- tokens


def test_token_create_prints_only_the_token(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer(
        "POST", "/mesh/v1/tokens", {"token": "id.secret.hash", "id": "id", "node": "n", "expires": "t"}, code=201
    )
    done = meshctl(
        "--server", server.url, "token", "create", "--node", "n", "--namespaces", "a,b", "--namespace", "c",
        "--service-accounts", "web", "--ttl", "2h", "--uses", "3",
    )  # fmt: skip
    assert (done.code, done.out, done.err) == (0, "id.secret.hash\n", "")
    assert server.requests[0]["body"] == {
        "node": "n", "namespaces": ["a", "b", "c"], "service_accounts": ["web"], "ttl_s": 7200, "uses": 3,
    }  # fmt: skip


def test_token_create_into_a_file_of_its_owner_only(meshctl, server, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    server.answer(
        "POST", "/mesh/v1/tokens", {"token": "id.secret.hash", "id": "id", "node": "n", "expires": "t"}, code=201
    )
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    done = meshctl("--server", server.url, "token", "create", "--node", "n", "--output-file", str(path))
    assert (done.code, done.out) == (0, "")
    assert "secret" not in done.err
    assert path.read_text() == "id.secret.hash\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert server.requests[0]["body"]["service_accounts"] == ["*"]


def test_token_revoke_sends_no_secret(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("DELETE", "/mesh/v1/tokens/id", {"status": "Success"})
    done = meshctl("--server", server.url, "token", "revoke", "id.secret.hash")
    assert (done.code, done.out) == (0, "token id revoked\n")
