"""Small HTTP/1.1 origins and a client, on asyncio, for tests of the data path."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mesh.tasks import cancel_and_wait, spawn

WAIT_S = 15.0


@dataclass
class Origin:
    """Answers with its name. By path: /status/N that status, /slow/S after S seconds, /cut closes without an answer,
    /chunks chunked, /echo the body. `fail_next`: so many requests get a 503 first."""

    name: str
    port: int = 0
    requests: list[str] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    fail_next: int = 0

    @property
    def key(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                continue
        except (OSError, asyncio.IncompleteReadError):
            pass  # the proxy has closed or was killed
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        self.requests.append(f"{method} {path}")
        self.fields.append(fields)
        what, _, argument = path.strip("/").partition("/")
        status = 200
        answer = self.name.encode()
        if self.fail_next:
            self.fail_next -= 1
            status = 503
        elif what == "status":
            status = int(argument)
        elif what == "slow":
            await asyncio.sleep(float(argument))
        elif what == "cut":
            return False
        elif what == "echo":
            answer = body
        if what == "chunks":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(answer)) + answer)
        await writer.drain()
        return True


@asynccontextmanager
async def origin(name: str = "origin") -> AsyncIterator[Origin]:
    """One that serves on a free port."""
    made = Origin(name)
    tasks: list[asyncio.Task[None]] = []

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(spawn(f"origin {name}", made._serve(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await cancel_and_wait(*tasks)


@dataclass(frozen=True)
class Answer:
    status: int
    fields: Mapping[str, str]
    body: bytes


class Connection:
    """A client's connection; answers with a length, chunked, or until its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext | None = None) -> "Connection":
        async with asyncio.timeout(WAIT_S):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))

    def send(
        self, path: str = "/", host: str = "web", *, method: str = "GET", body: bytes = b"", **fields: str
    ) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        lines += [f"content-length: {len(body)}"] if body or method == "POST" else []
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def answer(self) -> Answer:
        async with asyncio.timeout(WAIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            if "content-length" in fields:
                body = await self.reader.readexactly(int(fields["content-length"]))
            elif fields.get("transfer-encoding") == "chunked":
                body = await self._chunked()
            else:
                body = await self.reader.read()
        return Answer(int(head[0].split(" ")[1]), fields, body)

    async def _chunked(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")
        return body

    async def ask(
        self, path: str = "/", host: str = "web", *, method: str = "GET", body: bytes = b"", **fields: str
    ) -> Answer:
        self.send(path, host, method=method, body=body, **fields)
        return await self.answer()

    async def ended(self) -> bool:
        """The peer has closed and has said nothing more."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.close()


async def get(
    port: int,
    path: str = "/",
    host: str = "web",
    *,
    tls: ssl.SSLContext | None = None,
    method: str = "GET",
    body: bytes = b"",
    **fields: str,
) -> Answer:
    """One request on a connection of its own."""
    connection = await Connection.open(port, tls)
    try:
        return await connection.ask(path, host, method=method, body=body, **fields)
    finally:
        connection.close()
