"""The REST client against servers that answer well, badly, or not at all."""

import socket
from pathlib import Path

import pytest

NODES = "/mesh/v1/nodes"


def test_the_token_comes_from_its_file_and_is_sent_as_bearer(meshctl, server, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "token").write_text("s3cret\n")
    server.answer("GET", NODES, {"items": []})
    done = meshctl("nodes", "--server", server.url, "--token-file", str(tmp_path / "token"))
    assert done.code == 0
    assert server.requests[0]["headers"]["authorization"] == "Bearer s3cret"
    assert server.requests[0]["headers"]["user-agent"].startswith("meshctl/")


def test_server_and_token_come_from_the_environment(meshctl, server, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("GOSSAMER_SERVER", server.url.removeprefix("http://"))
    monkeypatch.setenv("GOSSAMER_TOKEN", "fromenv")
    server.answer("GET", NODES, {"items": []})
    assert meshctl("nodes").code == 0
    assert server.requests[0]["headers"]["authorization"] == "Bearer fromenv"


def test_the_flag_wins_over_the_environment_before_and_behind_the_command(meshctl, server, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("GOSSAMER_SERVER", "http://127.0.0.1:1")
    server.answer("GET", NODES, {"items": []})
    assert meshctl("--server", server.url, "nodes").code == 0
    assert meshctl("nodes", "--server", server.url + "/").code == 0
    assert [request["path"] for request in server.requests] == [NODES, NODES]


def test_without_a_token_none_is_sent(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", NODES, {"items": []})
    meshctl("--server", server.url, "nodes")
    assert "authorization" not in server.requests[0]["headers"]


@pytest.mark.parametrize("text", ["", "two words", "two\nlines"])
def test_a_file_that_holds_no_token_is_refused(meshctl, tmp_path: Path, text: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "token").write_text(text)
    done = meshctl("--token-file", str(tmp_path / "token"), "nodes")
    assert done.code == 64
    assert "--token-file: expected one token in" in done.err
    assert "two" not in done.err


def test_a_refusal_is_told_as_the_server_worded_it(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.refuse("GET", NODES, 401, "Unauthorized", "authorization: found no bearer token (meshctl: --token-file)")
    done = meshctl("--server", server.url, "nodes")
    assert done.code == 1
    assert done.err == "meshctl: authorization: found no bearer token (meshctl: --token-file)\n"


def test_nobody_listens(meshctl) -> None:  # type: ignore[no-untyped-def]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    done = meshctl("--server", url, "nodes")
    assert done.code == 1
    assert done.err == (
        f"meshctl: {url}: cannot connect: Connection refused "
        "(is the control plane running? --server or GOSSAMER_SERVER names another)\n"
    )


def test_a_name_that_is_not_known(meshctl) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("--server", "http://nowhere.invalid:8080", "nodes")
    assert done.code == 1
    assert done.err.startswith("meshctl: http://nowhere.invalid:8080: cannot connect: ")


def test_a_server_that_never_answers(meshctl) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = meshctl("--server", url, "--timeout", "0.2s", "nodes")
    assert done.code == 1
    assert f"meshctl: {url}: no answer to GET {NODES} in time (--timeout)" in done.err


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (502, b"<html>bad gateway</html>", "found HTTP 502 without an explanation (is it a Gossamer server?)"),
        (500, b'{"error": "x"}', "found HTTP 500 without an explanation (is it a Gossamer server?)"),
        (200, b"<html>hello</html>", "found an answer that is not JSON (is it a Gossamer server?)"),
        (200, b"[]", "nodes: found list, expected the items of nodes"),
        (302, b"{}", "found HTTP 302 without an explanation"),
    ],
)
def test_another_server_is_recognised(meshctl, server, code: int, body: bytes, message: str) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", NODES, body, code=code)
    done = meshctl("--server", server.url, "nodes")
    assert done.code == 1
    assert message in done.err


def test_a_partial_answer_says_so(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", NODES, {"items": [], "partial": True, "silent": [{"replica": "cp-2", "reason": "timeout"}]})
    done = meshctl("--server", server.url, "nodes")
    assert done.code == 0
    assert "Warning: cp-2 does not answer (timeout); its proxies are missing here" in done.err


def test_https_needs_readable_roots(meshctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("--server", "https://127.0.0.1:1", "--ca-file", str(tmp_path / "none.pem"), "nodes")
    assert done.code == 64
    assert "--ca-file: cannot read" in done.err
