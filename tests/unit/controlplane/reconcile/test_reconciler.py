"""From writes in the store to views on streams: order, merging, what is published when, and what fails."""

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry

from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Compiled
from controlplane.distribution.ledger import DistributionLedger
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import ProxyScope
from controlplane.policy.objects import encode
from controlplane.reconcile.metrics import ReconcileMetrics
from controlplane.reconcile.reconciler import Reconciler
from controlplane.registry.codec import encode_instance
from controlplane.registry.instances import Ejection
from controlplane.store import keys
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Delete, Put
from mesh.clock import SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import ObjectRef
from mesh.xds import type_url
from tests.support.compiling import SETTINGS, instance, parse, policy_object
from tests.support.plane import Plane, key_of, plane, until

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec:
  selector: {app: user-service}
  ports: [{port: 80, targetPort: 3001}]
"""
OTHER = SERVICE.replace("user-service", "other")
VIRTUAL_SERVICE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: user-service}
spec:
  hosts: [user-service]
  http: [{route: [{destination: {host: user-service, subset: v9}}]}]
"""
HOST = "user-service.default.svc.cluster.local"
CLUSTER = f"outbound|80||{HOST}"
VS = ObjectRef("networking.istio.io", "VirtualService", "default", "user-service")
VS_KEY = keys.ObjectKey("networking.istio.io", "virtualservices", "default", "user-service")


def names(made: Plane, url: str = type_url.CLUSTER) -> set[str]:
    """What the last delivered view has."""
    return set(made.delivered[-1].view.names(url))


async def test_what_is_there_at_the_start_is_the_first_snapshot() -> None:
    store = MemoryStore()
    async with plane(store) as made:
        revision = await made.put(SERVICE)
    async with plane(store) as again:
        assert again.reconciler.synced
        assert again.ledger.published == revision
        assert again.reconciler.cache.mesh.service(HOST) is not None


async def test_a_write_reaches_the_streams_and_then_counts_as_published() -> None:
    async with plane() as made:
        made.connect()
        order: list[str] = []
        deliver, publish = made.deliver, made.ledger.publish
        made.deliver = lambda updates: (order.append("deliver"), deliver(updates))[1]  # type: ignore[method-assign]
        made.ledger.publish = lambda revision: (order.append("publish"), publish(revision))[1]  # type: ignore[method-assign]
        revision = await made.put(SERVICE)
        assert order == ["deliver", "publish"]
        (update,) = made.delivered
        assert (update.view.revision, update.after) == (revision, 1)
        assert CLUSTER in names(made)


async def test_a_stream_that_a_change_does_not_touch_gets_nothing() -> None:
    async with plane() as made:
        made.connect()
        service = await made.put(SERVICE)
        before = len(made.delivered)
        node = await made.write(Put(keys.node_key("node-7"), b'{"address":"10.0.0.7","name":"node-7"}'))
        assert len(made.delivered) == before
        assert made.ledger.revision_status(service).pending == ("node-1",)
        assert made.ledger.revision_status(node).acked == ("node-1",), "what does not touch it, it has at once"


async def test_a_burst_is_merged() -> None:
    async with plane() as made:
        made.connect()
        await made.put(SERVICE)
        first = len(made.delivered)
        for weight in range(2, 40):
            await made.store.transact(
                [], [Put(keys.instance_key("default", "node-1", "i-1"), _instance(weight))]
            )  # fmt: skip
            await asyncio.sleep(0)
        revision = (await made.store.list("/")).revision
        await made.published(revision)
        assert 1 <= len(made.delivered) - first <= 3
        assert made.delivered[-1].view.revision == revision
        assert made.reconciler.mesh.instances_of("node-1")[0].weight == 39


def _instance(weight: int) -> bytes:
    return encode_instance(instance("i-1", weight=weight))


async def test_statuses_and_records_move_published_but_compile_nothing() -> None:
    compiler = Compiler()
    async with plane(compiler=compiler) as made:
        made.connect()
        await made.put(SERVICE)
        builds, delivered, mesh = compiler.builds.total(), len(made.delivered), made.reconciler.mesh
        revision = await made.write(Put(VS_KEY.status_key("cp-1"), b"{}"), Put(keys.apply_key("01"), b"{}"))
        assert made.ledger.published >= revision
        assert made.reconciler.mesh is mesh
        assert (compiler.builds.total(), len(made.delivered)) == (builds, delivered)


async def test_a_deletion_takes_the_resources_away() -> None:
    async with plane() as made:
        made.connect()
        await made.put(SERVICE)
        await made.put(OTHER)
        await made.write(Delete(keys.ObjectKey("", "services", "default", "user-service").object_key()))
        assert CLUSTER not in names(made)
        assert "outbound|80||other.default.svc.cluster.local" in names(made)


async def test_after_compaction_the_view_is_exactly_the_stores() -> None:
    """Decision 18: a gap is bridged by a relisting; deletions are synthesised."""

    class Gap(MemoryStore):
        held = False

        async def watch(self, prefix):  # type: ignore[no-untyped-def,override]
            async for step in super().watch(prefix):
                yield step
                await until(lambda: not self.held)

    store = Gap()
    async with plane(store) as made:
        made.connect()
        await made.put(SERVICE)
        store.held = True
        await store.transact([], [Put(keys.node_key("node-1"), b'{"address":"10.0.0.1","name":"node-1"}')])
        await asyncio.sleep(0.06)
        await store.transact([], [Delete(keys.ObjectKey("", "services", "default", "user-service").object_key())])
        await store.transact([], [Put(keys.instance_key("default", "node-1", "i-1"), _instance(1))])
        revision = (await store.list("/")).revision
        store.compact()
        store.held = False
        await made.published(revision)
        assert made.reconciler.mesh.objects.get(ObjectRef("", "Service", "default", "user-service")) is None
        assert [item.id for item in made.reconciler.mesh.instances()] == ["i-1"]


