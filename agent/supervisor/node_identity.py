"""Who this node is: its certificates with their keeper, and the channels that show them to the control plane.

Owns:   where identities are stored, reading them again after a predecessor, waiting for the first one, the choice of
        the channel.
Not:    getting and renewing them (agent.identity.renewal), the channels' making (agent.identity.channels), which of
        them workers show (identity_flow).
Source: decisions 13, 14; design section 5.
Invariants: with a server that is not ours nothing is stored, and no certificate of the mesh is shown; what is wrong
        with a stored identity is said once.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from agent.identity import channels
from agent.identity.renewal import IdentityKeeper
from agent.identity.vault import Vault
from agent.settings import Settings
from mesh.clock import Clock
from mesh.identity.spiffe import node_id
from mesh.logs import get_logger

_log = get_logger(__name__)


class NodeIdentity:
    """`on_change(node_renewed)`: as IdentityKeeper calls it. `vault` and `keeper` are those of the last `load`."""

    vault: Vault
    keeper: IdentityKeeper

    def __init__(self, settings: Settings, *, clock: Clock, on_change: Callable[[bool], None]) -> None:
        self._settings = settings
        self._clock = clock
        self._on_change = on_change
        self._held = asyncio.Event()
        self._said: set[str] = set()
        self.name = str(node_id(settings.control_plane.trust_domain, settings.node.name))
        self.load()

    def load(self) -> None:
        """Read what is stored, which a predecessor may have renewed until it left."""
        settings = self._settings
        on_disk = settings.proxy.keys == "disk" and settings.control_plane.is_ours
        self.vault = Vault(settings.state_dir / "identity" if on_disk else None)
        for problem in self.vault.load(self._clock.wall()):
            if problem not in self._said:
                _log.warning("a stored identity is not used", reason=problem)
                self._said.add(problem)
        self.keeper = IdentityKeeper(
            settings.control_plane,
            settings.node.name,
            self.name,
            self.vault,
            clock=self._clock,
            on_change=self._on_change,
        )

    def look(self) -> None:
        """The vault holds something else: who waits for the node's identity may go on."""
        if self.name in self.vault.identities:
            self._held.set()

    async def when_held(self, coro: Coroutine[Any, Any, None]) -> None:
        """Run `coro` once there is an identity to run it with."""
        try:
            await self._held.wait()  # bounded by the keeper, which tries for ever and says why
        except asyncio.CancelledError:
            coro.close()
            raise
        await coro

    def connect(self) -> grpc.aio.Channel:
        """A new channel to the control plane. Raises LookupError while there is no identity."""
        control_plane = self._settings.control_plane
        if not control_plane.is_ours:
            return channels.foreign(control_plane)
        identity = self.vault.identities[self.name]
        return channels.mtls(control_plane.address, control_plane.server_name, identity, self.vault.trust_pem)
