"""Accepting on one listening socket, and finding the filter chain of each connection.

Owns:   the accept loop, the look at the first byte or at the whole ClientHello, the TLS handshake and the check of the
        client's name, counting and logging of refusals.
Not:    listening sockets' life (the supervisor makes them), what a connection does (agent.proxy).
Source: decisions 11 and 39; data-plane.md 6.10.
Invariants: nothing is read from a connection before its chain is known, the look leaves the bytes where they are; a
        connection that sends nothing is closed after PEEK_TIMEOUT_S where the choice needs its first bytes; a TLS
        connection is handed on only after the handshake and the check of the client's name; when the process is out
        of descriptors, accepting rests for ACCEPT_REST_S.
"""

import asyncio
import contextlib
import errno
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol

from agent.listener import client_hello
from agent.listener.chain_choice import RAW, TLS, ChainChoice
from agent.listener.client_hello import NoClientHello
from agent.listener.refusals import RefusalLog
from agent.model.tls import DownstreamTls
from agent.stats import names
from agent.stats.groups import Group
from agent.upstream.addresses import address_text
from agent.upstream.tls import TlsContexts, TlsError, peer_allowed, peer_names
from agent.upstream.tls_transport import accept_tls
from agent.upstream.wheel import Timed, TimerWheel
from mesh.logs import get_logger
from mesh.tasks import spawn

PEEK_TIMEOUT_S = 5.0
HANDSHAKE_TIMEOUT_S = 10.0
ACCEPT_REST_S = 0.1
PEEK_AGAIN_S = 0.01
ACCEPTS_PER_WAKE = 32
_TLS_HANDSHAKE = 0x16  # the first byte of a TLS ClientHello's record, RFC 8446 5.1
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = get_logger(__name__)


class Chain(Protocol):
    """What a filter chain gives an accepted connection."""

    @property
    def transport(self) -> str: ...
    @property
    def server_names(self) -> tuple[str, ...]: ...
    @property
    def tls(self) -> DownstreamTls | None: ...
    def connection(self, peer_address: str, local_address: str) -> Any: ...


class Acceptor:
    """Accepts on `sock` for as long as it is open. `chains` answers with the chains of now, best first."""

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        chains: Callable[[], tuple[Chain, ...]],
        contexts: TlsContexts,
        wheel: TimerWheel,
        stats: Group,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._name = name
        self._chains = chains
        self._choice: ChainChoice[Chain] = ChainChoice(())
        self._contexts = contexts
        self._wheel = wheel
        self._counts = stats.counts
        self._loop = asyncio.get_running_loop()
        self._peeks: set[_Peek] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._rest: asyncio.TimerHandle | None = None
        self._refusals = RefusalLog(_log.warning)
        self._loop.add_reader(sock, self._accept)

    def stop(self) -> None:
        """Accept no more and close this process's descriptor; what was accepted goes on."""
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def abandon(self) -> None:
        """End what has been accepted but is not served yet."""
        for peek in list(self._peeks):
            peek.close()
        for task in self._handshakes:
            task.cancel()

    @property
    def pending(self) -> int:
        """Connections accepted but not yet served."""
        return len(self._peeks) + len(self._handshakes)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                accepted, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._refused_by_system(error)
                return
            accepted.setblocking(False)
            self._counts[names.LISTENER_CX_TOTAL] += 1
            self._choose(accepted)

    def _refused_by_system(self, error: OSError) -> None:
        self._counts[names.LISTENER_CX_OVERFLOW] += 1
        self._tell("accept failed", error=str(error))
        if error.errno in _OUT_OF_DESCRIPTORS:
            self._loop.remove_reader(self._sock)
            self._rest = self._loop.call_later(ACCEPT_REST_S, self._resume)

    def _resume(self) -> None:
        self._rest = None
        self._loop.add_reader(self._sock, self._accept)

    # --- the chain --------------------------------------------------------------------------------------------

    @property
    def choice(self) -> ChainChoice[Chain]:
        """Of the chains of now."""
        chains = self._chains()
        if self._choice.chains is not chains:
            self._choice = ChainChoice(chains)
        return self._choice

    def _choose(self, sock: socket.socket) -> None:
        choice = self.choice
        chains = choice.chains
        if not chains:
            self._no_chain(sock)
        elif len(chains) == 1 and not choice.by_name and (not chains[0].transport or chains[0].tls is not None):
            self._serve(sock, chains[0])
        else:
            _Peek(self, sock)

    def looked(self, sock: socket.socket, transport: str, name: str) -> None:
        """The first bytes are known: TLS or not, and the server name if chains are chosen by it."""
        chain = self.choice.choose(transport, name)
        if chain is None:
            self._no_chain(sock, name)
        else:
            self._serve(sock, chain)

    def silent(self, sock: socket.socket) -> None:
        """Nothing came in time."""
        self._counts[names.LISTENER_FILTER_TIMEOUT] += 1
        sock.close()

    def _no_chain(self, sock: socket.socket, name: str = "") -> None:
        self._counts[names.LISTENER_NO_FILTER_CHAIN] += 1
        self._tell("connection refused: no filter chain takes it", peer=_peer_text(sock), server_name=name)
        sock.close()

    # --- serving ----------------------------------------------------------------------------------------------

    def _serve(self, sock: socket.socket, chain: Chain) -> None:
        task = spawn(f"accept {self._name}", self._hand_over(sock, chain))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _hand_over(self, sock: socket.socket, chain: Chain) -> None:
        peer = _peer_text(sock)
        try:
            if chain.tls is None:
                connection = chain.connection(peer, _local_text(sock))
                await self._loop.connect_accepted_socket(lambda: connection, sock)
            else:
                await self._shake_hands(sock, chain, chain.tls, peer)
        except (TlsError, ssl.SSLError, OSError, TimeoutError) as error:
            self._refuse(error, peer)
            sock.close()

    async def _shake_hands(self, sock: socket.socket, chain: Chain, tls: DownstreamTls, peer: str) -> None:
        connection = chain.connection(peer, _local_text(sock))
        guard = _Guard(connection, lambda transport: self._admit(transport, connection, tls))
        await accept_tls(guard, sock, self._contexts.server(tls), HANDSHAKE_TIMEOUT_S)
        if guard.refusal:
            raise TlsError(guard.refusal)

    def _admit(self, transport: Any, connection: Any, tls: DownstreamTls) -> str:
        """ "" when the client may come in, else why not. Counts the handshake."""
        self._counts[names.LISTENER_SSL_HANDSHAKE] += 1
        uris, dns = peer_names(transport)
        asked = tls.require_client_certificate or bool(uris or dns)
        if asked and not peer_allowed(uris, dns, tls.peer_ids, tls.peer_dns):
            self._counts[names.LISTENER_SSL_VERIFY_SAN] += 1
            return f"the client shows {', '.join(sorted(uris | dns)) or 'no name'}, which is not admitted here"
        connection.secure = True
        connection.peer_uris = uris
        return ""

    def _refuse(self, error: Exception, peer: str) -> None:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        if "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason:
            self._counts[names.LISTENER_SSL_NO_CERT] += 1
        elif "CERTIFICATE" in reason or "CERT" in reason:
            self._counts[names.LISTENER_SSL_VERIFY_ERROR] += 1
        self._counts[names.LISTENER_SSL_ERROR] += 1
        self._tell("handshake refused", peer=peer, reason=reason)

    def _tell(self, event: str, **fields: Any) -> None:
        self._refusals.tell(event, self._loop.time(), listener=self._name, **fields)


