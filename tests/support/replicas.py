"""Whole replicas in this process over one store in memory: REST, ADS on a real port, statuses on a lease."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from controlplane.discovery.admission import Gate
from controlplane.discovery.channel import SERVER_OPTIONS
from controlplane.discovery.metrics import DiscoveryMetrics
from controlplane.discovery.server import Collaborators, DiscoveryService
from controlplane.reconcile.replica import Replica
from controlplane.reconcile.status_writer import StatusWriter
from controlplane.store.memory import MemoryStore
from mesh.clock import SystemClock
from mesh.tasks import cancel_and_wait, spawn
from tests.support.ads import RawStream, node
from tests.support.plane import Api, Plane, api, until


@dataclass
class WholeReplica:
    """One replica. `write_statuses` does what its status writer does each second."""

    name: str
    rest: Api
    address: str
    replica: Replica
    writer: StatusWriter
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def plane(self) -> Plane:
        return self.rest.plane

    async def write_statuses(self) -> None:
        await self.writer.write()

    def stream(self, name: str, *, delta: bool = True) -> RawStream:
        """A stream of one of our agents, on a connection of its own."""
        channel = grpc.aio.insecure_channel(self.address, options=(("grpc.use_local_subchannel_pool", 1),))
        self.channels.append(channel)
        return RawStream(channel, node(name), delta=delta)


@asynccontextmanager
async def whole_replica(tmp_path: Path, name: str, store: MemoryStore) -> AsyncIterator[WholeReplica]:
    """A replica that runs until the block ends; its lease then ends too."""
    async with api(tmp_path, name=name, store=store) as rest:
        service = _discovery(rest.plane, name)
        rest.plane.deliver = service.deliver  # type: ignore[method-assign]
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((service.handler(authenticated=False),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        replica = Replica(store, name)
        holding = spawn("lease", replica.run({"rest": f"127.0.0.1:{rest.client.server.port}"}))
        await until(lambda: replica.lease)
        writer = StatusWriter(store, replica, rest.plane.reconciler.statuses)
        made = WholeReplica(name, rest, address, replica, writer)
        try:
            yield made
        finally:
            await asyncio.gather(*(channel.close() for channel in made.channels))
            await server.stop(None)
            await cancel_and_wait(holding)
            await replica.release()


def _discovery(plane: Plane, name: str) -> DiscoveryService:
    clock = SystemClock()
    gate = Gate(wait_s=60.0, started=clock.monotonic())
    gate.look((), (), clock.monotonic())
    service = DiscoveryService(
        Collaborators(
            cache=plane.reconciler.cache,
            ledger=plane.ledger,
            gate=gate,
            store=plane.store,
            existing=lambda _: [],
            events=plane.events,
            metrics=DiscoveryMetrics(plane.registry),
            clock=clock,
            trust_domain="cluster.local",
            replica=name,
            admission_per_s=10_000.0,
            send_timeout_s=30.0,
        )
    )
    service.open_gate()
    return service


async def status_of(replica: WholeReplica, path: str) -> dict[str, Any]:
    """The status of an object: `proxies`, and its conditions by type."""
    found = (await replica.rest.get(path)).get("status", {})
    return {"proxies": found.get("proxies"), **{item["type"]: item for item in found.get("conditions", ())}}
