"""The origin of the benches: a bare HTTP/1.1 server that answers at once, so that the proxy is what is measured.

    /bytes/N    N bytes        /chunked/N    N bytes in 16 chunks        anything else    128 bytes

Requests with a body are answered with its length in `x-received`.

Not: correct HTTP in general. It reads heads that end in CRLFCRLF, bodies by content-length or in chunks without
trailers, and answers 200.
"""

import argparse
import asyncio
import functools
import signal
from typing import cast

import uvloop

from bench.dataplane_scenarios import DEFAULT_ANSWER

CHUNKS = 16


def in_chunks(size: int) -> bytes:
    """A body of `size` bytes, chunked."""
    sizes = [size // CHUNKS] * (CHUNKS - 1) + [size - size // CHUNKS * (CHUNKS - 1)]
    return b"".join(b"%x\r\n%b\r\n" % (own, b"x" * own) for own in sizes) + b"0\r\n\r\n"


@functools.lru_cache(16)
def answer_to(kind: bytes, size: bytes) -> bytes:
    """Head and body."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
    if kind == b"chunked":
        return head + b"transfer-encoding: chunked\r\n\r\n" + in_chunks(int(size))
    length = int(size) if kind == b"bytes" else DEFAULT_ANSWER
    return head + b"content-length: %d\r\n\r\n" % length + b"x" * length


class Origin(asyncio.Protocol):
    """One connection; pipelined requests are answered in order."""

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0  # of the body, or of a chunk and its CRLF
        self._chunked = False
        self._received = 0
        self._answer = b""
        self._answers: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and self._step():
            pass
        if self._answers:
            self._transport.write(b"".join(self._answers) if len(self._answers) > 1 else self._answers[0])
            self._answers.clear()

    def _step(self) -> bool:
        """Read on; False when there is not enough."""
        if self._left:
            return self._body()
        if self._chunked:
            return self._chunk()
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        self._head(head)
        return True

    def _head(self, head: bytes) -> None:
        parts = head.split(b" ", 2)[1].split(b"/", 3)
        kind = parts[1] if len(parts) > 2 and parts[1] in (b"bytes", b"chunked") else b""
        self._answer = answer_to(kind, parts[2] if kind else b"")
        fields = head.lower()
        at = fields.find(b"\r\ncontent-length:")
        self._left = self._received = int(fields[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        self._chunked = b"\r\ntransfer-encoding: chunked" in fields
        if not self._left and not self._chunked:
            self._answers.append(self._answer)

    def _body(self) -> bool:
        taken = min(self._left, len(self._buffer))
        self._buffer, self._left = self._buffer[taken:], self._left - taken
        if not self._left and not self._chunked:
            self._end()
        return not self._left

    def _chunk(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        size = int(self._buffer[:end], 16)
        if size == 0:
            if len(self._buffer) < end + 4:
                return False
            self._buffer, self._chunked = self._buffer[end + 4 :], False
            self._end()
            return True
        self._buffer, self._left = self._buffer[end + 2 :], size + 2
        self._received += size
        return True

    def _end(self) -> None:
        line, rest = self._answer.split(b"\r\n", 1)
        self._answers.append(b"%b\r\nx-received: %d\r\n%b" % (line, self._received, rest))


async def serve(address: str, port: int) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, address, port, backlog=4096)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    uvloop.run(serve(options.address, options.port))
