"""Bytes through the TCP proxy: both ways, ends of stream, limits, what the log says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.model.cluster import Thresholds
from agent.stats import names
from tests.support import proxying
from tests.support.proxying import cluster, tcp_proxy

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def origin(serve: Serve) -> AsyncIterator[int]:
    """A TCP server; the port."""
    ended: list[asyncio.StreamWriter] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(writer)
        try:
            await serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in ended:
            writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_bytes_both_ways_and_half_close(tmp_path: Path) -> None:
    """The client ends its stream; what the host says after that still comes."""

    async def reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        await writer.drain()

    async with origin(reverse) as port, tcp_proxy(tmp_path, "c", [cluster("c", port)]) as proxy:
        client = await proxy.client()
        client.writer.write(b"hello ")
        client.writer.write(b"world")
        client.writer.write_eof()
        assert await client.rest() == b"dlrow olleh"
        client.writer.close()
        (line,) = await proxy.logged(1)
    assert (line["code"], line["flags"], line["protocol"], line["method"]) == (0, "-", None, None)
    assert (line["received"], line["sent"], line["attempts"]) == (11, 11, 1)
    assert (line["cluster"], line["host"]) == ("c", f"127.0.0.1:{port}")
    assert line["local"].startswith("127.0.0.1:")


async def test_the_host_may_speak_first_and_end_first(tmp_path: Path) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        writer.write_eof()
        heard.set_result(await reader.read())

    async with origin(greet) as port, tcp_proxy(tmp_path, "c", [cluster("c", port)]) as proxy:
        client = await proxy.client()
        assert await client.rest() == b"220 hello\r\n"
        client.writer.write(b"still here")
        client.writer.close()
        async with asyncio.timeout(proxying.WAIT_S):
            assert await heard == b"still here"


async def test_large_transfers_arrive_whole(tmp_path: Path) -> None:
    total = 8 * 1024 * 1024
    async with origin(echo) as port, tcp_proxy(tmp_path, "c", [cluster("c", port)]) as proxy:
        client = await proxy.client()

        async def send() -> None:
            for start in range(0, total, 65536):
                client.writer.write(bytes([start // 65536 % 251]) * 65536)
                await client.writer.drain()
            client.writer.write_eof()

        sending = asyncio.ensure_future(send())
        got = await client.rest()
        await sending
        client.writer.close()
        await proxying.until(lambda: proxy.chain.active == 0)
        counts = proxy.chain.counts
    assert len(got) == total
    assert all(got[start] == start // 65536 % 251 for start in range(0, total, 65536))
    assert counts[names.TCP_RX_BYTES] == counts[names.TCP_TX_BYTES] == total


async def test_each_side_is_read_only_as_fast_as_the_other_takes(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await release.wait()

    async with origin(deaf) as port, tcp_proxy(tmp_path, "c", [cluster("c", port)]) as proxy:
        client = await proxy.client()
        total, taken = 64 * 1024 * 1024, 0

        async def send() -> None:
            nonlocal taken
            while taken < total:
                client.writer.write(b"x" * 65536)
                await client.writer.drain()
                taken += 65536

        sending = asyncio.ensure_future(send())
        await proxying.until_still(lambda: taken)
        assert taken < total // 2
        assert proxy.chain.counts[names.TCP_PAUSED_READING] >= 2
        sending.cancel()
        client.writer.transport.abort()
        release.set()
        await proxying.until(lambda: proxy.chain.active == 0)


async def test_no_cluster_no_host_no_connection_no_room(tmp_path: Path) -> None:
    """Flags as Envoy 1.40 logs them."""
    expected = {"none": "NC", "empty": "UH", "refused": "UF,URX", "full": "UO"}
    clusters = [cluster("empty"), cluster("refused", 1), cluster("full", 1, thresholds=Thresholds(max_connections=0))]
    seen: dict[str, str] = {}
    for name in expected:
        folder = tmp_path / name
        folder.mkdir()
        async with tcp_proxy(folder, name, clusters) as proxy:
            assert await proxy.say(b"x") == b""
            (line,) = await proxy.logged(1)
            seen[name] = line["flags"]
            if name == "none":
                assert proxy.chain.counts[names.TCP_NO_ROUTE] == 1
            if name == "refused":
                assert line["failure"] == "delayed_connect_error:_Connection_refused"
                counts = proxy.runtime.snapshot.clusters["refused"].stats.counts
                assert (counts[names.CX_CONNECT_FAIL], counts[names.CX_ACTIVE]) == (1, 0)
    assert seen == expected


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async with origin(echo) as port, tcp_proxy(tmp_path, "c", [cluster("c", port)], idle_timeout_s=0.05) as proxy:
        assert await proxy.say(b"x") == b"x"
        await proxy.logged(1)
        assert proxy.chain.counts[names.TCP_IDLE_TIMEOUT] == 1


async def test_limits_and_gauges_are_given_back(tmp_path: Path) -> None:
    settings = {"thresholds": Thresholds(max_connections=1)}
    async with origin(echo) as port, tcp_proxy(tmp_path, "c", [cluster("c", port, **settings)]) as proxy:
        first = await proxy.client()
        first.writer.write(b"a")
        assert await first.until(b"a") == b"a"
        assert await proxy.say(b"b") == b""
        first.writer.close()
        await proxying.until(lambda: proxy.chain.active == 0)
        third = await proxy.client()
        third.writer.write(b"c")
        assert await third.until(b"c") == b"c"
        third.writer.close()
        await proxying.until(lambda: proxy.chain.active == 0)
        stats = proxy.runtime.snapshot.clusters["c"].stats
        assert [line["flags"] for line in await proxy.logged(3)] == ["UO", "-", "-"]
    assert (stats.counts[names.CX_TOTAL], stats.counts[names.CX_ACTIVE], stats.counts[names.CX_OVERFLOW]) == (2, 0, 1)
    assert proxy.listener_stats.counts[names.LISTENER_CX_ACTIVE] == 0


async def test_a_client_that_leaves_while_the_host_is_connected(tmp_path: Path) -> None:
    """TEST-NET-1 never answers: the connection is given up with the client."""
    config, assignment = cluster("c", 1)
    unreachable = type(assignment)(cluster="c", endpoints=(type(assignment.endpoints[0])(address="192.0.2.1", port=1),))
    async with tcp_proxy(tmp_path, "c", [(config, unreachable)]) as proxy:
        client = await proxy.client()
        await proxying.until(lambda: proxy.chain.active == 1)
        client.writer.transport.abort()
        proxy.chain.abort()
        (line,) = await proxy.logged(1)
        limits = proxy.runtime.snapshot.clusters["c"].limits[0]
        assert limits.admit(0)
    assert line["flags"] in ("DC", "UF,URX")  # some networks refuse it at once


async def test_a_reset_of_one_side_resets_the_other(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(2)
        except (ConnectionError, asyncio.IncompleteReadError):
            gone.set()

    async with origin(wait) as port, tcp_proxy(tmp_path, "c", [cluster("c", port)]) as proxy:
        client = await proxy.client()
        client.writer.write(b"a")
        await proxying.until(lambda: proxy.chain.counts[names.TCP_RX_BYTES] == 1)
        proxying.reset(client.writer)
        async with asyncio.timeout(proxying.WAIT_S):
            await gone.wait()
        await proxy.logged(1)


async def test_each_connection_chooses_by_weight(tmp_path: Path) -> None:
    """One of weight 0 is never chosen; the others share as their weights say."""

    def telling(name: bytes) -> Serve:
        async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(name)
            writer.write_eof()
            await reader.read()

        return tell

    async with origin(telling(b"a")) as a, origin(telling(b"b")) as b, origin(telling(b"c")) as c:
        clusters = [cluster("a", a), cluster("b", b), cluster("c", c)]
        weighted = (("a", 1), ("c", 0), ("b", 3))
        async with tcp_proxy(tmp_path, "", clusters, weighted=weighted) as proxy:
            points = iter([0.0, 0.24, 0.25, 0.9999])
            proxy.chain.runtime.rng = lambda: next(points)
            heard = []
            for _ in range(4):
                client = await proxy.client()
                heard.append(await client.rest())
                client.writer.close()
    assert heard == [b"a", b"a", b"b", b"b"]
