"""Accepting: the look at the first byte, silence, refused handshakes, a process without descriptors. Real sockets."""

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from socket import SO_RCVBUF, SOL_SOCKET, socket
from typing import Any

import pytest

from agent.listener import acceptor as module
from agent.listener.acceptor import Acceptor
from agent.model.tls import DownstreamTls
from agent.stats import names
from agent.stats.groups import Group
from agent.stats.names import listener_group
from agent.upstream.tls import TlsContexts
from agent.upstream.wheel import TimerWheel
from tests.support.client_hellos import hello
from tests.support.identities import TestAuthority
from tests.support.workers import listen

SERVER, CALLER, OTHER = (f"spiffe://td/ns/d/sa/{name}" for name in ("server", "caller", "other"))
INSIDE = DownstreamTls(identity=SERVER, peer_ids=frozenset({CALLER}))


class Connection(asyncio.Protocol):
    """Says the chain's name and what the acceptor has found out, then echoes."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self.name, self.log = name, log
        self.secure = False
        self.peer_uris: frozenset[str] = frozenset()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.log.append((self.name, self.secure, self.peer_uris))

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Chain:
    def __init__(
        self, name: str, log: list[Any], transport: str = "", tls: DownstreamTls | None = None, *server_names: str
    ) -> None:
        self.name, self.log, self.transport, self.tls = name, log, transport, tls
        self.server_names = server_names

    def connection(self, peer_address: str, local_address: str) -> Connection:
        assert peer_address.startswith("127.0.0.1:")
        assert local_address.startswith("127.0.0.1:")
        return Connection(self.name, self.log)


class Accepting:
    """An acceptor with its parts. `log`: (chain, secure, URIs) per connection that was handed over."""

    def __init__(self, sock: socket) -> None:
        self.sock = sock
        self.log: list[Any] = []
        self.chains: tuple[Chain, ...] = ()
        self.authority = TestAuthority()
        self.contexts = TlsContexts()
        self.contexts.replace((self.authority.issue(SERVER),), self.authority.trust_pem)
        self.stats: Group = listener_group("127.0.0.1", 1)
        self.wheel = TimerWheel(asyncio.get_running_loop())
        self.acceptor = Acceptor(sock.dup(), "in", lambda: self.chains, self.contexts, self.wheel, self.stats)

    def count(self, place: int) -> int:
        return self.stats.counts[place]

    async def connect(self, context: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(10):
            return await asyncio.open_connection(*self.sock.getsockname(), ssl=context)


@pytest.fixture
async def accepting() -> AsyncIterator[Accepting]:
    with listen() as sock:
        made = Accepting(sock)
        yield made
        made.acceptor.stop()
        made.acceptor.abandon()
        made.wheel.close()


async def until(test: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not test():  # noqa: ASYNC110 - sockets are watched from outside
            await asyncio.sleep(0.005)


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(10):
        try:
            return await reader.read() == b""
        except OSError:
            return True


def permissive(made: Accepting) -> tuple[Chain, ...]:
    return Chain("mtls", made.log, "tls", INSIDE), Chain("plain", made.log, "raw_buffer")


def client(made: Accepting, tmp_path: Any, spiffe_id: str) -> ssl.SSLContext:
    pair = made.authority.issue(spiffe_id)
    path = tmp_path / "client.pem"
    path.write_bytes(pair.key_pem + pair.chain_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=made.authority.trust_pem.decode())
    context.load_cert_chain(path)
    return context


async def test_the_first_byte_chooses_and_is_not_lost(accepting: Accepting, tmp_path: Any) -> None:
    accepting.chains = permissive(accepting)
    reader, writer = await accepting.connect()
    await asyncio.sleep(0.02)
    assert accepting.log == [], "nothing is chosen before the first byte"
    assert accepting.acceptor.pending == 1
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()
    reader, writer = await accepting.connect(client(accepting, tmp_path, CALLER))
    writer.write(b"secret")
    assert await reader.readexactly(6) == b"secret"
    writer.close()
    assert accepting.log == [("plain", False, frozenset()), ("mtls", True, frozenset({CALLER}))]
    assert accepting.count(names.LISTENER_CX_TOTAL) == 2
    assert accepting.count(names.LISTENER_SSL_HANDSHAKE) == 1
    assert accepting.acceptor.pending == 0


async def test_silence_ends_a_connection(accepting: Accepting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEEK_TIMEOUT_S", 0.05)
    accepting.chains = permissive(accepting)
    reader, writer = await accepting.connect()
    assert await ended(reader)
    writer.close()
    assert accepting.count(names.LISTENER_FILTER_TIMEOUT) == 1
    assert accepting.log == []


async def test_a_client_that_leaves_before_its_first_byte(accepting: Accepting) -> None:
    accepting.chains = permissive(accepting)
    _, writer = await accepting.connect()
    await until(lambda: accepting.acceptor.pending)
    writer.close()
    await until(lambda: not accepting.acceptor.pending)
    assert accepting.log == []


async def test_strangers_are_counted_by_their_fault(accepting: Accepting, tmp_path: Any) -> None:
    accepting.chains = (Chain("strict", accepting.log, "", INSIDE),)
    wrong_name = client(accepting, tmp_path, OTHER)
    no_certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    no_certificate.check_hostname = False
    no_certificate.verify_mode = ssl.CERT_NONE
    for context in (wrong_name, no_certificate):
        reader, writer = await accepting.connect(context)
        assert await ended(reader)
        writer.close()
    reader, writer = await accepting.connect()
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert (await reader.read(1)) in (b"", b"\x15")  # a TLS alert, at most
    writer.close()
    await until(lambda: accepting.count(names.LISTENER_SSL_ERROR) == 3)
    assert accepting.count(names.LISTENER_SSL_VERIFY_SAN) == 1
    assert accepting.count(names.LISTENER_SSL_NO_CERT) == 1
    assert accepting.log == []


async def test_without_our_own_certificate_nobody_is_served(accepting: Accepting, tmp_path: Any) -> None:
    """A listener whose identity is not here yet refuses, and serves as soon as it comes."""
    context = client(accepting, tmp_path, CALLER)
    pair = accepting.authority.issue(SERVER)
    accepting.contexts.replace((), accepting.authority.trust_pem)
    accepting.chains = (Chain("strict", accepting.log, "", INSIDE),)
    with pytest.raises(OSError):
        await accepting.connect(context)
    accepting.contexts.replace((pair,), accepting.authority.trust_pem)
    reader, writer = await accepting.connect(context)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()


WWW, API = "kubernetes://www", "kubernetes://api"
ANYBODY: dict[str, Any] = {"require_client_certificate": False}


def by_name(made: Accepting) -> tuple[Chain, ...]:
    """Two servers with certificates of their own, and one that is passed through unopened."""
    pairs = tuple(
        replace(made.authority.issue(f"spiffe://td/{host}", host), identity=secret)
        for secret, host in ((WWW, "www.example.com"), (API, "api.example.com"))
    )
    made.contexts.replace(pairs, made.authority.trust_pem)
    return (
        Chain("www", made.log, "", DownstreamTls(secret=WWW, **ANYBODY), "www.example.com"),
        Chain("api", made.log, "", DownstreamTls(secret=API, **ANYBODY), "*.example.com"),
        Chain("through", made.log, "", None, "through.org"),
    )


async def in_pieces(made: Accepting, data: bytes, size: int) -> bytes:
    """Send `data` in pieces of `size` bytes; what comes back while it is echoed."""
    reader, writer = await made.connect()
    for at in range(0, len(data), size):
        writer.write(data[at : at + size])
        await writer.drain()
        await asyncio.sleep(0.001)
    async with asyncio.timeout(10):
        found = await reader.readexactly(len(data))
    writer.close()
    return found


async def test_the_server_name_chooses(accepting: Accepting) -> None:
    """Each name has its own certificate; a name that nobody has ends the connection."""
    accepting.chains = by_name(accepting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=accepting.authority.trust_pem.decode())
    host, port = accepting.sock.getsockname()
    for name in ("www.example.com", "api.example.com"):
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
    assert [name for name, _, _ in accepting.log] == ["www", "api"]
    for name in ("nobody.org", ""):
        with pytest.raises(OSError):
            await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    reader, writer = await accepting.connect()
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await ended(reader)
    writer.close()
    assert accepting.count(names.LISTENER_NO_FILTER_CHAIN) == 3


@pytest.mark.parametrize("size", [1, 37, 100_000])
async def test_a_hello_in_pieces_is_left_where_it_is(accepting: Accepting, size: int) -> None:
    """What is passed through arrives whole, however it came."""
    accepting.chains = by_name(accepting)
    data = hello("through.org")
    assert await in_pieces(accepting, data, size) == data
    assert accepting.log == [("through", False, frozenset())]


async def test_a_socket_that_counts_as_readable_without_more_has_not_ended(accepting: Accepting) -> None:
    """Linux says so, whatever SO_RCVLOWAT is, when the receive window or memory is short (tcp_epollin_ready)."""
    accepting.sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
    accepting.chains = by_name(accepting)
    data = hello("through.org")
    assert await in_pieces(accepting, data, 1) == data
    assert accepting.log == [("through", False, frozenset())]


async def test_half_a_hello(accepting: Accepting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops in the middle of it is waited for only so long, one that leaves not at all."""
    monkeypatch.setattr(module, "PEEK_TIMEOUT_S", 0.2)
    accepting.chains = by_name(accepting)
    reader, writer = await accepting.connect()
    writer.write(hello("www.example.com")[:50])
    await until(lambda: accepting.acceptor.pending)
    assert await ended(reader)
    writer.close()
    assert accepting.count(names.LISTENER_FILTER_TIMEOUT) == 1
    _, writer = await accepting.connect()
    writer.write(hello("www.example.com")[:50])
    writer.close()
    await until(lambda: not accepting.acceptor.pending)
    assert (accepting.log, accepting.count(names.LISTENER_FILTER_TIMEOUT)) == ([], 1)


