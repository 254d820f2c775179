"""history and rollback: what is asked, what is shown, how it ends."""

import json
from typing import Any

import pytest

HISTORY = "/mesh/v1/history"
ROLLBACK = "/mesh/v1/rollback"


def item(name: str = "reviews", action: str = "configured", **more: Any) -> dict[str, Any]:
    return {
        "object": f"VirtualService default/{name}", "group": "networking.istio.io", "kind": "VirtualService",
        "namespace": "default", "name": name, "action": action, "generation": 2, **more,
    }  # fmt: skip


def record(revision: int, *items: dict[str, Any], reason: str = "") -> dict[str, Any]:
    return {"id": "x", "revision": revision, "author": "ann", "reason": reason, "at": "", "objects": list(items)}


DIFF = "--- before VirtualService default/reviews\n+++ revision 8 VirtualService default/reviews\n@@ -1 +1 @@\n-a\n+b\n"


def test_the_list_newest_first(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    many = [item(name) for name in "abcd"]
    server.answer("GET", HISTORY, {"items": [record(9, *many, reason="rollback to 3"), record(8, item())]})
    done = meshctl("--server", server.url, "history")
    assert done.code == 0
    assert done.out.splitlines() == [
        "REVISION   AGE   AUTHOR   REASON          OBJECTS",
        "9          -     ann      rollback to 3   VirtualService default/a configured, VirtualService default/b "
        "configured, VirtualService default/c configured, and 1 more",
        "8          -     ann      -               VirtualService default/reviews configured",
    ]
    assert server.requests[0]["query"] == "limit=50"
    wide = meshctl("--server", server.url, "history", "-o", "wide")
    assert "VirtualService default/d configured" in wide.out


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("gw/web",), "object=Gateway+default/web"),
        (("gtw/web", "-n", "edge"), "object=Gateway.gateway.networking.k8s.io+edge/web"),
        (("gatewayclass", "mine"), "object=GatewayClass+/mine"),
    ],
)
def test_the_object_that_is_meant(meshctl, server, words: tuple[str, ...], asked: str) -> None:  # type: ignore[no-untyped-def]
    """One of two kinds of a name; without a namespace where the kind has none."""
    server.answer("GET", HISTORY, {"items": []})
    assert meshctl("--server", server.url, "history", *words).code == 0
    assert server.requests[0]["query"] == f"{asked}&limit=50"


def test_of_one_object_over_several_pages(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", HISTORY, {"items": [record(9, item())], "continue": "9"})
    server.answer("GET", HISTORY, {"items": [record(8, item())], "continue": "8"})
    done = meshctl("--server", server.url, "history", "vs/reviews", "-n", "shop", "--limit", "2", "-o", "json")
    assert [found["revision"] for found in json.loads(done.out)["items"]] == [9, 8]
    queries = [request["query"] for request in server.requests]
    assert queries == [
        "object=VirtualService+shop/reviews&limit=2",
        "object=VirtualService+shop/reviews&limit=1&continue=9",
    ]


def test_there_is_more(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", HISTORY, {"items": [record(9, item())], "continue": "9"})
    done = meshctl("--server", server.url, "history", "--limit", "1")
    assert done.err == "there are older changes: --limit shows more\n"
    server.answers.clear()
    server.answer("GET", HISTORY, {"items": []})
    assert meshctl("--server", server.url, "history", "--limit", "0").out == "no change is recorded\n"
    assert server.requests[-1]["query"] == ""


def test_one_change_as_a_diff(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    change = record(8, item(before={}, after={}, diff=DIFF), reason="rollback to 3")
    server.answer("GET", f"{HISTORY}/8", {**change, "at": "2026-01-02T03:04:05.000Z"})
    done = meshctl("--server", server.url, "history", "8")
    lines = done.out.splitlines()
    assert lines[:2] == ["Revision:   8", "Author:     ann"]
    assert lines[2].startswith("At:         2026-01-02T03:04:05.000Z (")
    assert lines[3:5] == ["Reason:     rollback to 3", "VirtualService default/reviews configured"]
    assert done.out.endswith(DIFF)
    assert json.loads(meshctl("--server", server.url, "history", "8", "-o", "json").out)["revision"] == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["history", "vs"], "expected one object or one revision"),
        (["history", "vs,dr", "a"], "use KIND/NAME"),
        (["history", "--limit", "-1"], "expected a number from 0"),
        (["rollback", "vs"], "expected a revision"),
        (["rollback", "0"], "expected a revision"),
    ],
)
def test_wrong_usage(meshctl, arguments: list[str], words: str) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("--server", "http://127.0.0.1:1", *arguments)
    assert done.code == 64
    assert words in done.err


def test_rollback_says_what_it_changed_and_waits(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    results = [item(action="deleted", warnings=[], diff=DIFF)]
    server.answer("POST", ROLLBACK, {"revision": 12, "to": 8, "dry_run": False, "results": results})
    server.answer("GET", "/mesh/v1/revisions/12", {"acked": ["n"], "pending": [], "rejected": [], "settled": True})
    done = meshctl("--server", server.url, "rollback", "8", "--wait")
    assert done.code == 0
    assert done.out == "virtualservice.networking.istio.io/reviews deleted\nrevision 12\nacknowledged by n\n"
    assert server.requests[0]["body"] == {"revision": 8}


def test_rollback_dry_run_shows_the_diff_and_nothing_is_nothing(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    results = [item(warnings=[], diff=DIFF)]
    server.answer("POST", ROLLBACK, {"revision": 9, "to": 8, "dry_run": True, "results": results})
    dry = meshctl("--server", server.url, "rollback", "8", "--dry-run", "--wait")
    assert (dry.code, dry.out) == (0, f"VirtualService default/reviews configured\n{DIFF}")
    assert server.requests[0]["query"] == "dryRun=All"
    server.answers.clear()
    server.answer("POST", ROLLBACK, {"revision": 9, "to": 9, "dry_run": False, "results": []})
    same = meshctl("--server", server.url, "rollback", "9")
    assert (same.code, same.out) == (0, "nothing has changed since revision 9\n")


def test_a_history_that_does_not_reach_so_far(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.refuse("POST", ROLLBACK, 410, "Expired", "revision 2: the history before revision 5 is no longer kept")
    done = meshctl("--server", server.url, "rollback", "2")
    assert (done.code, done.err) == (1, "meshctl: revision 2: the history before revision 5 is no longer kept\n")