class _Guard:
    """Stands where the connection will stand until the client's name is checked."""

    __slots__ = ("_admit", "_connection", "refusal")

    def __init__(self, connection: Any, admit: Callable[[Any], str]) -> None:
        self._connection = connection
        self._admit = admit
        self.refusal = ""

    def connection_made(self, transport: Any) -> None:
        self.refusal = self._admit(transport)
        if self.refusal:
            transport.abort()
            return
        transport.set_protocol(self._connection)
        self._connection.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Nothing is read from a refused client."""

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The refusal has been said."""

    def pause_writing(self) -> None:
        """Nothing is written."""

    def resume_writing(self) -> None:
        """Nothing is written."""


class _Peek(Timed):
    """Waits for a connection's first byte, and for its ClientHello where that decides, and leaves them in the socket.

    While a ClientHello is not whole, the socket counts as readable only when more has come (SO_RCVLOWAT), when the
    client has ended, and when Linux is short of memory or window for it (tcp_epollin_ready): then it is looked at now
    and then.
    """

    __slots__ = ("_acceptor", "_again", "_loop", "_seen", "_sock")

    def __init__(self, acceptor: Acceptor, sock: socket.socket) -> None:
        super().__init__()
        self._acceptor = acceptor
        self._sock = sock
        self._loop = acceptor._loop
        self._seen = 0
        self._again: asyncio.TimerHandle | None = None
        acceptor._peeks.add(self)
        if not self._look():
            self._loop.add_reader(sock, self._look)
            acceptor._wheel.arm(self, self._now() + PEEK_TIMEOUT_S)

    def _now(self) -> float:
        return self._acceptor._wheel.now()

    def _look(self) -> bool:
        """Is the wait over?"""
        by_name = self._acceptor.choice.by_name
        try:
            data = self._sock.recv(client_hello.MAX_BYTES if by_name else 1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
        elif data[0] != _TLS_HANDSHAKE:
            self._decide(RAW, "")
        elif not by_name:
            self._decide(TLS, "")
        else:
            return self._look_for_name(data)
        return True

    def _look_for_name(self, data: bytes) -> bool:
        try:
            name = client_hello.server_name(data)
        except NoClientHello:
            name = ""  # the chain that takes any name, if there is one, says so in TLS's own words
        if name is not None:
            self._decide(TLS, name)
        elif len(data) == self._seen and _has_ended(self._sock):
            self.close()  # in the middle of it
        elif len(data) == self._seen:
            self._loop.remove_reader(self._sock)
            self._again = self._loop.call_later(PEEK_AGAIN_S, self._look_again)
            return False
        else:
            self._seen = len(data)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(data) + 1)
            return False
        return True

    def _look_again(self) -> None:
        self._again = None
        if not self._look() and self._again is None:
            self._loop.add_reader(self._sock, self._look)

    def _decide(self, transport: str, name: str) -> None:
        self._leave()
        if self._seen:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._acceptor.looked(self._sock, transport, name)

    def on_deadline(self, now: float) -> None:
        self._leave()
        self._acceptor.silent(self._sock)

    def close(self) -> None:
        self._leave()
        self._sock.close()

    def _leave(self) -> None:
        self._loop.remove_reader(self._sock)
        if self._again is not None:
            self._again.cancel()
        self._acceptor._peeks.discard(self)
        self._acceptor._wheel.disarm(self)


def _has_ended(sock: socket.socket) -> bool:
    """Has the other side sent its last byte? No byte is read."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _peer_text(sock: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return address_text(sock.getpeername())
    return ""


def _local_text(sock: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return address_text(sock.getsockname())
    return ""