async def test_clients_may_show_a_certificate_or_not(accepting: Accepting, tmp_path: Any) -> None:
    """OPTIONAL_MUTUAL: nobody has to; what is shown is verified, by the user's roots and names."""
    users = TestAuthority()
    pair = replace(accepting.authority.issue("spiffe://td/www", "www.example.com"), identity=WWW)
    accepting.contexts.replace((pair,), accepting.authority.trust_pem, (("roots", users.trust_pem),))
    tls = DownstreamTls(
        secret=WWW, trust_secret="roots", ask_client_certificate=True, peer_dns=frozenset({"partner.org"}), **ANYBODY
    )
    accepting.chains = (Chain("maybe", accepting.log, "", tls),)
    outcomes = {}
    for who, own in (
        ("nobody", None),
        ("partner", users.issue("spiffe://td/partner", "partner.org")),
        ("another", users.issue("spiffe://td/another", "another.org")),
        ("stranger", accepting.authority.issue("spiffe://td/partner", "partner.org")),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=accepting.authority.trust_pem.decode())
        if own is not None:
            path = tmp_path / f"{who}.pem"
            path.write_bytes(own.key_pem + own.chain_pem)
            context.load_cert_chain(path)
        reader, writer = await accepting.connect(context)
        writer.write(b"x")
        async with asyncio.timeout(10):
            try:
                outcomes[who] = await reader.read(1)
            except OSError:
                outcomes[who] = b""
        writer.close()
    assert outcomes == {"nobody": b"x", "partner": b"x", "another": b"", "stranger": b""}


