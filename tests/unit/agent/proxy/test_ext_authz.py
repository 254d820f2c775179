"""A service that decides, which is not ours (aiohttp), hangs, or lies: requests wait, and never pass by mistake."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from agent.model.ext_authz import ExternalAuthorization
from agent.model.http_filters import HttpFilter
from agent.model.matchers import MatchKind, StringMatcher
from agent.proxy.ext_authz_http import MAX_ANSWER_BYTES
from agent.stats import names
from agent.stats.names import ext_authz_group
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


def name(text: str) -> StringMatcher:
    return StringMatcher(kind=MatchKind.EXACT, value=text)


CONFIG = ExternalAuthorization(
    cluster="authz", timeout_s=5.0, request_headers=(name("x-ticket"),), to_upstream=(name("x-user"),)
)


class Decider:
    """Lets in who has a ticket. `waiting`: questions that it has not answered; `asked`: their headers."""

    def __init__(self) -> None:
        self.port = 0
        self.waiting = 0
        self.asked: list[dict[str, str]] = []
        self.go_on = asyncio.Event()

    async def decide(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({key.lower(): value for key, value in request.headers.items()})
        if request.path == "/wait":
            self.waiting += 1
            try:
                await self.go_on.wait()
            finally:
                self.waiting -= 1
        if request.headers.get("x-ticket") == "good":
            return web.Response(headers={"x-user": "told"})
        return web.Response(status=403, text="no ticket")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Decider"]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.decide)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.go_on.set()
            await runner.cleanup()


@asynccontextmanager
async def guarded(
    tmp_path: Path, port: int, config: ExternalAuthorization = CONFIG, **settings: Any
) -> AsyncIterator[tuple[Proxy, RawOrigin]]:
    """A proxy that asks the service at this port; 0 = nobody is there. `settings`: the route's."""
    filters = (HttpFilter(name="authz", config=config),)
    services = (port,) if port else ()
    async with (
        raw_origin() as origin,
        http_proxy(
            tmp_path,
            virtual_host(route("/", forward("c", **settings))),
            [cluster("c", origin.port), cluster("authz", *services)],
            filters=filters,
        ) as proxy,
    ):
        yield proxy, origin


def counted(proxy: Proxy) -> list[int]:
    return proxy.runtime.stats.get("http.s.ext_authz.", lambda: ext_authz_group("http.s.ext_authz.")).counts


async def test_it_decides(tmp_path: Path) -> None:
    async with Decider().running() as decider, guarded(tmp_path, decider.port) as (proxy, origin):
        refused = await proxy.get("/p", b"x-user: spoofed\r\n")
        assert refused.startswith(b"HTTP/1.1 403 ")
        assert refused.endswith(b"no ticket")
        assert origin.seen == []
        assert b" 200 " in await proxy.get("/p", b"X-Ticket: good\r\nx-user: spoofed\r\ncookie: secret\r\n")
        assert b"x-user: told" in origin.seen[0]
        assert b"spoofed" not in origin.seen[0]
        assert "cookie" not in decider.asked[-1]
        assert "x-user" not in decider.asked[-1]
        assert (counted(proxy)[names.EXT_OK], counted(proxy)[names.EXT_DENIED]) == (1, 1)


async def test_one_that_hangs_holds_up_its_own_requests_only(tmp_path: Path) -> None:
    """Within its time; then it is an error."""
    config = replace(CONFIG, timeout_s=0.05, status_on_error=503)
    async with Decider().running() as decider, guarded(tmp_path, decider.port, config) as (proxy, origin):
        waiting = asyncio.ensure_future(proxy.get("/wait", b"X-Ticket: good\r\n"))
        await until(lambda: decider.waiting == 1)
        assert b" 200 " in await proxy.get("/p", b"X-Ticket: good\r\n")
        assert b"HTTP/1.1 503 " in await waiting
        assert counted(proxy)[names.EXT_ERROR] == 1
        assert len(origin.seen) == 1
        await until(lambda: decider.waiting == 0)


