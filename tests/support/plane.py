"""A control plane without sockets to the outside: store in memory, reconciler, ledger, CA, and the API over them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from controlplane.api.app import build_rest_app
from controlplane.api.view import Dependencies, Limits
from controlplane.ca.service import CertificateAuthority, open_authority
from controlplane.compiler.compile import Compiler
from controlplane.discovery.agent_desk import AgentDesk
from controlplane.discovery.client_status import ClientStatuses
from controlplane.distribution.breakers import BreakerTable
from controlplane.distribution.events import EventLog
from controlplane.distribution.ledger import Connection, DistributionLedger
from controlplane.distribution.stream_sync import Span, StreamSync
from controlplane.distribution.traffic import TrafficTable
from controlplane.model.proxy import Proxy
from controlplane.policy.kinds import KINDS
from controlplane.policy.objects import encode
from controlplane.reconcile.metrics import ReconcileMetrics
from controlplane.reconcile.reconciler import Reconciler
from controlplane.reconcile.replica_view import ReplicaView
from controlplane.registry.codec import encode_ejection, encode_instance, encode_node
from controlplane.registry.instances import Ejection, Instance, Node
from controlplane.snapshot.cache import Compiling, Update
from controlplane.store.keys import ObjectKey, ejection_key, instance_key, node_key
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Put
from mesh.clock import SystemClock
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import Dialect, ObjectRef
from tests.support.compiling import SETTINGS, agent, parse

OBJECTS = "/apis/networking.istio.io/v1/namespaces/default"
MERGE = {"Content-Type": "application/merge-patch+json"}
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@dataclass
class Plane:
    """One replica. `connect` puts a proxy on a stream that answers only when a test says so."""

    store: MemoryStore
    reconciler: Reconciler
    ledger: DistributionLedger
    events: EventLog
    traffic: TrafficTable
    ready: dict[str, str]
    registry: CollectorRegistry
    syncs: dict[int, StreamSync] = field(default_factory=dict)
    delivered: list[Update] = field(default_factory=list)
    breakers: BreakerTable = field(default_factory=BreakerTable)

    @property
    def view(self) -> ReplicaView:
        return ReplicaView(
            reconciler=self.reconciler,
            ledger=self.ledger,
            traffic=self.traffic,
            events=self.events,
            readiness=lambda: self.ready,
            breakers=self.breakers,
        )

    def deliver(self, updates: Iterable[Update]) -> None:
        for update in updates:
            self.delivered.append(update)
            self.syncs[update.stream].queue(Span(update.after, update.view.revision))

    def connect(self, node: str = "node-1", proxy: Proxy | None = None) -> StreamSync:
        """A stream of one of our agents that has its first state."""
        stream = len(self.syncs) + 1
        self.reconciler.cache.connect(stream, proxy or agent(node))
        self.syncs[stream] = self.ledger.connect(
            Connection(
                stream=stream,
                node=node,
                dialect=Dialect.GOSSAMER,
                user_agent="gossamer-agent",
                address="ipv4:10.0.0.1:1",
                namespace="default",
                locality=agent(node).locality,
                delta=True,
                connected_since=1_790_000_000.0,
            )
        )
        self.syncs[stream].begin(None)
        return self.syncs[stream]

    async def put(self, text: str) -> int:
        """Store manifests, Instances and Nodes as they are; the revision, once it is published."""
        objects, instances, nodes = parse(text)
        ops = [Put(key_of(item.ref), encode(item)) for item in objects]
        ops += [Put(instance_key(item.namespace, item.node, item.id), encode_instance(item)) for item in instances]
        ops += [Put(node_key(item.name), encode_node(item)) for item in nodes]
        return await self.write(*ops)

    async def put_instances(self, *instances: Instance) -> int:
        return await self.write(
            *(Put(instance_key(item.namespace, item.node, item.id), encode_instance(item)) for item in instances)
        )

    async def put_nodes(self, *nodes: Node) -> int:
        return await self.write(*(Put(node_key(item.name), encode_node(item)) for item in nodes))

    async def put_ejections(self, *ejections: Ejection) -> int:
        return await self.write(
            *(Put(ejection_key(item.cluster, item.endpoint, item.node), encode_ejection(item)) for item in ejections)
        )

    async def write(self, *ops: Any) -> int:
        done = await self.store.transact([], list(ops))
        await self.published(done.revision)
        return done.revision

    async def published(self, revision: int) -> None:
        await until(lambda: self.ledger.published >= revision)


def virtual_service(name: str = "a", host: str = "a", **metadata: Any) -> dict[str, Any]:
    """The manifest of a small VirtualService."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, **metadata},
        "spec": {"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]},
    }


