"""Copies of requests: bounded, never in the way of the request."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.model.cells import PENDING, REQUESTS
from agent.model.cluster import Thresholds
from agent.model.route import Mirror
from agent.proxy import mirror
from agent.proxy.mirror import host_of
from agent.stats import names
from agent.upstream.clusters import UpstreamCluster
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

HANGS: Any = (b"", "hang")


@asynccontextmanager
async def mirrored(
    tmp_path: Path, *mirrors: Mirror, thresholds: Thresholds | None = None, shadow: Any = None, **action: Any
) -> AsyncIterator[tuple[Proxy, RawOrigin, RawOrigin]]:
    """A proxy, the origin of its requests, that of their copies (which answers `shadow`)."""
    answers = {"x": shadow} if shadow is not None else {}
    settings = {"thresholds": thresholds} if thresholds is not None else {}
    routes = virtual_host(route("/", forward("c", mirrors=mirrors or (Mirror(cluster="m"),), **action)))
    async with raw_origin() as origin, raw_origin(**answers) as other:
        clusters = [cluster("c", origin.port), cluster("m", other.port, **settings)]
        async with http_proxy(tmp_path, routes, clusters) as proxy:
            yield proxy, origin, other
            await other.end()
            await until(lambda: not proxy.runtime.mirrors.copies)
            assert proxy.runtime.mirrors.kept_bytes == 0
            limits = shadowed(proxy).limits[0]
            assert (limits.under_way(PENDING), limits.under_way(REQUESTS)) == (0, 0)


@asynccontextmanager
async def deaf_server() -> AsyncIterator[int]:
    """The port of one that accepts and never reads."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def shadowed(proxy: Proxy) -> UpstreamCluster:
    return proxy.runtime.snapshot.clusters["m"]


@pytest.mark.parametrize(
    ("authority", "config", "expected"),
    [
        (b"a", Mirror(cluster="m"), b"a-shadow"),
        (b"a.example:80", Mirror(cluster="m"), b"a.example-shadow:80"),
        (b"[::1]:80", Mirror(cluster="m"), b"[::1]-shadow:80"),
        (b"[::1]", Mirror(cluster="m"), b"[::1]-shadow"),
        (b"a:80", Mirror(cluster="m", host_suffix=False), b"a:80"),
        (b"a:80", Mirror(cluster="m", host_rewrite="b"), b"b"),
    ],
)
def test_hosts(authority: bytes, config: Mirror, expected: bytes) -> None:
    assert host_of(authority, config) == expected


async def test_a_share_of_requests(tmp_path: Path) -> None:
    mirrors = (Mirror(cluster="m", per_million=500_000), Mirror(cluster="m", per_million=250_000))
    async with mirrored(tmp_path, *mirrors) as (proxy, origin, other):
        proxy.chain.rng = iter((0.49, 0.25, 0.5, 0.24)).__next__
        await proxy.get("/1")
        await proxy.get("/2")
        await until(lambda: len(other.seen) == 2)
        assert sorted(request.split(b" ")[1] for request in other.seen) == [b"/1", b"/2"]
        assert len(origin.seen) == 2


async def test_a_mirror_that_hangs_is_left_when_its_time_is_over(tmp_path: Path) -> None:
    async with mirrored(tmp_path, shadow=HANGS, timeout_s=0.1) as (proxy, _, other):
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 200 ")
        await until(lambda: len(other.seen) == 1)
        await until(lambda: not proxy.runtime.mirrors.copies)
        assert shadowed(proxy).stats.counts[names.RQ_TIMEOUT] == 1
        assert shadowed(proxy).stats.codes == {504: 1}
        [host] = shadowed(proxy).take_host_rows()
        assert host[4] == 1  # errors


async def test_a_copy_has_a_limit_where_the_route_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MAX_WAIT_S", 0.1)
    async with mirrored(tmp_path, shadow=HANGS, timeout_s=0.0) as (proxy, _, other):
        await proxy.get("/x")
        await until(lambda: len(other.seen) == 1)
        await until(lambda: not proxy.runtime.mirrors.copies)
        assert shadowed(proxy).stats.counts[names.RQ_TIMEOUT] == 1


