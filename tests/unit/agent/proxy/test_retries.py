"""Retries through a whole chain: which try answers, what the log says, that no retry slot is lost."""

import socket
from pathlib import Path
from typing import Any

import pytest

from agent.model.cells import REQUESTS, RETRIES
from agent.model.cluster import Thresholds
from agent.model.route import RetryPolicy
from agent.stats.names import RQ_RETRY, RQ_RETRY_LIMIT_EXCEEDED, RQ_RETRY_OVERFLOW, RQ_RETRY_SUCCESS
from agent.upstream.clusters import UpstreamCluster
from tests.support.proxying import (
    Behaviour,
    Proxy,
    cluster,
    forward,
    http_proxy,
    raw_origin,
    route,
    until,
    virtual_host,
)

BUSY: Behaviour = (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", "keep")
SLOW: Behaviour = (b"", "hang")


def policy(*retry_on: str, **settings: Any) -> RetryPolicy:
    return RetryPolicy(
        retry_on=frozenset(retry_on), **{"previous_hosts": True, "host_selection_max_attempts": 5, **settings}
    )


def served(retry: RetryPolicy | None, **settings: Any) -> Any:
    return virtual_host(route("/", forward("c", retry=retry, **settings)))


def upstream(proxy: Proxy) -> UpstreamCluster:
    return proxy.runtime.snapshot.clusters["c"]


def under_way(proxy: Proxy) -> tuple[int, int]:
    limits = upstream(proxy).limits[0]
    return limits.under_way(RETRIES), limits.under_way(REQUESTS)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_another_host_answers(tmp_path: Path) -> None:
    """The client sees only the good answer."""
    async with raw_origin(x=BUSY) as bad, raw_origin() as good:
        config = cluster("c", bad.port, good.port)
        async with http_proxy(tmp_path, served(policy("5xx")), [config]) as proxy:
            answers = [await proxy.get("/x") for _ in range(4)]
            assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
            lines = await proxy.logged(4)
            assert sum(line["attempts"] for line in lines) == len(bad.seen) + 4
            assert len(bad.seen) >= 2
            assert {line["flags"] for line in lines} == {"-"}
            counts = upstream(proxy).stats.counts
            assert counts[RQ_RETRY] == counts[RQ_RETRY_SUCCESS] == len(bad.seen)
            assert under_way(proxy) == (0, 0)


async def test_the_last_answer_passes_when_retries_are_used_up(tmp_path: Path) -> None:
    async with raw_origin(x=BUSY) as bad:
        config = cluster("c", bad.port)
        async with http_proxy(tmp_path, served(policy("5xx", num_retries=2)), [config]) as proxy:
            answer = await proxy.get("/x")
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert answer.endswith(b"busy")
            (line,) = await proxy.logged(1)
            assert (line["code"], line["flags"], line["details"], line["attempts"]) == (503, "URX", "via_upstream", 3)
            assert len(bad.seen) == 3
            assert upstream(proxy).stats.counts[RQ_RETRY_LIMIT_EXCEEDED] == 1
            assert under_way(proxy) == (0, 0)


async def test_a_host_that_refuses_is_left_for_another(tmp_path: Path) -> None:
    async with raw_origin() as good:
        config = cluster("c", unused_port(), good.port)
        async with http_proxy(tmp_path, served(policy("connect-failure")), [config]) as proxy:
            for _ in range(3):
                assert (await proxy.get("/x")).startswith(b"HTTP/1.1 200 ")
            assert under_way(proxy) == (0, 0)


async def test_a_body_that_is_not_kept_is_sent_once(tmp_path: Path) -> None:
    """Beyond 64 KiB the first answer passes, without a flag; below it the body is sent again whole."""
    async with raw_origin(x=BUSY) as bad:
        config = cluster("c", bad.port)
        async with http_proxy(tmp_path, served(policy("5xx", num_retries=1)), [config]) as proxy:
            for number, (size, tries, flags) in enumerate(((100_000, 1, "-"), (50_000, 2, "URX")), 1):
                bad.seen.clear()
                head = b"POST /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % size
                answer = await proxy.say(head + b"b" * size)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert len(bad.seen) == tries
                assert all(request.endswith(b"\r\n\r\n" + b"b" * size) for request in bad.seen)
                assert (await proxy.logged(number))[-1]["flags"] == flags


async def test_over_the_limit_the_first_answer_passes(tmp_path: Path) -> None:
    async with raw_origin(x=BUSY) as bad:
        config = cluster("c", bad.port, thresholds=Thresholds(max_retries=0))
        async with http_proxy(tmp_path, served(policy("5xx")), [config]) as proxy:
            assert (await proxy.get("/x")).startswith(b"HTTP/1.1 503 ")
            (line,) = await proxy.logged(1)
            assert (line["flags"], line["attempts"]) == ("UO", 1)
            assert upstream(proxy).stats.counts[RQ_RETRY_OVERFLOW] == 1


async def test_per_try_timeouts(tmp_path: Path) -> None:
    """Each try gets its time; the last one is answered as a timeout."""
    async with raw_origin(x=SLOW) as slow:
        config = cluster("c", slow.port)
        retry = policy("5xx", num_retries=1, per_try_timeout_s=0.03)
        async with http_proxy(tmp_path, served(retry), [config]) as proxy:
            answer = await proxy.get("/x")
            assert answer.startswith(b"HTTP/1.1 504 ")
            assert answer.endswith(b"upstream request timeout")
            (line,) = await proxy.logged(1)
            assert (line["flags"], line["details"], line["attempts"]) == ("URX,UT", "upstream_per_try_timeout", 2)
            assert under_way(proxy) == (0, 0)


@pytest.mark.parametrize("end", ["client leaves", "route timeout"])
async def test_a_retry_that_never_ends_gives_its_place_back(tmp_path: Path, end: str) -> None:
    """In back-off, or on its second way: the client leaves, or the route's time is over."""
    async with raw_origin(x=BUSY) as bad:
        config = cluster("c", bad.port)
        retry = policy("5xx", num_retries=50, back_off_base_s=5.0, back_off_max_s=50.0)
        timeout_s = 0.05 if end == "route timeout" else 15.0
        async with http_proxy(tmp_path, served(retry, timeout_s=timeout_s), [config]) as proxy:
            client = await proxy.client()
            client.writer.write(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")
            await until(lambda: upstream(proxy).stats.counts[RQ_RETRY] > 0)
            if end == "client leaves":
                client.writer.close()
            await proxy.logged(1)
            assert under_way(proxy) == (0, 0)
            client.writer.close()


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"POST"])
async def test_a_kept_connection_that_is_closed_under_a_request(tmp_path: Path, method: bytes) -> None:
    """Nobody notices where the request may be sent twice: no retry, no failed try, nothing in the log."""
    async with raw_origin(y=SLOW) as origin:
        config = cluster("c", origin.port)
        async with http_proxy(tmp_path, served(None), [config]) as proxy:
            client = await proxy.client()
            client.writer.write(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")
            for _ in ("the head", "its body, which is the request"):
                await client.until(b"\r\n\r\n")
            client.writer.write(method + b" /y HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab")
            await until(lambda: len(origin.seen) == 2)
            origin.answers["y"] = (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain", "keep")
            (kept,) = origin.writers
            kept.close()
            answer = await client.rest()
            line = (await proxy.logged(2))[1]
            again = method != b"POST"
            assert answer.startswith(b"HTTP/1.1 200 " if again else b"HTTP/1.1 503 ")
            assert (line["flags"], line["attempts"]) == ("-" if again else "UC", 1)
            assert origin.seen[2:] == ([origin.seen[1]] if again else [])
            assert upstream(proxy).stats.counts[RQ_RETRY] == 0
            assert under_way(proxy) == (0, 0)


async def test_it_is_sent_again_only_once(tmp_path: Path) -> None:
    async with raw_origin(y=(b"", "close")) as origin:
        config = cluster("c", origin.port)
        async with http_proxy(tmp_path, served(None), [config]) as proxy:
            assert (await proxy.get("/x")).startswith(b"HTTP/1.1 200 ")
            assert (await proxy.get("/y")).startswith(b"HTTP/1.1 503 ")
            assert len(origin.seen) == 3
            assert (await proxy.logged(2))[1]["flags"] == "UC"
