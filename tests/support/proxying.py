"""A filter chain on loopback between a raw client and an origin that misbehaves on purpose."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from agent.model.listener import AccessLog, Direction, FilterChain, HttpConnectionManager, Listener, TcpProxy
from agent.model.rbac import NetworkRbac
from agent.model.route import (
    Action,
    Forward,
    PathKind,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from agent.proxy.chain import HttpChain
from agent.proxy.runtime import Runtime, Snapshot
from agent.proxy.tcp_proxy import TcpChain
from agent.router.table import RouteTable
from agent.stats.groups import Group
from agent.stats.names import cluster_group, listener_group
from agent.upstream.clusters import Parts, UpstreamCluster
from agent.upstream.wheel import TimerWheel

WAIT_S = 15.0
LOG_FIELDS = (
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("host", "%UPSTREAM_HOST%"),
    ("route", "%ROUTE_NAME%"),
    ("received", "%BYTES_RECEIVED%"),
    ("sent", "%BYTES_SENT%"),
    ("failure", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("local", "%UPSTREAM_LOCAL_ADDRESS%"),
)
LOG = AccessLog(path="/dev/stdout", json_fields=LOG_FIELDS)

# What an origin does with a request: bytes to send, then "close", "reset", "hang", "reset later" or "keep". What hangs
# or comes later waits for `released`.
Behaviour = tuple[bytes, str]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"


@dataclass
class RawOrigin:
    """Answers with what it saw (`echo`), or as `answers` says for the path's last segment. Keeps every byte."""

    answers: dict[str, Behaviour] = field(default_factory=dict)
    port: int = 0
    seen: list[bytes] = field(default_factory=list)  # whole requests
    raw: bytearray = field(default_factory=bytearray)
    connections: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)  # ends what hangs
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            self.writers.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                request = await self._read(reader)
                self.seen.append(request)
                path = request.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
                data, then = self.answers.get(path.rpartition("/")[2], (echo(request), "keep"))
                writer.write(data)
                if then in ("hang", "reset later"):
                    await self.released.wait()
                if then.startswith("reset"):
                    reset(writer)
                    return
                if then != "keep":
                    return

    async def end(self) -> None:
        self.released.set()
        for writer in list(self.writers):
            writer.transport.abort()
        await until(lambda: not self.writers)

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.raw += head
        lower = head.lower()
        body = b""
        if b"transfer-encoding: chunked" in lower:
            while not body.endswith(b"0\r\n\r\n"):
                body += await reader.readuntil(b"\r\n")
        elif b"content-length: " in lower:
            length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        self.raw += body
        return head + body


def echo(request: bytes) -> bytes:
    return OK % (len(request), request)


@asynccontextmanager
async def raw_origin(**answers: Behaviour) -> AsyncIterator[RawOrigin]:
    origin = RawOrigin(answers)
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()
        await origin.end()


def cluster(name: str, *ports: int, **settings: Any) -> tuple[Cluster, LoadAssignment]:
    endpoints = tuple(Endpoint(address="127.0.0.1", port=port) for port in ports)
    return Cluster(name=name, **settings), LoadAssignment(cluster=name, endpoints=endpoints)


def forward(name: str, **settings: Any) -> Forward:
    return Forward(clusters=(WeightedCluster(cluster=name, weight=1),), total_weight=1, **settings)


def route(path: str, action: Action, kind: PathKind = PathKind.PREFIX, **settings: Any) -> Route:
    return Route(name=path, match=RouteMatch(path_kind=kind, path=path), action=action, **settings)


def virtual_host(*routes: Route, domains: Sequence[str] = ("*",), **settings: Any) -> VirtualHost:
    return VirtualHost(name="all", domains=tuple(domains), routes=routes, **settings)


@dataclass
class Proxy:
    """A chain that serves."""

    chain: Any
    runtime: Runtime
    listener_stats: Group
    log_path: Path
    port: int = 0

    async def client(self) -> "Client":
        async with asyncio.timeout(WAIT_S):
            return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def say(self, raw: bytes) -> bytes:
        """Everything that comes for these bytes until the proxy closes."""
        client = await self.client()
        client.writer.write(raw)
        answer = await client.rest()
        client.writer.close()
        return answer

    async def get(self, path: str, fields: bytes = b"", host: bytes = b"a") -> bytes:
        return await self.say(
            b"GET " + path.encode() + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n" + fields + b"\r\n"
        )

    async def logged(self, count: int) -> list[dict[str, Any]]:
        """The log, once it has `count` lines."""

        def lines() -> list[dict[str, Any]]:
            self.runtime.flush_logs()
            text = self.log_path.read_text() if self.log_path.exists() else ""
            return [json.loads(line) for line in text.splitlines()]

        await until(lambda: len(lines()) >= count)
        return lines()


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def rest(self) -> bytes:
        """What comes until the end; a reset is an end too."""
        got = b""
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError):
                while part := await self.reader.read(65536):
                    got += part
        return got

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readuntil(mark)


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its time until `condition` holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the kernel, which sets no event
            await asyncio.sleep(0.005)


