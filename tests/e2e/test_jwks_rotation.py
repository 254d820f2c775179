"""An issuer changes its keys behind jwksUri, and its server fails or lies, while requests go on."""

import gzip
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from controlplane.cli.local_mesh import LocalMesh, wait_until
from tests.support import meshes
from tests.support.tokens import Signer, ec_signer, jwks, rsa_signer

pytestmark = pytest.mark.e2e

OLD, NEW, LATER, STRANGER = ec_signer("old"), rsa_signer("new"), ec_signer("later"), ec_signer("old", "ES384")
ISSUER = "https://issuer.example.com"
POLICY = "/apis/security.istio.io/v1/namespaces/default/requestauthentications/tokens"
Answer = Callable[["_Handler"], None]


def said(body: bytes, status: int = 200, **fields: str) -> Answer:
    """An answer of these bytes."""

    def answer(handler: "_Handler") -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **fields}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def keys(*signers: Signer) -> Answer:
    return said(jwks(*signers).encode(), content_type="application/json")


class _Issuer(ThreadingHTTPServer):
    """Serves keys as it is told; `asked` counts."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        self.answer = keys(OLD)
        self.asked = 0
        self.ended = threading.Event()
        super().__init__((host, 0), _Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/keys"

    def handle_error(self, *_: Any) -> None:
        """Clients go away; that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: _Issuer

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.answer(self)

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with meshes.local_mesh(tmp_path_factory.mktemp("rotation")) as mesh:
        mesh.start_control_plane("--jwks-refresh-s", "1")
        mesh.start_service(meshes.USER_V1, 2)
        mesh.start_agent("node-2", 2, (meshes.USER_V1,), proxy={"workers": 2})
        mesh.start_agent("node-4", 4, (meshes.ORDERS,))
        mesh.wait_revision(mesh.apply(meshes.SERVICE))
        yield mesh


@pytest.fixture(scope="module")
def issuer(mesh: LocalMesh) -> Iterator[_Issuer]:
    server = _Issuer(mesh.address(9))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    selected = "selector: {matchLabels: {app: user-service}}"
    rules = f'jwtRules: [{{issuer: "{ISSUER}", jwksUri: "{server.url}", timeout: 1s}}]'
    demanded = f'rules: [{{from: [{{source: {{requestPrincipals: ["{ISSUER}/*"]}}}}]}}]'
    mesh.wait_revision(mesh.apply(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: tokens}\n"
        f"spec: {{{selected}, {rules}}}\n---\n"
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: demanded}\n"
        f"spec: {{{selected}, {demanded}}}\n"
    ))  # fmt: skip
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


def token(signer: Signer) -> str:
    return signer.token({"iss": ISSUER, "sub": "me", "exp": time.time() + 600}).decode()


def status(mesh: LocalMesh, signer: Signer) -> int:
    agent = mesh.agents["node-4"]
    return agent.call(
        "user-service", "/users/1", port=meshes.CALLER_PORT, authorization=f"Bearer {token(signer)}"
    ).status


def becomes(mesh: LocalMesh, signer: Signer, wanted: int) -> None:
    """It is this also in all workers."""
    wait_until(f"{wanted}", lambda: {status(mesh, signer) for _ in range(8)} == {wanted}, timeout_s=20)


def condition(mesh: LocalMesh) -> str:
    """What the policy says of its keys; "" when all is well."""
    conditions = mesh.rest("GET", POLICY).json.get("status", {}).get("conditions", ())
    found = [item for item in conditions if item["type"] in ("KeyFetchFailed", "NoKeys")]
    return str(found[0]["message"]) if found else ""


class Asking:
    """One who goes on asking with a good token."""

    def __init__(self, mesh: LocalMesh, signer: Signer) -> None:
        self.seen: Counter[int] = Counter()
        self.signer = signer
        self._mesh = mesh
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _ask(self) -> None:
        while not self._ended.is_set():
            self.seen[status(self._mesh, self.signer)] += 1
            time.sleep(0.01)


def test_new_keys_are_accepted_and_removed_ones_refused_while_requests_go_on(mesh: LocalMesh, issuer: _Issuer) -> None:
    """As issuers do it: the new key is shown beside the old one, then signs, then the old one goes."""
    issuer.answer = keys(OLD)
    becomes(mesh, OLD, 200)
    assert status(mesh, NEW) == 401
    with Asking(mesh, OLD) as asking:
        issuer.answer = keys(OLD, NEW)
        becomes(mesh, NEW, 200)
        assert status(mesh, OLD) == 200
        assert status(mesh, STRANGER) == 401, "the name of a good key, and another key"
        asking.signer = NEW
        issuer.answer = keys(NEW)
        becomes(mesh, OLD, 401)
    assert asking.seen.keys() == {200}
    assert asking.seen[200] > 20
    assert condition(mesh) == ""


