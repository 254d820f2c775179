"""Bulkheads of real workers: shares of callers, waits, and one room for all workers, also when one of them is lost."""

import asyncio
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.ipc.messages import CLUSTER, KINDS, LISTENER, ROUTE_CONFIGURATION, StatsDelta
from agent.model.bulkhead import NO_BULKHEADS, Bulkhead, Bulkheads
from agent.model.http_filters import HttpFilter, RouteFilter
from agent.stats.gossamer import BULKHEAD_REQUESTS, series
from agent.xds.warming import Tables
from mesh.tasks import spawn
from tests.support.origins import Connection, Origin, get, origin
from tests.support.workers import cluster, forward, http, listener, route, routes
from tests.unit.agent.supervisor.test_real_workers import Node as PlainNode
from tests.unit.agent.supervisor.test_real_workers import free_port, until

FILTER = "gossamer.bulkhead"
POLICY = Bulkhead(name="default/web", clusters=frozenset({"c"}), most=3, most_per_caller=2)
A, B = "spiffe://td/ns/default/sa/a", "spiffe://td/ns/default/sa/b"


class Node(PlainNode):
    """One that keeps what its workers show."""

    def __init__(self, state_dir: Path, slots: int) -> None:
        super().__init__(state_dir, slots)
        self.gauges: dict[int, dict[str, int]] = {}

    def stats(self, pid: int, delta: StatsDelta) -> None:
        super().stats(pid, delta)
        self.gauges.setdefault(pid, {}).update(delta.gauges)

    def under_way(self, caller: str = "") -> int:
        name = series(BULKHEAD_REQUESTS, (POLICY.name, caller))
        return sum(gauges.get(name, 0) for gauges in self.gauges.values())


def tables(ports: dict[int, str], policy: Bulkhead, end: Origin) -> Tables:
    """A listener for each port, in the name of its identity; all requests go to `end`."""
    chain = http(filters=(HttpFilter(name=FILTER, config=NO_BULKHEADS),))
    said = RouteFilter(name=FILTER, config=Bulkheads(bulkheads=(policy,)))
    items: dict[str, list[Any]] = {
        LISTENER: [listener(port, chain, name=f"out{port}", identity=name) for port, name in ports.items()],
        ROUTE_CONFIGURATION: [routes(replace(route("all", forward(("c", 1))), filters=(said,)))],
        CLUSTER: [cluster("c", end)],
    }
    return {kind: {item.name: item for item in items.get(kind, [])} for kind in KINDS}


async def statuses(port: int, count: int, path: str = "/slow/0.4") -> Counter[int]:
    return Counter(answer.status for answer in await asyncio.gather(*[get(port, path) for _ in range(count)]))


async def test_a_caller_has_its_share_and_all_have_the_whole(tmp_path: Path) -> None:
    a, b = free_port(), free_port()
    async with origin() as end, Node(tmp_path, 1) as node:
        await node.serve(tables({a: A, b: B}, POLICY, end))
        first, second = await asyncio.gather(statuses(a, 5), statuses(b, 5))
        assert first + second == {200: 3, 503: 7}
        assert max(first[200], second[200]) == 2
        assert await statuses(a, 1, "/") == {200: 1}
        refused = spawn("refused", statuses(a, 2, "/slow/4"))  # statistics come once a second
        await until(lambda: node.under_way(A) == 2)
        answer = await get(a)
        assert (answer.status, answer.body) == (503, b"bulkhead is full")
        assert answer.fields["x-envoy-overloaded"] == "true"
        assert await refused == {200: 2}
        await until(lambda: node.under_way() == 0)


async def test_who_waits_goes_on_when_there_is_room(tmp_path: Path) -> None:
    port = free_port()
    policy = replace(POLICY, most=1, most_per_caller=1, queue=2, max_wait_s=10.0)
    async with origin() as end, Node(tmp_path, 1) as node:
        await node.serve(tables({port: A}, policy, end))
        assert await statuses(port, 5, "/slow/0.2") == {200: 3, 503: 2}
        assert len(end.requests) == 3


async def test_nobody_waits_longer_than_allowed(tmp_path: Path) -> None:
    port = free_port()
    policy = replace(POLICY, most=1, most_per_caller=1, queue=5, max_wait_s=0.1)
    async with origin() as end, Node(tmp_path, 1) as node:
        await node.serve(tables({port: A}, policy, end))
        slow = spawn("slow", statuses(port, 1, "/slow/1"))
        await until(lambda: end.requests)
        assert await statuses(port, 3, "/") == {503: 3}
        assert await slow == {200: 1}


async def test_room_comes_back_when_clients_go(tmp_path: Path) -> None:
    port = free_port()
    policy = replace(POLICY, most=1, most_per_caller=1, queue=1, max_wait_s=10.0)
    async with origin() as end, Node(tmp_path, 1) as node:
        await node.serve(tables({port: A}, policy, end))
        inside, waiting = await Connection.open(port), await Connection.open(port)
        inside.send("/slow/20")
        await until(lambda: end.requests)
        waiting.send("/")
        waiting.close()
        inside.close()
        assert (await get(port)).status == 200


async def test_all_workers_have_one_room(tmp_path: Path) -> None:
    port = free_port()
    async with origin() as end, Node(tmp_path, 2) as node:
        await node.serve(tables({port: A}, replace(POLICY, most=4, most_per_caller=4), end))
        holders = []
        for number in range(4):  # one after the other, so that no two are let in at the same instant
            holders.append(spawn("holder", get(port, "/slow/1")))
            await until(lambda number=number: len(end.requests) == number + 1)  # type: ignore[misc]
        assert await statuses(port, 10, "/") == {503: 10}
        assert {(await holder).status for holder in holders} == {200}


async def test_what_a_lost_worker_had_under_way_is_free(tmp_path: Path) -> None:
    """Also what it had counted of a caller that only it knew."""
    port = free_port()
    async with origin() as end, Node(tmp_path, 2) as node:
        await node.serve(tables({port: A}, replace(POLICY, most=2, most_per_caller=2), end))
        held = [await Connection.open(port) for _ in range(2)]
        for number, connection in enumerate(held):
            connection.send("/slow/30")
            await until(lambda number=number: len(end.requests) == number + 1)  # type: ignore[misc]
        assert await statuses(port, 10, "/") == {503: 10}
        pids = [link.pid for link in node.pool.links]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: sorted(node.gone) == sorted(pids) and node.pool.serving)
        assert await statuses(port, 1, "/") == {200: 1}
