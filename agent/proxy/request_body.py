"""The body of a request on its way up: kept while it may be sent again, passed on as fast as it is taken.

Owns:   what is kept of it, its form on the wire, whether reading from the client waits.
Not:    when it is sent (exchange), parsing.
Source: data-plane.md 1.5, "Buffering".
Invariant: no more than REPLAY_BYTES, or what a filter waits for, and what one read may add to it, are ever kept.
"""

from typing import TYPE_CHECKING

from agent.codec.head import CHUNKED, RequestHead
from agent.codec.serialise import LAST_CHUNK, chunk_bytes

if TYPE_CHECKING:
    from agent.proxy.http_connection import HttpConnection

REPLAY_BYTES = 64 * 1024


class RequestBody:
    """Made for a request that has a body, or may switch protocols. `whole`: all that has come of it is kept."""

    __slots__ = ("_connection", "_head", "_held", "_parts", "_room", "size", "whole")

    def __init__(self, connection: "HttpConnection", head: RequestHead) -> None:
        self.whole = True
        self._connection = connection
        self._head = head  # its framing may still change
        self._parts: list[bytes] = []
        self._room = REPLAY_BYTES
        self.size = 0  # of what is kept
        self._held = False

    def keep(self, data: bytes) -> None:
        """A part has come."""
        if self.whole:
            self._parts.append(data)
            self.size += len(data)

    def queue(self, data: bytes) -> None:
        """Bytes for the protocol that the host has not switched to yet."""
        self._parts.append(data)
        self.size += len(data)

    @property
    def full(self) -> bool:
        """More than is kept for long waits to be sent."""
        return self.size > self._room

    def make_room(self, size: int) -> None:
        """Keep so much, or the usual, before it is sent."""
        self._room = max(size, REPLAY_BYTES)

    def first(self, size: int) -> bytes:
        """What has come of the first `size` bytes, before a try was sent."""
        return b"".join(self._parts)[:size]

    def beginning(self, complete: bool) -> bytes:
        """What a try sends with its head. Bytes behind a request to switch are for the new protocol: not those."""
        data = b""
        if self._parts and not self._head.upgrade:
            data = b"".join(map(self.wire, self._parts))
            self.was_sent()
        return data + self.last if complete else data

    def so_far(self, complete: bool) -> bytes:
        """The same, before a try was sent, for a copy of the request."""
        data = b"".join(map(self.wire, self._parts))
        return data + self.last if complete else data

    def wire(self, data: bytes) -> bytes:
        """A part in the form in which it is sent."""
        return chunk_bytes(data) if self._head.content_length == CHUNKED else data

    @property
    def last(self) -> bytes:
        """What ends it on the wire."""
        return LAST_CHUNK if self._head.content_length == CHUNKED else b""

    def was_sent(self) -> None:
        """A try has all of it: what is too large to be sent again is forgotten."""
        if self.size > REPLAY_BYTES:
            self.whole = False
            self._parts.clear()
            self.size = 0

    def take(self) -> bytes:
        """What is kept, which then is not kept any more: it belongs to the protocol that the host has switched to."""
        data = b"".join(self._parts)
        self._parts.clear()
        self.size = 0
        return data

    def hold(self, wait: bool) -> None:
        """Read from the client only while not `wait`."""
        if wait != self._held:
            self._held = wait
            if wait:
                self._connection.hold_reading()
            else:
                self._connection.release_reading()

    def let_go(self) -> None:
        """The client's connection is gone: nothing is left to be released."""
        self._held = False
