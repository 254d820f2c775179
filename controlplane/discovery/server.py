"""The ADS service: who may open a stream, and its life from the first request to the end.

Owns:   admission (loaded, registered, rate), the node's identity, registering streams with cache and ledger,
        handing out new views.
Not:    one stream's protocol (session, stream), reports (reports.py), compiling (snapshot.cache).
Source: control-plane.md 5, rules 1, 22, 23, 26; decision 13; libraries.md E (server options).

A stream before the first snapshot is refused with UNAVAILABLE: clients keep what they have and come back. While known
nodes are still registering (a few seconds after a start) a stream stays open and waits, so that it does not back off.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.config.core.v3.base_pb2 import ControlPlane
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from controlplane.ca.grants import grant_of
from controlplane.ca.peers import require_node
from controlplane.discovery.admission import AdmissionRate, Gate
from controlplane.discovery.delta import DeltaSession
from controlplane.discovery.metrics import DiscoveryMetrics
from controlplane.discovery.permission import permitted
from controlplane.discovery.presence import ExistingKeys, Presence, hold
from controlplane.discovery.sotw import SotwSession
from controlplane.discovery.stream import Read, Request, SlowReader, Stream
from controlplane.distribution.events import EventLog, refusal_events
from controlplane.distribution.ledger import Connection, DistributionLedger
from controlplane.distribution.stream_sync import Rejection
from controlplane.model.proxy import Proxy, proxy_from_node
from controlplane.registry.instances import Instance, Node
from controlplane.snapshot.cache import SnapshotCache, Update
from controlplane.snapshot.diff import DiffCache
from controlplane.store.protocol import ConfigStore
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import bind, get_logger
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import Dialect
from mesh.xds.type_url import SHORT_NAMES

_log = get_logger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
FIRST_REQUEST_S = 30.0
# So many streams at once get their first state, each for so long at most: a fleet that comes at once is served one
# after the other, instead of all of it so slowly that streams are cut off.
_BEGIN_AT_ONCE = 32
_BEGIN_S = 2.0
_BEGIN_WAIT_S = 30.0

_AGE_SPREAD = 0.1  # streams that began together do not end together

Context = grpc.aio.ServicerContext[Any, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """What the service is built from."""

    cache: SnapshotCache
    ledger: DistributionLedger
    gate: Gate
    store: ConfigStore
    existing: ExistingKeys
    events: EventLog
    metrics: DiscoveryMetrics
    clock: Clock
    trust_domain: str
    replica: str
    admission_per_s: float
    send_timeout_s: float
    max_stream_age_s: float = 0.0  # 0 = no limit
    rng: Callable[[], float] = random.random


class _Turn:
    """A stream's place among those that begin; given back once."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns: asyncio.Semaphore | None = turns
        self._timer = asyncio.get_running_loop().call_later(_BEGIN_S, self.give_back)

    def give_back(self) -> None:
        if self._turns is not None:
            self._turns.release()
            self._turns = None
            self._timer.cancel()


