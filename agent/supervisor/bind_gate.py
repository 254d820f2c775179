"""Listeners that cannot be bound are refused to the xDS server, as Envoy refuses them, until they can be.

Owns:   the verdict on a listener's address while its resource is accepted; when to ask for it again.
Not:    binding, and trying again what was accepted (sockets, pool); the stream (agent.xds.client).
Source: xds_protocol.rst: a NACK says that the client cannot use a resource; a server sends nothing again by itself, so
        what was refused is asked for on a new stream, which tells no version of it (agent.xds.session).

    new, address taken      -> refused; asked for again once the address is free
    held (last known good), address taken at start -> the pool tries on; the server is told by a refusal, then by an ACK

Invariant: a new stream is asked for only when what the server was told is not so, for AGAIN_S without a break.
"""

from collections.abc import Mapping

from agent.model.listener import Listener
from agent.supervisor.sockets import ListenerSockets
from agent.xds.resources import Decoded
from agent.xds.session import AdsSession
from mesh.xds import type_url

AGAIN_S = 2.0


class BindGate:
    """`usable` belongs to the session; call `is_outdated` several times a second."""

    def __init__(self, sockets: ListenerSockets) -> None:
        self._sockets = sockets
        self._refused: dict[str, tuple[Listener, str]] = {}
        self._since: float | None = None

    @property
    def problems(self) -> Mapping[str, str]:
        """Listener -> why it is refused."""
        return {name: why for name, (_, why) in self._refused.items()}

    def usable(self, decoded: Decoded) -> str:
        """Why a resource cannot be used here; empty when it can."""
        for _, name, value in decoded.values:
            if isinstance(value, Listener):
                self._refused.pop(name, None)
                why = self._sockets.why_not(value)
                if why:
                    self._refused[name] = (value, why)
                    return why
        return ""

    def is_outdated(self, session: AdsSession, now: float) -> bool:
        """Has the server been told something else than what is so? Then a new stream should be opened."""
        state = session.types[type_url.LISTENER]
        for name in [name for name in self._refused if name not in state.refused and name not in state.held]:
            del self._refused[name]  # the server has taken it back
        unbound = any(name in state.held and name not in state.refused for name in self._sockets.problems)
        free = any(
            name in state.refused and not self._sockets.why_not(item) for name, (item, _) in self._refused.items()
        )
        if not (session.online and (unbound or free)):
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        if now - self._since < AGAIN_S:
            return False
        self._since = None
        return True
