"""Circuit breakers of real workers under one supervisor: they open, fall back, probe and close as one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from agent.ipc.messages import CLUSTER, KINDS, LISTENER, ROUTE_CONFIGURATION, BreakerNews
from agent.model.circuit_breaker import (
    NO_BREAKERS,
    CircuitBreaker,
    CircuitBreakers,
    FixedAnswer,
    Forced,
    LastGood,
    OtherService,
    Phase,
)
from agent.model.http_filters import HttpFilter, RouteFilter
from agent.model.listener import Listener
from agent.supervisor.breakers import Breakers
from agent.xds.warming import Tables
from mesh.clock import SystemClock
from tests.support.origins import Answer, Connection, Origin, get, origin
from tests.support.workers import cluster, forward, http, listener, route, routes
from tests.unit.agent.supervisor.test_real_workers import Node, free_port, until

FILTER = "gossamer.circuit_breaker"
NAME = "default/web"
POLICY = CircuitBreaker(name=NAME, clusters=frozenset({"c"}), volume=4, open_s=0.3)
ANSWER = FixedAnswer(status=203, body=b'{"stars": []}', headers=((b"content-type", b"application/json"),))


class BreakingNode(Node):
    """A pool of workers with the gate of their breakers."""

    def __init__(self, state_dir: Path, slots: int) -> None:
        super().__init__(state_dir, slots)
        self.log = state_dir / "access.log"
        self.told: list[tuple[str, Phase]] = []
        self.counts: Counter[str] = Counter()
        self.outcomes: Counter[int] = Counter()
        self.breakers = Breakers(
            tell=self._tell, forget=self.pool.drop_breaker, changed=lambda: None, count=self._count,
            gauge=lambda name, value: None, clock=SystemClock(),
        )  # fmt: skip

    def _tell(self, state: Any, probes: int) -> None:
        self.told.append((state.caller, state.phase))
        self.pool.set_breaker(state, probes)

    def _count(self, name: str, increase: int) -> None:
        self.counts[name.rpartition("\x1f")[2]] += increase

    async def _ticks(self) -> None:
        while True:
            self.pool.tick()
            self.breakers.tick()
            await asyncio.sleep(0.02)

    def breaker_news(self, news: BreakerNews) -> None:
        self.outcomes.update(news.outcomes)
        self.breakers.news(news)

    def worker_gone(self, pid: int) -> None:
        super().worker_gone(pid)
        self.breakers.worker_gone()

    async def serve(self, tables: Tables) -> None:
        await super().serve(tables)
        self.breakers.follow(tables)

    def phase(self, caller: str = "") -> Phase:
        return next((item.phase for item in self.breakers.shown() if item.caller == caller), Phase.CLOSED)

    async def becomes(self, phase: Phase, caller: str = "") -> None:
        await until(lambda: self.phase(caller) is phase)
        await asyncio.sleep(0.05)  # until the workers have heard it too

    async def lines(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: self.log.exists() and len(self.log.read_bytes().splitlines()) >= count)
        return [orjson.loads(line) for line in self.log.read_bytes().splitlines()]


def tables(
    ports: dict[int, str], policy: CircuitBreaker | None, *ends: Origin, other: Origin | None = None
) -> Tables:  # fmt: skip
    """A listener for each port, in the name of its identity; all requests go to `c`, a cluster of `ends`."""
    chain = http(filters=(HttpFilter(name=FILTER, config=NO_BREAKERS),))
    said = RouteFilter(name=FILTER, config=CircuitBreakers(breakers=(policy,))) if policy is not None else None
    all_of = replace(route("all", forward(("c", 1), timeout_s=2.0)), filters=(said,) if said is not None else ())
    listeners: list[Listener] = [
        listener(port, chain, name=f"out{port}", identity=identity) for port, identity in ports.items()
    ]
    clusters = [cluster("c", *ends), *([cluster("other", other)] if other is not None else [])]
    items: dict[str, list[Any]] = {
        LISTENER: listeners,
        ROUTE_CONFIGURATION: [routes(all_of)],
        CLUSTER: clusters,
    }
    return {kind: {item.name: item for item in items.get(kind, [])} for kind in KINDS}


@asynccontextmanager
async def broken(
    tmp_path: Path, policy: CircuitBreaker, *, slots: int = 1, other: Origin | None = None
) -> AsyncIterator[tuple[BreakingNode, Origin, int]]:
    """A node whose breaker is closed before an origin that can fail; its port."""
    port = free_port()
    async with origin() as end, BreakingNode(tmp_path, slots) as node:
        await node.serve(tables({port: ""}, policy, end, other=other))
        yield node, end, port


async def fail(node: BreakingNode, port: int, times: int = 4) -> list[Answer]:
    """So many requests that the origin fails; then the breaker is open."""
    answers = [await get(port, "/status/500") for _ in range(times)]
    await node.becomes(Phase.OPEN)
    return answers


async def head_of(port: int, path: str) -> list[str]:
    """The lines of an answer to HEAD."""
    connection = await Connection.open(port)
    connection.send(path, method="HEAD")
    async with asyncio.timeout(10):
        head = await connection.reader.readuntil(b"\r\n\r\n")
    connection.close()
    return head.decode().split("\r\n")


async def test_it_opens_probes_and_closes(tmp_path: Path) -> None:
    async with broken(tmp_path, POLICY) as (node, end, port):
        assert {answer.status for answer in await fail(node, port)} == {500}
        seen = len(end.requests)
        refused = await get(port)
        assert (refused.status, refused.body) == (503, b"circuit breaker is open")
        assert refused.fields["x-envoy-overloaded"] == "true"
        assert len(end.requests) == seen
        await node.becomes(Phase.HALF_OPEN)
        assert (await get(port)).status == 200
        await node.becomes(Phase.CLOSED)
        assert [phase for _, phase in node.told] == [Phase.OPEN, Phase.HALF_OPEN, Phase.CLOSED]
        (line,) = [line for line in await node.lines(6) if line["status"] == 503]
        assert (line["flags"], line["details"], line["host"]) == ("UO", "circuit_breaker_open", None)


async def test_a_failed_probe_opens_it_again(tmp_path: Path) -> None:
    async with broken(tmp_path, POLICY) as (node, _, port):
        await fail(node, port)
        await node.becomes(Phase.HALF_OPEN)
        assert (await get(port, "/status/500")).status == 500
        await node.becomes(Phase.OPEN)
        assert node.breakers.shown()[0].why == "a probe failed"


async def test_two_workers_are_one_and_probe_no_more_than_allowed(tmp_path: Path) -> None:
    policy = replace(POLICY, probes=2, volume=10, open_s=0.5)
    async with broken(tmp_path, policy, slots=2) as (node, end, port):
        await asyncio.gather(*[get(port, "/status/500") for _ in range(20)])
        await node.becomes(Phase.OPEN)
        assert end.connections >= 2, "both workers have served"
        assert {answer.status for answer in await asyncio.gather(*[get(port) for _ in range(20)])} == {503}
        await node.becomes(Phase.HALF_OPEN)
        seen = len(end.requests)
        answers = await asyncio.gather(*[get(port, "/slow/0.5") for _ in range(40)])
        assert Counter(answer.status for answer in answers) == {200: 2, 503: 38}
        assert len(end.requests) == seen + 2
        await node.becomes(Phase.CLOSED)
        assert {answer.status for answer in await asyncio.gather(*[get(port) for _ in range(20)])} == {200}


async def test_a_fixed_answer_stands_in(tmp_path: Path) -> None:
    async with broken(tmp_path, replace(POLICY, open_s=60.0, fallback=ANSWER)) as (node, _, port):
        assert (await fail(node, port))[0].status == 500
        answer = await get(port)
        assert (answer.status, answer.body) == (203, b'{"stars": []}')
        assert answer.fields["content-type"] == "application/json"
        assert answer.fields["x-gossamer-fallback"] == NAME
        assert (await head_of(port, "/"))[0] == "HTTP/1.1 203 Non-Authoritative Information"
        await until(lambda: node.counts["fallback"] == 2)


async def test_a_fixed_answer_stands_in_for_failures_when_asked(tmp_path: Path) -> None:
    policy = replace(POLICY, fallback=ANSWER, on_failure=True)
    async with broken(tmp_path, policy) as (node, _, port):
        answers = [await get(port, "/status/500"), await get(port, "/cut"), *(await fail(node, port, 2))]
        assert [(answer.status, answer.body) for answer in answers] == [(203, b'{"stars": []}')] * 4
        assert node.outcomes == {1: 4}
        lines = await node.lines(4)
        assert {line["details"] for line in lines} == {"circuit_breaker_failure{answer}"}
        assert [line["flags"] for line in lines] == ["-", "UC", "-", "-"]


async def test_another_service_stands_in(tmp_path: Path) -> None:
    async with origin("other") as other:
        policy = replace(POLICY, open_s=60.0, fallback=OtherService(cluster="other"), on_failure=True)
        async with broken(tmp_path, policy, other=other) as (node, _, port):
            failed = await get(port, "/status/500")
            assert (failed.status, other.requests) == (500, ["GET /status/500"]), "it fails as well, once"
            answer = await get(port, "/cut/x", method="POST", body=b"hello")
            assert answer.status == 502 or answer.status == 503, "the other cuts as well"
            for _ in range(2):
                await get(port, "/status/500")
            await node.becomes(Phase.OPEN)
            answer = await get(port, "/echo", method="POST", body=b"hello")
            assert (answer.status, answer.body) == (200, b"hello")
            assert answer.fields["x-gossamer-fallback"] == NAME
            assert other.requests[-1] == "POST /echo"
            assert (await node.lines(5))[-1]["cluster"] == "other"


async def test_without_the_other_service_it_is_refused(tmp_path: Path) -> None:
    policy = replace(POLICY, open_s=60.0, fallback=OtherService(cluster="gone"), on_failure=True)
    async with broken(tmp_path, policy) as (node, _, port):
        assert {answer.status for answer in await fail(node, port)} == {500}
        assert (await get(port)).status == 503


async def test_the_last_good_answer_stands_in(tmp_path: Path) -> None:
    policy = replace(
        POLICY, open_s=60.0, fallback=LastGood(max_age_s=60.0, max_entries=10, max_bytes=100_000)
    )  # fmt: skip
    async with broken(tmp_path, policy) as (node, _, port):
        assert (await get(port, "/chunks")).body == b"abcdef"
        assert (await get(port, "/a")).status == 200
        assert (await get(port, "/secret", authorization="Basic eA==")).status == 200
        await fail(node, port)
        answer = await get(port, "/chunks")
        assert (answer.status, answer.body) == (200, b"abcdef")
        assert answer.fields["warning"] == '110 gossamer "Response is Stale"'
        assert int(answer.fields["age"]) < 10
        assert "content-length: 6" in await head_of(port, "/a")
        for path, fields in (("/never", {}), ("/secret", {}), ("/a", {"authorization": "Basic eA=="})):
            assert (await get(port, path, **fields)).status == 503
        assert (await get(port, "/a", method="POST")).status == 503


async def test_an_order_holds_with_the_configuration(tmp_path: Path) -> None:
    async with broken(tmp_path, replace(POLICY, forced=Forced.OPEN)) as (node, end, port):
        assert (await get(port)).status == 503
        assert node.phase() is Phase.FORCED_OPEN
        await node.serve(tables({port: ""}, replace(POLICY, forced=Forced.DISABLED), end))
        assert {(await get(port, "/status/500")).status for _ in range(20)} == {500}
        assert node.phase() is Phase.DISABLED
        await node.serve(tables({port: ""}, None, end))
        assert node.breakers.shown() == ()


async def test_each_caller_has_its_own(tmp_path: Path) -> None:
    a, b = free_port(), free_port()
    callers = {a: "spiffe://td/ns/default/sa/a", b: "spiffe://td/ns/default/sa/b"}
    async with origin() as end, BreakingNode(tmp_path, 1) as node:
        await node.serve(tables(callers, replace(POLICY, per_caller=True, open_s=60.0), end))
        for _ in range(4):
            await get(a, "/status/500")
        await node.becomes(Phase.OPEN, callers[a])
        assert (await get(a)).status == 503
        assert (await get(b)).status == 200


async def test_slow_answers_open_it(tmp_path: Path) -> None:
    async with broken(tmp_path, replace(POLICY, slow_s=0.1, slow_percent=100.0)) as (node, _, port):
        await asyncio.gather(*[get(port, "/slow/0.15") for _ in range(4)])
        await node.becomes(Phase.OPEN)
        assert "took 0.1 s or more" in node.breakers.shown()[0].why


async def test_retries_are_one_outcome(tmp_path: Path) -> None:
    """Hystrix wraps the call with all its tries."""
    async with broken(tmp_path, replace(POLICY, volume=3)) as (node, end, port):
        end.fail_next = 1
        assert (await get(port)).status == 503
        assert (await get(port)).status == 200
        await until(lambda: sum(node.outcomes.values()) == 2)
        assert node.outcomes == {1: 1, 0: 1}
