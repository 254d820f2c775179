"""Tries that take too long: given up, or kept beside the next one; that nothing of them is left afterwards."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.model.cluster import Thresholds
from agent.model.route import RetryPolicy
from agent.stats.names import (
    RQ_ACTIVE_OVERFLOW,
    RQ_PER_TRY_IDLE_TIMEOUT,
    RQ_PER_TRY_TIMEOUT,
    RQ_RETRY,
    RQ_RETRY_LIMIT_EXCEEDED,
    RQ_TIMEOUT,
)
from tests.support.proxying import OK, Behaviour, Proxy, RawOrigin, cluster, http_proxy, raw_origin, until
from tests.unit.agent.proxy.test_retries import served, under_way, upstream

GOOD: Behaviour = (OK % (4, b"good"), "keep")
SLOW: Behaviour = (b"", "hang")
LATE_S = 0.05


def hedging(num_retries: int = 1, **settings: Any) -> Any:
    """A route that hedges."""
    retry = RetryPolicy(
        retry_on=frozenset({"5xx"}),
        num_retries=num_retries,
        per_try_timeout_s=LATE_S,
        back_off_base_s=0.001,
        back_off_max_s=0.002,
        previous_hosts=True,
        host_selection_max_attempts=50,
    )
    return served(retry, hedge=True, **settings)


async def first_try(origin: RawOrigin) -> asyncio.StreamWriter:
    """The origin's end of the first connection, when a request has come there."""
    await until(lambda: bool(origin.seen))
    (writer,) = origin.writers
    return writer


async def settled(proxy: Proxy) -> tuple[int, int]:
    """Retries and requests under way once no host has any."""
    await until(lambda: under_way(proxy)[1] == 0)
    hosts = [upstream(proxy).pick_host() for _ in range(4)]
    assert all(host is not None and host.active == 0 for host in hosts)
    return under_way(proxy)


async def test_the_other_host_answers_for_a_slow_one(tmp_path: Path) -> None:
    async with raw_origin(x=SLOW) as slow, raw_origin(x=GOOD) as good:
        config = cluster("c", slow.port, good.port)
        async with http_proxy(tmp_path, hedging(), [config]) as proxy:
            answers = [await proxy.get("/x") for _ in range(4)]
            assert all(answer.endswith(b"good") for answer in answers)
            lines = await proxy.logged(4)
            assert {line["host"] for line in lines} == {f"127.0.0.1:{good.port}"}
            assert sum(line["attempts"] for line in lines) == 4 + len(slow.seen)
            assert slow.seen
            counts = upstream(proxy).stats.counts
            assert counts[RQ_RETRY] == len(slow.seen)
            assert counts[RQ_PER_TRY_TIMEOUT] == 0, "Envoy counts only tries that are given up"
            assert await settled(proxy) == (0, 0)


