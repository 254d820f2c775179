"""TLS as a transport: what the protocol above is told, and when, against the loop's own TLS on the other side."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.model.tls import DownstreamTls, UpstreamTls
from agent.upstream import tls_transport
from agent.upstream.tls import TlsContexts
from agent.upstream.tls_transport import TlsTransport, accept_tls, connect_tls
from tests.support.identities import TestAuthority
from tests.support.upstream import WAIT_S, on_both_loops, peer, until

ID = "spiffe://cluster.local/ns/default/sa/a"
AUTHORITY = TestAuthority()


def contexts(authority: TestAuthority = AUTHORITY) -> TlsContexts:
    made = TlsContexts()
    made.replace((authority.issue(ID),), authority.trust_pem)
    return made


def server_context() -> ssl.SSLContext:
    return contexts().server(DownstreamTls(identity=ID))


def client_context(authority: TestAuthority = AUTHORITY) -> ssl.SSLContext:
    return contexts(authority).client(UpstreamTls(), ID)


class Above:
    """The protocol above: remembers what it is told."""

    def __init__(self, *, pause: bool = False, close: bool = False) -> None:
        self.told: list[Any] = []
        self.transport: Any = None
        self.received = b""
        self._pause, self._close = pause, close

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.told.append("made")
        if self._pause:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._close:
            self.transport.close()

    def eof_received(self) -> bool:
        self.told.append("eof")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append("lost")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


@asynccontextmanager
async def accepting(above: Above, timeout_s: float = WAIT_S) -> AsyncIterator[tuple[int, "asyncio.Future[None]"]]:
    """(port, the outcome of the handshake) of a listener that serves one connection with `above`."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)

        async def serve() -> None:
            sock, _ = await loop.sock_accept(listening)
            await accept_tls(above, sock, server_context(), timeout_s)

        outcome = asyncio.ensure_future(serve())
        try:
            yield listening.getsockname()[1], outcome
        finally:
            outcome.cancel()
            await asyncio.gather(outcome, return_exceptions=True)
            if above.transport is not None:
                above.transport.abort()
                await until(lambda: "lost" in above.told)


async def client(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(WAIT_S):
        return await asyncio.open_connection("127.0.0.1", port, ssl=client_context(), server_hostname="")


@on_both_loops
async def test_bytes_pass_both_ways_and_the_end_is_told() -> None:
    above = Above()
    async with accepting(above) as (port, outcome):
        reader, writer = await client(port)
        await outcome
        writer.write(b"question")
        await until(lambda: above.received == b"question")
        assert above.transport.get_extra_info("ssl_object").getpeercert()["subjectAltName"] == (("URI", ID),)
        assert above.transport.get_extra_info("peername") == writer.get_extra_info("sockname")
        assert not above.transport.can_write_eof()
        above.transport.write(b"answer")
        assert await reader.readexactly(6) == b"answer"
        writer.close()
        await until(lambda: above.told == ["made", "eof", "lost"])


@on_both_loops
async def test_much_passes_both_ways_with_back_pressure() -> None:
    sent = bytes(range(256)) * 40_000  # 10 MB: records, and reads that cut them anywhere
    above = Above()
    async with accepting(above) as (port, outcome):
        reader, writer = await client(port)
        await outcome
        above.transport.write(sent)
        assert "pause" in above.told
        async with asyncio.timeout(WAIT_S):
            assert await reader.readexactly(len(sent)) == sent
        await until(lambda: above.told[-1] == "resume")
        writer.write(sent)
        await until(lambda: len(above.received) == len(sent))
        assert above.received == sent
        writer.close()


@on_both_loops
async def test_our_two_sides_understand_each_other() -> None:
    above, below = Above(), Above()
    async with accepting(above) as (port, outcome):
        await connect_tls(below, "127.0.0.1", port, client_context(), "name.example")
        await outcome
        below.transport.write(b"x" * 100_000)
        await until(lambda: len(above.received) == 100_000)
        below.transport.close()
        await until(lambda: above.told == ["made", "eof", "lost"] and below.told == ["made", "lost"])


@on_both_loops
async def test_what_was_written_before_close_arrives_and_what_comes_after_it_is_dropped() -> None:
    above = Above(close=True)
    async with accepting(above) as (port, outcome):
        reader, writer = await client(port)
        await outcome
        writer.write(b"first")
        await until(lambda: above.received)
        assert above.transport.is_closing()
        above.transport.write(b"never")
        writer.write(b"late" * 10_000)
        assert await reader.read() == b""
        writer.close()
        await until(lambda: above.told == ["made", "lost"])
        assert above.received == b"first"


@on_both_loops
async def test_an_answer_before_close_is_complete() -> None:
    above = Above()
    async with accepting(above) as (port, outcome):
        reader, writer = await client(port)
        await outcome
        above.transport.write(b"a" * 1_000_000)
        above.transport.close()
        async with asyncio.timeout(WAIT_S):
            assert len(await reader.read()) == 1_000_000
        writer.close()


@on_both_loops
async def test_an_end_without_close_notify_is_no_end_of_stream() -> None:
    above = Above()
    async with accepting(above) as (port, outcome):
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setblocking(False)
        shaken = await shake_hands(raw)
        await outcome
        raw.close()
        await until(lambda: above.told == ["made", "lost"])
        assert shaken.version() == "TLSv1.3"


async def shake_hands(raw: socket.socket) -> ssl.SSLObject:
    """A client that has nothing but its socket."""
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = client_context().wrap_bio(incoming, outgoing)
    while True:
        try:
            made.do_handshake()
        except ssl.SSLWantReadError:
            await loop.sock_sendall(raw, outgoing.read())
            incoming.write(await loop.sock_recv(raw, 65536))
            continue
        await loop.sock_sendall(raw, outgoing.read())
        return made


@on_both_loops
async def test_a_peer_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_transport, "SHUTDOWN_S", 0.01)
    above = Above()
    async with accepting(above) as (port, outcome):
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setblocking(False)
        await shake_hands(raw)
        await outcome
        above.transport.close()
        await until(lambda: above.told == ["made", "lost"])
        raw.close()


