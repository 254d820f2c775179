"""meshctl ca: the roots, what is under way, beginning and aborting it; and what a proxy has not asked for."""

from typing import Any

PATH = "/mesh/v1/certificates"
ROTATION = {
    "phase": "Distributing", "old": "aaaa", "new": "bbbb", "since": "2026-01-31T10:20:31.000Z", "author": "ann",
    "revision": 42,
}  # fmt: skip


def certificates(rotation: Any = None) -> dict[str, Any]:
    root = {"subject": "CN=Gossamer mesh root", "serial": "1", "not_before": "", "not_after": "2036-01-01T00:00:00Z"}
    return {
        "trust_domain": "cluster.local",
        "roots": [{**root, "fingerprint_sha256": name * 16} for name in ("aaaa", "bbbb")],
        "rotation": rotation,
        "identities": [],
        "grants": [],
    }


def test_status_shows_the_roots_and_what_is_under_way(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", PATH, certificates(ROTATION))
    server.answer("GET", PATH, certificates({**ROTATION, "phase": "Signing"}))
    server.answer("GET", PATH, certificates())
    under_way = meshctl("--server", server.url, "ca", "status").out
    assert "aaaa to bbbb, by ann" in under_way
    assert "the new root is given to every proxy; the old one signs" in under_way
    assert "the new root signs" in meshctl("--server", server.url, "ca", "status").out
    quiet = meshctl("--server", server.url, "ca", "status").out
    assert [line.split()[0] for line in quiet.splitlines()] == ["ROOT", "aaaa" * 4, "bbbb" * 4]


def test_rotate_and_abort(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", f"{PATH}/rotation", ROTATION, code=201)
    server.answer("DELETE", f"{PATH}/rotation", ROTATION)
    assert meshctl("--server", server.url, "ca", "rotate").out.startswith("root bbbb will replace aaaa; ")
    assert meshctl("--server", server.url, "ca", "abort").out == "root bbbb is dropped; aaaa signs as before\n"


def test_proxies_say_what_they_have_not_asked_for(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    proxy = {
        "node": "n1", "dialect": "envoy", "delta": True, "sync": "pending", "types": {}, "replica": "cp-1",
        "connected_since": "", "rollout": "", "unasked": "EDS outbound|80||a",
    }  # fmt: skip
    server.answer("GET", "/mesh/v1/proxies", {"items": [proxy, {**proxy, "node": "n2", "unasked": ""}]})
    lines = meshctl("--server", server.url, "proxies").out.splitlines()
    assert lines[-1] == "pending   n1 has not asked for EDS outbound|80||a yet"
