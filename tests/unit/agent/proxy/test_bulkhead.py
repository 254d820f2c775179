"""Bulkheads at the callee: callers are told apart by the certificates that they show, in all ports of an instance."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.model.bulkhead import NO_BULKHEADS, Bulkhead, Bulkheads
from agent.model.http_filters import HttpFilter, RouteFilter
from agent.model.listener import HttpConnectionManager
from agent.model.route import RouteConfiguration, VirtualHost
from agent.router.table import RouteTable
from agent.stats.gossamer import BULKHEAD_REQUESTS, bulkhead_group, series
from tests.support.proxying import (
    LOG,
    Client,
    Proxy,
    RawOrigin,
    a_runtime,
    cluster,
    forward,
    http_proxy,
    raw_origin,
    route,
    until,
    virtual_host,
)
from tests.unit.agent.proxy.test_identity import AUTHORITY, CALLER, PAIRS, client_context, inbound

OTHER = "spiffe://cluster.local/ns/default/sa/other"
FILTER = "gossamer.bulkhead"
POLICY = Bulkhead(
    name="default/web/web-1", most=3, most_per_caller=2, queue=1, max_wait_s=30.0, by_certificate=True
)  # fmt: skip


def own_host(policy: Bulkhead) -> VirtualHost:
    said = RouteFilter(name=FILTER, config=Bulkheads(bulkheads=(policy,)))
    return virtual_host(route("/", forward("app"), filters=(said,)))


@asynccontextmanager
async def secured(tmp_path: Path, origin: RawOrigin, policy: Bulkhead) -> AsyncIterator[Proxy]:
    runtime = a_runtime(tmp_path / "access.log", [cluster("app", origin.port)])
    runtime.snapshot.routes["r"] = RouteTable(RouteConfiguration(name="r", virtual_hosts=(own_host(policy),)))
    hcm = HttpConnectionManager(
        stat_prefix="s",
        route_config="r",
        filters=(HttpFilter(name=FILTER, config=NO_BULKHEADS),),
        access_logs=(LOG,),
    )
    async with inbound(runtime, hcm) as proxy:
        yield proxy


async def ask(proxy: Proxy, path: str, context: ssl.SSLContext | None = None) -> Client:
    client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context))
    client.writer.write(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    return client


def under_way(proxy: Proxy, caller: str) -> int:
    key = f"bulkhead.{POLICY.name}|{caller}"
    return proxy.runtime.stats.get(key, lambda: bulkhead_group(POLICY.name, caller)).counts[0]


async def becomes(value: Callable[[], int], wanted: int) -> None:
    await until(lambda: value() == wanted)


async def test_a_flood_leaves_the_others_their_share(tmp_path: Path) -> None:
    """Two are in, one waits, the rest is refused; another identity goes on; who waits comes in when there is room."""
    flood = client_context(tmp_path, PAIRS[CALLER])
    calm = client_context(tmp_path, AUTHORITY.issue(OTHER))
    async with raw_origin(slow=(b"", "hang")) as origin, secured(tmp_path, origin, POLICY) as proxy:
        held = [await ask(proxy, "/slow", flood) for _ in range(2)]
        await becomes(lambda: under_way(proxy, CALLER), 2)
        waiting = await ask(proxy, "/waited", flood)
        part = proxy.runtime.bulkheads.compartment(POLICY, CALLER)
        await becomes(lambda: part.waiting, 1)
        for _ in range(5):
            assert (await (await ask(proxy, "/", flood)).rest()).startswith(b"HTTP/1.1 503 ")
        assert b"200 OK" in await (await ask(proxy, "/", calm)).rest()
        held[0].writer.transport.abort()
        assert b"200 OK" in await waiting.rest()
        held[1].writer.transport.abort()
        await becomes(lambda: under_way(proxy, CALLER), 0)
        assert under_way(proxy, OTHER) == 0
        assert under_way(proxy, "") == 0
        lines = [line for line in await proxy.logged(9) if line["code"] == 503]
    assert {(line["flags"], line["details"]) for line in lines} == {("UO", "bulkhead_full")}


async def test_those_who_show_no_certificate_share_a_place(tmp_path: Path) -> None:
    """Whatever port or header they come with."""
    async with (
        raw_origin(slow=(b"", "hang")) as origin,
        http_proxy(
            tmp_path, own_host(Bulkhead(name=POLICY.name, most=3, most_per_caller=1, by_certificate=True)),
            [cluster("app", origin.port)], filters=(HttpFilter(name=FILTER, config=NO_BULKHEADS),),
            identity="spiffe://cluster.local/ns/default/sa/listener",
        ) as proxy,
    ):  # fmt: skip
        held = await ask(proxy, "/slow")
        await becomes(lambda: under_way(proxy, "others"), 1)
        answer = await proxy.get("/", b"x-forwarded-client-cert: URI=" + OTHER.encode() + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"x-envoy-overloaded: true" in answer
        assert answer.endswith(b"bulkhead is full")
        held.writer.transport.abort()
        await becomes(lambda: under_way(proxy, "others"), 0)
        gauges = proxy.runtime.stats.report().gauges
    assert {name for name in gauges if name.startswith(BULKHEAD_REQUESTS)} <= {
        series(BULKHEAD_REQUESTS, (POLICY.name, caller)) for caller in ("", "others")
    }


async def test_many_who_waited_are_answered_when_no_host_is_left(tmp_path: Path) -> None:
    """Each is over in the turn that lets it in, and gives its room to the next: not one inside the other."""
    count = 300
    policy = Bulkhead(name=POLICY.name, most=1, most_per_caller=1, queue=count, max_wait_s=30.0)
    async with http_proxy(
        tmp_path, own_host(policy), [cluster("app")], filters=(HttpFilter(name=FILTER, config=NO_BULKHEADS),)
    ) as proxy:
        book = proxy.runtime.bulkheads
        part = book.compartment(policy, "")
        assert part.enter()
        waiting = [await ask(proxy, f"/{number}") for number in range(count)]
        await becomes(lambda: part.waiting, count)
        part.leave()
        book.look(policy.name)
        assert (part.waiting, under_way(proxy, "")) == (0, 0)
        for client in waiting:
            assert (await client.rest()).endswith(b"no healthy upstream")