async def test_the_limits_of_the_route_hold_while_it_waits(tmp_path: Path) -> None:
    for limit, details in (
        ({"max_stream_duration_s": 0.05}, "max_duration_timeout"),
        ({"idle_timeout_s": 0.05}, "stream_idle_timeout"),
    ):
        path = tmp_path / details
        path.mkdir()
        async with Decider().running() as decider, guarded(path, decider.port, **limit) as (proxy, origin):
            assert b"HTTP/1.1 504 " in await proxy.get("/wait", b"X-Ticket: good\r\n")
            assert (await proxy.logged(1))[0]["details"] == details
            assert origin.seen == []


async def test_where_failing_is_open_it_lets_in(tmp_path: Path) -> None:
    async with guarded(tmp_path, 1, replace(CONFIG, fail_open=True)) as (proxy, origin):
        assert b" 200 " in await proxy.get("/p")
        assert len(origin.seen) == 1
        assert counted(proxy)[names.EXT_FAILURE_ALLOWED] == 1


async def test_a_client_that_leaves_takes_its_question_along(tmp_path: Path) -> None:
    async with Decider().running() as decider, guarded(tmp_path, decider.port) as (proxy, origin):
        client = await proxy.client()
        client.writer.write(b"GET /wait HTTP/1.1\r\nHost: a\r\nX-Ticket: good\r\n\r\n")
        await until(lambda: decider.waiting == 1)
        client.writer.close()
        await until(lambda: decider.waiting == 0)
        assert origin.seen == []


async def test_a_body_waits_for_the_answer(tmp_path: Path) -> None:
    async with Decider().running() as decider, guarded(tmp_path, decider.port) as (proxy, origin):
        client = await proxy.client()
        client.writer.write(b"POST /wait HTTP/1.1\r\nHost: a\r\nX-Ticket: good\r\nContent-Length: 8\r\n\r\nhalf")
        await until(lambda: decider.waiting == 1)
        client.writer.write(b"rest")
        decider.go_on.set()
        await until(lambda: len(origin.seen) == 1)
        assert origin.seen[0].endswith(b"\r\n\r\nhalfrest")
        client.writer.close()


def service(proxy: Proxy) -> UpstreamCluster:
    return proxy.runtime.snapshot.clusters["authz"]


async def test_a_service_is_to_blame_only_while_it_says_nothing(tmp_path: Path) -> None:
    config = replace(CONFIG, timeout_s=0.05)
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
    for said, then, blamed, late in (
        (b"", "close", 1, 0),
        (b"", "hang", 1, 1),
        (begun, "close", 0, 0),
        (begun, "hang", 0, 1),
    ):
        async with raw_origin(p=(said, then)) as asked, guarded(tmp_path, asked.port, config) as (proxy, _):
            assert b"HTTP/1.1 403 " in await proxy.get("/p")
            (host,) = service(proxy).take_host_rows()
            assert host[4] == blamed, (said, then)  # errors
            assert service(proxy).stats.counts[names.RQ_TIMEOUT] == late


async def test_a_service_without_hosts_is_counted(tmp_path: Path) -> None:
    async with guarded(tmp_path, 0) as (proxy, _):
        assert b"HTTP/1.1 403 " in await proxy.get("/p")
        assert service(proxy).stats.counts[names.CX_NONE_HEALTHY] == 1


class Liar:
    """Says whatever it likes."""

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.said)
            await writer.drain()
        writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Liar"]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


async def test_lies_never_let_in(tmp_path: Path) -> None:
    """An endless answer, half an answer, two answers at once, a switch of protocols that nobody has asked for."""
    for said in (
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 1),
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"200 OK\r\n\r\n",
    ):
        async with Liar(said).running() as liar, guarded(tmp_path, liar.port) as (proxy, origin):
            assert b"HTTP/1.1 403 " in await proxy.get("/p"), said[:60]
            assert origin.seen == []
