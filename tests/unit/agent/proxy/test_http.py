"""The life of connections and requests: order, reuse, bodies, back-pressure, switching, draining."""

import asyncio
import re
from pathlib import Path

import pytest

from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher
from agent.model.route import (
    Forward,
    HeaderAction,
    HeaderOps,
    PathKind,
    Redirect,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    WeightedCluster,
)
from agent.router.table import RouteTable
from agent.stats import names
from mesh.tasks import spawn
from tests.support import proxying, strict
from tests.support.proxying import cluster, forward, http_proxy, raw_origin, route, virtual_host

ROUTES = virtual_host(route("/", forward("ok")))
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
WAIT_S = 15.0
UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def field(request: bytes, name: bytes) -> bytes | None:
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        own, _, value = line.partition(b": ")
        if own.lower() == name:
            return value
    return None


# --- order and reuse --------------------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    async with (
        raw_origin(slow=(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow", "keep")) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy,
    ):
        answer = await proxy.say(
            GET % b"/1/slow" + GET % b"/2" + b"GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
    assert [line.split(b" ")[1] for line in answer.splitlines() if line.startswith(b"GET ")] == [b"/2", b"/3"]
    assert answer.index(b"slow") < answer.index(b"GET /2")
    assert origin.connections <= 2  # the next request may begin before the host's connection is free again
    assert len(origin.seen) == 3


@pytest.mark.parametrize(
    "broken",
    [
        b"BAD\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["no request", "no host", "bad chunk"],
)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
async def test_what_is_no_request_waits_for_the_answers_before_it(tmp_path: Path, broken: bytes, apart: bool) -> None:
    async with (
        raw_origin(slow=(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsl", "hang")) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy,
    ):
        client = await proxy.client()
        client.writer.write(GET % b"/1" + GET % b"/2" + (b"" if apart else broken))
        if apart:
            first = await client.until(b"GET /2")
            client.writer.write(GET % b"/slow")
            first += await client.until(b"\r\n\r\nsl")
            client.writer.write(broken)
            await proxying.until(lambda: proxy.chain.counts[names.DOWN_CX_PROTOCOL_ERROR])
            for writer in list(origin.writers):
                writer.write(b"ow")
        else:
            first = b""
        answer = first + await client.rest()
        client.writer.close()
    parts = answer.split(b"HTTP/1.1 ")[1:]
    assert [part[:3] for part in parts] == [b"200"] * (3 if apart else 2) + [b"400"]
    assert b"GET /1" in parts[0]
    assert b"GET /2" in parts[1]
    assert not apart or parts[2].endswith(b"\r\n\r\nslow")


async def test_the_body_of_the_last_request_waits_with_it(tmp_path: Path) -> None:
    async with raw_origin() as origin, http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy:
        answer = await proxy.say(
            GET % b"/1"
            + b"POST /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
        )
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    (last,) = strict.requests(origin.seen[1])  # in one chunk or in two
    assert (last.body, last.whole) == (b"ab", True)


async def test_the_time_of_a_request_begins_when_the_one_before_it_is_answered(tmp_path: Path) -> None:
    """And the idle time of its connection when the last one is."""
    routes = virtual_host(
        route("/1", forward("ok", timeout_s=0.0, idle_timeout_s=0.0)), route("/2", forward("ok", timeout_s=WAIT_S))
    )
    async with (
        raw_origin(hangs=(b"", "hang")) as origin,
        http_proxy(tmp_path, routes, [cluster("ok", origin.port)], idle_timeout_s=WAIT_S) as proxy,
    ):
        client = await proxy.client()
        await proxying.until(lambda: proxy.chain.active == 1)
        early = 10 * WAIT_S
        proxy.chain.clock = lambda: proxy.runtime.clock() - early
        client.writer.write(GET % b"/1/hangs" + GET % b"/2")
        await proxying.until(lambda: len(origin.seen) == 1)
        early = 0.0
        for writer in origin.writers:
            writer.write(proxying.OK % (4, b"slow"))
        origin.released.set()
        assert (await client.until(b"slow")).startswith(b"HTTP/1.1 200")
        assert (await client.until(b"GET /2 HTTP/1.1")).startswith(b"HTTP/1.1 200")
        await proxying.until(lambda: all(connection.exchange is None for connection in proxy.chain._open))
        (connection,) = proxy.chain._open
        assert connection.deadline > proxy.runtime.clock()
        client.writer.close()


async def test_connections_are_reused_on_both_sides(tmp_path: Path) -> None:
    async with raw_origin() as origin, http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy:
        client = await proxy.client()
        for number in range(5):
            client.writer.write(GET % b"/%d" % number)
            assert b"200 OK" in await client.until(b"-01\r\nx-envoy-expected-rq-timeout-ms: 15000\r\n\r\n")
        client.writer.close()
        await proxying.until(lambda: proxy.chain.active == 0)
    assert (origin.connections, len(origin.seen)) == (1, 5)


@pytest.mark.parametrize("rest", [b"", b"\r\nevil"], ids=["whole", "in two parts"])
async def test_an_answer_that_nobody_asked_for_reaches_nobody(tmp_path: Path, rest: bytes) -> None:
    """What stands behind an answer must not become the answer to the next client's request."""
    stray = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n" + (b"" if rest else b"\r\nevil")
    async with (
        raw_origin(split=(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" + stray, "hang")) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy,
    ):
        assert (await proxy.get("/split")).endswith(b"\r\n\r\nok")
        (writer,) = origin.writers
        second = spawn("second", proxy.get("/2"))
        await proxying.until(lambda: origin.connections == 2 or second.done())
        writer.write(rest)
        answer = await second
    assert b"GET /2" in answer
    assert b"evil" not in answer


async def test_a_reused_connection_that_the_host_has_closed_is_no_failure(tmp_path: Path) -> None:
    """The race of keep-alive: an idempotent request is sent again at once, and nobody sees it."""
    async with (
        raw_origin(once=(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "keep"), cut=(b"", "close")) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy,
    ):
        assert b"200 OK" in await proxy.get("/once")
        await proxy.get("/cut")
        assert [line["attempts"] for line in await proxy.logged(2)] == [1, 1]
    assert [request.split(b" ")[1] for request in origin.seen] == [b"/once", b"/cut", b"/cut"]


async def test_the_last_request_of_a_connection(tmp_path: Path) -> None:
    async with (
        raw_origin() as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)], max_requests_per_connection=2) as proxy,
    ):
        answer = await proxy.say(GET % b"/1" + GET % b"/2" + GET % b"/3")
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"connection: close") == 1


@pytest.mark.parametrize(("fields", "closes"), [(b"", True), (b"Connection: keep-alive\r\n", False)])
async def test_http_1_0(tmp_path: Path, fields: bytes, closes: bool) -> None:
    """Served; its body ends with the connection when its length is not known; the host gets HTTP/1.1 with a Host."""
    async with (
        raw_origin(
            eof=(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "keep")
        ) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy,
    ):
        client = await proxy.client()
        client.writer.write(b"GET /x HTTP/1.0\r\n" + fields + b"\r\n")
        head = await client.until(b"\r\n\r\n")
        assert (b"connection: close" if closes else b"connection: keep-alive") in head
        client.writer.close()
        ended = await proxy.say(b"GET /eof HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        lines = await proxy.logged(2)
    assert origin.seen[0].startswith(b"GET /x HTTP/1.1\r\n")
    assert field(origin.seen[0], b"host") == b"127.0.0.1:15001"
    assert ended.endswith(b"\r\n\r\nabc")
    assert b"transfer-encoding" not in ended
    assert {line["protocol"] for line in lines} == {"HTTP/1.0"}


async def test_draining_ends_every_connection_with_an_answer(tmp_path: Path) -> None:
    """So that no request is lost; those for which none comes are closed at the end."""
    async with (
        raw_origin(hang=(b"", "hang")) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy,
    ):
        idle, silent, busy = await proxy.client(), await proxy.client(), await proxy.client()
        busy.writer.write(GET % b"/hang")
        await proxying.until(lambda: len(origin.seen) == 1 and proxy.chain.active == 3)
        proxy.chain.drain()
        idle.writer.write(GET % b"/x")
        late = await proxy.say(GET % b"/x")
        assert b"connection: close" in late
        assert b"connection: close" in await idle.rest()
        assert proxy.chain.active == 2
        proxy.chain.close_idle()
        assert await silent.rest() == b""
        origin.released.set()
        assert b"connection: close" in await busy.rest()
        await proxying.until(lambda: proxy.chain.active == 0)
        for client in (idle, silent, busy):
            client.writer.close()


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_a_chunked_body_arrives_whole(tmp_path: Path, step: int) -> None:
    body = b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\nX-Trailer: 1\r\n\r\n"
    raw = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    async with raw_origin() as origin, http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy:
        client = await proxy.client()
        for start in range(0, len(raw), step):
            client.writer.write(raw[start : start + step])
            await client.writer.drain()
        await client.rest()
        client.writer.close()
        (line,) = await proxy.logged(1)
    sent = origin.seen[0].partition(b"\r\n\r\n")[2]
    assert b"".join(re.findall(rb"[0-9a-f]+\r\n([a-z, ]+)\r\n", sent)) == b"hello, world"
    assert sent.endswith(b"0\r\n\r\n")
    assert field(origin.seen[0], b"x-trailer") is None
    assert line["received"] == 12


async def test_expect_continue_is_answered_here(tmp_path: Path) -> None:
    async with raw_origin() as origin, http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy:
        client = await proxy.client()
        client.writer.write(
            b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(b"ab")
        assert b"200 OK" in await client.rest()
        client.writer.close()
    assert field(origin.seen[0], b"expect") is None
    assert origin.seen[0].endswith(b"\r\n\r\nab")


async def test_head_has_a_length_and_no_body(tmp_path: Path) -> None:
    async with (
        raw_origin(head=(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", "keep")) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy,
    ):
        answer = await proxy.say(
            b"HEAD /head HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
    assert b"content-length: 1234" in answer
    assert answer.count(b"HTTP/1.1 200 OK") == 2


async def test_a_retried_request_carries_its_whole_body_again(tmp_path: Path) -> None:
    retry = RetryPolicy(retry_on=frozenset({"5xx"}), num_retries=2, back_off_base_s=0.001, back_off_max_s=0.001)
    routes = virtual_host(route("/", forward("ok", retry=retry)), include_attempt_count=True)
    async with (
        raw_origin(fail=(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n", "keep")) as origin,
        http_proxy(tmp_path, routes, [cluster("ok", origin.port)]) as proxy,
    ):
        await proxy.say(b"POST /fail HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
        (line,) = await proxy.logged(1)
    assert [request[-9:] for request in origin.seen] == [b"\r\n\r\nhello"] * 3
    assert [field(request, b"x-envoy-attempt-count") for request in origin.seen] == [b"1", b"2", b"3"]
    assert len({field(request, b"x-request-id") for request in origin.seen}) == 1
    assert (line["attempts"], line["flags"]) == (3, "URX")


async def test_retries_only_for_requests_that_are_meant(tmp_path: Path) -> None:
    retry = RetryPolicy(
        retry_on=frozenset({"5xx"}),
        back_off_base_s=0.001,
        back_off_max_s=0.001,
        retriable_request_headers=(
            HeaderMatcher(name=":method", matcher=StringMatcher(kind=MatchKind.EXACT, value="GET")),
        ),
    )
    routes = virtual_host(route("/", forward("ok", retry=retry)))
    async with (
        raw_origin(fail=(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n", "keep")) as origin,
        http_proxy(tmp_path, routes, [cluster("ok", origin.port)]) as proxy,
    ):
        await proxy.get("/fail")
        await proxy.say(b"POST /fail HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert [request.split(b" ")[0] for request in origin.seen] == [b"GET", b"GET", b"POST"]


async def test_a_slow_client_never_makes_the_proxy_hold_a_large_answer(tmp_path: Path) -> None:
    """Back-pressure: the host is read only as fast as the client reads."""
    total = 64 * 1024 * 1024
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        try:
            while sent < total:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with http_proxy(tmp_path, ROUTES, [cluster("ok", port)]) as proxy:
        client = await proxy.client()
        client.writer.write(GET % b"/")
        await client.until(b"\r\n\r\n")
        await proxying.until_still(lambda: sent)
        assert sent < total // 2
        client.writer.close()
        await proxying.until(lambda: proxy.chain.active == 0)
    server.close()


async def test_a_slow_host_never_makes_the_proxy_hold_a_large_request(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    async with http_proxy(tmp_path, ROUTES, [cluster("ok", port)]) as proxy:
        client = await proxy.client()
        total, taken = 64 * 1024 * 1024, 0
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)

        async def send() -> None:
            nonlocal taken
            while taken < total:
                client.writer.write(b"x" * 65536)
                await client.writer.drain()
                taken += 65536

        sending = asyncio.ensure_future(send())
        await proxying.until_still(lambda: taken)
        assert taken < total // 2
        assert proxy.chain.counts[names.DOWN_PAUSED_READING] >= 1
        sending.cancel()
        release.set()
        client.writer.transport.abort()
        await proxying.until(lambda: proxy.chain.active == 0)
    server.close()


# --- switching --------------------------------------------------------------------------------------------------------

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def test_a_websocket_is_passed_through_both_ways(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert field(head, b"upgrade") == b"websocket"
        assert field(head, b"connection") == b"Upgrade"
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nHELLO")
        while data := await reader.read(100):
            writer.write(b"E:" + data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with http_proxy(tmp_path, ROUTES, [cluster("ok", port)], upgrades=frozenset({"websocket"})) as proxy:
        client = await proxy.client()
        client.writer.write(UPGRADE + b"early")
        head = await client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"x-envoy-upstream-service-time" not in head
        assert b"connection: upgrade" in head.lower()
        assert await client.until(b"early") == b"HELLOE:early"
        client.writer.write(b"abc")
        assert await client.until(b"abc") == b"E:abc"
        client.writer.write_eof()
        assert await client.rest() == b""
        client.writer.close()
        (line,) = await proxy.logged(1)
    assert line["code"] == 101
    server.close()


async def test_bytes_behind_an_upgrade_that_waits_are_of_no_other_request(tmp_path: Path) -> None:
    """The request before it has no connection yet: with its head they would go up as a request of their own."""
    async with raw_origin() as origin, http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy:
        answer = await proxy.say(GET % b"/1" + UPGRADE + GET % b"/smuggled")
        lines = await proxy.logged(2)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:] if part[:1].isdigit()] == [b"200", b"403"]
    assert [request.split(b" ")[1] for request in origin.seen] == [b"/1"]
    assert b"smuggled" not in origin.raw
    assert [(line["path"], line["received"]) for line in lines] == [("/1", 0), ("/ws", 0)]


async def test_bytes_behind_an_upgrade_that_waited_reach_the_host_that_switches(tmp_path: Path) -> None:
    async with (
        raw_origin(
            ws=(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "hang")
        ) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)], upgrades=frozenset({"websocket"})) as proxy,
    ):
        client = await proxy.client()
        client.writer.write(GET % b"/1" + UPGRADE + b"early")
        assert b"HTTP/1.1 200" in await client.until(b"HTTP/1.1 101")
        await proxying.until(lambda: proxy.chain.counts[names.DOWN_CX_RX_BYTES] > 0)
        client.writer.write(b", late")
        await proxying.until(lambda: proxy.chain.counts[names.DOWN_CX_RX_BYTES] == len(GET % b"/1" + UPGRADE) + 11)
        client.writer.close()
        origin.released.set()
        lines = await proxy.logged(2)
    assert [(line["path"], line["received"]) for line in lines] == [("/1", 0), ("/ws", 11)]


async def test_a_host_that_does_not_switch(tmp_path: Path) -> None:
    async with (
        raw_origin() as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)], upgrades=frozenset({"websocket"})) as proxy,
    ):
        answer = await proxy.say(UPGRADE)
        (line,) = await proxy.logged(1)
    assert sorted(proxying.masked(answer)) == sorted(
        [b"HTTP/1.1 200 OK", b"content-length: 0", b"server: envoy", b"connection: close", b""]
    )
    assert line["details"] == "websocket_handshake_unsuccessful"


# --- what routes do to heads ------------------------------------------------------------------------------------------


def _add(name: str, value: str, action: HeaderAction = HeaderAction.APPEND) -> HeaderOps:
    return HeaderOps(add=((name, value, action),))


def _levels(reverse: bool) -> RouteConfiguration:
    action = Forward(
        clusters=(
            WeightedCluster(
                cluster="ok",
                weight=1,
                request_headers=_add("x-order", "cluster"),
                response_headers=_add("x-rorder", "cluster"),
                host_rewrite="cluster.host",
            ),
        ),
        total_weight=1,
        prefix_rewrite="/new",
        host_rewrite="route.host",
        append_x_forwarded_host=True,
    )
    own = HeaderOps(
        add=(
            ("x-order", "route %REQ(:PATH)%", HeaderAction.APPEND),
            ("x-empty", "%REQ(X-NONE)%", HeaderAction.APPEND),
            ("x-set", "r", HeaderAction.OVERWRITE),
        ),
        remove=("x-rm", "x-set"),
    )
    removes = HeaderOps(add=_add("x-rorder", "route").add, remove=("x-envoy-upstream-service-time", "x-gone"))
    routes = (
        Route(
            name="w",
            match=RouteMatch(path_kind=PathKind.PREFIX, path="/w"),
            action=action,
            request_headers=own,
            response_headers=removes,
        ),
        route("/empty", forward("empty"), response_headers=_add("x-rorder", "route")),
        route("/redir", Redirect(https=True, prefix_rewrite="/to"), response_headers=_add("x-rorder", "route")),
    )
    host = virtual_host(
        *routes,
        request_headers=_add("x-order", "vhost"),
        response_headers=HeaderOps(
            add=(
                ("x-rorder", "vhost", HeaderAction.APPEND),
                ("server", "mine", HeaderAction.OVERWRITE),
                ("date", "never", HeaderAction.OVERWRITE),
            )
        ),
        include_attempt_count=True,
        include_attempt_count_in_response=True,
    )
    return RouteConfiguration(
        name="r",
        virtual_hosts=(host,),
        request_headers=_add("x-order", "config"),
        response_headers=_add("x-rorder", "config"),
        most_specific_header_mutations_wins=reverse,
    )


def orders(text: bytes, name: bytes) -> list[bytes]:
    return [line.partition(b": ")[2] for line in text.split(b"\r\n") if line.startswith(name + b": ")]


@pytest.mark.parametrize("reverse", [False, True])
async def test_operations_of_all_levels(tmp_path: Path, reverse: bool) -> None:
    """As Envoy 1.40 did with the same configuration."""
    expected = [b"cluster", b"route /w1?q", b"vhost", b"config"]
    async with (
        raw_origin() as origin,
        http_proxy(tmp_path, _levels(reverse), [cluster("ok", origin.port), cluster("empty")]) as proxy,
    ):
        answer = await proxy.get("/w1?q", b"x-rm: 1\r\nx-set: c\r\nx-envoy-attempt-count: 9\r\n")
    (request,) = origin.seen
    assert request.startswith(b"GET /new1?q HTTP/1.1\r\n")
    assert orders(request, b"x-order") == (expected[:1] + expected[:0:-1] if reverse else expected)
    assert orders(request, b"x-set") == [b"r"]
    assert field(request, b"x-rm") is None
    assert field(request, b"x-empty") is None
    assert field(request, b"host") == b"route.host"
    assert field(request, b"x-envoy-original-host") == field(request, b"x-forwarded-host") == b"cluster.host"
    assert field(request, b"x-envoy-original-path") == b"/w1?q"
    assert field(request, b"x-envoy-attempt-count") == b"1"
    head = answer.partition(b"\r\n\r\n")[0]
    own = [b"cluster", b"route", b"vhost", b"config"]
    assert orders(head, b"x-rorder") == (own[:1] + own[:0:-1] if reverse else own)
    assert orders(head, b"server") == [b"envoy"]
    assert orders(head, b"date") == [b"never"]
    assert orders(head, b"x-envoy-attempt-count") == [b"1"]
    assert orders(head, b"x-envoy-upstream-service-time") == []


async def test_operations_on_our_own_answers(tmp_path: Path) -> None:
    async with http_proxy(tmp_path, _levels(False), [cluster("empty")]) as proxy:
        empty, redirect, nowhere = await proxy.get("/empty"), await proxy.get("/redir/x?y"), await proxy.get("/none")
    assert orders(empty, b"x-rorder") == orders(redirect, b"x-rorder") == [b"route", b"vhost", b"config"]
    assert orders(empty, b"x-envoy-attempt-count") == [b"1"]
    assert orders(redirect, b"x-envoy-attempt-count") == []
    assert orders(redirect, b"location") == [b"https://a/to/x?y"]
    assert orders(nowhere, b"x-rorder") == []


async def test_an_operation_that_cannot_be_used_does_nothing(tmp_path: Path) -> None:
    routes = virtual_host(route("/", forward("ok"), request_headers=_add("x-a", "%NOBODY%")))
    async with raw_origin() as origin, http_proxy(tmp_path, routes, [cluster("ok", origin.port)]) as proxy:
        assert b"200 OK" in await proxy.get("/")
    assert field(origin.seen[0], b"x-a") is None


async def test_what_the_host_is_told_of_time(tmp_path: Path) -> None:
    retry = RetryPolicy(retry_on=frozenset({"5xx"}), per_try_timeout_s=2.0)
    routes = virtual_host(
        route("/limited", forward("ok", timeout_s=3.0)),
        route("/tries", forward("ok", timeout_s=3.0, retry=retry)),
        route("/free", forward("ok", timeout_s=0.0)),
    )
    async with raw_origin() as origin, http_proxy(tmp_path, routes, [cluster("ok", origin.port)]) as proxy:
        for path in ("/limited", "/tries", "/free"):
            await proxy.get(path, b"x-envoy-expected-rq-timeout-ms: 7\r\n")
    told = [field(request, b"x-envoy-expected-rq-timeout-ms") for request in origin.seen]
    assert told == [b"3000", b"2000", None]


async def test_fields_for_the_inside_are_dropped(tmp_path: Path) -> None:
    config = RouteConfiguration(name="r", virtual_hosts=(ROUTES,), internal_only_headers=("X-Inside",))
    async with raw_origin() as origin, http_proxy(tmp_path, config, [cluster("ok", origin.port)]) as proxy:
        await proxy.get("/", b"x-inside: 1\r\nx-outside: 1\r\n")
    assert field(origin.seen[0], b"x-inside") is None
    assert field(origin.seen[0], b"x-outside") == b"1"


async def test_the_server_and_the_request_id_are_told_as_configured(tmp_path: Path) -> None:
    async with (
        raw_origin(own=(b"HTTP/1.1 200 OK\r\nServer: origin\r\ncontent-length: 0\r\n\r\n", "keep")) as origin,
        http_proxy(
            tmp_path,
            ROUTES,
            [cluster("ok", origin.port)],
            server_header_pass_through=True,
            always_set_request_id_in_response=True,
        ) as proxy,
    ):
        answer = await proxy.get("/own")
        local = await proxy.get("/own%00")
    assert field(answer, b"server") == b"origin"
    assert field(local, b"server") is None
    assert field(answer, b"x-request-id") == field(origin.seen[0], b"x-request-id")
    assert UUID.fullmatch(field(answer, b"x-request-id") or b"")


async def test_a_request_keeps_the_configuration_that_it_began_with(tmp_path: Path) -> None:
    """A swap of the routes reaches the next request, not the one under way."""
    async with (
        raw_origin(hang=(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "hang")) as origin,
        http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy,
    ):
        client = await proxy.client()
        client.writer.write(GET % b"/hang")
        await proxying.until(lambda: len(origin.seen) == 1)
        proxy.runtime.snapshot.routes["r"] = RouteTable(RouteConfiguration(name="r"))
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 404")
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        client.writer.close()
        origin.released.set()
        await proxy.logged(2)
