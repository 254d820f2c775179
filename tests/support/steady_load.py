"""HTTP/1.1 load that costs little: keep-alive connections and their origins on one event loop in a thread of its own.

A request has failed when its answer is not 200, or when it gets none. A connection that ends between two requests is
opened again and is no failure.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import uvloop

WAIT_S = 20.0


class _Origin(asyncio.Protocol):
    """Answers every request at once with its name. `present`: all open ones."""

    def __init__(self, name: str, present: "set[_Origin]") -> None:
        self._present = present
        body = name.encode()
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport  # uvloop's is no subclass of asyncio's

        self._present.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._present.discard(self)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        *whole, self._buffer = (self._buffer + data).split(b"\r\n\r\n")
        if whole:
            self._transport.write(self._answer * len(whole))


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, str]] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport  # uvloop's is no subclass of asyncio's

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> tuple[int, str]:
        """Status and body. Raises OSError or TimeoutError."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(WAIT_S):
            return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, rule, body = self._buffer.partition(b"\r\n\r\n")
        if not rule:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) >= int(length or 0) and self._answer is not None and not self._answer.done():
            self._buffer = b""
            self._answer.set_result((int(head[9:12]), body.decode()))
            if b"connection: close" in head.lower() and self._transport is not None:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("it ended before its answer"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class SteadyLoad:
    """`origins`: (address, port, name); `proxies`: host:port of outbound ports; `rps`: of all together, 0 = as fast as
    they answer. Starts with the block and ends with it."""

    def __init__(
        self,
        origins: Sequence[tuple[str, int, str]],
        proxies: Sequence[str],
        host: str,
        *,
        connections: int = 2,
        rps: float = 0.0,
    ) -> None:
        self._origins = origins
        self._proxies = proxies
        self._request = f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
        self._connections = connections
        self._interval_s = len(proxies) * connections / rps if rps else 0.0
        self._go = threading.Event()
        self._up = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: Counter[tuple[str, str]] = Counter()  # (proxy, name of the origin)
        self.failures: Counter[tuple[str, str]] = Counter()  # (proxy, what it was)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(WAIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + sum(self.failures.values())

    def begin(self) -> None:
        """The origins are up already; from now on there are requests."""
        self._go.set()

    def wait(self, requests: int, *, timeout_s: float = 100.0) -> None:
        """Until `requests` more have ended."""
        goal, deadline = self.total + requests, time.monotonic() + timeout_s
        while self.total < goal:
            assert time.monotonic() < deadline, f"{self.total} of {goal} requests within {timeout_s} s"
            time.sleep(0.02)

    def _run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        present: set[_Origin] = set()
        servers = [
            await loop.create_server(partial(_Origin, name, present), address, port)
            for address, port, name in self._origins
        ]
        try:
            self._up.set()
            await self._load()
        finally:
            for server in servers:
                server.close()
            for origin in tuple(present):
                origin.close()
            await asyncio.sleep(0)  # transports close in the next turn

    async def _load(self) -> None:
        while not self._go.is_set() and not self._stop.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.01)
        async with asyncio.TaskGroup() as group:
            for proxy in self._proxies:
                for _ in range(self._connections):
                    group.create_task(self._ask_on(proxy))

    async def _ask_on(self, proxy: str) -> None:
        connection = _Connection()
        host, _, port = proxy.rpartition(":")
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._stop.is_set():
            try:
                if not connection.usable:
                    _, connection = await loop.create_connection(_Connection, host, int(port))
                status, body = await connection.ask(self._request)
                if status == 200:
                    self.answers[proxy, body] += 1
                else:
                    self.failures[proxy, f"{status} {body[:100]}"] += 1
            except (OSError, TimeoutError) as error:
                self.failures[proxy, repr(error)] += 1
                connection.close()
                await asyncio.sleep(0.01)
            due += self._interval_s
            if (pause := due - loop.time()) > 0:
                await asyncio.sleep(pause)
            elif self._interval_s:
                due = loop.time()  # behind: no burst afterwards
        connection.close()
