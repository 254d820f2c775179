"""A cluster as a worker has it, and a request that tries its hosts: for tests without the rest of the data path."""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from agent.cluster.retries import RetryRules
from agent.codec.head import Headers, RequestHead
from agent.ipc.messages import EjectRequest
from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from agent.stats.names import cluster_group
from agent.upstream.clusters import Parts, UpstreamCluster
from agent.upstream.connection import UpstreamConnection
from agent.upstream.tls import TlsContexts
from agent.upstream.wheel import TimerWheel

WAIT_S = 15.0


def assignment(*endpoints: Endpoint) -> LoadAssignment:
    return LoadAssignment(cluster="c", endpoints=endpoints)


class Action:
    """What a cluster reads of a route's action."""

    def __init__(self) -> None:
        self.priority_high = False


class Request:
    """`agent.upstream.clusters.Trying`, `agent.upstream.pool.Waiter` and `agent.upstream.connection.Receiver`."""

    def __init__(self, retry: RetryRules | None = None) -> None:
        self.retry: Any = retry
        self.tried: list[Any] = []
        self.attempts = 0
        self.action: Any = Action()
        self.flags = ""
        self.holds_retry = False
        self.head = RequestHead(b"GET", b"/", b"x", Headers())
        self.asked_s = 0.0
        self.back_offs = 0
        self.connection: UpstreamConnection | None = None
        self.failure: tuple[str, str] | None = None
        self.status = 0
        self.body = b""
        self.reset = ""
        self.changed = asyncio.Event()

    def on_pool_ready(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        self.changed.set()

    def on_pool_failure(self, reason: str, cause: str) -> None:
        self.failure = (reason, cause)
        self.changed.set()

    def on_response(self, head: Any, body: bytes, end_stream: bool) -> None:
        self.status = head.status
        self.body += body
        if end_stream:
            self.on_response_end()

    def on_response_body(self, data: bytes) -> None:
        self.body += data

    def on_response_end(self) -> None:
        connection, self.connection = self.connection, None
        assert connection is not None
        connection.release(True)
        self.changed.set()

    def on_upstream_raw(self, data: bytes) -> None:
        self.body += data
        self.changed.set()

    def on_upstream_reset(self, reason: str) -> None:
        self.reset = reason
        self.changed.set()

    def on_upstream_writable(self, writable: bool) -> None:
        pass


class ClusterUnderTest:
    """`requests`: the ejections that it has asked for. Make it inside a running loop."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint] = (),
        *,
        rng: Callable[[], float] = lambda: 0.0,
        contexts: TlsContexts | None = None,
        wall: Callable[[], float] = lambda: 1000.0,
        **config: Any,
    ) -> None:
        self.requests: list[EjectRequest] = []
        self.wheel = TimerWheel(asyncio.get_running_loop())
        parts = Parts(
            wheel=self.wheel, tls_contexts=contexts or TlsContexts(), rng=rng, eject=self.requests.append, wall=wall
        )  # fmt: skip
        self.config = Cluster(name="c", **config)
        self.cluster = UpstreamCluster(self.config, assignment(*endpoints), parts, cluster_group("c"))

    @property
    def counts(self) -> list[int]:
        return self.cluster.stats.counts


class PeerConnection:
    """The server's end of a connection; the test says what it does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next request's first line."""
        async with asyncio.timeout(WAIT_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        return head.partition(b"\r\n")[0]

    def answer(self, body: bytes = b"ok", *, close: bool = False) -> None:
        fields = b"connection: close\r\n" if close else b""
        self.send(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (fields, len(body), body))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()

    async def ended(self) -> bool:
        """The client has closed it, with nothing more to say."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self._reader.read() == b""
            except ConnectionError:
                return True


class Peer:
    """A server on a free port; `connections` in the order in which they came."""

    def __init__(self) -> None:
        self.connections: list[PeerConnection] = []
        self.port = 0
        self._came = asyncio.Event()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(address="127.0.0.1", port=self.port)

    async def connection(self, number: int = 0) -> PeerConnection:
        """The connection of this number, when it has come."""
        async with asyncio.timeout(WAIT_S):
            while len(self.connections) <= number:
                await self._came.wait()
                self._came.clear()
        return self.connections[number]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(PeerConnection(reader, writer))
        self._came.set()


@asynccontextmanager
async def peer(context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """A Peer that serves, with TLS if there is a context."""
    made = Peer()
    server = await asyncio.start_server(made._accept, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for connection in made.connections:
            connection.close()


async def until(test: Callable[[], Any]) -> None:
    """Let the loop run until `test` holds."""
    async with asyncio.timeout(WAIT_S):
        while not test():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on asyncio's own loop and on uvloop, which is a worker's."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))
        uvloop.run(test(*args, **fixtures))

    return run
