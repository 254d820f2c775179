"""The small HTTP/1.1 server of the admin port.

Owns:   reading bounded requests, writing answers, keep-alive, limits, refusing cross-site calls of a browser.
Not:    what is answered (routes).
Source: RFC 9112; the parser is httptools (llhttp).
Invariants: at most MAX_CONNECTIONS at once; a head or body beyond its limit is refused with 431 or 413; every wait is
        timed; a handler's failure is a 500 with a logged trace, and the connection lives on.
"""

import asyncio
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import httptools

from mesh.logs import get_logger
from mesh.tasks import spawn

_log = get_logger(__name__)

MAX_CONNECTIONS = 128
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
READ_S = 15.0
WRITE_S = 30.0
IDLE_S = 60.0
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`path` decoded, without the query; header names lower-case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200) -> "Response":
        data = json.dumps(value, indent=1, default=str).encode() + b"\n"
        return cls(status=status, body=data, content_type="application/json")

    @classmethod
    def text(cls, value: str, status: int = 200) -> "Response":
        return cls(status=status, body=value.encode())


Handler = Callable[[Request], Awaitable[Response]]


class TooLarge(Exception):
    """`status` 431 or 413."""

    def __init__(self, status: int) -> None:
        super().__init__(HTTPStatus(status).phrase)
        self.status = status


class _Reader:
    """One message being parsed; httptools calls the `on_` methods."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self.keep_alive = False
        self.parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0

    def on_url(self, part: bytes) -> None:
        self.url += part
        self._count(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()  # the parser has forgotten it when the message is complete

    def on_body(self, part: bytes) -> None:
        self.body += part
        if len(self.body) > MAX_BODY_BYTES:
            raise TooLarge(413)

    def on_message_complete(self) -> None:
        self.complete = True

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise TooLarge(431)


class AdminServer:
    """Serves `handler` on one address."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the address cannot be bound."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            self._server = await asyncio.start_server(self._accepted, sock=sock, limit=_CHUNK)
        except OSError:
            sock.close()
            raise
        name = sock.getsockname()
        self.address = f"[{name[0]}]:{name[1]}" if family == socket.AF_INET6 else f"{name[0]}:{name[1]}"

    async def close(self) -> None:
        """Stop listening and end the connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=2.0)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = spawn("admin connection", self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                continue
        except (OSError, TimeoutError, httptools.HttpParserError):
            return  # the client is gone, too slow, or spoke something else after its first message
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. May another one follow?"""
        message = _Reader()
        try:
            if not await _fill(reader, message):
                return False
            target = urlsplit(message.url.decode("ascii"))
        except TooLarge as error:
            return await _write(writer, Response.text(f"{error}\n", error.status), "GET", keep=False)
        except (httptools.HttpParserError, UnicodeDecodeError, ValueError):
            return await _write(writer, Response.text("Bad Request\n", 400), "GET", keep=False)
        request = Request(
            method=message.parser.get_method().decode("ascii"),
            path=unquote(target.path),
            query=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers=message.headers,
            body=bytes(message.body),
        )
        return await _write(writer, await self._answer(request), request.method, keep=message.keep_alive)

    async def _answer(self, request: Request) -> Response:
        refusal = _cross_site(request)
        if refusal:
            return Response.text(f"{refusal}\n", 403)
        try:
            return await self._handler(request)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the port; it is logged with its trace
            _log.error("admin request failed", method=request.method, path=request.path, exc_info=error)
            return Response.text("Internal Server Error\n", 500)


async def _fill(reader: asyncio.StreamReader, message: _Reader) -> bool:
    """Read one message. False when the client closes before one begins."""
    first = True
    while not message.complete:
        async with asyncio.timeout(IDLE_S if first else READ_S):
            data = await reader.read(_CHUNK)
        if not data:
            return False
        first = False
        try:
            message.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from error
        except httptools.HttpParserUpgrade:  # no upgrades here: answer the request as it is
            return True
    return True


async def _write(writer: asyncio.StreamWriter, response: Response, method: str, *, keep: bool) -> bool:
    status = HTTPStatus(response.status)
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"content-type: {response.content_type}",
        f"content-length: {len(response.body)}",
        "cache-control: no-cache, max-age=0",
        "x-content-type-options: nosniff",
        f"connection: {'keep-alive' if keep else 'close'}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    writer.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + (b"" if method == "HEAD" else response.body))
    async with asyncio.timeout(WRITE_S):
        await writer.drain()
    return keep


def _cross_site(request: Request) -> str:
    """Why a request is refused as one that a web page made a browser send, or nothing."""
    host = request.headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if name not in ("", "localhost"):
            return f"found Host {host[:80]!r}, expected an IP address or localhost"
    origin = request.headers.get("origin", "")
    if origin and urlsplit(origin).netloc != host:
        return "found another site's Origin"
    return ""
