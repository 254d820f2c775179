"""The listening sockets of all listeners: one SO_REUSEPORT socket per listener and worker slot.

Owns:   making them, keeping them while the listener lives, taking a predecessor's over.
Not:    which worker accepts on them (pool), how a predecessor is found (handover).
Source: design section 1: a socket that stays open keeps its queue, so a crashed worker's connections wait for the next.
Invariants: a socket is closed only when its listener is gone; adopted ones are used before new ones are made; an
        address that another program listens on is refused, although SO_REUSEPORT could share it.
"""

import socket
from collections import defaultdict
from collections.abc import Mapping

from agent.model.listener import Listener

BACKLOG = 4096
Address = tuple[str, int]


class ListenerSockets:
    """`slots` sockets for each open listener."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._open: dict[str, tuple[Address, tuple[socket.socket, ...]]] = {}
        self._adopted: dict[Address, list[socket.socket]] = defaultdict(list)
        self.problems: dict[str, str] = {}  # listener -> why it is not bound

    @property
    def addresses(self) -> Mapping[str, Address]:
        """Listener -> where it is bound."""
        return {name: address for name, (address, _) in self._open.items()}

    def adopt(self, sock: socket.socket) -> None:
        """Take a predecessor's listening socket over."""
        self._adopted[_address_of(sock)].append(sock)

    def open(self, listener: Listener) -> bool:
        """Bind a listener; False and a problem when that fails. An open listener keeps its sockets."""
        if listener.name in self._open:
            return True
        wanted = (listener.address, listener.port)
        adopted = self._adopted.pop(wanted, [])
        try:
            made = self._bind(wanted, adopted)
        except OSError as error:
            self._adopted[wanted].extend(adopted)
            self.problems[listener.name] = _told(wanted, error)
            return False
        self.problems.pop(listener.name, None)
        self._open[listener.name] = (wanted, made)
        return True

    def why_not(self, listener: Listener) -> str:
        """Why a listener cannot be bound, without binding it; empty when it is, or can be."""
        wanted = (listener.address, listener.port)
        found = self._open.get(listener.name)
        if (found is not None and found[0] == wanted) or self._adopted.get(wanted):
            return ""
        if any(address == wanted for address, _ in self._open.values()):
            # Another listener of ours has it, which may be about to leave: only what was tried is known.
            return self.problems.get(listener.name, "")
        try:
            _require_free(wanted)
        except OSError as error:
            return _told(wanted, error)
        return ""

    def of(self, name: str, slot: int) -> socket.socket | None:
        """The socket of a listener for a slot, None when it is not bound."""
        found = self._open.get(name)
        return found[1][slot] if found is not None else None

    def close(self, name: str) -> None:
        """The listener is gone from every worker."""
        self.problems.pop(name, None)
        found = self._open.pop(name, None)
        for sock in found[1] if found is not None else ():
            sock.close()

    def close_unclaimed(self) -> None:
        """Close what was adopted and no listener uses."""
        for socks in self._adopted.values():
            for sock in socks:
                sock.close()
        self._adopted.clear()

    def close_all(self) -> None:
        for name in list(self._open):
            self.close(name)
        self.close_unclaimed()

    def _bind(self, address: Address, adopted: list[socket.socket]) -> tuple[socket.socket, ...]:
        if not adopted:
            _require_free(address)
        made = adopted[: self._slots]
        try:
            while len(made) < self._slots:
                made.append(_listen(address))
        except OSError:
            for sock in made[len(adopted) :]:
                sock.close()
            raise
        # A predecessor had more slots: these queues end here, as nobody would accept from them.
        for sock in adopted[self._slots :]:
            sock.close()
        return tuple(made)


def _listen(address: Address) -> socket.socket:
    sock = _new(address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _require_free(address: Address) -> None:
    """Raises EADDRINUSE when anybody listens there, even one that would share."""
    with _new(address) as probe:
        probe.bind(address)


def _new(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    return sock


def _told(address: Address, error: OSError) -> str:
    return f"{address[0]}:{address[1]}: {error.strerror or error}"


def _address_of(sock: socket.socket) -> Address:
    name = sock.getsockname()
    return str(name[0]), int(name[1])
