"""The connection of the TCP proxy to a host, as a uvloop protocol.

Owns:   keeping what comes before the host's name is checked.
Not:    what the bytes are for (tcp_connection), connecting (agent.upstream.pool).
Invariant: before `admit` its owner hears of nothing, and at most what one read brings is kept.
"""

from typing import TYPE_CHECKING, Any

from agent.upstream.addresses import address_text

if TYPE_CHECKING:
    from agent.proxy.tcp_connection import TcpConnection


class TcpUpstream:
    """The connection to the host. Made by the client's."""

    __slots__ = ("_early", "_owner", "admitted", "local_address", "lost", "peer", "transport", "writable")

    def __init__(self, owner: "TcpConnection") -> None:
        self._owner = owner
        self._early: list[bytes] = []
        self.transport: Any = None
        self.peer = ""  # the host's SPIFFE id
        self.local_address = ""
        self.admitted = False
        self.lost = False
        self.writable = True

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.local_address = address_text(transport.get_extra_info("sockname"))

    def admit(self) -> None:
        """The host is the one that is meant."""
        self.admitted = True
        early, self._early = self._early, []
        if early:
            self.transport.resume_reading()
            self._owner.on_upstream_data(b"".join(early))

    def data_received(self, data: bytes) -> None:
        if self.admitted:
            self._owner.on_upstream_data(data)
            return
        self._early.append(data)
        self.transport.pause_reading()

    def eof_received(self) -> bool:
        return self.admitted and self._owner.on_upstream_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self.admitted:
            self._owner.on_upstream_lost(error)

    def pause_writing(self) -> None:
        self.writable = False
        self._owner.on_upstream_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        self._owner.on_upstream_writable(True)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
