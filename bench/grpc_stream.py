"""One gRPC stream on one connection of its own, as little as it takes: a thousand of them must not be what is measured.

Owns:   HTTP/2 frames, flow control and the gRPC framing of a single client stream without TLS.
Not:    what is said on it (delta_streams).
Source: RFC 9113 (frames), RFC 7541 (a request's head as literals), gRPC over HTTP/2 (5 bytes before each message).
Response heads are not read: their compression is never needed here.
"""

import asyncio
from collections.abc import Callable
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW = 65_535
_MAX_WINDOW = 0x7FFFFFFF
_MAX_FRAME = 16_384
_TOP_UP = 1 << 24  # bytes received before the window is opened again


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(index: bytes, *texts: str) -> bytes:
    """A header field without indexing; `index` ends the name's place in the static table, or is 0 before a new name."""
    return index + b"".join(bytes((len(text),)) + text.encode() for text in texts)


def opening(authority: str, path: str) -> bytes:
    """What a client sends first: preface, settings, window, the request's head. `path` is below 127 characters."""
    settings = b"".join(
        key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in ((2, 0), (4, _MAX_WINDOW), (5, 1 << 22))
    )
    head = b"\x83\x86" + _literal(b"\x04", path) + _literal(b"\x01", authority)  # POST, http
    head += _literal(b"\x0f\x10", "application/grpc") + _literal(b"\x00", "te", "trailers")
    window = (_MAX_WINDOW - _INITIAL_WINDOW).to_bytes(4, "big")
    return b"".join(
        (
            _PREFACE,
            frame(_SETTINGS, 0, 0, settings),
            frame(_WINDOW_UPDATE, 0, 0, window),
            frame(_HEADERS, _END_HEADERS, 1, head),
        )
    )


class GrpcStream(asyncio.Protocol):
    """`on_message(bytes)` for each message, `on_end(reason)` once, when stream or connection has ended."""

    def __init__(self, first: bytes, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        """`first`: what `opening` gives."""
        self._first = first
        self._on_message = on_message
        self._on_end: Callable[[str], None] | None = on_end
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._message = bytearray()
        self._waiting = bytearray()  # for the server's window
        self._connection_window = self._stream_window = self._server_initial = _INITIAL_WINDOW
        self._untold = 0

    # --- sending

    def send(self, message: bytes) -> None:
        """Send one message, as far as the server's window goes; the rest follows."""
        self._waiting += b"\0" + len(message).to_bytes(4, "big") + message
        self._flush()

    def close(self) -> None:
        """Close the connection; `on_end` is not called any more."""
        self._on_end = None
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        out = []
        while self._waiting and (room := min(self._connection_window, self._stream_window, _MAX_FRAME)) > 0:
            part = bytes(self._waiting[:room])
            del self._waiting[:room]
            self._connection_window -= len(part)
            self._stream_window -= len(part)
            out.append(frame(_DATA, 0, 1, part))
        if out:
            self._write(b"".join(out))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._first)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(str(exc or "connection closed"))

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while len(received) - at >= 9:
            end = at + 9 + int.from_bytes(received[at : at + 3], "big")
            if end > len(received):
                break
            self._on_frame(received[at + 3], received[at + 4], received[at + 8], received[at + 9 : end])
            at = end
        if at:
            del received[:at]

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytearray) -> None:
        if kind == _DATA:
            self._on_data(payload)
        elif kind == _WINDOW_UPDATE:
            self._on_window(stream, int.from_bytes(payload, "big"))
        elif kind == _SETTINGS and not flags & _ACK:
            self._on_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._write(frame(_PING, _ACK, 0, bytes(payload)))
        elif kind == _RST_STREAM or (kind == _HEADERS and flags & _END_STREAM):
            self._ended("the server ended the stream")

    def _on_data(self, payload: bytearray) -> None:
        self._untold += len(payload)
        if self._untold >= _TOP_UP:
            more = self._untold.to_bytes(4, "big")
            self._write(frame(_WINDOW_UPDATE, 0, 0, more) + frame(_WINDOW_UPDATE, 0, 1, more))
            self._untold = 0
        message = self._message
        message += payload
        while len(message) >= 5 and len(message) >= (end := 5 + int.from_bytes(message[1:5], "big")):
            whole = bytes(message[5:end])
            del message[:end]
            self._on_message(whole)

    def _on_window(self, stream: int, more: int) -> None:
        if stream:
            self._stream_window += more
        else:
            self._connection_window += more
        self._flush()

    def _on_settings(self, payload: bytearray) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2], "big") == 4:
                initial = int.from_bytes(payload[at + 2 : at + 6], "big")
                self._stream_window += initial - self._server_initial
                self._server_initial = initial
        self._write(frame(_SETTINGS, _ACK, 0))
        self._flush()

    def _ended(self, reason: str) -> None:
        on_end, self._on_end = self._on_end, None
        if self._transport is not None:
            self._transport.close()
        if on_end is not None:
            on_end(reason)