async def test_the_late_one_may_still_answer(tmp_path: Path) -> None:
    """Then the log tells of it, and the one beside it is left."""
    async with raw_origin(x=SLOW) as slow:
        config = cluster("c", slow.port)
        async with http_proxy(tmp_path, hedging(2), [config]) as proxy:
            client = await proxy.client()
            client.writer.write(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")
            first = await first_try(slow)
            await until(lambda: len(slow.seen) == 3)  # two retries, none of which answers
            first.write(OK % (4, b"late"))
            assert (await client.until(b"late")).startswith(b"HTTP/1.1 200 ")
            (line,) = await proxy.logged(1)
            assert (line["code"], line["attempts"]) == (200, 3)
            assert line["local"].endswith(f":{first.get_extra_info('peername')[1]}")
            assert await settled(proxy) == (0, 0)
            client.writer.close()


async def test_retries_that_are_used_up_leave_the_late_ones(tmp_path: Path) -> None:
    async with raw_origin(x=SLOW) as slow:
        config = cluster("c", slow.port)
        async with http_proxy(tmp_path, hedging(timeout_s=0.4), [config]) as proxy:
            assert (await proxy.get("/x")).startswith(b"HTTP/1.1 504 ")
            (line,) = await proxy.logged(1)
            assert (line["flags"], line["details"], line["attempts"]) == ("URX,UT", "response_timeout", 2)
            counts = upstream(proxy).stats.counts
            assert (counts[RQ_TIMEOUT], counts[RQ_RETRY_LIMIT_EXCEEDED]) == (2, 1)
            assert await settled(proxy) == (0, 0)


async def test_a_client_that_leaves_ends_them_all(tmp_path: Path) -> None:
    async with raw_origin(x=SLOW) as slow:
        config = cluster("c", slow.port)
        async with http_proxy(tmp_path, hedging(2), [config]) as proxy:
            client = await proxy.client()
            client.writer.write(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")
            await until(lambda: len(slow.seen) == 3)
            client.writer.close()
            (line,) = await proxy.logged(1)
            assert (line["flags"].removeprefix("URX,"), line["attempts"]) == ("DC", 3)
            assert await settled(proxy) == (0, 0)


async def test_no_room_for_the_one_beside(tmp_path: Path) -> None:
    """No room for another request in the cluster: the late one is waited for."""
    async with raw_origin(x=SLOW) as slow:
        config = cluster("c", slow.port, thresholds=Thresholds(max_requests=1))
        async with http_proxy(tmp_path, hedging(), [config]) as proxy:
            client = await proxy.client()
            client.writer.write(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")
            first = await first_try(slow)
            await until(lambda: upstream(proxy).stats.counts[RQ_ACTIVE_OVERFLOW] == 1)
            first.write(OK % (4, b"late"))
            assert (await client.until(b"late")).startswith(b"HTTP/1.1 200 ")
            assert upstream(proxy).stats.codes == {200: 1, 503: 1}, "Envoy counts the refusal too"
            assert await settled(proxy) == (0, 0)
            client.writer.close()


@pytest.mark.parametrize("retried", [True, False])
async def test_idle_tries_are_given_up(tmp_path: Path, retried: bool) -> None:
    async with raw_origin(x=SLOW) as slow:
        config = cluster("c", slow.port)
        policy = RetryPolicy(
            retry_on=frozenset({"5xx" if retried else "connect-failure"}), num_retries=1, per_try_idle_timeout_s=LATE_S
        )
        async with http_proxy(tmp_path, served(policy), [config]) as proxy:
            answer = await proxy.get("/x")
            assert answer.startswith(b"HTTP/1.1 504 ")
            assert answer.endswith(b"upstream request timeout")
            (line,) = await proxy.logged(1)
            assert line["details"] == "upstream_per_try_idle_timeout"
            assert (line["flags"], line["attempts"]) == (("URX,UT", 2) if retried else ("UT", 1))
            assert upstream(proxy).stats.counts[RQ_PER_TRY_IDLE_TIMEOUT] == line["attempts"]
            assert under_way(proxy) == (0, 0)


async def test_an_answer_that_stops_in_the_middle_is_cut(tmp_path: Path) -> None:
    async with raw_origin(x=(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "hang")) as slow:
        config = cluster("c", slow.port)
        policy = RetryPolicy(retry_on=frozenset({"5xx"}), per_try_idle_timeout_s=LATE_S)
        async with http_proxy(tmp_path, served(policy), [config]) as proxy:
            assert (await proxy.get("/x")).endswith(b"abc")
            (line,) = await proxy.logged(1)
            assert (line["code"], line["flags"], line["details"]) == (200, "UT", "upstream_per_try_idle_timeout")
            assert under_way(proxy) == (0, 0)


async def test_what_comes_and_goes_is_not_idle(tmp_path: Path) -> None:
    """Every byte of the answer starts the time anew."""
    async with raw_origin(x=(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n", "hang")) as slow:
        config = cluster("c", slow.port)
        policy = RetryPolicy(retry_on=frozenset({"5xx"}), per_try_idle_timeout_s=0.5)
        async with http_proxy(tmp_path, served(policy), [config]) as proxy:
            client = await proxy.client()
            client.writer.write(b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            await client.until(b"\r\n\r\n")
            for part in range(8):
                await asyncio.sleep(0.1)
                next(iter(slow.writers)).write(b"%d" % part)
            assert await client.rest() == b"01234567"
            (line,) = await proxy.logged(1)
            assert (line["code"], line["flags"]) == (200, "-")
