"""TLS on a plain connection, as a transport for the protocol above it and a protocol for the transport below.

Owns:   the handshake, records both ways, the proper end (close_notify).
Not:    contexts and the check of names (agent.upstream.tls), when to connect or accept, how long that may take.
Why:    the loop's own TLS asks for 256 KiB and raises an exception at every read: 50 us for a request and its answer
        through two ends, 19 with this.
Source: RFC 8446 6.1; RFC 9112 9.8 (an end without close_notify can be an attacker's).
Invariants: the protocol above hears of nothing before the handshake is complete; one read below is one `data_received`
        above; an end of the connection without close_notify is never told as an end of stream, only as a lost
        connection; after `close` what was written is sent, and what still comes is dropped until the peer ends too, for
        at most SHUTDOWN_S, since closing at once could make the kernel reset the connection; what is kept while reading
        is paused is bounded by one read below.

    HANDSHAKE --> OPEN --> CLOSING (close_notify is sent) --> GONE
        +----------+------------------------------------------^  failed, aborted, lost
"""

import asyncio
import socket
import ssl
from typing import Any

SHUTDOWN_S = 5.0
_RECORD_BYTES = 16 * 1024  # the most that one TLS record brings
_HANDSHAKE, _OPEN, _CLOSING, _GONE = range(4)


class TlsTransport:
    """`ready` is done when the handshake is, or failed with why it could not be."""

    __slots__ = (
        "_incoming",
        "_loop",
        "_object",
        "_outgoing",
        "_paused",
        "_protocol",
        "_raw",
        "_state",
        "_timer",
        "_told",
        "ready",
    )

    def __init__(self, protocol: Any, context: ssl.SSLContext, *, server_side: bool, server_name: str = "") -> None:
        """`server_name`: for SNI, "" = none."""
        self._loop = asyncio.get_running_loop()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name or None)
        self._protocol = protocol
        self._raw: Any = None
        self._state = _HANDSHAKE
        self._told = False  # the protocol above knows of its connection
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.ready: asyncio.Future[None] = self._loop.create_future()

    # --- called by the loop -----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._raw = transport
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        state = self._state
        if state == _OPEN:
            if not self._paused:
                self._read()
        elif state == _HANDSHAKE:
            self._shake_hands()
            self._read_kept()
        elif state == _CLOSING:
            self._drop()

    def eof_received(self) -> bool:
        """Without close_notify. The loop closes the connection then."""
        self._fail_handshake(ConnectionResetError("the peer has closed the connection during the handshake"))
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._state = _GONE
        if self._timer is not None:
            self._timer.cancel()
        self._fail_handshake(error or ConnectionResetError("the connection was lost during the handshake"))
        if self._told:
            self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        if self._told:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._told:
            self._protocol.resume_writing()

    # --- the transport of the protocol above ------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send; nothing after `close`."""
        raw = self._raw
        if self._state != _OPEN or raw.is_closing():
            return
        try:
            sent = self._object.write(data)
            while sent < len(data):  # one record at a time
                sent += self._object.write(memoryview(data)[sent:])
        except ssl.SSLError:
            self.abort()
            return
        raw.write(self._outgoing.read())

    def close(self) -> None:
        if self._state == _HANDSHAKE:
            self.abort()
        if self._state != _OPEN:
            return
        self._state = _CLOSING
        try:
            self._object.unwrap()
        except ssl.SSLWantReadError:
            self._flush()
            self._await_end()
            return
        except ssl.SSLError:
            pass  # the peer has broken the protocol: no end of it is to be waited for
        self._flush()
        self._raw.close()

    def abort(self) -> None:
        self._state = _GONE
        if self._raw is not None:
            self._raw.abort()

    def is_closing(self) -> bool:
        return self._state != _OPEN or bool(self._raw.is_closing())

    def pause_reading(self) -> None:
        self._paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._raw.resume_reading()
            if self._incoming.pending:
                self._loop.call_soon(self._read_kept)

    def can_write_eof(self) -> bool:
        """Half of a TLS connection cannot be closed alone."""
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._object if name == "ssl_object" else self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    # --- inside -----------------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the peer
            self._state = _GONE
            self._fail_handshake(error)
            self._raw.close()
            return
        self._flush()
        self._state = _OPEN
        self._told = True
        if not self.ready.done():
            self.ready.set_result(None)
        self._protocol.connection_made(self)

    def _fail_handshake(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)

    def _flush(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def _read_kept(self) -> None:
        """What came with the end of the handshake, or while reading was paused."""
        if self._state == _OPEN and not self._paused and self._incoming.pending:
            self._read()

    def _read(self) -> None:
        incoming, parts, ended = self._incoming, [], False
        try:
            while True:
                data = self._object.read(_RECORD_BYTES)
                if not data:
                    ended = True
                    break
                parts.append(data)
                if not incoming.pending:  # asking once more would cost an exception
                    break
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come, or it brought nothing for us
        except ssl.SSLError:
            self.abort()
            return
        if self._outgoing.pending:
            self._flush()
        if parts:
            self._protocol.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if ended and self._state == _OPEN:
            self._protocol.eof_received()
            self.close()

    def _await_end(self) -> None:
        """The peer answers close_notify with its own, after what it still has to say."""
        if self._paused:
            self._paused = False
            self._raw.resume_reading()
        self._timer = self._loop.call_later(SHUTDOWN_S, self.abort)
        if self._incoming.pending:
            self._drop()

    def _drop(self) -> None:
        try:
            while self._object.read(_RECORD_BYTES):
                pass
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError:
            pass
        self._raw.close()


async def connect_tls(protocol: Any, address: str, port: int, context: ssl.SSLContext, server_name: str) -> None:
    """Connect, and shake hands. Raises OSError, ssl.SSLError; nothing stays open then, or when it is cancelled."""
    transport: Any = TlsTransport(protocol, context, server_side=False, server_name=server_name)
    await asyncio.get_running_loop().create_connection(lambda: transport, address, port)
    await _until_ready(transport)


async def accept_tls(protocol: Any, sock: socket.socket, context: ssl.SSLContext, timeout_s: float) -> None:
    """Shake hands on an accepted socket, which the loop owns then. Raises OSError (TimeoutError), ssl.SSLError."""
    transport: Any = TlsTransport(protocol, context, server_side=True)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: transport, sock)
    async with asyncio.timeout(timeout_s):
        await _until_ready(transport)


async def _until_ready(transport: TlsTransport) -> None:
    try:
        await transport.ready
    except (OSError, ssl.SSLError):
        raise  # the connection is closed already, after the alert
    except BaseException:
        transport.abort()
        raise
