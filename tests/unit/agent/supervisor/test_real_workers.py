"""The pool with real workers: both halves of an agent fit together."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from agent.ipc.messages import CLUSTER, KINDS, LISTENER, ROUTE_CONFIGURATION, BreakerNews, EjectRequest, StatsDelta
from agent.model.cluster import Hashing, LbPolicy, OutlierDetection
from agent.model.route import HashKind, HashPolicy
from agent.supervisor.cells import CellBook
from agent.supervisor.handover import Orphans
from agent.supervisor.hash_tables import HashTableBook
from agent.supervisor.pool import WorkerPool
from agent.supervisor.sockets import ListenerSockets
from agent.supervisor.worker_link import Launch
from agent.xds.warming import Tables
from mesh.clock import SystemClock
from mesh.tasks import cancel_and_wait, spawn
from tests.support.origins import Origin, get, origin
from tests.support.workers import cluster, forward, listen, listener, route, routes

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[4]


class Node:
    """A pool of real workers that is ticked, with what it tells."""

    def __init__(self, state_dir: Path, slots: int, sockets: ListenerSockets | None = None) -> None:
        os.environ.setdefault("PYTHONPATH", str(ROOT))  # else the build that is tested
        launch = Launch(
            slot=0, slots=slots, node="n", state_dir=state_dir, access_log=state_dir / "access.log",
            log_level="warning", log_json=True,
        )  # fmt: skip
        self.sockets = sockets or ListenerSockets(slots)
        self.cells = CellBook(slots)
        self.requests: list[EjectRequest] = []
        self.counters: Counter[str] = Counter()
        self.gone: list[int] = []
        self.pool = WorkerPool(launch, self.sockets, self.cells, self, clock=SystemClock())

    async def __aenter__(self) -> "Node":
        self.pool.start()
        self._task = spawn("ticks", self._ticks())
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_wait(self._task)
        self.pool.kill()
        self.sockets.close_all()
        self.cells.close()

    async def _ticks(self) -> None:
        while True:
            self.pool.tick()
            await asyncio.sleep(0.05)

    def eject_request(self, request: EjectRequest) -> None:
        self.requests.append(request)

    def breaker_news(self, news: BreakerNews) -> None: ...

    def stats(self, pid: int, delta: StatsDelta) -> None:
        self.counters.update(delta.counters)

    def worker_gone(self, pid: int) -> None:
        self.gone.append(pid)

    async def serve(self, tables: Tables) -> None:
        self.pool.publish(tables)
        async with asyncio.timeout(20):
            while not self.pool.serving:  # noqa: ASYNC110 - other processes are watched
                await asyncio.sleep(0.02)
        assert self.pool.problems() == ()


def tables(port: int, *ends: Origin) -> Tables:
    items = {
        LISTENER: [listener(port)],
        ROUTE_CONFIGURATION: [routes(route("all", forward(("c", 1))))],
        CLUSTER: [cluster("c", *ends, outlier_detection=OutlierDetection(consecutive_5xx=2))],
    }
    return {kind: {item.name: item for item in items.get(kind, [])} for kind in KINDS}


def free_port() -> int:
    with listen() as sock:
        return int(sock.getsockname()[1])


async def until(test: object, timeout_s: float = 20.0) -> None:
    assert callable(test)
    async with asyncio.timeout(timeout_s):
        while not test():  # noqa: ASYNC110 - other processes are watched
            await asyncio.sleep(0.02)


async def test_two_workers_count_together(tmp_path: Path) -> None:
    port = free_port()
    async with origin() as end, Node(tmp_path, 2) as node:
        await node.serve(tables(port, end))
        for _ in range(40):
            assert (await get(port)).status == 200
        await until(lambda: node.counters["cluster.c.upstream_rq_total"] == 40)
        assert end.connections >= 2, "both workers have served"
        assert node.cells.total("c", 0, 0) == end.connections


async def test_a_killed_worker_is_replaced_with_all_it_had(tmp_path: Path) -> None:
    """Configuration, ejections and the same socket: nobody is refused, and the ejected host stays out."""
    port = free_port()
    async with origin("good") as good, origin("bad") as bad, Node(tmp_path, 1) as node:
        bad.fail_next = 1000
        await node.serve(tables(port, good, bad))
        for _ in range(8):
            await get(port)
        await until(lambda: node.requests)
        assert node.requests[0].host == bad.key
        node.pool.set_host_state("c", bad.key, ejected=True)
        pid = node.pool.links[0].pid
        os.kill(pid, signal.SIGKILL)
        for _ in range(10):
            answer = await get(port)
            assert (answer.status, answer.body) == (200, b"good")
        assert node.gone == [pid]
        assert node.pool.restarts == 1


async def test_all_workers_and_their_successors_send_a_key_to_one_host(tmp_path: Path) -> None:
    """By the table that the supervisor has built, also after one of them was killed."""
    port = free_port()
    by_path = HashPolicy(kind=HashKind.HEADER, name=":path")
    async with origin("a") as a, origin("b") as b, origin("c") as c, Node(tmp_path, 2) as node:
        hashed = cluster("c", a, b, c, lb_policy=LbPolicy.MAGLEV, hashing=Hashing(maglev_table_size=1009))
        served = tables(port, a, b, c)
        changed = {
            **served,
            ROUTE_CONFIGURATION: {"r": routes(route("all", forward(("c", 1), hash_policies=(by_path,))))},
            CLUSTER: {"c": hashed},
        }
        await node.serve(changed)
        book = HashTableBook(node.pool.set_hash_tables, node.pool.drop_hash_tables)
        book.follow({"c": hashed}, lambda name: hashed.static)
        await until(lambda: book.idle)

        async def chosen() -> list[set[bytes]]:
            return [{(await get(port, f"/{key}")).body for _ in range(6)} for key in range(24)]

        before = await chosen()
        assert all(len(hosts) == 1 for hosts in before)
        assert len(set.union(*before)) == 3
        os.kill(node.pool.links[0].pid, signal.SIGKILL)
        await until(lambda: node.pool.restarts == 1 and node.pool.serving)
        assert await chosen() == before
        node.pool.drop_hash_tables("c")
        await until(lambda: not node.pool._hash_tables)
        assert len(set.union(*await chosen())) == 3, "without a table they count off the hosts"


async def test_an_agent_follows_another_without_a_failed_request(tmp_path: Path) -> None:
    """Decision 27: sockets by the takeover point, then the old worker drains."""
    port = free_port()
    async with origin() as end, Node(tmp_path, 1) as old:
        await old.serve(tables(port, end))
        (link,) = old.pool.links
        old.pool.abandon()
        link._channel.close()  # what the kernel does when the supervisor dies
        orphans = Orphans(tmp_path)
        sockets = ListenerSockets(1)
        for sock in await orphans.find():
            sockets.adopt(sock)
        for name in list(old.sockets.addresses):
            old.sockets.close(name)
        statuses: Counter[int] = Counter()
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                statuses[(await get(port)).status] += 1

        task = spawn("load", load())
        async with Node(tmp_path, 1, sockets) as new:
            await new.serve(tables(port, end))
            orphans.drain(5.0)
            await until(lambda: (orphans.reap(), orphans.alive == 0)[1])
            before = statuses[200]
            await until(lambda: statuses[200] > before + 20)
            stop.set()
            async with asyncio.timeout(20):
                await task
        assert set(statuses) == {200}


async def test_drain_ends_all(tmp_path: Path) -> None:
    port = free_port()
    async with origin() as end, Node(tmp_path, 2) as node:
        await node.serve(tables(port, end))
        slow = spawn("slow", get(port, "/slow/0.5"))
        await until(lambda: end.requests)
        node.pool.drain(5.0)
        assert (await slow).status == 200
        await until(lambda: not node.pool.links)
        assert len(node.gone) == 2
        assert node.counters["cluster.c.upstream_rq_200"] == 1, "the last report came before the end"
