"""A host behind TLS as a plain socket for gRPC, whose own TLS cannot ask for a SPIFFE id.

Owns:   the socket, the connections behind it, the check of the host's names.
Not:    whom they are for (authorizers), contexts (agent.upstream.tls).
Invariants: only this process gets through: the socket is 0600 in a directory that is 0700, and who connects must be
        this process; not one byte passes before the host has shown a name that is expected; at most MAX_OPEN
        connections are open; each side is read only as fast as the other takes it.
"""

import asyncio
import os
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agent.model.cluster import Endpoint
from agent.model.tls import UpstreamTls
from agent.supervisor.unix import bind_unix
from agent.upstream.tls import TlsContexts, TlsError, peer_allowed, peer_names
from mesh.logs import get_logger
from mesh.tasks import cancel_and_wait, spawn

_log = get_logger(__name__)

MAX_OPEN = 4
READ_BYTES = 64 * 1024
_HTTP2 = ("h2",)
_CREDENTIALS = struct.Struct("3i")


class TlsRelay:
    """`identity`: who shows which certificate where the configuration says "caller"."""

    def __init__(
        self, path: Path, endpoint: Endpoint, tls: UpstreamTls, identity: str, contexts: TlsContexts, connect_s: float
    ) -> None:
        self._path = path
        self._endpoint = endpoint
        self._tls = tls if tls.alpn else replace(tls, alpn=_HTTP2)
        self._identity = identity
        self._contexts = contexts
        self._connect_s = connect_s
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._said = ""  # of a failure

    async def start(self) -> None:
        """Raises OSError."""
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bind_unix(sock, self._path)
            # In two steps: cut in the only one that waits, there is already something that can be closed.
            self._server = await asyncio.start_unix_server(self._accepted, sock=sock, start_serving=False)
            await self._server.start_serving()
        except BaseException:
            self.close()
            sock.close()
            raise

    def close(self) -> None:
        """Cut what is open."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        for task in self._open:
            task.cancel()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_OPEN or not _is_own(writer):
            writer.transport.abort()
            return
        task = spawn("TLS for gRPC", self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._connect_s):
                from_host, to_host = await self._connect()
        except (OSError, ssl.SSLError, TlsError) as error:  # gRPC sees that its connection ends
            self._note(str(error) or type(error).__name__)
            writer.transport.abort()
            return
        except BaseException:
            writer.transport.abort()
            raise
        ways = (spawn("gRPC up", _pass(reader, to_host)), spawn("gRPC down", _pass(from_host, writer)))
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.transport.abort()
            to_host.transport.abort()
            await cancel_and_wait(*ways)

    def _note(self, reason: str) -> None:
        """Once: gRPC tries again and again."""
        if reason != self._said:
            self._said = reason
            _log.warning("no connection for gRPC", host=self._endpoint.key, reason=reason)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError, ssl.SSLError, TlsError."""
        endpoint, tls = self._endpoint, self._tls
        context = self._contexts.client(tls, self._identity)
        reader, writer = await asyncio.open_connection(
            endpoint.address, endpoint.port, ssl=context, server_hostname=tls.sni or None, limit=READ_BYTES
        )  # without a name the address is asked for, which no SNI may say (RFC 6066 3)
        uris, dns = peer_names(writer.transport)
        if not peer_allowed(uris, dns, tls.peer_ids, tls.peer_dns):
            writer.transport.abort()
            found = ", ".join(sorted(uris | dns)) or "no name"
            raise TlsError(f"the peer shows {found}, expected {', '.join(sorted(tls.peer_ids | tls.peer_dns))}")
        self._said = ""
        return reader, writer


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side ends."""
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()


def _is_own(writer: asyncio.StreamWriter) -> bool:
    """Whether this process has connected: unix(7), SO_PEERCRED."""
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(raw)
    return bool(pid == os.getpid())