def key_of(ref: ObjectRef) -> str:
    """The store's key of an object."""
    kind = KINDS.by_group_kind(ref.group, ref.kind)
    assert kind is not None
    return ObjectKey(ref.group, kind.plural, ref.namespace, ref.name).object_key()


async def until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Let other tasks run until it holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.001)


@asynccontextmanager
async def plane(store: MemoryStore | None = None, compiler: Compiling | None = None) -> AsyncIterator[Plane]:
    """A running replica whose first snapshot is published."""
    holder: list[Plane] = []
    registry = CollectorRegistry()
    ledger = DistributionLedger()
    found = store or MemoryStore()
    reconciler = Reconciler(
        store=found,
        compiler=compiler or Compiler(),
        mesh_settings=SETTINGS,
        ledger=ledger,
        deliver=lambda updates: holder[0].deliver(updates),
        metrics=ReconcileMetrics(registry),
        clock=SystemClock(),
    )
    ready = {"etcd": "", "synced": ""}
    made = Plane(found, reconciler, ledger, EventLog(), TrafficTable(), ready, registry)
    holder.append(made)
    running = spawn("reconciler", reconciler.run())
    try:
        await reconciler.wait_synced()
        yield made
    finally:
        await cancel_and_wait(running)


@dataclass
class Api:
    """A plane with its REST API."""

    plane: Plane
    authority: CertificateAuthority
    dependencies: Dependencies
    client: "TestClient[Any, Any]"

    async def call(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, status: int = 200
    ) -> Any:
        """The JSON answer; a `body` that is no text is sent as JSON. Asserts the status."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        elif body is not None:
            sent.setdefault("Content-Type", "application/yaml")
        async with self.client.request(method, path, data=body, headers=sent) as response:
            text = await response.text()
            assert response.status == status, f"{response.status} {text}"
            return json.loads(text)

    async def get(self, path: str, *, status: int = 200, **headers: str) -> Any:
        return await self.call("GET", path, headers={key.replace("_", "-"): item for key, item in headers.items()},
                               status=status)  # fmt: skip

    async def apply(self, text: str, *, status: int = 200, query: str = "") -> Any:
        """POST a batch; what was stored is published when it returns."""
        answer = await self.call("POST", f"/mesh/v1/batch{query}", text, status=status)
        if status == 200 and not answer["dry_run"]:
            await self.plane.published(answer["revision"])
        return answer


@asynccontextmanager
async def api(
    tmp_path: Path, *, tokens: Mapping[str, str] | None = None, limits: Limits | None = None, name: str = "cp-1",
    store: MemoryStore | None = None, loopback: bool = True,
) -> AsyncIterator[Api]:  # fmt: skip
    """A running replica behind an HTTP port on loopback."""
    async with plane(store) as made:
        authority = await open_authority(made.store, state_dir=tmp_path, trust_domain="cluster.local")
        dependencies = Dependencies(
            store=made.store,
            view=made.view,
            tokens=authority.tokens,
            roots_pem=lambda: authority.trust_bundle_pem,
            rotations=authority.rotations,
            api_tokens=tokens,
            bound_to_loopback=loopback,
            replica=name,
            client_statuses=ClientStatuses(made.ledger, lambda: made.reconciler.cache, AgentDesk()).of,
            registry=made.registry,
            limits=limits or Limits(),
        )
        async with TestClient(TestServer(build_rest_app(dependencies))) as client:
            yield Api(made, authority, dependencies, client)
