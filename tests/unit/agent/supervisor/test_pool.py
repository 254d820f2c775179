"""Workers are fed alike, replaced when lost, and followed by a successor's, with no connection refused.

Real processes: tests.support.stub_worker stands for the worker, which has tests of its own.
"""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from agent.ipc.messages import CLUSTER, KINDS, LISTENER, BreakerNews, EjectRequest, Identities, StatsDelta
from agent.model.cluster import Cluster, LoadAssignment
from agent.model.listener import Direction, FilterChain, Listener, TcpProxy
from agent.model.tls import KeyPair
from agent.supervisor.cells import CellBook
from agent.supervisor.handover import Orphans
from agent.supervisor.pool import WorkerPool
from agent.supervisor.sockets import ListenerSockets
from agent.supervisor.worker_link import Launch
from agent.xds.warming import Tables
from mesh.clock import SystemClock
from mesh.tasks import cancel_and_wait, spawn

ROOT = Path(__file__).parents[4]


class Told:
    """The pool's hooks."""

    def __init__(self) -> None:
        self.gone: list[int] = []
        self.requests: list[EjectRequest] = []

    def eject_request(self, request: EjectRequest) -> None:
        self.requests.append(request)

    def breaker_news(self, news: BreakerNews) -> None: ...

    def stats(self, pid: int, delta: StatsDelta) -> None: ...

    def worker_gone(self, pid: int) -> None:
        self.gone.append(pid)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listener(port: int, name: str = "in") -> Listener:
    chain = FilterChain(name="tcp", network=TcpProxy(stat_prefix="t", cluster="c"))
    return Listener(
        name=name, address="127.0.0.1", port=port, direction=Direction.INBOUND, filter_chains=(chain,)
    )  # fmt: skip


def tables(*listeners: Listener, clusters: int = 1) -> Tables:
    names = [f"c{number}" for number in range(clusters)]
    made = {name: Cluster(name=name, static=LoadAssignment(cluster=name, endpoints=())) for name in names}
    return {**{kind: {} for kind in KINDS}, LISTENER: {item.name: item for item in listeners}, CLUSTER: made}


@asynccontextmanager
async def running(
    state_dir: Path, *, slots: int = 1, sockets: ListenerSockets | None = None, flags: tuple[str, ...] = ()
) -> AsyncIterator[tuple[WorkerPool, Told]]:
    os.environ.setdefault("PYTHONPATH", str(ROOT))  # else the build that is tested
    launch = Launch(
        slot=0, slots=slots, node="n", state_dir=state_dir, access_log=state_dir / "access.log",
        log_level="info", log_json=False, program=("-m", "tests.support.stub_worker", *flags),
    )  # fmt: skip
    told = Told()
    cells = CellBook(slots)
    own = sockets or ListenerSockets(slots)
    pool = WorkerPool(launch, own, cells, told, clock=SystemClock())

    async def ticks() -> None:
        while True:
            pool.tick()
            await asyncio.sleep(0.05)

    task = spawn("ticks", ticks())
    pool.start()
    try:
        yield pool, told
    finally:
        await cancel_and_wait(task)
        pool.kill()
        own.close_all()
        cells.close()


