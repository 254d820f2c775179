"""Replicas with rollout drivers over one store in memory, moved step by step; their proxies answer when told to."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.distribution.stream_sync import Rejection, Span
from controlplane.distribution.traffic import LoadRow
from controlplane.model.rollout_observation import place_of
from controlplane.reconcile.replica import Replica
from controlplane.reconcile.rollout_reports import Reporter
from controlplane.reconcile.rollouts import RolloutDriver
from controlplane.store.memory import MemoryStore
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import Locality
from tests.support.clock import ManualClock
from tests.support.plane import Api, Plane, api, until


@dataclass
class Driven:
    """One replica."""

    api: Api
    replica: Replica
    driver: RolloutDriver

    @property
    def plane(self) -> Plane:
        return self.api.plane

    def traffic(self, node: str, cluster: str, requests: int, errors: int = 0) -> None:
        """A load report of the node."""
        row = LoadRow(
            cluster=cluster, locality=Locality(), interval_s=5.0, issued=requests, succeeded=requests - errors,
            failed=errors, in_progress=0,
        )  # fmt: skip
        self.plane.traffic.record(node, row, 1000.0)

    def refuse(self, node: str, type_url: str, name: str, reason: str = "bad value") -> None:
        """The node's proxy refuses a resource of what it has been given."""
        (stream,) = (stream for stream, proxy in self._proxies() if proxy == node)
        view = self.plane.reconciler.cache.views()[stream]
        resource = view.get(type_url, name)
        assert resource is not None, f"{node} has no {name}"
        self.plane.syncs[stream].of(type_url).rejected[name] = Rejection(
            type_url=type_url, name=name, version=resource.version, sources=resource.sources, reason=reason,
            span=Span(0, view.revision), certain=True,
        )  # fmt: skip

    def acknowledge(self) -> None:
        """Every proxy has what it was given."""
        for sync in self.plane.syncs.values():
            sync.take_queued(Span(0, 0))

    def _proxies(self) -> list[tuple[int, str]]:
        return [(connection.stream, connection.node) for connection, _ in self.plane.ledger.streams()]


class Fleet:
    """All replicas of one mesh, the first one's REST being asked."""

    def __init__(self, store: MemoryStore, clock: ManualClock, replicas: list[Driven]) -> None:
        self.store = store
        self.clock = clock
        self.replicas = replicas

    @property
    def rest(self) -> Api:
        return self.replicas[0].api

    async def turn(self, *, acknowledge: bool = True, times: int = 1) -> None:
        """Every driver looks once; what it writes comes to all; proxies take what they were given."""
        for _ in range(times):
            for one in self.replicas:
                await one.driver.look()
                await self.settle()
            if acknowledge:
                for one in self.replicas:
                    one.acknowledge()

    async def settle(self) -> None:
        """Until every replica has what is stored."""
        revision = (await self.store.list("/")).revision
        for one in self.replicas:
            await one.plane.published(revision)

    async def until_phase(self, id_: str, phase: str) -> Any:
        """Turn until the rollout is there, and every replica knows it; its JSON."""
        for _ in range(12):
            found = await self.rest.get(f"/mesh/v1/rollouts/{id_}")
            if found["phase"] == phase:
                await self.settle()
                return found
            await self.turn()
        raise AssertionError(f"{found['phase']} instead of {phase}: {found}")

    async def watched(self, id_: str) -> Any:
        """Turn until the rollout is watched and every replica has begun to count; its JSON."""
        await self.until_phase(id_, "Watching")
        await self.prime()
        return await self.until_phase(id_, "Watching")

    async def prime(self) -> None:
        """Every proxy has sent the first report of the phase, which is not counted."""
        for one in self.replicas:
            await one.driver.look()
            for node in one.plane.view.connected():
                one.traffic(node, "outbound|80||idle", 1)
            await one.driver.look()
        await self.settle()

    async def die(self, one: Driven) -> None:
        """The replica stops without a word; its lease has run out."""
        self.replicas.remove(one)
        self.store.end_lease(one.replica.lease)
        await self.settle()


@asynccontextmanager
async def fleet(tmp_path: Path, *nodes: tuple[str, ...]) -> AsyncIterator[Fleet]:
    """A replica for each tuple of node names, which are connected to it."""
    store, clock = MemoryStore(), ManualClock(wall_s=time.time())
    async with AsyncExitStack() as stack:
        replicas: list[Driven] = []
        for number, names in enumerate(nodes, start=1):
            name = f"cp-{number}"
            rest = await stack.enter_async_context(api(tmp_path, name=name, store=store))
            replica = Replica(store, name)
            stack.push_async_callback(cancel_and_wait, spawn(name, replica.run({"rest": "127.0.0.1:1"})))
            await until(lambda replica=replica: replica.lease)
            made = rest.plane
            reporter = Reporter(name, made.reconciler, made.ledger, made.traffic)
            driver = RolloutDriver(
                store=store, replica=replica, reconciler=made.reconciler, reporter=reporter, events=made.events,
                clock=clock,
            )  # fmt: skip
            for node in names:
                made.connect(node)
            replicas.append(Driven(rest, replica, driver))
        yield Fleet(store, clock, replicas)


def in_order(rollout: str, *nodes: str) -> list[str]:
    """The nodes by their places: the first is staged first."""
    return sorted(nodes, key=lambda node: place_of(rollout, node))
