"""Keeps the history within its bounds: looks now and then, and deletes the oldest beyond them.

Owns:   when to look.
Not:    what is beyond the bounds and how it goes (controlplane.store.history). Every replica runs one; they share the
        work without harm.
Invariant: one look deletes a bounded number of records; what is left is for the next one.
"""

import asyncio

from controlplane.store import history
from controlplane.store.history import Retention
from controlplane.store.protocol import ConfigStore
from mesh.clock import Clock
from mesh.errors import MeshError
from mesh.logs import get_logger

_log = get_logger(__name__)

EVERY_S = 60.0


class HistoryPruner:
    """`retention`: what is kept; `every_s`: seconds between two looks."""

    def __init__(
        self, store: ConfigStore, retention: Retention, clock: Clock, *, every_s: float = EVERY_S
    ) -> None:  # fmt: skip
        self._store = store
        self._retention = retention
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                gone = await history.prune(self._store, self._retention, now_ms=int(self._clock.wall() * 1000))
            except MeshError as error:
                _log.warning("cannot prune the history; trying again", reason=str(error))
                continue
            if gone:
                _log.info("pruned the history", records=gone)
