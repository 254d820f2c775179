"""The load generator of the benches. Prints one JSON line: requests, errors, seconds, latencies in milliseconds, and
of the processes `--watch` names their CPU seconds in just that time and their memory while the connections are open.

Closed loop: each connection sends its next request when the answer is in. Open loop (`--rate`): requests are due at
fixed moments whatever happens, and latency counts from the moment that a request was due (no coordinated omission).
"""

import argparse
import asyncio
import collections
import functools
import itertools
import json
import time
from typing import cast

import uvloop

from bench import machine

# Thirteen fields of a browser's size: what a mesh really carries. The session is each connection's own, and a
# connection asks for PATHS paths in turn, so that no two requests in a row are the same.
PATHS = 50
_FIELDS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Cache-Control: no-cache",
    "Cookie: session={session:040x}; theme=dark; consent=essential",
    "Origin: https://shop.example",
    "Referer: https://shop.example/catalogue/garden/chairs",
    "Sec-Fetch-Dest: empty",
    "Sec-Fetch-Mode: cors",
    "X-Tenant: 4711",
    "X-Client-Version: 2026.11.3",
)


class Run:
    """What all connections share."""

    def __init__(self, authority: str, rate: float) -> None:
        self.authority = authority
        self.rate = rate
        self.open = True
        self.done = 0
        self.errors = 0
        self.latencies: list[float] = []
        self.idle: collections.deque[Connection] = collections.deque()
        self.due: collections.deque[float] = collections.deque()

    def next_for(self, connection: "Connection") -> None:
        """Give a free connection its next request, or keep it for the next one that is due."""
        if not self.open:
            return
        if not self.rate:
            connection.send(time.perf_counter())
        elif self.due:
            connection.send(self.due.popleft())
        else:
            self.idle.append(connection)


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, run: Run, number: int) -> None:
        self._run = run
        fields = "\r\n".join(_FIELDS).format(session=(number + 1) * 0x3F786850E387550FDAB8)
        heads = (f"GET /users/{place} HTTP/1.1\r\nHost: {run.authority}\r\n{fields}" for place in range(PATHS))
        self._requests = itertools.cycle([head.encode() + b"\r\n\r\n" for head in heads])
        self._buffer = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._run.next_for(self)

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + size:
            return
        self._buffer = b""
        run = self._run
        if run.open:
            run.done += 1
            run.latencies.append(time.perf_counter() - self._due)
            if not head.startswith(b"http/1.1 200"):
                run.errors += 1
        run.next_for(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._run.open:
            self._run.errors += 1


async def measure(run: Run, options: argparse.Namespace) -> dict[str, float]:
    """Open the connections, warm up, measure: seconds, and of what is watched CPU seconds and MiB."""
    loop = asyncio.get_running_loop()
    for number in range(options.connections):
        await loop.create_connection(functools.partial(Connection, run, number), options.host, options.port)
    if run.rate:
        pacer = loop.create_task(_pace(run))  # ends with this function
    await asyncio.sleep(options.warmup)
    run.done, run.errors, run.latencies = 0, 0, []
    cpu_s, begun = machine.cpu_s(*options.watch), time.perf_counter()
    await asyncio.sleep(options.seconds)
    run.open = False
    took, cpu_s = time.perf_counter() - begun, machine.cpu_s(*options.watch) - cpu_s
    if run.rate:
        pacer.cancel()
    return {"seconds": took, "cpu_s": cpu_s, "pss_mib": machine.pss_mib(*options.watch)}


async def _pace(run: Run) -> None:
    begun, sent = time.perf_counter(), 0
    while True:
        now = time.perf_counter()
        while sent / run.rate <= now - begun:
            due = begun + sent / run.rate
            sent += 1
            if run.idle:
                run.idle.popleft().send(due)
            elif len(run.due) < 100_000:
                run.due.append(due)
            else:
                run.errors += 1
        await asyncio.sleep(0.001)


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of `ordered` lies, in milliseconds; 0 when there is none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--authority", required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second, open loop; 0 = closed loop")
    parser.add_argument("--watch", type=int, nargs="*", default=[], help="process numbers of the proxy")
    options = parser.parse_args()
    run = Run(options.authority, options.rate)
    measured = uvloop.run(measure(run, options))
    ordered = sorted(run.latencies)
    result = {
        "requests": run.done, "errors": run.errors, **measured,
        "p50_ms": percentile(ordered, 0.5), "p99_ms": percentile(ordered, 0.99), "max_ms": percentile(ordered, 1.0),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
