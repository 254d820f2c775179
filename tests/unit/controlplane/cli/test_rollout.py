"""apply --stage and meshctl rollout: what is asked, what is said while it goes on, how it ends."""

from pathlib import Path
from typing import Any

import pytest

from controlplane.cli import rollouts

PATH = "/mesh/v1/rollouts"
RULE = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec: {host: reviews}\n"
RESULT = {
    "object": "DestinationRule default/reviews", "group": "networking.istio.io", "kind": "DestinationRule",
    "namespace": "default", "name": "reviews", "action": "configured", "generation": 2, "warnings": ["it is odd"],
}  # fmt: skip
BEGUN = {"at": "2026-01-31T10:20:30.000Z", "text": "ann begins; stage 1 of 2: 1"}


def rollout(phase: str = "Watching", *log: str, id_: str = "01R", **fields: Any) -> dict[str, Any]:
    counts = {"requests": 45, "errors": 9, "error_ratio": 0.2}
    return {
        "id": id_, "author": "ann", "phase": phase, "reason": "", "message": "", "stage": 1,
        "since": "2026-01-31T10:20:31.000Z", "revision": 0,
        "plan": {"stages": ["1", "100%"], "pause_s": 30.0, "min_requests": 100, "max_error_points": 5.0, "wait_s": 9.0},
        "objects": [{key: value for key, value in RESULT.items() if key != "warnings"}],
        "progress": {
            "interested": 3, "staged": 2, "acknowledged": 1, "pending": ["n1"], "rejected": [], "missing_replicas": [],
            "staged_requests": counts, "other_requests": {"requests": 900, "errors": 0, "error_ratio": 0.0},
        },
        "log": [BEGUN, *({"at": f"2026-01-31T10:20:3{at}.000Z", "text": text} for at, text in enumerate(log, 1))],
        **fields,
    }  # fmt: skip


ABORTED = rollout(
    "Aborted", "aborted, ErrorRate: too many", reason="ErrorRate", message="too many", progress=None
)  # fmt: skip
FINISHED = rollout("Finished", "finished: the objects are stored", revision=42, progress=None)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "_LOOK_S", 0.01)


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "rule.yaml").write_text(RULE)
    return str(tmp_path / "rule.yaml")