class DiscoveryService:
    """ADS for all ports of the process."""

    def __init__(self, parts: Collaborators) -> None:
        self._parts = parts
        self._rate = AdmissionRate(parts.admission_per_s)
        self._diffs = DiffCache()
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self._opened = asyncio.Event()
        self._turns = asyncio.Semaphore(_BEGIN_AT_ONCE)
        self._control_plane = ControlPlane(identifier=parts.replica).SerializeToString()

    def handler(self, *, authenticated: bool) -> "grpc.GenericRpcHandler[Any, Any]":
        """The gRPC methods; `authenticated`: the port has client certificates and node.id must match."""

        async def sotw(_: AsyncIterator[DiscoveryRequest], context: Context) -> None:
            await self._serve(context, delta=False, authenticated=authenticated)

        async def delta(_: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
            await self._serve(context, delta=True, authenticated=authenticated)

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
                    sotw, request_deserializer=DiscoveryRequest.FromString, response_serializer=None
                ),
                "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
                    delta, request_deserializer=DeltaDiscoveryRequest.FromString, response_serializer=None
                ),
            },
        )

    def open_gate(self) -> None:
        """The gate is open: streams that wait go on."""
        self._opened.set()

    def deliver(self, updates: Iterable[Update]) -> None:
        """Hand new views to their streams. Never blocks."""
        for update in updates:
            stream = self._streams.get(update.stream)
            if stream is not None:
                stream.offer(update)

    def end_streams(self) -> None:
        """The server stops: end every stream after what it is writing."""
        for stream in tuple(self._streams.values()):
            stream.end()

    async def _serve(self, context: Context, *, delta: bool, authenticated: bool) -> None:
        requests = _Requests(context)
        try:
            async with asyncio.timeout(FIRST_REQUEST_S):
                node = await requests.node()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request within 30 s")
        if node is None:
            return
        name = node.id[:64]
        try:
            proxy = self._identify(node, context, delta=delta, authenticated=authenticated)
            del node  # with it the whole first request, all of whose names this call would hold as long as it runs
            await self._admit()
            proxy, workloads = await self._granted(proxy, authenticated=authenticated)
            turn = await self._turn()
        except MeshError as error:
            self._parts.metrics.refused.labels(error.code.value).inc()
            _log.warning("xds stream refused", node=name, peer=context.peer(), reason=str(error))
            await context.abort(_STATUS.get(error.code, grpc.StatusCode.UNKNOWN), str(error))
        try:
            await self._run(proxy, workloads, requests.read, context, turn)
        finally:
            turn.give_back()

    def _identify(self, node: base_pb2.Node, context: Context, *, delta: bool, authenticated: bool) -> Proxy:
        try:
            proxy = proxy_from_node(node, delta=delta)
        except ValueError as error:
            raise MeshError(ErrorCode.INVALID, str(error), subject="node") from error
        if not proxy.id:
            raise MeshError(ErrorCode.INVALID, "found no node.id in the first request", subject="node.id")
        if authenticated:
            named = require_node(context.auth_context(), self._parts.trust_domain)
            if proxy.id != named:
                raise MeshError(
                    ErrorCode.PERMISSION_DENIED,
                    f"found {proxy.id[:64]!r}, but the client certificate names node {named!r}",
                    subject="node.id",
                )
        return proxy

    async def _admit(self) -> None:
        if not self._parts.gate.loaded:
            raise MeshError(ErrorCode.UNAVAILABLE, "the first snapshot is not loaded yet", hint="try again")
        wait_s = self._rate.wait_s(self._parts.clock.monotonic())
        if wait_s is None:
            raise MeshError(ErrorCode.UNAVAILABLE, "too many new streams at once", hint="try again with back-off")
        await asyncio.sleep(wait_s)
        await self._opened.wait()  # bounded: the gate opens `registration_wait_s` after the start at the latest

    async def _turn(self) -> _Turn:
        try:
            async with asyncio.timeout(_BEGIN_WAIT_S):
                await self._turns.acquire()
        except TimeoutError as error:
            raise MeshError(
                ErrorCode.UNAVAILABLE, "too many new streams at once", hint="try again with back-off"
            ) from error
        return _Turn(self._turns)

    async def _granted(self, proxy: Proxy, *, authenticated: bool) -> tuple[Proxy, tuple[Instance, ...]]:
        """(with the right to the Secrets of its namespace, what a bare Envoy names in its node metadata as far as its
        node may run it). That right has an Envoy or a gateway on mTLS whose grant has the namespace that it names.
        """
        asks = proxy.dialect is Dialect.ENVOY or proxy.gateway
        if not authenticated or not (asks or proxy.workloads):
            return proxy, proxy.workloads
        grant = await grant_of(self._parts.store, proxy.id)
        allowed, problems = permitted(grant, proxy.id, proxy.workloads)
        for problem in problems:
            _log.warning("a workload of the node's metadata was refused", reason=problem)
        if asks:
            entitled = grant is not None and grant.permits_workload(proxy.namespace, proxy.service_account)
            proxy = replace(proxy, secrets=entitled)
        return proxy, tuple(allowed)

    async def _run(
        self, proxy: Proxy, workloads: tuple[Instance, ...], read: Read, context: Context, turn: _Turn
    ) -> None:
        parts = self._parts
        number = next(self._numbers)
        bind(node=proxy.id, stream=number)
        stream = self._connect(number, proxy, context, turn)
        presence = self._register_workloads(proxy, workloads)
        cut_off = False
        try:
            await stream.run(read, context.write)
        except SlowReader:
            cut_off = True
            _log.warning("xds stream cut off: it does not read", timeout_s=parts.send_timeout_s)
        finally:
            self._disconnect(number, proxy)
            await cancel_and_wait(presence)
        if cut_off:
            # The status goes behind the response that stands on the wire: this takes as long as the client does.
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "responses were not read in time; reconnect")

    def _connect(self, number: int, proxy: Proxy, context: Context, turn: _Turn) -> Stream:
        parts = self._parts
        view = parts.cache.connect(number, proxy)
        connection = Connection(
            stream=number,
            node=proxy.id,
            dialect=proxy.dialect,
            user_agent=proxy.user_agent,
            address=context.peer(),
            namespace=proxy.namespace,
            locality=proxy.locality,
            delta=proxy.delta,
            connected_since=parts.clock.wall(),
        )
        sync = parts.ledger.connect(connection)
        stream = self._streams[number] = Stream(
            (DeltaSession if proxy.delta else SotwSession)(view, sync, ttl=proxy.ttl),
            diffs=self._diffs,
            clock=parts.clock,
            metrics=parts.metrics,
            control_plane=self._control_plane,
            send_timeout_s=parts.send_timeout_s,
            on_nack=lambda type_url, message, refused: self._refused(proxy, type_url, message, refused),
            on_rest=turn.give_back,
            max_age_s=parts.max_stream_age_s * (1 + _AGE_SPREAD * (2 * parts.rng() - 1)),
        )
        parts.metrics.connected.labels(proxy.dialect.value).inc()
        who = f"{proxy.user_agent} {context.peer()}"
        parts.events.add(parts.clock.wall(), "ProxyConnected", f"node {proxy.id}", who)
        _log.info("proxy connected", dialect=proxy.dialect.value, delta=proxy.delta, peer=context.peer())
        return stream

    def _disconnect(self, number: int, proxy: Proxy) -> None:
        parts = self._parts
        self._streams.pop(number, None)
        parts.cache.disconnect(number)
        parts.ledger.disconnect(number)
        parts.metrics.connected.labels(proxy.dialect.value).dec()
        parts.events.add(parts.clock.wall(), "ProxyDisconnected", f"node {proxy.id}", "")
        _log.info("proxy disconnected")

    def _refused(self, proxy: Proxy, type_url: str, message: str, refused: Sequence[Rejection]) -> None:
        short = SHORT_NAMES.get(type_url, type_url)
        _log.warning("proxy refused configuration", type=short, reason=message[:1000])
        now, node = self._parts.clock.wall(), f"node {proxy.id}"
        self._parts.events.add(now, "ConfigRejected", node, f"{short}: {message[:1000]}")
        for event in refusal_events(node, refused):
            self._parts.events.add(now, *event)

    def _register_workloads(self, proxy: Proxy, workloads: tuple[Instance, ...]) -> "asyncio.Task[None] | None":
        """A bare Envoy names its workloads in its node metadata: they are instances while its stream lives."""
        if not workloads:
            return None
        parts = self._parts
        presence = Presence(parts.store, _node_of(proxy), existing=parts.existing, clock=parts.clock)
        return spawn(f"presence {proxy.id}", hold(presence, workloads))


def _node_of(proxy: Proxy) -> Node:
    return Node(
        name=proxy.id,
        address=proxy.address,
        locality=proxy.locality,
        version=proxy.user_agent,
        outbound_address=proxy.outbound_address,
        outbound_port=proxy.outbound_port,
        dialect=proxy.dialect.value,
    )


_STATUS = {
    ErrorCode.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


class _Requests:
    """What the client says; whose stream it is is looked up in the first request before that is read."""

    __slots__ = ("_context", "_first")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first: Request | None = None

    async def node(self) -> base_pb2.Node | None:
        """Of the first request; None: there is none."""
        self._first = await self.read()
        return None if self._first is None else self._first.node

    async def read(self) -> Request | None:
        """The next; None when the client has ended its side."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        request = await self._context.read()
        return request if isinstance(request, Request) else None  # grpc.aio.EOF