def test_one_key_may_take_another_ones_name(mesh: LocalMesh, issuer: _Issuer) -> None:
    """Nothing that was verified by the old one passes any longer, though workers remember it."""
    same, other = ec_signer("same"), rsa_signer("another", kid="same")
    issuer.answer = keys(same)
    becomes(mesh, same, 200)
    issuer.answer = keys(other)
    becomes(mesh, other, 200)
    becomes(mesh, same, 401)


def hang(handler: _Handler) -> None:
    handler.server.ended.wait(30)


def drip(handler: _Handler) -> None:
    """A byte at a time."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.ended.wait(0.2):
        handler.wfile.write(b" ")


def endless(handler: _Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.ended.is_set():
        handler.wfile.write(b" " * 65536)


def cut(handler: _Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "100000")
    handler.end_headers()
    handler.wfile.write(jwks(STRANGER).encode())
    handler.connection.shutdown(socket.SHUT_RDWR)


def no_http(handler: _Handler) -> None:
    handler.wfile.write(b"\x16\x03\x01\x00\x00 nonsense\r\n\r\n")


SECRET = {"kty": "oct", "kid": "old", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}
LIES: dict[str, tuple[Answer, str]] = {
    "hangs": (hang, "TimeoutError"),
    "drips": (drip, "TimeoutError"),
    "endless": (endless, "found more than 262144 bytes"),
    "huge": (said(b'{"keys": [' + b" " * 300_000 + b"]}"), "found more than 262144 bytes"),
    "packed": (said(gzip.compress(jwks(STRANGER).encode()), content_encoding="gzip"), "codec can't decode"),
    "a bomb": (said(gzip.compress(b" " * 100_000_000), content_encoding="gzip"), "codec can't decode"),
    "cut": (cut, "payload"),
    "no HTTP": (no_http, "400"),
    "an error": (said(b"{}", 500), "found status 500"),
    "a redirect": (said(b"", 302, location="http://127.0.0.1:1/"), "found status 302"),
    "HTML": (said(b"<!doctype html><title>Sign in</title>", content_type="text/html"), "keys"),
    "nothing": (said(b""), "keys"),
    "no text": (said(b"\xff\xfe\x00"), "codec can't decode"),
    "deep": (said(b"[" * 100_000), "keys"),
    "no keys": (said(b'{"keys": []}'), "keys"),
    "keys are text": (said(b'{"keys": "all"}'), "keys"),
    "a secret": (said(json.dumps({"keys": [SECRET]}).encode()), "no key that can verify tokens"),
    "a short key": (said(json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}).encode()), "no key"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_server_that_fails_or_lies_costs_nothing_but_a_condition(mesh: LocalMesh, issuer: _Issuer, name: str) -> None:
    issuer.answer = keys(LATER)
    becomes(mesh, LATER, 200)
    wait_until("no condition", lambda: condition(mesh) == "", timeout_s=20)
    answer, words = LIES[name]
    with Asking(mesh, LATER) as asking:
        issuer.answer = answer
        told = wait_until("the condition", lambda: condition(mesh), timeout_s=20)
        assert {status(mesh, LATER) for _ in range(8)} == {200}
        assert {status(mesh, signer) for signer in (STRANGER, OLD)} == {401}
    assert asking.seen.keys() == {200}
    prefix = f"spec.jwtRules[0].jwksUri: cannot fetch keys from {issuer.url}: "
    assert told.startswith(prefix)
    assert words in told
    assert told.endswith("; the last good ones stay")


def test_the_last_good_keys_survive_the_control_plane_and_the_agent(mesh: LocalMesh, issuer: _Issuer) -> None:
    issuer.answer = keys(LATER)
    becomes(mesh, LATER, 200)
    issuer.answer = said(b"gone", 404)
    control_plane = next(process for process in mesh.processes if process.name == "controlplane")
    assert control_plane.stop() == 0
    assert status(mesh, LATER) == 200
    asked = issuer.asked
    mesh.start_control_plane("--jwks-refresh-s", "1")
    wait_until("it asks again", lambda: issuer.asked > asked, timeout_s=20)
    mesh.agents["node-2"].process.stop()
    mesh.run_agent(mesh.agents["node-2"])
    becomes(mesh, LATER, 200)
    becomes(mesh, OLD, 401)
    wait_until("the condition", lambda: "found status 404" in condition(mesh), timeout_s=20)
