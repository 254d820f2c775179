"""The origin of both proxies: notes every request as it came, and does what the case's script says."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mesh.tasks import cancel_and_wait, spawn
from tests.differential.case import OK, Do, Script

WAIT_S = 5.0


@dataclass
class Seen:
    """A request. `complete`: all of its body has come."""

    line: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False


def parsed_fields(lines: list[bytes]) -> list[tuple[str, str]]:
    pairs = (line.decode("latin-1").partition(":") for line in lines)
    return [(name, value.strip(" \t")) for name, _, value in pairs]


def host_of(seen: Seen) -> str:
    """The Host of a request."""
    return next((value for name, value in seen.fields if name.lower() == "host"), "")


class ScriptedOrigin:
    """`scripts`: for each request in order, the last one for all that follow."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[Seen] = []
        self._scripts: tuple[Script, ...] = (OK,)
        self._writers: set[asyncio.StreamWriter] = set()

    def prepare(self, scripts: tuple[Script, ...]) -> None:
        """A new case begins."""
        self.seen = []
        self._scripts = scripts or (OK,)

    async def wait_requests(self, count: int) -> None:
        """Until so many whole requests have come."""
        async with asyncio.timeout(WAIT_S):
            while sum(one.complete for one in self.seen) < count:  # noqa: ASYNC110 - the kernel sets no event
                await asyncio.sleep(0.003)

    def drop_connections(self) -> bool:
        """Close what is still open; whether there was anything."""
        dropped = bool(self._writers)
        for writer in list(self._writers):
            writer.close()
        return dropped

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                continue
        except (OSError, asyncio.IncompleteReadError):
            pass  # the proxy has closed, or the case is over
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        seen = Seen(head[0].decode("latin-1"), parsed_fields(head[1:]))
        script = self._scripts[min(len(self.seen), len(self._scripts) - 1)]
        self.seen.append(seen)
        if script[:1] == (Do.EARLY,):
            return await self._act(script[1:], reader, writer)
        await _read_body(seen, reader)
        seen.complete = True
        return await self._act(script, reader, writer)

    async def _act(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for step in script:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case float():
                    await asyncio.sleep(step)
                case Do.ECHO:
                    while data := await reader.read(65536):
                        writer.write(data)
                    return False
                case Do.HANG:
                    await reader.read()
                    return False
                case Do.CLOSE:
                    return False
                case Do.RESET:
                    reset(writer)
                    return False
        return True


async def _read_body(seen: Seen, reader: asyncio.StreamReader) -> None:
    fields = {name.lower(): value for name, value in seen.fields}
    if fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            seen.body += (await reader.readexactly(size + 2))[:-2]
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            seen.trailers += parsed_fields([line[:-2]])
    elif "content-length" in fields:
        left = int(fields["content-length"])
        while left:
            data = await reader.read(left)
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            seen.body += data
            left -= len(data)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def scripted_origin() -> AsyncIterator[ScriptedOrigin]:
    """One that serves on a free port."""
    made = ScriptedOrigin()
    tasks: list[asyncio.Task[None]] = []

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(spawn("scripted origin", made.serve(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=1 << 20)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await cancel_and_wait(*tasks)
