"""The shell of the active health checks: one task per checked service, at most CONCURRENT at a time.

Owns:   the tasks, when each check is made.
Not:    the check (probes), its meaning (health), the services (registry).
Invariants: a service that leaves ends its task; a check never overlaps the one before; `run` ends by cancellation only.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from agent.settings import ServiceCheck
from agent.workloads import bypass
from agent.workloads.health import INITIAL_JITTER_S, Result, next_delay_s
from agent.workloads.probes import probe
from agent.workloads.registry import Workloads
from mesh.tasks import cancel_and_wait, spawn

CONCURRENT = 32
SWEEP_S = 1.0
EXPOSED_EVERY = 10  # sweeps between two looks at /proc

Probe = Callable[[ServiceCheck], Awaitable[Result]]


class Checker:
    """Makes the checks of all services of `workloads`."""

    def __init__(self, workloads: Workloads, *, make: Probe = probe, rng: Callable[[], float] = random.random) -> None:
        self._workloads = workloads
        self._make = make
        self._rng = rng
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._tasks: dict[str, tuple[ServiceCheck, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Follow the services until cancelled."""
        sweeps = 0
        exposed: frozenset[int] = frozenset()
        try:
            while True:
                if sweeps % EXPOSED_EVERY == 0:
                    exposed = await asyncio.to_thread(bypass.exposed_ports)
                sweeps += 1
                self.follow()
                self._workloads.sweep(exposed)
                await asyncio.sleep(SWEEP_S)
        finally:
            await cancel_and_wait(*(task for _, task in self._tasks.values()))

    def follow(self) -> None:
        """Begin and end tasks so that each service with an active check has one for its present check."""
        wanted = {
            name: item.service.check
            for name, item in self._workloads.services.items()
            if item.service.check is not None and not item.service.check.ttl_s
        }
        for name, (check, task) in list(self._tasks.items()):
            if wanted.get(name) != check:
                task.cancel()
                del self._tasks[name]
        for name, check in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = (check, spawn(f"health check {name}", self._check(name, check)))

    async def _check(self, name: str, check: ServiceCheck) -> None:
        await asyncio.sleep(INITIAL_JITTER_S * self._rng())
        while True:
            async with self._slots:
                result = await self._make(check)
            self._workloads.checked(name, check, result)
            await asyncio.sleep(next_delay_s(check.interval_s, self._rng))