async def until_still(value: Callable[[], int]) -> None:
    """Wait until `value` has moved and then stands still for many turns of the loop."""
    last, still = value(), 0
    async with asyncio.timeout(WAIT_S):
        while still < 40:
            await asyncio.sleep(0.005)
            now = value()
            still = still + 1 if now and now == last else 0
            last = now


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the kernel sends a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def masked(answer: bytes) -> list[bytes]:
    """Lines of an answer without what changes from run to run."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"date: ")]
    return [*lines, body]


def a_runtime(log_path: Path, clusters: Sequence[tuple[Cluster, LoadAssignment]], **settings: Any) -> Runtime:
    """A runtime whose snapshot has these clusters."""
    runtime = Runtime(node="n1", wheel=TimerWheel(asyncio.get_running_loop()), log_path=log_path, **settings)
    parts = Parts(wheel=runtime.wheel, tls_contexts=runtime.tls, rng=lambda: 0.0, eject=lambda request: None)
    made = {
        config.name: UpstreamCluster(
            config, assignment, parts, runtime.stats.get(config.name, lambda config=config: cluster_group(config.name))
        )
        for config, assignment in clusters
    }
    runtime.snapshot = Snapshot(1, {}, made)
    return runtime


@asynccontextmanager
async def http_proxy(
    tmp_path: Path,
    routes: VirtualHost | RouteConfiguration,
    clusters: Sequence[tuple[Cluster, LoadAssignment]],
    identity: str = "",
    workload: str | None = None,
    **settings: Any,
) -> AsyncIterator[Proxy]:
    """An HTTP chain; `settings` go to its connection manager."""
    runtime = a_runtime(tmp_path / "access.log", clusters)
    config = RouteConfiguration(name="r", virtual_hosts=(routes,)) if isinstance(routes, VirtualHost) else routes
    runtime.snapshot.routes["r"] = RouteTable(config)
    hcm = HttpConnectionManager(stat_prefix="s", route_config="r", **{"access_logs": (LOG,), **settings})
    async with serving(runtime, HttpChain, hcm, tmp_path, identity, workload) as proxy:
        yield proxy


@asynccontextmanager
async def tcp_proxy(
    tmp_path: Path,
    name: str,
    clusters: Sequence[tuple[Cluster, LoadAssignment]],
    identity: str = "",
    workload: str | None = None,
    guards: tuple[NetworkRbac, ...] = (),
    **settings: Any,
) -> AsyncIterator[Proxy]:
    """A TCP chain to the cluster of this name."""
    runtime = a_runtime(tmp_path / "access.log", clusters)
    proxied = TcpProxy(stat_prefix="s", cluster=name, access_logs=(LOG,), **settings)
    async with serving(runtime, TcpChain, proxied, tmp_path, identity, workload, guards) as proxy:
        yield proxy


@asynccontextmanager
async def serving(
    runtime: Runtime,
    kind: Any,
    network: HttpConnectionManager | TcpProxy,
    tmp_path: Path,
    identity: str,
    workload: str | None = None,
    guards: tuple[NetworkRbac, ...] = (),
) -> AsyncIterator[Proxy]:
    config = FilterChain(name="c", network=network, guards=guards)
    listener = Listener(
        name="l",
        address="127.0.0.1",
        port=0,
        direction=Direction.OUTBOUND,
        filter_chains=(config,),
        identity=identity,
        workload=workload,
    )
    stats = listener_group("127.0.0.1", 0)
    chain = kind(runtime, listener, config, stats)
    server = await asyncio.get_running_loop().create_server(
        lambda: chain.connection("127.0.0.1:40000", "127.0.0.1:15001"), "127.0.0.1", 0
    )
    proxy = Proxy(chain, runtime, stats, tmp_path / "access.log", server.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        server.close()
        chain.abort()
        await until(lambda: chain.active == 0)
        runtime.wheel.close()
        runtime.close_logs()
