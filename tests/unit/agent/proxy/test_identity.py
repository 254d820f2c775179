"""Mutual TLS on both sides of the chains: who the host is told the caller is, and who may be a host."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.listener.acceptor import Acceptor
from agent.model.listener import Direction, FilterChain, HttpConnectionManager, Listener, TcpProxy
from agent.model.route import RouteConfiguration
from agent.model.tls import DownstreamTls, KeyPair, UpstreamTls
from agent.proxy.chain import HttpChain
from agent.proxy.runtime import Runtime
from agent.proxy.tcp_proxy import TcpChain
from agent.router.table import RouteTable
from agent.stats import names
from agent.stats.names import listener_group
from tests.support import proxying
from tests.support.identities import TestAuthority
from tests.support.proxying import LOG, Proxy, a_runtime, cluster, forward, raw_origin, route, virtual_host

CALLER = "spiffe://cluster.local/ns/default/sa/caller"
SERVER = "spiffe://cluster.local/ns/default/sa/server"
AUTHORITY = TestAuthority()
PAIRS = {name: AUTHORITY.issue(name) for name in (CALLER, SERVER)}


def bind() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@asynccontextmanager
async def inbound(runtime: Runtime, network: HttpConnectionManager | TcpProxy) -> AsyncIterator[Proxy]:
    """A chain behind the real acceptor, with the server's certificate."""
    runtime.tls.replace((PAIRS[SERVER],), AUTHORITY.trust_pem)
    config = FilterChain(name="c", tls=DownstreamTls(identity=SERVER), network=network)
    listener = Listener(name="l", address="127.0.0.1", port=0, direction=Direction.INBOUND, filter_chains=(config,))
    stats = listener_group("127.0.0.1", 0)
    kind = HttpChain if isinstance(network, HttpConnectionManager) else TcpChain
    chain: Any = kind(runtime, listener, config, stats)
    sock = bind()
    acceptor = Acceptor(sock, "l", lambda: (chain,), runtime.tls, runtime.wheel, stats)
    try:
        yield Proxy(chain, runtime, stats, runtime._log_path, sock.getsockname()[1])
    finally:
        acceptor.stop()
        chain.abort()
        await proxying.until(lambda: chain.active == 0 and acceptor.pending == 0)
        runtime.wheel.close()
        runtime.close_logs()


def client_context(tmp_path: Path, pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=AUTHORITY.trust_pem.decode())
    file = tmp_path / "pair.pem"
    file.write_bytes(pair.key_pem + pair.chain_pem)
    context.load_cert_chain(file)
    return context


async def test_the_host_is_told_who_the_caller_is(tmp_path: Path) -> None:
    """By, Hash, Subject and URI, appended to what earlier proxies of the mesh have said."""
    async with raw_origin() as origin:
        runtime = a_runtime(tmp_path / "access.log", [cluster("app", origin.port)])
        table = RouteTable(RouteConfiguration(name="r", virtual_hosts=(virtual_host(route("/", forward("app"))),)))
        runtime.snapshot.routes["r"] = table
        fields = (*LOG.json_fields, ("peer", "%DOWNSTREAM_PEER_URI_SAN%"), ("own", "%DOWNSTREAM_LOCAL_URI_SAN%"))
        hcm = HttpConnectionManager(
            stat_prefix="s",
            route_config="r",
            forward_client_cert="APPEND_FORWARD",
            access_logs=(type(LOG)(path="/dev/stdout", json_fields=fields),),
        )
        async with inbound(runtime, hcm) as proxy:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", proxy.port, ssl=client_context(tmp_path, PAIRS[CALLER])
            )
            writer.write(
                b"GET / HTTP/1.1\r\nHost: a\r\nx-forwarded-client-cert: By=x;URI=spiffe://before\r\n"
                b"Connection: close\r\n\r\n"
            )
            assert b"200 OK" in await reader.read()
            writer.close()
            (line,) = await proxy.logged(1)
    head = origin.seen[0].decode()
    (said,) = (text for text in head.split("\r\n") if text.startswith("x-forwarded-client-cert: "))
    before, own = said.removeprefix("x-forwarded-client-cert: ").split(",")
    assert before == "By=x;URI=spiffe://before"
    parts = own.split(";")
    assert parts[0] == f"By={SERVER}"
    assert len(parts[1].removeprefix("Hash=")) == 64
    assert parts[2:] == ['Subject=""', f"URI={CALLER}"]
    assert "x-forwarded-proto: https" in head
    assert (line["peer"], line["own"]) == (CALLER, SERVER)


@asynccontextmanager
async def tunnel(tmp_path: Path, expected: str, port: int) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """client -> (outbound, plaintext in, mTLS out) -> (inbound, mTLS in) -> origin; `expected`: the peer's name."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    behind = a_runtime(tmp_path / "in" / "access.log", [cluster("app", port)])
    network = TcpProxy(stat_prefix="in", cluster="app", access_logs=(LOG,))
    async with inbound(behind, network) as far:
        tls = UpstreamTls(peer_ids=frozenset({expected}))
        front = [cluster("far", far.port, tls=tls)]
        async with proxying.tcp_proxy(tmp_path / "out", "far", front, identity=CALLER) as near:
            near.runtime.tls.replace((PAIRS[CALLER],), AUTHORITY.trust_pem)
            yield near, far


async def test_bytes_through_two_proxies(tmp_path: Path) -> None:
    async with raw_origin() as origin, tunnel(tmp_path, SERVER, origin.port) as (near, far):
        client = await near.client()
        client.writer.write(b"GET /through HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.until(b"a\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        client.writer.close()
        await far.logged(1)
        (line,) = await near.logged(1)
        assert line["flags"] == "-"
        assert far.listener_stats.counts[names.LISTENER_SSL_HANDSHAKE] == 1
    assert origin.seen == [b"GET /through HTTP/1.1\r\nHost: a\r\n\r\n"]


async def test_a_host_with_another_name_gets_nothing(tmp_path: Path) -> None:
    async with (
        raw_origin() as origin,
        tunnel(tmp_path, "spiffe://cluster.local/ns/x/sa/other", origin.port) as (near, _),
    ):
        assert await near.say(b"secret") == b""
        (line,) = await near.logged(1)
        counts = near.runtime.snapshot.clusters["far"].stats.counts
        assert counts[names.SSL_FAIL_VERIFY_SAN] == 1
    assert line["flags"] == "UF,URX"
    assert line["failure"].startswith("TLS_error:_the_peer_shows_")
    assert bytes(origin.raw) == b""