@on_both_loops
async def test_broken_records_end_the_connection() -> None:
    above = Above()
    async with accepting(above) as (port, outcome):
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setblocking(False)
        await shake_hands(raw)
        await outcome
        raw.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: above.told == ["made", "lost"])
        raw.close()


@on_both_loops
async def test_what_comes_with_the_handshake_waits_while_reading_is_paused() -> None:
    above = Above(pause=True)
    async with accepting(above) as (port, outcome):
        _, writer = await client(port)
        writer.write(b"early")
        await outcome
        await asyncio.sleep(0)
        assert above.received == b""
        above.transport.resume_reading()
        await until(lambda: above.received == b"early")
        writer.close()


@on_both_loops
async def test_a_client_whose_chain_we_do_not_know_gets_an_alert() -> None:
    above = Above()
    async with accepting(above) as (port, outcome):
        stranger = Above()
        await connect_tls(stranger, "127.0.0.1", port, untrusting(), "")
        with pytest.raises(ssl.SSLCertVerificationError):
            await outcome
        await until(lambda: "lost" in stranger.told)
        assert above.told == []


def untrusting() -> ssl.SSLContext:
    """Shows a certificate of another authority, and believes ours."""
    made = client_context(TestAuthority())
    made.load_verify_locations(cadata=AUTHORITY.trust_pem.decode())
    return made


@on_both_loops
async def test_a_server_whose_chain_we_do_not_know_is_refused() -> None:
    above = Above()
    async with peer(server_context()) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect_tls(above, "127.0.0.1", server.port, client_context(TestAuthority()), "")
    assert above.told == []


@on_both_loops
async def test_a_handshake_that_takes_too_long_or_breaks_off() -> None:
    silent, gone = Above(), Above()
    async with accepting(silent, timeout_s=0.01) as (port, outcome):
        raw = socket.create_connection(("127.0.0.1", port))
        with pytest.raises(TimeoutError):
            await outcome
        raw.close()
    async with accepting(gone) as (port, outcome):
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(ConnectionResetError):
            await outcome
    assert silent.told == gone.told == []


@on_both_loops
async def test_a_cancelled_connect_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connecting = asyncio.ensure_future(
            connect_tls(Above(), "127.0.0.1", listening.getsockname()[1], client_context(), "")
        )
        sock, _ = await asyncio.to_thread(listening.accept)
        with sock:
            await asyncio.to_thread(sock.recv, 65536)  # the ClientHello
            connecting.cancel()
            assert await asyncio.gather(connecting, return_exceptions=True) != [None]
            assert await asyncio.to_thread(drained, sock)


def drained(sock: socket.socket) -> bool:
    """The other side has closed."""
    sock.settimeout(WAIT_S)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@on_both_loops
async def test_aborting_and_closing_early() -> None:
    above = Above()
    async with accepting(above) as (port, outcome):
        _, writer = await client(port)
        await outcome
        above.transport.abort()
        above.transport.close()
        above.transport.write(b"x")
        await until(lambda: above.told == ["made", "lost"])
        writer.close()
    unborn = TlsTransport(above, client_context(), server_side=False)
    unborn.close()
    assert unborn.is_closing()
    unborn.ready.cancel()
