"""Faults through a whole chain: before the router, and as what a host does, below retries and timeouts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.model.cells import REQUESTS, RETRIES
from agent.model.fault import Abort, Delay, Fault
from agent.model.http_filters import NO_FAULT, HttpFilter, RouteFilter
from agent.model.route import RetryPolicy
from agent.stats import names
from agent.stats.names import fault_group
from tests.support.proxying import (
    Proxy,
    RawOrigin,
    cluster,
    forward,
    http_proxy,
    raw_origin,
    route,
    until,
    virtual_host,
)

ALL = 1_000_000
BEFORE, OF_TRIES = "before", "of tries"
FILTERS = {
    "filters": (HttpFilter(name=BEFORE, config=NO_FAULT),),
    "upstream_filters": (HttpFilter(name=OF_TRIES, config=NO_FAULT),),
}
FOREVER = Delay(seconds=3600.0, per_million=ALL)
SHORT = Delay(seconds=0.02, per_million=ALL)
BUSY = Abort(status=503, per_million=ALL)
HALF = Abort(status=503, per_million=500_000)


def retrying(*retry_on: str, **settings: Any) -> RetryPolicy:
    return RetryPolicy(retry_on=frozenset(retry_on), **{"back_off_base_s": 0.001, "back_off_max_s": 0.002, **settings})


@asynccontextmanager
async def proxied(tmp_path: Path, name: str, fault: Fault, **action: Any) -> AsyncIterator[tuple[Proxy, RawOrigin]]:
    """A proxy whose route has this fault under `name`, and its origin."""
    own = route("/", forward("c", **action), filters=(RouteFilter(name=name, config=fault),))
    async with (
        raw_origin() as origin,
        http_proxy(tmp_path, virtual_host(own), [cluster("c", origin.port)], **FILTERS) as proxy,
    ):
        yield proxy, origin
        assert counted(proxy)[names.FAULT_ACTIVE] == 0
        limits = proxy.runtime.snapshot.clusters["c"].limits[0]
        assert (limits.under_way(RETRIES), limits.under_way(REQUESTS)) == (0, 0)


def counted(proxy: Proxy) -> list[int]:
    return proxy.runtime.stats.get("http.s.fault", lambda: fault_group("s")).counts


def dice(proxy: Proxy, *values: float) -> None:
    """The random numbers that the chain gets."""
    proxy.chain.rng = iter(values).__next__


async def told(proxy: Proxy) -> tuple[Any, ...]:
    line = (await proxy.logged(1))[-1]
    return line["code"], line["flags"], line["details"], line["attempts"]


async def test_before_the_router_nothing_is_tried_again(tmp_path: Path) -> None:
    async with proxied(tmp_path, BEFORE, Fault(abort=BUSY), retry=retrying("5xx")) as (proxy, origin):
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 503 ")
        assert await told(proxy) == (503, "FI", "fault_filter_abort", 0)
        assert origin.seen == []
        assert counted(proxy)[names.FAULT_ABORTS] == 1


async def test_a_fault_of_a_try_is_tried_again(tmp_path: Path) -> None:
    """What the first two tries get is not what the client sees."""
    async with proxied(tmp_path, OF_TRIES, Fault(abort=HALF), retry=retrying("5xx", num_retries=3)) as (proxy, origin):
        dice(proxy, 0.1, 0.1, 0.9)
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 200 ")
        assert await told(proxy) == (200, "-", "via_upstream", 3)
        assert len(origin.seen) == 1
        assert counted(proxy)[names.FAULT_ABORTS] == 2
        stats = proxy.runtime.snapshot.clusters["c"].stats
        assert stats.counts[names.RQ_RETRY] == 2
        assert stats.counts[names.RQ_RETRY_SUCCESS] == 1


async def test_the_last_fault_is_the_answer(tmp_path: Path) -> None:
    async with proxied(tmp_path, OF_TRIES, Fault(abort=BUSY), retry=retrying("5xx", num_retries=2)) as (proxy, origin):
        answer = await proxy.get("/x")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b"fault filter abort")
        assert await told(proxy) == (503, "FI,URX", "fault_filter_abort", 3)
        assert origin.seen == []
        assert proxy.runtime.snapshot.clusters["c"].stats.codes == {503: 1}


async def test_a_fault_that_is_not_tried_again_is_the_answer(tmp_path: Path) -> None:
    async with proxied(tmp_path, OF_TRIES, Fault(abort=BUSY), retry=retrying("connect-failure")) as (proxy, _):
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 503 ")
        assert await told(proxy) == (503, "FI", "fault_filter_abort", 1)


async def test_grpc_status_of_a_try(tmp_path: Path) -> None:
    abort = Abort(grpc_status=14, per_million=500_000)
    async with proxied(tmp_path, OF_TRIES, Fault(abort=abort), retry=retrying("unavailable")) as (proxy, origin):
        dice(proxy, 0.1, 0.9)
        assert (await proxy.get("/x", b"content-type: application/grpc\r\n")).startswith(b"HTTP/1.1 200 ")
        assert len(origin.seen) == 1
        dice(proxy, 0.1, 0.1)
        answer = await proxy.get("/x", b"content-type: application/grpc\r\n")
        assert b"grpc-status: 14\r\n" in answer
        assert len(origin.seen) == 1


async def test_a_slow_try_takes_up_the_time_of_its_request(tmp_path: Path) -> None:
    async with proxied(tmp_path, OF_TRIES, Fault(delay=FOREVER), timeout_s=0.05) as (proxy, origin):
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 504 ")
        assert await told(proxy) == (504, "DI,UT", "response_timeout", 1)
        assert origin.seen == []
        assert counted(proxy)[names.FAULT_DELAYS] == 1


async def test_a_slow_try_is_given_up_for_another(tmp_path: Path) -> None:
    delay = Delay(seconds=3600.0, per_million=500_000)
    retry = retrying("5xx", per_try_timeout_s=0.03)
    async with proxied(tmp_path, OF_TRIES, Fault(delay=delay), retry=retry) as (proxy, origin):
        dice(proxy, 0.1, 0.9)
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 200 ")
        assert await told(proxy) == (200, "DI", "via_upstream", 2)
        assert len(origin.seen) == 1
        [host] = proxy.runtime.snapshot.clusters["c"].take_host_rows()
        assert host[2:5] == (1, 1, 0)  # requests, successes, errors: the host is not blamed


async def test_the_time_of_a_slow_try_begins_with_the_whole_request(tmp_path: Path) -> None:
    delay = Delay(seconds=3600.0, per_million=500_000)
    retry = retrying("5xx", per_try_timeout_s=0.03)
    async with proxied(tmp_path, OF_TRIES, Fault(delay=delay), retry=retry) as (proxy, origin):
        dice(proxy, 0.1, 0.9)
        client = await proxy.client()
        client.writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo")
        await until(lambda: counted(proxy)[names.FAULT_DELAYS] == 1)
        client.writer.write(b"dy")
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert [request[-4:] for request in origin.seen] == [b"body"]
        client.writer.close()


async def test_a_delay_then_an_abort(tmp_path: Path) -> None:
    async with proxied(tmp_path, OF_TRIES, Fault(delay=SHORT, abort=BUSY), retry=retrying("5xx")) as (proxy, _):
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 503 ")
        assert await told(proxy) == (503, "DI,FI,URX", "fault_filter_abort", 2)
        assert counted(proxy)[names.FAULT_DELAYS] == counted(proxy)[names.FAULT_ABORTS] == 2


@pytest.mark.parametrize("name", [BEFORE, OF_TRIES])
async def test_a_body_waits_and_is_sent_whole(tmp_path: Path, name: str) -> None:
    """More than is kept: the client is read from no further until the delay is over."""
    async with proxied(tmp_path, name, Fault(delay=Delay(seconds=0.2, per_million=ALL))) as (proxy, origin):
        body = bytes(range(256)) * 4000
        head = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert (await proxy.say(head + body)).startswith(b"HTTP/1.1 200 ")
        assert [request.partition(b"\r\n\r\n")[2] for request in origin.seen] == [body]
        assert proxy.chain.counts[names.DOWN_PAUSED_READING] >= 1


@pytest.mark.parametrize("name", [BEFORE, OF_TRIES])
async def test_a_client_that_leaves_ends_its_delay(tmp_path: Path, name: str) -> None:
    async with proxied(tmp_path, name, Fault(delay=FOREVER)) as (proxy, origin):
        client = await proxy.client()
        client.writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: counted(proxy)[names.FAULT_ACTIVE] == 1)
        client.writer.close()
        await until(lambda: counted(proxy)[names.FAULT_ACTIVE] == 0)
        (line,) = await proxy.logged(1)
        assert line["flags"] == "DI,DC"
        assert origin.seen == []


async def test_no_more_faults_at_once_than_may_be(tmp_path: Path) -> None:
    async with proxied(tmp_path, BEFORE, Fault(delay=FOREVER, max_active=1)) as (proxy, origin):
        client = await proxy.client()
        client.writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: counted(proxy)[names.FAULT_ACTIVE] == 1)
        assert (await proxy.get("/y")).startswith(b"HTTP/1.1 200 ")
        assert counted(proxy)[names.FAULT_OVERFLOW] == 1
        assert len(origin.seen) == 1
        client.writer.close()
        await until(lambda: counted(proxy)[names.FAULT_ACTIVE] == 0)


async def test_the_same_route_without_the_filter_is_as_usual(tmp_path: Path) -> None:
    own = route("/", forward("c"), filters=(RouteFilter(name=BEFORE, config=Fault(abort=BUSY)),))
    async with raw_origin() as origin, http_proxy(tmp_path, virtual_host(own), [cluster("c", origin.port)]) as proxy:
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 200 ")


async def test_requests_without_a_fault_have_no_passage(tmp_path: Path) -> None:
    """Nothing is made for them."""
    async with raw_origin(x=(b"", "hang")) as origin:
        routes = virtual_host(route("/", forward("c")))
        async with http_proxy(tmp_path, routes, [cluster("c", origin.port)], **FILTERS) as proxy:
            client = await proxy.client()
            client.writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: len(origin.seen) == 1)
            [connection] = proxy.chain._open
            assert connection.exchange.passage is None
            client.writer.close()
