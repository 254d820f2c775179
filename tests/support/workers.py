"""A real worker process behind a real channel, fed by hand-made model values: the supervisor in small."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.ipc import channel
from agent.ipc.channel import Channel
from agent.ipc.messages import (
    CLUSTER,
    KINDS,
    LISTENER,
    ROUTE_CONFIGURATION,
    AddListener,
    Cells,
    CheckQuestions,
    Commit,
    Committed,
    Drain,
    Drained,
    EjectRequest,
    HashTables,
    HostState,
    Identities,
    Ping,
    Pong,
    Ready,
    StatsDelta,
    Welcome,
)
from agent.ipc.shared import SharedCells
from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from agent.model.listener import (
    AccessLog,
    Direction,
    FilterChain,
    HttpConnectionManager,
    Listener,
    TcpProxy,
)
from agent.model.route import (
    Action,
    Forward,
    PathKind,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from agent.model.tls import DownstreamTls, UpstreamTls
from agent.supervisor.changes import changes
from agent.supervisor.hash_tables import HashTableBook
from agent.supervisor.unix import bind_unix
from tests.support.origins import Origin, get, origin

ROOT = Path(__file__).parents[2]
WAIT_S = 15.0
LOG = AccessLog(
    path="/dev/stdout",
    json_fields=(
        ("path", "%REQ(:PATH)%"), ("status", "%RESPONSE_CODE%"), ("flags", "%RESPONSE_FLAGS%"),
        ("details", "%RESPONSE_CODE_DETAILS%"), ("cluster", "%UPSTREAM_CLUSTER%"), ("host", "%UPSTREAM_HOST%"),
        ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"), ("route", "%ROUTE_NAME%"),
    ),
)  # fmt: skip


# --- model values ---------------------------------------------------------------------------------------------


def cluster(name: str, *origins: Origin | int, **more: Any) -> Cluster:
    """A static cluster of loopback hosts: origins, or bare ports."""
    ports = [item.port if isinstance(item, Origin) else item for item in origins]
    endpoints = tuple(Endpoint(address="127.0.0.1", port=port) for port in ports)
    return Cluster(name=name, static=LoadAssignment(cluster=name, endpoints=endpoints), **more)


def forward(*weights: tuple[str, int], retry: RetryPolicy | None = None, **more: Any) -> Forward:
    """A route action to clusters by weight."""
    clusters = tuple(WeightedCluster(cluster=name, weight=weight) for name, weight in weights)
    return Forward(clusters=clusters, total_weight=sum(weight for _, weight in weights), retry=retry, **more)


def route(name: str, action: Action, path: str = "/") -> Route:
    return Route(name=name, match=RouteMatch(path_kind=PathKind.PREFIX, path=path), action=action)


def routes(*items: Route, name: str = "r") -> RouteConfiguration:
    """One virtual host for every authority."""
    return RouteConfiguration(name=name, virtual_hosts=(VirtualHost(name="all", domains=("*",), routes=items),))


def http(
    name: str = "http", *, config: str = "r", transport: str = "", tls: DownstreamTls | None = None, **more: Any
) -> FilterChain:
    manager = HttpConnectionManager(stat_prefix="test", route_config=config, access_logs=(LOG,), **more)
    return FilterChain(name=name, transport=transport, tls=tls, network=manager)


def tcp(cluster: str, name: str = "tcp") -> FilterChain:
    return FilterChain(name=name, network=TcpProxy(stat_prefix="tcp", cluster=cluster, access_logs=(LOG,)))


def listener(port: int, *chains: FilterChain, name: str = "out", **more: Any) -> Listener:
    return Listener(
        name=name, address="127.0.0.1", port=port, direction=more.pop("direction", Direction.OUTBOUND),
        filter_chains=chains or (http(),), **more,
    )  # fmt: skip


# --- the process ----------------------------------------------------------------------------------------------


def listen() -> socket.socket:
    """A SO_REUSEPORT socket on a free port, as the supervisor makes them."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(4096)
    sock.setblocking(False)
    return sock