async def test_limits_of_its_cluster_hold(tmp_path: Path) -> None:
    """The copy that finds no room is not sent, and its request does not know."""
    async with mirrored(tmp_path, shadow=HANGS, thresholds=Thresholds(max_requests=1)) as (proxy, origin, other):
        await proxy.get("/x")
        await until(lambda: len(other.seen) == 1)
        await proxy.get("/y")
        await until(lambda: shadowed(proxy).stats.counts[names.RQ_ACTIVE_OVERFLOW] == 1)
        assert (len(origin.seen), len(other.seen)) == (2, 1)
        assert shadowed(proxy).stats.codes == {503: 1}


async def test_no_more_copies_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MAX_COPIES", 1)
    async with mirrored(tmp_path, shadow=HANGS) as (proxy, _, other):
        await proxy.get("/x")
        await until(lambda: len(other.seen) == 1)
        assert (await proxy.get("/y")).startswith(b"HTTP/1.1 200 ")
        assert shadowed(proxy).stats.counts[names.RETRY_OR_SHADOW_ABANDONED] == 1
        assert len(proxy.runtime.mirrors.copies) == 1


async def test_a_mirror_that_takes_no_bytes_is_given_up(tmp_path: Path) -> None:
    """32 MiB go to the origin while its mirror reads nothing; at most 1 MiB is kept for that."""
    async with raw_origin() as origin, deaf_server() as port:
        routes = virtual_host(route("/", forward("c", mirrors=(Mirror(cluster="m"),))))
        clusters = [cluster("c", origin.port), cluster("m", port)]
        async with http_proxy(tmp_path, routes, clusters) as proxy:
            size = 32 * 1024 * 1024
            client = await proxy.client()
            client.writer.write(
                b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
            )
            for _ in range(size // 65536):
                client.writer.write(b"b" * 65536)
                await client.writer.drain()
                assert proxy.runtime.mirrors.kept_bytes <= mirror.MAX_COPY_BYTES
            assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
            assert shadowed(proxy).stats.counts[names.RETRY_OR_SHADOW_ABANDONED] == 1
            assert not proxy.runtime.mirrors.copies
            client.writer.close()


async def test_bodies_of_all_copies_have_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MAX_KEPT_BYTES", 10)
    async with mirrored(tmp_path, thresholds=Thresholds(max_requests=1)) as (proxy, origin, other):
        head = b"POST /y HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 11\r\n\r\n"
        assert (await proxy.say(head + b"hello world")).startswith(b"HTTP/1.1 200 ")
        assert shadowed(proxy).stats.counts[names.RETRY_OR_SHADOW_ABANDONED] == 1
        assert (len(origin.seen), len(other.seen)) == (1, 0)


async def test_a_request_that_is_never_whole_has_no_whole_copy(tmp_path: Path) -> None:
    async with mirrored(tmp_path) as (proxy, _, other):
        client = await proxy.client()
        client.writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo")
        await until(lambda: b"Content-Length: 4" in other.raw)
        client.writer.close()
        await until(lambda: not proxy.runtime.mirrors.copies)
        assert other.seen == []
        assert shadowed(proxy).stats.counts[names.RETRY_OR_SHADOW_ABANDONED] == 1


async def test_a_worker_that_ends_gives_them_up(tmp_path: Path) -> None:
    async with mirrored(tmp_path, shadow=HANGS) as (proxy, _, other):
        await proxy.get("/x")
        await until(lambda: len(other.seen) == 1)
        proxy.runtime.mirrors.end()
        assert not proxy.runtime.mirrors.copies
        assert shadowed(proxy).limits[0].under_way(REQUESTS) == 0


async def test_a_connection_serves_one_copy_after_the_other(tmp_path: Path) -> None:
    async with mirrored(tmp_path) as (proxy, _, other):
        for number in range(3):
            await proxy.get(f"/{number}")
            await until(lambda number=number: len(other.seen) == number + 1 and not proxy.runtime.mirrors.copies)
        assert other.connections == 1
