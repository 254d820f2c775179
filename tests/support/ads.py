"""The ADS service on a real gRPC port on loopback, and clients that see the raw bytes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import Node as XdsNode
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.protobuf.json_format import ParseDict
from prometheus_client import CollectorRegistry

from controlplane.compiler.compile import Compiler
from controlplane.discovery.admission import Gate
from controlplane.discovery.channel import server_options
from controlplane.discovery.metrics import DiscoveryMetrics
from controlplane.discovery.server import SERVICE, Collaborators, DiscoveryService
from controlplane.distribution.events import EventLog
from controlplane.distribution.ledger import DistributionLedger
from controlplane.model.mesh_state import MeshState
from controlplane.snapshot.cache import SnapshotCache
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import ConfigStore
from mesh.clock import Clock, SystemClock

WAIT_S = 20.0
# A client that takes no more from the wire than it is asked to read.
NARROW = (("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", -1))


def node(
    name: str = "node-1", agent: str = "gossamer-agent", *, features: Iterable[str] = (), **metadata: Any
) -> XdsNode:
    known = {"NAMESPACE": "default", "ADDRESS": "10.0.0.1", **metadata}
    fields = {"id": name, "userAgentName": agent, "clientFeatures": list(features), "metadata": known}
    return ParseDict(fields, XdsNode())


class Ended(Exception):
    """The server has ended the stream."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class RawStream:
    """One ADS stream. `raw` holds the bytes of every response, in order."""

    def __init__(self, channel: grpc.aio.Channel, who: XdsNode, *, delta: bool) -> None:
        method = "DeltaAggregatedResources" if delta else "StreamAggregatedResources"
        serializer = DeltaDiscoveryRequest.SerializeToString if delta else DiscoveryRequest.SerializeToString
        open_stream = channel.stream_stream(f"/{SERVICE}/{method}", request_serializer=serializer)
        self.call: Any = open_stream()
        self._opened = (channel, who)
        self.delta = delta
        self.raw: list[bytes] = []
        self._node: XdsNode | None = who
        self._names: dict[str, list[str]] = {}

    def reopened(self) -> "RawStream":
        """Another stream of the same client on the same channel."""
        channel, who = self._opened
        return RawStream(channel, who, delta=self.delta)

    async def send(self, **fields: Any) -> None:
        request = DeltaDiscoveryRequest(**fields) if self.delta else DiscoveryRequest(**fields)
        if self._node is not None:
            request.node.CopyFrom(self._node)
            self._node = None
        if isinstance(request, DiscoveryRequest) and not request.response_nonce:
            self._names[request.type_url] = list(request.resource_names)
        await self.call.write(request)

    async def receive(self) -> Any:
        """The next response. Raises Ended when there is none."""
        async with asyncio.timeout(WAIT_S):
            data = await self.call.read()
            if data is grpc.aio.EOF:
                raise Ended(await self.call.code(), await self.call.details())
        self.raw.append(data)
        return DeltaDiscoveryResponse.FromString(data) if self.delta else DiscoveryResponse.FromString(data)

    async def take(self) -> Any:
        """The next response, acknowledged."""
        response = await self.receive()
        fields: dict[str, Any] = {"type_url": response.type_url, "response_nonce": response.nonce}
        if not self.delta:
            fields |= {"version_info": response.version_info, "resource_names": self._names[response.type_url]}
        await self.send(**fields)
        return response

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Read until the server ends the stream."""
        try:
            while True:
                await self.receive()
        except Ended as ended:
            return ended.code, ended.details
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""

    def cancel(self) -> None:
        self.call.cancel()


@dataclass
class Ads:
    """A served ADS with everything it is made of."""

    mesh: MeshState
    clock: Clock = field(default_factory=SystemClock)
    store: ConfigStore = field(default_factory=MemoryStore)
    existing: list[str] = field(default_factory=list)
    loaded: bool = True
    send_timeout_s: float = 30.0
    admission_per_s: float = 10_000.0
    max_stream_age_s: float = 0.0
    replica: str = "replica-1"

    def __post_init__(self) -> None:
        self.compiler = Compiler()
        self.cache = SnapshotCache(self.compiler, self.mesh)
        self.ledger = DistributionLedger()
        self.ledger.publish(self.mesh.revision)
        self.gate = Gate(wait_s=60.0, started=self.clock.monotonic())
        self.events = EventLog()
        self.metrics = DiscoveryMetrics(CollectorRegistry())
        self.service = DiscoveryService(
            Collaborators(
                cache=self.cache,
                ledger=self.ledger,
                gate=self.gate,
                store=self.store,
                existing=lambda _: self.existing,
                events=self.events,
                metrics=self.metrics,
                clock=self.clock,
                trust_domain="cluster.local",
                replica=self.replica,
                admission_per_s=self.admission_per_s,
                send_timeout_s=self.send_timeout_s,
                max_stream_age_s=self.max_stream_age_s,
            )
        )
        self.address = ""
        self._channels: list[grpc.aio.Channel] = []
        if self.loaded:
            self.open_gate()

    def open_gate(self) -> None:
        self.gate.look((), (), self.clock.monotonic())
        self.service.open_gate()

    def stream(
        self, who: XdsNode | None = None, *, delta: bool = True, options: Iterable[tuple[str, int]] = ()
    ) -> RawStream:
        """A stream on a connection of its own."""
        own = ("grpc.use_local_subchannel_pool", 1)
        channel = grpc.aio.insecure_channel(self.address, options=(own, *options))
        self._channels.append(channel)
        return RawStream(channel, who if who is not None else node(), delta=delta)

    def publish(self, mesh: MeshState) -> None:
        """What reconcile does with a new state."""
        self.cache.advance(mesh)
        self.service.deliver(list(self.cache.refresh()))
        self.ledger.publish(mesh.revision)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def served(ads: Ads) -> AsyncIterator[Ads]:
    """Serve it without TLS until the block ends."""
    server = grpc.aio.server(options=server_options(ads.max_stream_age_s))
    server.add_generic_rpc_handlers((ads.service.handler(authenticated=False),))
    ads.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield ads
    finally:
        await ads.close()
        await server.stop(None)


async def until(what: str, test: Callable[[], bool]) -> None:
    """Let the loop run until `test()` is true."""
    for _ in range(int(WAIT_S / 0.005)):
        if test():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not reached: {what}")
