"""A control plane that says what a test tells it to, so that answers can be as bad as they come."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from controlplane.cli.__main__ import main


class FakeServer:
    """Answers by (method, path without query); `requests` holds what was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, bytes, dict[str, str]]]] = {}
        self.requests: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.requests.append(
                    {
                        "method": self.command,
                        "path": path,
                        "query": query,
                        "body": json.loads(body) if body else None,
                        "headers": {key.lower(): value for key, value in self.headers.items()},
                    }
                )
                status, data, headers = server.next_answer(self.command, path)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = handle_one

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def next_answer(self, method: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        """The next answer for the path; the last one stays."""
        known = self.answers.get((method, path))
        if not known:
            return 404, json.dumps(status(404, "NotFound", f"{method} {path}: not found")).encode(), {}
        return known.pop(0) if len(known) > 1 else known[0]

    def answer(self, method: str, path: str, value: Any, *, code: int = 200, **headers: str) -> None:
        """Add an answer; bytes are sent as they are, anything else as JSON."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answers.setdefault((method, path), []).append((code, data, headers))

    def refuse(
        self, method: str, path: str, code: int, reason: str, message: str, causes: list[dict[str, Any]] | None = None
    ) -> None:
        """Add a refusal as the control plane words it."""
        self.answer(method, path, status(code, reason, message, causes), code=code)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


def status(code: int, reason: str, message: str, causes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A Kubernetes Status of a failure."""
    details = {"causes": causes} if causes else {}
    return {
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOSSAMER_SERVER", "GOSSAMER_TOKEN", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


class Outcome:
    """What a call of meshctl said and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def meshctl(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs meshctl in this process."""

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
