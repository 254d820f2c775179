"""The origin of the benches: a bare HTTP/1.1 server that answers at once, so that the proxy is what is measured.

Not: correct HTTP in general. It reads heads that end in CRLFCRLF and bodies by Content-Length, and answers 200.
"""

import argparse
import asyncio
import signal
from typing import cast

import uvloop


class Origin(asyncio.Protocol):
    """One connection; pipelined requests are answered in order."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._buffer = b""
        self._body_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answers = 0
        while True:
            if self._body_left:
                taken = min(self._body_left, len(self._buffer))
                self._buffer, self._body_left = self._buffer[taken:], self._body_left - taken
                if self._body_left:
                    break
                answers += 1
                continue
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                break
            head, self._buffer = self._buffer[:end].lower(), self._buffer[end + 4 :]
            at = head.find(b"content-length:")
            self._body_left = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if not self._body_left:
                answers += 1
        if answers:
            self._transport.write(self._answer * answers)


async def serve(address: str, port: int, size: int) -> None:
    """Serve until SIGTERM; every answer has a body of `size` bytes."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Origin(answer), address, port, backlog=4096)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    uvloop.run(serve(options.address, options.port, options.size))
