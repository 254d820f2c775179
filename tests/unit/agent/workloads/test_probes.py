"""Health checks on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agent.settings import ServiceCheck
from agent.workloads.health import Outcome
from agent.workloads.probes import probe

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Application:
    """Answers each request as told, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer: bytes | None = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        self.port = 0
        self._ends: list[asyncio.Event] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is None:
                await reader.read()  # until the checker gives up
            else:
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def app() -> AsyncIterator[Application]:
    made = Application()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


def http(app: Application, path: str = "/health", timeout_s: float = 10.0) -> ServiceCheck:
    return ServiceCheck(http=f"http://127.0.0.1:{app.port}{path}", timeout_s=timeout_s)


async def test_200_passes_and_the_request_is_a_plain_one(app: Application) -> None:
    result = await probe(http(app, "/health?deep=1"))
    assert (result.outcome, result.reason) == (Outcome.PASSED, "")
    (request,) = app.requests
    lines = request.decode().split("\r\n")
    assert lines[0] == "GET /health?deep=1 HTTP/1.1"
    assert f"host: 127.0.0.1:{app.port}" in lines
    assert "connection: close" in lines


async def test_a_url_without_a_path_asks_for_the_root(app: Application) -> None:
    assert (await probe(http(app, ""))).outcome is Outcome.PASSED
    assert app.requests[0].startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("status", [100, 201, 204, 301, 302, 404, 429, 500, 503, 599])
async def test_any_other_answer_is_refused_with_its_status(app: Application, status: int) -> None:
    app.answer = b"HTTP/1.1 %d Whatever\r\nlocation: /elsewhere\r\n\r\n" % status
    result = await probe(http(app))
    assert result.outcome is Outcome.REFUSED
    assert result.reason == f"GET http://127.0.0.1:{app.port}/health answered {status}, expected 200"
    assert len(app.requests) == 1, "a redirect is not followed"


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200\r\n\r\n", b"HTTP/1.1 200 OK\n\n"])
async def test_the_forms_of_200(app: Application, answer: bytes) -> None:
    app.answer = answer
    assert (await probe(http(app))).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "no answer"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP/1"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 20", "not HTTP/1"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1"),
        (b"\xff\xfe\x00", "not HTTP/1"),
        (b"x" * 100_000, "GET http"),
    ],
)
async def test_what_is_no_answer_counts_as_none(app: Application, answer: bytes, words: str) -> None:
    app.answer = answer
    result = await probe(http(app))
    assert result.outcome is Outcome.FAILED
    assert words in result.reason


async def test_an_application_that_does_not_answer_fails_in_time(app: Application) -> None:
    app.answer = None
    result = await probe(http(app, timeout_s=0.2))
    assert result.outcome is Outcome.FAILED
    assert result.reason == f"GET http://127.0.0.1:{app.port}/health: no answer within 0.2 s"


def closed_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port: int = probe_socket.getsockname()[1]
        return port


async def test_nobody_listening_fails_with_the_reason() -> None:
    port = closed_port()
    for check in (ServiceCheck(http=f"http://127.0.0.1:{port}/"), ServiceCheck(tcp=f"127.0.0.1:{port}")):
        result = await probe(check)
        assert result.outcome is Outcome.FAILED
        assert str(port) in result.reason
        assert "refused" in result.reason.lower() or "connect call failed" in result.reason.lower()


async def test_a_connect_is_enough_for_tcp(app: Application) -> None:
    assert (await probe(ServiceCheck(tcp=f"127.0.0.1:{app.port}"))).outcome is Outcome.PASSED


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://127.0.0.1:1/\u4e2d"])
async def test_a_url_that_cannot_be_asked_fails_and_raises_nothing(url: str) -> None:
    assert (await probe(ServiceCheck(http=url))).outcome is Outcome.FAILED