class Fed:
    """A worker and what it has said. `apply` brings it from one configuration to the next."""

    def __init__(self, state_dir: Path, program: Sequence[str], last: Sequence[str], shared: SharedCells) -> None:
        self.access_log = state_dir / "access.log"
        self.takeover_path = state_dir / f"worker-{os.urandom(4).hex()}.sock"
        self.tables: Mapping[str, Mapping[str, Any]] = {kind: {} for kind in KINDS}
        self.given: dict[str, socket.socket] = {}
        self.cells: dict[str, int] = {}
        self.shared = shared
        self.version = 0
        self.ready = asyncio.Event()
        self.committed: dict[int, tuple[str, ...]] = {}
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, int] = {}
        self.hosts: Counter[tuple[str, str, str]] = Counter()  # (cluster, host, what)
        self.requests: list[EjectRequest] = []
        self.on_request: Callable[[EjectRequest], None] = lambda request: None
        self.on_stats: Callable[[StatsDelta], None] = lambda delta: None
        self.on_check: Callable[[CheckQuestions], None] = lambda questions: None
        self.pongs: list[Pong] = []
        self.drained = False
        self.closed = ""
        self.hash_tables = HashTableBook(self._tell_tables, lambda name: self._tell(HashTables(name, ())))
        self.process, self.channel = self._start(program, last)
        welcome = Welcome(slot=0, slots=shared.slots, node="n", shared_bytes=shared.length)
        self.channel.send(welcome, [shared.descriptor])

    def _start(self, program: Sequence[str], last: Sequence[str]) -> tuple[subprocess.Popen[bytes], Channel]:
        ours, theirs = channel.pair()
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as takeover:
            bind_unix(takeover, self.takeover_path)
            takeover.listen(4)
            arguments = ["--fd", str(theirs.fileno()), "--takeover-fd", str(takeover.fileno())]
            arguments += ["--access-log", str(self.access_log), *last]
            process = subprocess.Popen(
                [sys.executable, "-P", *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), takeover.fileno()),
                env={"PYTHONPATH": str(ROOT), **os.environ},
            )
        return process, Channel(ours, self._hear, self._lost)

    @property
    def pid(self) -> int:
        return self.process.pid

    def _lost(self, reason: str) -> None:
        self.closed = reason

    def _hear(self, message: Any, descriptors: list[int]) -> None:
        assert not descriptors
        match message:
            case Ready(pid=pid):
                assert pid == self.pid
                self.ready.set()
            case Committed(version=version, problems=problems):
                self.committed[version] = problems
            case Pong():
                self.pongs.append(message)
            case EjectRequest():
                self.requests.append(message)
                self.on_request(message)
            case StatsDelta():
                self._count(message)
            case CheckQuestions():
                self.on_check(message)
            case Drained():
                self.drained = True
            case _:
                raise AssertionError(f"a worker said {message}")

    def _count(self, delta: StatsDelta) -> None:
        self.on_stats(delta)
        self.counters.update(delta.counters)
        self.gauges.update(delta.gauges)
        for name, host, requests, successes, errors, active in delta.hosts:
            self.hosts.update(
                {
                    (name, host, "requests"): requests,
                    (name, host, "successes"): successes,
                    (name, host, "errors"): errors,
                }
            )
            self.gauges[f"{name} {host}"] = active

    # --- what it should do ------------------------------------------------------------------------------------------

    def add_listener(self, name: str, sock: socket.socket) -> None:
        self.channel.send(AddListener(name), [sock.fileno()])
        self.given[name] = sock

    async def apply(self, *values: Any) -> tuple[str, ...]:
        """Serve exactly these listeners, route configurations and clusters; what could not be used."""
        kinds = {Listener: LISTENER, RouteConfiguration: ROUTE_CONFIGURATION, Cluster: CLUSTER}
        after: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        for value in values:
            after[kinds[type(value)]][value.name] = value
        for name in after[CLUSTER]:
            if name not in self.cells:
                self.cells[name] = len(self.cells)
                self.channel.send(Cells(name, self.cells[name]))
        for frame in changes(self.tables, after):
            self.channel.send(frame)
        self.tables = after
        problems = await self.commit()
        self.hash_tables.follow(after[CLUSTER], lambda name: after[CLUSTER][name].static)
        await self.until(lambda: self.hash_tables.idle)
        return problems

    def _tell(self, message: Any, *descriptors: int) -> None:
        self.channel.send(message, descriptors)

    def _tell_tables(self, message: HashTables, descriptor: int) -> None:
        self._tell(message, descriptor)

    async def commit(self) -> tuple[str, ...]:
        self.version += 1
        version = self.version
        self.channel.send(Commit(version))
        await self.until(lambda: version in self.committed)
        return self.committed[version]

    def set_ejected(self, cluster: str, host: str, ejected: bool) -> None:
        """The verdict of outlier detection."""
        self.channel.send(HostState(cluster, host, ejected))
        self.hash_tables.set_ejected(cluster, host, ejected)

    def set_identities(self, identities: Identities) -> None:
        self.channel.send(identities)

    def drain(self, timeout_s: float) -> None:
        self.channel.send(Drain(timeout_s))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    # --- what is seen of it -----------------------------------------------------------------------------------------

    async def until(self, test: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
        async with asyncio.timeout(timeout_s):
            while not test():
                assert not self.closed or self.process.poll() is None, f"the worker ended: {self.process.returncode}"
                await asyncio.sleep(0.01)

    async def exit_code(self, timeout_s: float = WAIT_S) -> int:
        async with asyncio.timeout(timeout_s):
            while (code := self.process.poll()) is None:  # noqa: ASYNC110 - another process is watched
                await asyncio.sleep(0.01)
        return code

    async def pong(self) -> Pong:
        count = len(self.pongs)
        self.channel.send(Ping(count))
        await self.until(lambda: len(self.pongs) > count)
        return self.pongs[-1]

    def log_lines(self) -> list[str]:
        return self.access_log.read_text().splitlines() if self.access_log.exists() else []

    async def serve_everything(self) -> None:
        """Route, match, forward and log a request, plain and by TLS, and one by TCP, so that all of it is loaded."""
        from tests.support.identities import TestAuthority

        authority = TestAuthority()
        pair = authority.issue("spiffe://td/ns/default/sa/web")
        self.set_identities(Identities((pair,), authority.trust_pem))
        inside = DownstreamTls(identity=pair.identity, peer_ids=frozenset({pair.identity}))
        with listen() as out, listen() as mtls, listen() as raw:
            ports = [sock.getsockname()[1] for sock in (out, mtls, raw)]
            for name, sock in (("out", out), ("in", mtls), ("raw", raw)):
                self.add_listener(name, sock)
            async with origin() as end:
                regex = RouteMatch(path_kind=PathKind.REGEX, path="/re.*")
                to_mesh = replace(route("mesh", forward(("mesh", 1))), match=regex)
                problems = await self.apply(
                    listener(ports[0], http(), identity=pair.identity),
                    listener(ports[1], http("in", config="in", tls=inside), name="in", direction=Direction.INBOUND),
                    listener(ports[2], tcp("origin"), name="raw"),
                    routes(to_mesh, route("plain", forward(("origin", 1)))),
                    routes(route("in", forward(("origin", 1))), name="in"),
                    cluster("origin", end),
                    replace(cluster("mesh", ports[1]), tls=UpstreamTls(peer_ids=frozenset({pair.identity}))),
                )
                assert problems == ()
                assert (await get(ports[0], "/")).body == b"origin"
                assert (await get(ports[0], "/regex")).body == b"origin"
                assert (await get(ports[2], "/")).body == b"origin"

    def close(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=5)
        self.takeover_path.unlink(missing_ok=True)


@asynccontextmanager
async def running_worker(
    state_dir: Path,
    *,
    program: Sequence[str] = ("-m", "agent.worker"),
    last: Sequence[str] = (),
    shared: SharedCells | None = None,
) -> AsyncIterator[Fed]:
    """A worker that has said Ready; killed at the end if it still runs."""
    own = shared or SharedCells.create(64, 1)
    worker = Fed(state_dir, program, last, own)
    try:
        await worker.until(worker.ready.is_set)
        yield worker
    finally:
        worker.close()
        if shared is None:
            own.close()
