"""The client: sends a case's bytes as they are, and reads answers without believing more than it must."""

import asyncio
from dataclasses import dataclass, field

from tests.differential.case import Case, Do
from tests.differential.origin import parsed_fields, reset

WAIT_S = 8.0
QUIET_S = 0.01  # a connection that has not ended so long after its answer is open


@dataclass
class Answer:
    """`complete`: its body ended as its head said."""

    status: int
    line: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False

    def value(self, name: str) -> str:
        return next((value for key, value in self.fields if key.lower() == name), "")


@dataclass
class Heard:
    """All that the client has seen. `ended`: the proxy has closed."""

    answers: list[Answer] = field(default_factory=list)
    raw: bytes = b""
    ended: bool = False


class Client:
    """One connection."""

    def __init__(self, case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._case = case
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._eof = False
        self.heard = Heard()

    async def run(self) -> None:
        for step in self._case.send:
            match step:
                case bytes():
                    self._writer.write(step)
                case float():
                    await asyncio.sleep(step)
                case Do.AWAIT:
                    await self._more()
                case Do.HALF_CLOSE:
                    self._writer.write_eof()
                case Do.CLOSE:
                    self._writer.close()
                    return
                case Do.RESET:
                    reset(self._writer)
                    return
        async with asyncio.timeout(WAIT_S):
            await self._answers()

    async def _more(self) -> None:
        """Wait for at least one byte."""
        if self._eof:
            return
        try:
            async with asyncio.timeout(WAIT_S):
                data = await self._reader.read(65536)
        except ConnectionError:
            data = b""
        self._eof = not data
        self._buffer += data

    async def _answers(self) -> None:
        left = self._case.answers
        while left and await self._answer():
            left -= self.heard.answers[-1].status >= 200 or self.heard.answers[-1].status == 101
        heard = self.heard
        while self._case.until and not self._buffer.endswith(self._case.until) and not self._eof:
            await self._more()
        last = heard.answers[-1] if heard.answers else None
        if not self._eof and last is not None and last.complete and last.value("connection") != "close":
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._more()
            except TimeoutError:
                pass
        else:
            while not self._eof:
                await self._more()
        heard.raw, heard.ended = self._buffer, self._eof

    async def _answer(self) -> bool:
        while b"\r\n\r\n" not in self._buffer:
            if self._eof:
                return False
            await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        found = Answer(int(lines[0].split(b" ")[1]), lines[0].decode("latin-1"), parsed_fields(lines[1:]))
        self.heard.answers.append(found)
        await self._body(found)
        return found.complete

    async def _body(self, found: Answer) -> None:
        head_request = self._case.send[0][:5] == b"HEAD " if isinstance(self._case.send[0], bytes) else False
        if found.status < 200 or found.status in (204, 304) or head_request:
            found.complete = True
        elif found.value("transfer-encoding") == "chunked":
            await self._chunks(found)
        elif found.value("content-length"):
            found.body = await self._take(int(found.value("content-length")))
            found.complete = len(found.body) == int(found.value("content-length"))
        else:
            while not self._eof:
                await self._more()
            found.body, self._buffer = self._buffer, b""
            found.complete = True

    async def _chunks(self, found: Answer) -> None:
        while True:
            line = await self._line()
            if not line:
                return
            size = int(line, 16)
            if not size:
                break
            data = await self._take(size + 2)
            found.body += data[:size]
            if len(data) < size + 2:
                return
        while line := await self._line():
            found.trailers += parsed_fields([line])
        found.complete = not self._eof or self._buffer == b""

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if self._eof:
                return b""
            await self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count and not self._eof:
            await self._more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data


async def run_client(port: int, case: Case) -> Heard:
    """What comes back when the case is sent to this port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Client(case, reader, writer)
    try:
        await client.run()
    finally:
        writer.close()
    return client.heard