class Exhausted:
    """A listening socket in a process that has no descriptor left, twice."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self.failures = 2

    def accept(self) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def test_without_descriptors_accepting_rests(accepting: Accepting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop does not spin, and the connection is served when there is room again."""
    monkeypatch.setattr(module, "ACCEPT_REST_S", 0.02)
    accepting.acceptor.stop()
    log: list[Any] = []
    sock: Any = Exhausted(accepting.sock.dup())
    chains = (Chain("plain", log),)
    accepting.acceptor = Acceptor(
        sock, "in", lambda: chains, accepting.contexts, accepting.wheel, accepting.stats
    )  # fmt: skip
    reader, writer = await accepting.connect()
    writer.write(b"x")
    async with asyncio.timeout(10):
        assert await reader.readexactly(1) == b"x"
    writer.close()
    assert accepting.count(names.LISTENER_CX_OVERFLOW) == 2


async def test_stop_while_it_rests(accepting: Accepting) -> None:
    accepting.acceptor.stop()
    sock: Any = Exhausted(accepting.sock.dup())
    accepting.acceptor = Acceptor(sock, "in", tuple, accepting.contexts, accepting.wheel, accepting.stats)
    _, writer = await accepting.connect()
    await until(lambda: accepting.count(names.LISTENER_CX_OVERFLOW) == 1)
    accepting.acceptor.stop()
    assert sock.fileno() == -1
    writer.close()
    accepting.acceptor = Acceptor(
        accepting.sock.dup(), "in", tuple, accepting.contexts, accepting.wheel, accepting.stats
    )  # fmt: skip