def test_apply_in_stages_follows_it_to_its_end(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", PATH, {"rollout": rollout("Spreading"), "dry_run": False, "results": [RESULT]}, code=201)
    server.answer("GET", f"{PATH}/01R", rollout("Spreading"))
    server.answer("GET", f"{PATH}/01R", rollout("Watching", "acknowledged by 1 proxy"))
    server.answer("GET", f"{PATH}/01R", FINISHED)
    done = meshctl(
        "--server", server.url, "apply", "-f", file, "--stage", "1,100%", "--pause", "30s", "--min-requests", "0",
        "--max-error-points", "2.5", "--wait-limit", "2m", "-n", "default",
    )  # fmt: skip
    assert done.code == 0
    assert done.out == (
        "destinationrule.networking.istio.io/reviews configured\nrollout 01R\n"
        "10:20:30 ann begins; stage 1 of 2: 1\n10:20:31 acknowledged by 1 proxy\n"
        "10:20:31 finished: the objects are stored\nrevision 42\n"
    )
    assert "it is odd" in done.err
    query = server.requests[0]["query"].split("&")
    assert set(query) == {
        "stages=1,100%25", "pause=30s", "minRequests=0", "maxErrorPoints=2.5", "waitLimit=120s", "namespace=default",
    }  # fmt: skip


def test_an_abort_exits_1_and_says_why(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", PATH, {"rollout": rollout(), "dry_run": False, "results": [RESULT]}, code=201)
    server.answer("GET", f"{PATH}/01R", ABORTED)
    done = meshctl("--server", server.url, "apply", "-f", file, "--stage", "1,100%")
    assert done.code == 1
    assert "meshctl: aborted, ErrorRate: too many\n" in done.err
    assert "nothing was stored" in done.err


def test_a_control_plane_that_restarts_is_asked_again(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", PATH, {"rollout": rollout(), "dry_run": False, "results": [RESULT]}, code=201)
    server.refuse("GET", f"{PATH}/01R", 503, "ServiceUnavailable", "the store is away")
    server.answer("GET", f"{PATH}/01R", FINISHED)
    assert meshctl("--server", server.url, "apply", "-f", file, "--stage", "1,100%").code == 0


def test_detached_dry_and_unchanged(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", PATH, {"rollout": rollout(), "dry_run": False, "results": [RESULT]}, code=201)
    server.answer("POST", PATH, {"rollout": None, "dry_run": True, "results": [RESULT]})
    server.answer("POST", PATH, {"rollout": None, "dry_run": False, "results": [{**RESULT, "action": "unchanged"}]})
    detached = meshctl("--server", server.url, "apply", "-f", file, "--stage", "100%", "--detach")
    assert (detached.code, "meshctl rollout abort 01R" in detached.out) == (0, True)
    dry = meshctl("--server", server.url, "apply", "-f", file, "--stage", "100%", "--dry-run")
    assert (dry.code, "configured (dry run)" in dry.out) == (0, True)
    same = meshctl("--server", server.url, "apply", "-f", file, "--stage", "100%")
    assert (same.code, same.out) == (0, "destinationrule.networking.istio.io/reviews unchanged\n")
    assert [request["method"] for request in server.requests] == ["POST"] * 3, "nothing is followed"


def test_a_refused_rollout_is_explained_by_file_and_line(meshctl, server, file: str) -> None:  # type: ignore[no-untyped-def]
    cause = {"field": "spec.trafficPolicy.tls", "message": "found a tls block", "document": 0, "object": "x"}
    server.refuse("POST", PATH, 422, "Invalid", "invalid", [cause])
    done = meshctl("--server", server.url, "apply", "-f", file, "--stage", "100%")
    assert done.code == 1
    assert f"{file}:4 (document 1): x: spec.trafficPolicy.tls: found a tls block" in done.err


def test_status_shows_the_newest_and_its_end_in_the_exit_code(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", PATH, {"items": [ABORTED, rollout("Finished", id_="01Q")], "partial": False})
    server.answer("GET", f"{PATH}/01R", ABORTED)
    done = meshctl("--server", server.url, "rollout", "status")
    assert done.code == 1
    assert "Phase:       Aborted ErrorRate" in done.out
    assert "Why:         too many" in done.out
    server.answer("GET", f"{PATH}/01Q", rollout("Watching", id_="01Q"))
    running = meshctl("--server", server.url, "rollout", "status", "01Q")
    assert running.code == 0
    assert "45 of 100 requests, 20.0% failed (others 0.0% of 900)" in running.out
    assert "configured" in meshctl("--server", server.url, "rollout", "status", "01Q", "-o", "yaml").out


def test_promote_and_abort_take_the_one_under_way(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", PATH, {"items": [FINISHED, rollout(id_="01S")], "partial": False})
    server.answer("POST", f"{PATH}/01S/promote", rollout("Spreading", "bob promotes it past stage 1"))
    server.answer("POST", f"{PATH}/01S/abort", ABORTED)
    assert meshctl("--server", server.url, "rollout", "promote").out == "rollout 01S: bob promotes it past stage 1\n"
    assert meshctl("--server", server.url, "rollout", "abort").code == 0


def test_without_a_rollout(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", PATH, {"items": [FINISHED], "partial": False})
    done = meshctl("--server", server.url, "rollout", "abort")
    assert (done.code, "no rollout is under way" in done.err) == (1, True)
    listed = meshctl("--server", server.url, "rollout", "list")
    assert "01R   Finished" in listed.out
    assert "DestinationRule default/reviews" in listed.out


def test_proxies_are_marked_while_one_is_under_way(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    proxy = {
        "node": "n1", "dialect": "gossamer", "delta": True, "sync": "synced", "types": {}, "replica": "cp-1",
        "connected_since": "", "rollout": "01R",
    }  # fmt: skip
    server.answer("GET", "/mesh/v1/proxies", {"items": [proxy, {**proxy, "node": "n2", "rollout": ""}]})
    server.answer("GET", "/mesh/v1/proxies", {"items": [{**proxy, "rollout": ""}]})
    marked = meshctl("--server", server.url, "proxies").out.splitlines()
    assert [line.split()[-1] for line in marked] == ["ROLLOUT", "01R", "-"]
    assert "ROLLOUT" not in meshctl("--server", server.url, "proxies").out