async def test_an_unreadable_object_is_left_out_and_said_on_it() -> None:
    async with plane() as made:
        await made.put(VIRTUAL_SERVICE)
        await made.write(Put(VS_KEY.object_key(), b"{"))
        assert VS not in made.reconciler.mesh.objects
        (condition,) = json.loads(made.reconciler.statuses()[VS])["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == ("Accepted", "False", "Unreadable")
        assert made.registry.get_sample_value("gossamer_unreadable_objects") == 1
        await made.put(VIRTUAL_SERVICE)
        assert VS in made.reconciler.mesh.objects
        assert made.registry.get_sample_value("gossamer_unreadable_objects") == 0


async def test_statuses_have_findings_with_the_generation() -> None:
    async with plane() as made:
        await made.put(SERVICE)
        await made.put(VIRTUAL_SERVICE.replace("metadata: {", "metadata: {generation: 4, "))
        status = json.loads(made.reconciler.statuses()[VS])
        assert status["observedGeneration"] == 4
        assert [item["type"] for item in status["conditions"]] == ["ReferencedResourceNotFound"]


async def test_a_preview_changes_nothing() -> None:
    async with plane() as made:
        await made.put(SERVICE)
        rule = policy_object(
            {
                "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "user-service"},
                "spec": {"hosts": ["user-service"], "http": [{"route": [{"destination": {"host": "nowhere"}}]}]},
            }
        )  # fmt: skip
        mesh = made.reconciler.mesh
        assert [item.ref for item in made.reconciler.preview([rule], [])] == [rule.ref]
        assert made.reconciler.mesh is mesh
        assert made.reconciler.conditions() == ()
        service = ObjectRef("", "Service", "default", "user-service")
        assert made.reconciler.previewed([], [service]).service(HOST) is None


class Breaks(Compiler):
    """A compiler that fails while it is told to."""

    broken = False

    def compile_scope(self, mesh: MeshState, scope: ProxyScope) -> Compiled:
        if self.broken:
            raise RuntimeError("no")
        return super().compile_scope(mesh, scope)


async def test_a_publication_that_fails_is_counted_and_made_up_for() -> None:
    """Streams keep what they have; the next change brings both, and its span holds the failed revision."""
    compiler = Breaks()
    async with plane(compiler=compiler) as made:
        made.connect()
        start = made.ledger.published
        compiler.broken = True
        done = await made.store.transact([], [Put(*_stored(SERVICE))])
        await until(lambda: made.registry.get_sample_value("gossamer_publication_failures_total") == 1)
        assert made.delivered == []
        assert made.ledger.published == start
        assert made.ledger.revision_status(done.revision).pending == ("node-1",)
        compiler.broken = False
        await made.put(OTHER)
        assert CLUSTER in names(made)
        assert made.delivered[-1].after == start
        assert made.ledger.revision_status(done.revision).pending == ("node-1",), "queued, not yet acknowledged"


def _stored(text: str) -> tuple[str, bytes]:
    (item,) = parse(text)[0]
    return key_of(item.ref), encode(item)


async def test_the_keys_of_a_node() -> None:
    async with plane() as made:
        ejection = Ejection(
            cluster=CLUSTER, endpoint="10.0.0.2:20000", node="node-1", reason="r", detail="", times=1, since_ms=1,
            until_ms=2, enforced=True,
        )  # fmt: skip
        await made.put_instances(instance("i-1"), instance("i-2", node="node-2"))
        await made.put_ejections(ejection)
        assert made.reconciler.leased_keys_of("node-1") == [
            keys.instance_key("default", "node-1", "i-1"),
            keys.ejection_key(CLUSTER, "10.0.0.2:20000", "node-1"),
        ]


async def test_replicas_that_are_alive() -> None:
    async with plane() as made:
        await made.write(Put(keys.replica_key("cp-2"), b'{"rest":"10.0.0.2:8080"}'))
        assert [record.name for record in made.reconciler.peers()] == ["cp-2"]
        await made.write(Delete(keys.replica_key("cp-2")))
        assert made.reconciler.peers() == ()


async def test_a_store_that_ends_its_watch_ends_the_reconciler() -> None:
    store = MemoryStore()
    reconciler = Reconciler(
        store=store,
        compiler=Compiler(),
        mesh_settings=SETTINGS,
        ledger=DistributionLedger(),
        deliver=lambda _: None,
        metrics=ReconcileMetrics(CollectorRegistry()),
        clock=SystemClock(),
    )
    failures: list[BaseException] = []
    running = spawn("reconciler", reconciler.run(), on_failure=failures.append)
    await reconciler.wait_synced()
    await store.close()
    await until(lambda: failures)
    assert isinstance(failures[0], ExceptionGroup)
    await cancel_and_wait(running)


async def test_waiting_for_the_first_snapshot_ends_with_the_reconciler() -> None:
    async with plane() as made:
        reconciler = made.reconciler
    reconciler.synced = False
    with pytest.raises(MeshError) as failure:
        await reconciler.wait_synced()
    assert failure.value.code is ErrorCode.UNAVAILABLE