async def until(test: Callable[[], Any], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not test():  # noqa: ASYNC110 - other processes are watched
            await asyncio.sleep(0.02)


async def get(port: int, path: str = "/") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


class Client:
    """One request after the other, each on a connection of its own, in a thread."""

    def __init__(self, port: int) -> None:
        self.answers: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Client":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=20)

    def _run(self) -> None:
        while not self._stop.is_set():
            connection = HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("GET", "/")
                self.answers[int(connection.getresponse().read())] += 1
            except (OSError, HTTPException, ValueError) as error:
                self.errors[type(error).__name__] += 1
            finally:
                connection.close()
            time.sleep(0.005)


async def test_every_worker_gets_the_whole_configuration(tmp_path: Path) -> None:
    """Two slots, both serve; a later change reaches both; what is removed is closed."""
    port, later = free_port(), free_port()
    async with running(tmp_path, slots=2) as (pool, _):
        pair = KeyPair(identity="spiffe://td/node/n", chain_pem=b"c", key_pem=b"k")
        pool.set_identities(Identities((pair,), b"roots"))
        pool.set_host_state("c0", "10.0.0.1:80", ejected=True)
        pool.publish(tables(listener(port), clusters=100))
        await until(lambda: pool.serving)
        seen: dict[int, Any] = {}
        async with asyncio.timeout(10):
            while len(seen) < 2:
                told = json.loads(await get(port, "/told"))
                seen[told["pid"]] = told
        for told in seen.values():
            assert len(told["tables"]["cluster"]) == 100
            assert told["identities"] == ["spiffe://td/node/n"]
            assert told["ejected"] == [["c0", "10.0.0.1:80"]]
        pool.publish(tables(listener(later, "other")))
        await until(lambda: pool.serving)
        assert await get(later)
        await until(lambda: "in" not in pool.addresses)
        refused = False
        try:
            await get(port)
        except OSError:
            refused = True
        assert refused


async def test_what_was_published_is_served_when_no_worker_is_behind(tmp_path: Path) -> None:
    """Workers that take their time, several changes in a row, an identity that comes without a Commit of its own."""
    port = free_port()
    async with running(tmp_path, slots=2, flags=("--slow",)) as (pool, _):
        pool.publish(tables(listener(port)))
        await until(lambda: pool.serving)
        pool.publish(tables(listener(port), clusters=2))
        pool.publish(tables(listener(port), clusters=3))
        await pool.served()
        assert pool.serving
        assert len(json.loads(await get(port, "/told"))["tables"]["cluster"]) == 3
        pool.set_identities(Identities((KeyPair(identity="spiffe://td/node/n", chain_pem=b"c", key_pem=b"k"),), b"r"))
        assert all(link.behind for link in pool.links)
        await pool.served()
        assert not any(link.behind for link in pool.links)
        assert json.loads(await get(port, "/told"))["identities"] == ["spiffe://td/node/n"]


async def test_a_worker_that_is_lost_is_not_waited_for(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, slots=1, flags=("--slow",)) as (pool, told):
        pool.publish(tables(listener(port)))
        await until(lambda: pool.serving)
        pool.publish(tables(listener(port), clusters=2))
        os.kill(pool.links[0].pid, signal.SIGKILL)
        await pool.served()
        assert len(told.gone) == 1
        assert len(json.loads(await get(port, "/told"))["tables"]["cluster"]) == 2, (
            "its successor begins with the newest"
        )


async def test_killed_worker_is_replaced_and_nobody_is_refused(tmp_path: Path) -> None:
    """The backlog waits for the successor: only the request in flight may fail."""
    port = free_port()
    async with running(tmp_path) as (pool, told):
        pool.publish(tables(listener(port)))
        await until(lambda: pool.serving)
        first = pool.links[0].pid
        with Client(port) as client:
            await until(lambda: client.answers[first] > 10)
            os.kill(first, signal.SIGKILL)
            await until(lambda: sum(n for pid, n in client.answers.items() if pid != first) > 10)
        assert told.gone == [first]
        assert pool.restarts == 1
        assert client.errors["ConnectionRefusedError"] == 0
        assert sum(client.errors.values()) <= 1, client.errors


async def test_silent_worker_is_killed(tmp_path: Path) -> None:
    """A worker that answers nothing for two seconds is replaced."""
    async with running(tmp_path, flags=("--deaf",)) as (pool, told):
        pool.publish(tables(listener(free_port())))
        await until(lambda: pool.serving)
        first = pool.links[0].pid
        await until(lambda: first in told.gone, timeout_s=8)


async def test_successor_takes_the_same_sockets(tmp_path: Path) -> None:
    """After the supervisor's death its worker serves on; the next supervisor's worker accepts on the same socket,
    then the old one drains; nobody is refused."""
    port = free_port()
    async with running(tmp_path) as (old, _):
        old.publish(tables(listener(port)))
        await until(lambda: old.serving)
        link = old.links[0]
        with Client(port) as client:
            await until(lambda: client.answers[link.pid] > 5)
            old.abandon()
            link._channel.close()  # what the kernel does when the supervisor dies
            own = old._sockets
            for name in list(own.addresses):
                own.close(name)
            orphans = Orphans(tmp_path)
            sockets = ListenerSockets(1)
            for sock in await orphans.find():
                sockets.adopt(sock)
            assert orphans.alive == 1
            async with running(tmp_path, sockets=sockets) as (pool, _):
                pool.publish(tables(listener(port)))
                await until(lambda: pool.serving)
                orphans.drain(5.0)
                new = pool.links[0].pid
                await until(lambda: client.answers[new] > 20)
                await until(lambda: (orphans.reap(), orphans.alive == 0)[1])
                answered = client.answers[link.pid]
                await until(lambda: client.answers[new] > 40)
                assert client.answers[link.pid] == answered, "the old worker accepts no more"
                client.stop()  # before the new pool ends too
        assert not client.errors, client.errors


async def test_a_foreign_listener_is_a_problem_and_tried_again(tmp_path: Path) -> None:
    """The other listeners serve; when the address becomes free the listener is bound after all."""
    port, good = free_port(), free_port()
    foreign = socket.create_server(("127.0.0.1", port))
    async with running(tmp_path) as (pool, _):
        pool.publish(tables(listener(port), listener(good, "good")))
        await until(lambda: pool.serving)
        assert "in" in pool.bind_problems
        assert await get(good)
        foreign.close()
        await until(lambda: "in" in pool.addresses and pool.serving)
        assert await get(port)
        assert not pool.bind_problems


async def test_drained_workers_are_not_replaced(tmp_path: Path) -> None:
    async with running(tmp_path) as (pool, told):
        pool.publish(tables(listener(free_port())))
        await until(lambda: pool.serving)
        pool.drain(1.0)
        await until(lambda: not pool.links)
        await asyncio.sleep(0.2)
        assert not pool.links
        assert len(told.gone) == 1
        assert not list(tmp_path.glob("worker-*.sock"))
