"""The admin port's HTTP: bounded, keep-alive, deaf to other sites. Real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.admin import http
from agent.admin.http import AdminServer, Request, Response


async def echo(request: Request) -> Response:
    """What was understood, as JSON; /fail fails."""
    if request.path == "/fail":
        raise RuntimeError("broken handler")
    return Response.json(
        {"method": request.method, "path": request.path, "query": dict(request.query), "body": request.body.decode()}
    )


class Client:
    """One connection; answers are read by content-length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        self.writer.write(data)
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            rest = await self.reader.readexactly(int(fields["content-length"])) if body else b""
        return int(lines[0].split()[1]), fields, rest

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read(1) == b""


@asynccontextmanager
async def serving() -> AsyncIterator[AdminServer]:
    server = AdminServer(echo)
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    async with serving() as server:
        host, _, port = server.address.rpartition(":")
        client = Client(*await asyncio.open_connection(host, int(port)))
        try:
            yield client
        finally:
            client.writer.close()


async def test_several_requests_on_one_connection() -> None:
    async with connected() as client:
        status, fields, body = await client.ask(b"GET /a%20b?x=1&y= HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (status, fields["connection"]) == (200, "keep-alive")
        assert b'"path": "/a b"' in body
        assert b'"y": ""' in body
        status, _, body = await client.ask(b"PUT /b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc")
        assert (status, b'"body": "abc"' in body) == (200, True)
        chunked = b"POST /c HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
        status, _, body = await client.ask(chunked)
        assert (status, b'"body": "de"' in body) == (200, True)


async def test_head_has_the_length_but_no_body() -> None:
    async with connected() as client:
        _, fields, _ = await client.ask(b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n", body=False)
        assert int(fields["content-length"]) > 0
        status, _, body = await client.ask(b"GET /next HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (status, b'"path": "/next"' in body) == (200, True), "the body of the HEAD did not come in between"


async def test_close_is_obeyed() -> None:
    async with connected() as client:
        _, fields, _ = await client.ask(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert fields["connection"] == "close"
        assert await client.closed()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * http.MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * http.MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 431),
        (
            b"PUT / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048577\r\n\r\n" + b"a" * (http.MAX_BODY_BYTES + 1),
            413,
        ),
        (b"no HTTP at all\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\xa5\x01\r\n\r\n", 400),
    ],
    ids=["large header", "large path", "large body", "garbage", "TLS"],
)
async def test_bad_requests_are_answered_and_end_the_connection(data: bytes, status: int) -> None:
    async with connected() as client:
        found, fields, _ = await client.ask(data)
        assert (found, fields["connection"]) == (status, "close")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"host: localhost:15000", 200),
        (b"host: 127.0.0.1:15000", 200),
        (b"host: [::1]:15000", 200),
        (b"host: rebound.example.com", 403),
        (b"host: localhost:15000\r\norigin: http://localhost:15000", 200),
        (b"host: localhost:15000\r\norigin: http://evil.example.com", 403),
        (b"host: localhost:15000\r\norigin: null", 403),
    ],
)
async def test_other_sites_are_refused(fields: bytes, status: int) -> None:
    """A page in the user's browser must not drive the port, neither directly nor by a name that it points here."""
    async with connected() as client:
        found, _, _ = await client.ask(b"POST /drain HTTP/1.1\r\n" + fields + b"\r\ncontent-length: 0\r\n\r\n")
        assert found == status


async def test_a_failing_handler_is_a_500_and_the_connection_lives() -> None:
    async with connected() as client:
        status, _, _ = await client.ask(b"GET /fail HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert status == 500
        status, _, _ = await client.ask(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert status == 200


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 1)
    async with connected() as first:
        await first.ask(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        host, port = first.writer.get_extra_info("peername")
        reader, writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.timeout(10):
                assert await reader.read(1) == b""
        except ConnectionError:
            pass  # it was reset, which is as good
        finally:
            writer.close()
        status, _, _ = await first.ask(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert status == 200


async def test_an_address_in_use_is_an_error() -> None:
    async with serving() as server:
        other = AdminServer(echo)
        with pytest.raises(OSError):
            await other.start("127.0.0.1", int(server.address.rpartition(":")[2]))
        await other.close()
