"""Origins that tell who they are: which of them a proxy has chosen is read from the answer.

Each can be told how to answer; the connections to them stay open, as those of clients do.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from mesh.tasks import cancel_and_wait, spawn

WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Numbered:
    """An answer. `host`: the number of the origin, -1 when a proxy has answered itself."""

    status: int
    host: int
    fields: tuple[str, ...]

    def lines(self, name: str) -> list[str]:
        """The values of a field."""
        pairs = (field.partition(":") for field in self.fields)
        return [value.strip() for own, _, value in pairs if own.lower() == name]


class NumberedOrigins:
    """`statuses`: what each answers; 0 = it closes the connection instead, -1 = it says nothing until `release`.

    `asked`: whom requests have come to, in their order; `times`: when, monotonic seconds, by their path.
    """

    def __init__(self, count: int) -> None:
        self.ports: list[int] = []
        self.statuses = [200] * count
        self.asked: list[int] = []
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self._released = asyncio.Event()
        self._sent: list[asyncio.Task[None]] = []
        self._servers: list[asyncio.Server] = []
        self._clients: dict[tuple[int, str], tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._serving: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for number in range(len(self.statuses)):
            server = await asyncio.start_server(self._handler(number), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    def release(self) -> None:
        """Answer 200 to those who wait."""
        self._released.set()
        self._released = asyncio.Event()

    async def until_asked(self, count: int) -> None:
        """Until so many requests have come."""
        async with asyncio.timeout(WAIT_S):
            while len(self.asked) < count:  # noqa: ASYNC110 - several things make it grow
                await asyncio.sleep(0.002)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for _, writer in self._clients.values():
            writer.close()
        await cancel_and_wait(*self._serving)

    def _handler(self, number: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._serving.append(spawn(f"origin {number}", self._serve(number, reader, writer)))

        return accepted

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(number, reader, writer):
                continue
        except (OSError, asyncio.IncompleteReadError):
            pass  # the proxy has closed
        finally:
            writer.close()

    async def _serve_one(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(number)
        self.times[head.split(b" ")[1].decode()].append(monotonic())
        status = self.statuses[number]
        if status < 0:
            await self._released.wait()
            status = 200
        if status:
            writer.write(b"HTTP/1.1 %d X\r\nx-host: %d\r\ncontent-length: 0\r\n\r\n" % (status, number))
        return status > 0

    # --- asking a proxy in front of them --------------------------------------------------------------------------

    async def answer_of(self, port: int, host: str, path: str = "/", fields: Sequence[str] = ()) -> Numbered:
        """What the proxy at this port answers. One at a time for each host."""
        async with asyncio.timeout(WAIT_S):
            client = (port, host)
            if client not in self._clients:
                self._clients[client] = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = self._clients[client]
            lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *fields]
            writer.write("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            found = Numbered(int(head[0].split()[1]), -1, tuple(head[1:-2]))
            await reader.readexactly(int(found.lines("content-length")[0]))
            if "close" in found.lines("connection"):
                self._clients.pop(client)[1].close()
        numbers = found.lines("x-host")
        return Numbered(found.status, int(numbers[0]) if numbers else -1, found.fields)

    def send(self, port: int, host: str, field: str, path: str = "/") -> None:
        """Ask on a connection of its own, without waiting for the answer; `release_all` does."""
        text = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n"
        self._sent.append(spawn(f"ask {host}", self._ask_alone(port, text)))

    async def _ask_alone(self, port: int, text: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text.encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def release_all(self) -> None:
        """Answer all that were sent."""
        self.release()
        sent, self._sent = self._sent, []
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*sent)

    async def asked_by(self, port: int, host: str, path: str = "/", fields: Sequence[str] = ()) -> int:
        """The number of the origin that answers."""
        return (await self.answer_of(port, host, path, fields)).host


@asynccontextmanager
async def numbered_origins(count: int) -> AsyncIterator[NumberedOrigins]:
    """So many on free ports."""
    made = NumberedOrigins(count)
    try:
        await made.start()
        yield made
    finally:
        await made.close()
