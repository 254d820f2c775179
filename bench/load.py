"""The load generator of the benches. Prints one JSON line: requests, errors, seconds, latencies in milliseconds, and
of the processes `--watch` names their CPU seconds in just that time and their memory while the connections are open.

Standard input says what is asked: the fields of a Shape, `authorities` and `tokens`, as JSON. An error is an answer
that is not 200 or has another length than the shape says, and a connection that is closed.

Closed loop: each connection sends its next request when the answer is in. Open loop (`--rate`): requests are due at
fixed moments whatever happens, and latency counts from the moment that a request was due (no coordinated omission).
"""

import argparse
import asyncio
import collections
import functools
import itertools
import json
import os
import sys
import threading
import time
from typing import Any, cast

import uvloop

from bench import machine
from bench.dataplane_scenarios import Shape
from bench.origin import in_chunks

# A connection asks for PATHS paths, and the authorities, in turn, so that no two requests in a row are the same.
PATHS = 50
_MAX_DUE = 100_000
_LAST_CHUNK = b"0\r\n\r\n"


class Asked:
    """What is sent: heads for each connection, one body."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._authorities: list[str] = told.pop("authorities")
        self._tokens: list[str] = told.pop("tokens")
        self.shape = shape = Shape(**told)
        self.body = in_chunks(shape.sends) if shape.chunked else b"x" * shape.sends
        sized = (f"Content-Length: {shape.sends}",) if shape.sends else ()
        self._fields = (*shape.fields, *(("Transfer-Encoding: chunked",) if shape.chunked else sized))

    def heads(self, number: int) -> list[bytes]:
        """Of the connection with this number, 0.., in turn."""
        shape = self.shape
        token = self._tokens[number % len(self._tokens)] if self._tokens else ""
        fields = "".join(f"{field}\r\n" for field in self._fields)
        fields = fields.format(session=(number + 1) * 0x3F786850E387550FDAB8, token=token)
        hosts = [self._authorities[(number * PATHS + place) % len(self._authorities)] for place in range(PATHS)]
        return [
            f"{shape.method} {shape.path.format(n=place)} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode()
            for place, host in enumerate(hosts)
        ]


class Run:
    """What all connections share."""

    def __init__(self, asked: Asked, rate: float) -> None:
        self.asked = asked
        self.rate = rate
        self.open = False
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

    def add_due(self, due: float) -> None:
        """A request is due: send it, or keep it for the next free connection."""
        if self.idle:
            self.idle.popleft().send(due)
        elif len(self.due) < _MAX_DUE:
            self.due.append(due)
        else:
            self.errors += 1

    def answered(self, due: float, good: bool) -> None:
        """An answer is in, whole."""
        if self.open:
            self.done += 1
            self.latencies.append(time.perf_counter() - due)
            self.errors += not good


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, run: Run, number: int) -> None:
        self._run = run
        self._heads = itertools.cycle(run.asked.heads(number))
        self._body = run.asked.body
        self._expected = run.asked.shape.answer
        self._buffer = b""
        self._due = 0.0
        self._left = 0  # of a sized body
        self._chunked = False
        self._received = 0  # of a chunked body
        self._good = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(next(self._heads))
        if self._body:
            self._transport.write(self._body)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            ended = self._left <= 0
        elif self._chunked:
            ended = self._chunk(data)
        else:
            ended = self._head(data)
        if ended:
            self._left, self._chunked, self._buffer = 0, False, b""
            self._run.answered(self._due, self._good)
            self._run.next_for(self)

    def _head(self, data: bytes) -> bool:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, rest = self._buffer[:end].lower(), self._buffer[end + 4 :]
        self._good = head.startswith(b"http/1.1 200")
        at = head.find(b"\r\ncontent-length:")
        if at < 0 and b"\r\ntransfer-encoding: chunked" in head:
            self._chunked, self._received, self._buffer = True, 0, b""
            return self._chunk(rest)
        size = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        self._good &= size == self._expected
        self._left, self._buffer = size - len(rest), b""
        return self._left <= 0

    def _chunk(self, data: bytes) -> bool:
        """Bodies are made of x, and nothing follows an answer before the next request."""
        self._received += len(data)
        self._buffer = (self._buffer + data[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
        if self._buffer != _LAST_CHUNK:
            return False
        self._good &= self._received >= self._expected
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._run.open:
            self._run.errors += 1


class Pacer:
    """Makes requests due, from a thread: timers of the loop are no finer than a millisecond."""

    def __init__(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self._begun = time.perf_counter()
        self._due = 0
        self._ended = threading.Event()
        self._reads, self._writes = os.pipe()
        loop.add_reader(self._reads, self._wake)
        self._thread = threading.Thread(target=self._tick)
        self._thread.start()

    def _tick(self) -> None:
        count = 0
        while not self._ended.is_set():
            time.sleep(max(0.0, self._begun + count / self._run.rate - time.perf_counter()))
            os.write(self._writes, b"t")
            count = max(count + 1, int((time.perf_counter() - self._begun) * self._run.rate))

    def _wake(self) -> None:
        os.read(self._reads, 4096)
        now = time.perf_counter()
        while (due := self._begun + self._due / self._run.rate) <= now:
            self._due += 1
            self._run.add_due(due)

    def end(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()


async def measure(run: Run, options: argparse.Namespace) -> dict[str, float]:
    """Open the connections, warm up, measure: seconds, and of what is watched CPU seconds and MiB."""
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(functools.partial(Connection, run, number), options.host, options.port)
        for number in range(options.connections)
    ]
    run.open = True
    for _, connection in opened:
        run.next_for(connection)
    pacer = Pacer(run, loop) if run.rate else None
    await asyncio.sleep(options.warmup)
    run.done, run.errors, run.latencies = 0, 0, []
    begun = time.perf_counter()
    cpu_s, helpers_s = machine.cpu_s(*options.watch), machine.cpu_s(os.getpid(), *options.helpers)
    await asyncio.sleep(options.seconds)
    run.open = False
    took = time.perf_counter() - begun
    cpu_s = machine.cpu_s(*options.watch) - cpu_s
    helpers_s = machine.cpu_s(os.getpid(), *options.helpers) - helpers_s
    if pacer is not None:
        pacer.end()
    return {"seconds": took, "cpu_s": cpu_s, "helpers_s": helpers_s, "pss_mib": machine.pss_mib(*options.watch)}


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of `ordered` lies, in milliseconds; 0 when there is none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second, open loop; 0 = closed loop")
    parser.add_argument("--watch", type=int, nargs="*", default=[], help="process numbers of the proxy")
    parser.add_argument("--helpers", type=int, nargs="*", default=[], help="process numbers of the origins")
    options = parser.parse_args()
    run = Run(Asked(json.load(sys.stdin)), options.rate)
    measured = uvloop.run(measure(run, options))
    ordered = sorted(run.latencies)
    result = {
        "requests": run.done, "errors": run.errors, **measured,
        "p50_ms": percentile(ordered, 0.5), "p99_ms": percentile(ordered, 0.99), "max_ms": percentile(ordered, 1.0),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
