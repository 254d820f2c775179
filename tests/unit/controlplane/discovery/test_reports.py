"""The Reports service over real mTLS on loopback: what agents say, and what they may not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.identity import authority, channels
from agent.identity.keys import make_keys
from agent.identity.vault import Identity
from agent.settings import ControlPlaneSettings
from controlplane.ca.grants import NodeGrant
from controlplane.discovery import reports
from controlplane.discovery.admission import Gate
from controlplane.discovery.presence import LEASE_S
from controlplane.discovery.reports import ReportsService
from controlplane.distribution.events import EventLog
from controlplane.registry.codec import decode_ejection, decode_instance
from controlplane.registry.instances import Ejection, Instance
from controlplane.store.keys import EJECTIONS, INSTANCES, grant_key, node_key
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Put
from mesh.api.v1 import report_pb2, report_pb2_grpc
from mesh.clock import SystemClock
from mesh.identity import join_token
from tests.support.authorities import TRUST_DOMAIN, ServedAuthority, ShiftedClock

HELLO = report_pb2.Hello(node="node-1", address="10.0.0.1", locality="eu/a")


def instance(name: str, **fields: Any) -> report_pb2.Instance:
    defaults = {"id": name, "service": "orders", "ports": [report_pb2.InstancePort(port=3001, inbound_port=20000)]}
    return report_pb2.Instance(**{**defaults, **fields})


def ejection(endpoint: str, **fields: Any) -> report_pb2.Ejection:
    return report_pb2.Ejection(**{"cluster": "outbound|80||users", "endpoint": endpoint, "enforced": True, **fields})


class Stream:
    """One report stream of an agent."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: Any = report_pb2_grpc.ReportsStub(channel).Report(timeout=60)
        self._sequence = 0

    async def tell(self, **body: Any) -> list[str]:
        """Send one report and wait for its acknowledgement; gives the problems."""
        self._sequence += 1
        await self._call.write(report_pb2.AgentReport(sequence=self._sequence, **body))
        reply = await self._call.read()
        if reply is grpc.aio.EOF:
            raise AssertionError(f"{await self._call.code()}: {await self._call.details()}")
        assert reply.acknowledged == self._sequence
        return list(reply.problems)

    async def instances(self, *told: report_pb2.Instance) -> list[str]:
        return await self.tell(instances=report_pb2.InstanceSet(instances=told))

    async def ejections(self, *told: report_pb2.Ejection) -> list[str]:
        return await self.tell(ejections=report_pb2.EjectionSet(ejections=told))

    async def refused(self, report: report_pb2.AgentReport) -> tuple[grpc.StatusCode, str]:
        async def exchange() -> None:
            await self._call.write(report)  # it may be refused before this has left
            await self._call.read()

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exchange()
        return caught.value.code(), caught.value.details() or ""

    def cancel(self) -> None:
        self._call.cancel()


class Mesh:
    """A control plane's mTLS port with the Reports service, and the certificate of node-1."""

    def __init__(self, served: ServedAuthority, clock: ShiftedClock) -> None:
        self.served = served
        self.store: MemoryStore = served.store
        self.clock = clock
        self.events = EventLog()
        self.gate = Gate(wait_s=60.0, started=clock.monotonic())
        self.existing: list[str] = []
        self._channels: list[grpc.aio.Channel] = []
        self.service = ReportsService(
            served.store,
            trust_domain=TRUST_DOMAIN,
            existing=lambda _: self.existing,
            gate=self.gate,
            events=self.events,
            clock=clock,
        )
        served.services.append(lambda server: report_pb2_grpc.add_ReportsServicer_to_server(self.service, server))

    async def join(self) -> None:
        settings = ControlPlaneSettings(address=self.served.mtls, join_address=self.served.tls)
        held = join_token.parse(await self.served.token(service_accounts=["default", "orders-sa"]), "token")
        signed = await authority.join(
            settings, "node-1", held, await make_keys([f"spiffe://{TRUST_DOMAIN}/node/node-1"])
        )
        self.identity: Identity = signed.identities[0]
        self.trust_pem = signed.trust_pem

    def stream(self, identity: Identity | None = None) -> Stream:
        channel = channels.mtls(self.served.mtls, "gossamer-controlplane", identity or self.identity, self.trust_pem)
        self._channels.append(channel)
        return Stream(channel)

    async def greeted(self) -> Stream:
        made = self.stream()
        assert await made.tell(hello=HELLO) == []
        return made

    async def instances(self) -> dict[str, Instance]:
        entries = (await self.store.list(INSTANCES)).entries
        return {item.id: item for item in (decode_instance(entry.value) for entry in entries)}

    async def ejections(self) -> list[Ejection]:
        return [decode_ejection(entry.value) for entry in (await self.store.list(EJECTIONS)).entries]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    clock = ShiftedClock()
    served = await ServedAuthority.open(tmp_path / "ca", MemoryStore(clock=clock))
    made = Mesh(served, clock)
    await served.start()
    await made.join()
    yield made
    await made.close()
    await served.stop()


async def test_a_second_machine_with_the_name_of_a_node_is_refused_and_changes_nothing(mesh: Mesh) -> None:
    first = await mesh.greeted()
    await first.instances(instance("a"))
    mesh.existing = [entry.key for entry in (await mesh.store.list(INSTANCES)).entries]
    other = report_pb2.Hello(node="node-1", address="10.0.0.2")
    code, words = await mesh.stream().refused(report_pb2.AgentReport(sequence=1, hello=other))
    assert code is grpc.StatusCode.ABORTED
    assert "10.0.0.1" in words
    assert b"10.0.0.2" not in (await mesh.store.list(node_key("node-1"))).entries[0].value
    assert list(await mesh.instances()) == ["a"]
    assert [event.type for event in mesh.events.events()] == ["NodeNameTaken"]
    assert await first.instances(instance("a"), instance("b")) == []


async def test_a_node_that_was_not_heard_of_gives_its_name_away(mesh: Mesh) -> None:
    await (await mesh.greeted()).instances(instance("a"))
    mesh.clock.shift_s += LEASE_S
    moved = mesh.stream()
    assert await moved.tell(hello=report_pb2.Hello(node="node-1", address="10.0.0.2")) == []
    await moved.instances(instance("c"))
    assert "c" in await mesh.instances()


async def test_the_same_machine_may_report_on_a_new_stream_at_once(mesh: Mesh) -> None:
    old = await mesh.greeted()
    new = await mesh.greeted()
    old.cancel()
    assert await new.instances(instance("a")) == []
    again = await mesh.greeted()
    assert await again.instances(instance("b")) == []


async def test_what_a_node_runs_lands_in_the_store_on_its_lease(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    assert await stream.instances(instance("a", health="HEALTHY", labels={"v": "1"}), instance("b")) == []
    found = await mesh.instances()
    assert set(found) == {"a", "b"}
    assert (found["a"].address, str(found["a"].locality), found["a"].labels) == ("10.0.0.1", "eu/a", {"v": "1"})
    leases = {entry.lease for entry in (await mesh.store.list(INSTANCES)).entries}
    assert len(leases) == 1
    assert leases != {0}
    node = await mesh.store.get(node_key("node-1"))
    assert node is not None
    assert node.lease == 0


async def test_a_change_of_health_is_written_and_absence_deregisters(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    await stream.instances(instance("a", health="HEALTHY"), instance("b", health="HEALTHY"))
    await stream.instances(instance("a", health="UNHEALTHY", health_reason="GET /health answered 503, expected 200"))
    found = await mesh.instances()
    assert set(found) == {"a"}
    assert (found["a"].health, found["a"].health_reason) == ("UNHEALTHY", "GET /health answered 503, expected 200")


async def test_heartbeats_keep_the_lease_and_its_end_takes_everything_out(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    await stream.instances(instance("a"))
    await stream.ejections(ejection("10.0.0.2:1"))
    for _ in range(5):
        mesh.clock.shift_s += 10
        assert await stream.tell(heartbeat=report_pb2.Heartbeat()) == []
    assert set(await mesh.instances()) == {"a"}

    stream.cancel()
    assert set(await mesh.instances()) == {"a"}, "an agent that comes back in time was never gone"
    mesh.clock.shift_s += 16
    assert await mesh.instances() == {}
    assert await mesh.ejections() == []


async def test_ejections_are_told_once_with_their_reason(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    one = ejection("10.0.0.2:1", reason="consecutive_5xx", detail="5 consecutive 5xx, the last one 503", times=1)
    await stream.ejections(one)
    revision = (await mesh.store.list(EJECTIONS)).revision
    for _ in range(3):
        await stream.ejections(one)
    assert (await mesh.store.list(EJECTIONS)).revision == revision, "only transitions are written"
    (found,) = await mesh.ejections()
    assert (found.node, found.endpoint, found.reason) == ("node-1", "10.0.0.2:1", "consecutive_5xx")
    await stream.ejections(ejection("10.0.0.3:1", enforced=False, blocked_by="max_ejection_percent"))
    assert [(event.type, event.subject) for event in mesh.events.events()] == [
        ("HostEjected", "endpoint 10.0.0.2:1"),
        ("EjectionNotEnforced", "endpoint 10.0.0.3:1"),
        ("HostReturned", "endpoint 10.0.0.2:1"),
    ]
    assert "max_ejection_percent" in mesh.events.events()[1].message


async def test_circuit_breakers_are_shown_while_their_node_reports(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    told = report_pb2.Breaker(name="default/web", state="OPEN", why="9 of 9 requests failed", opened=1)
    bad = report_pb2.Breaker(name="default/web", state="MELTED")
    assert await stream.tell(breakers=report_pb2.BreakerSet(breakers=[told, bad])) == [
        "circuit breaker default/web MELTED: not a policy and its state"
    ]
    (row,) = mesh.service.breakers.rows()
    assert (row.node, row.breaker, row.state, row.why) == ("node-1", "default/web", "OPEN", "9 of 9 requests failed")
    told.state = "CLOSED"
    assert await stream.tell(breakers=report_pb2.BreakerSet(breakers=[told])) == []
    assert [(event.type, event.subject) for event in mesh.events.events()] == [
        ("CircuitBreakerOpened", "CircuitBreaker default/web"),
        ("CircuitBreakerClosed", "CircuitBreaker default/web"),
    ]
    stream.cancel()
    async with asyncio.timeout(10):
        while mesh.service.breakers.rows():  # noqa: ASYNC110 - the server notices by itself
            await asyncio.sleep(0.01)


async def test_a_reconnect_is_no_transition(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    await stream.instances(instance("a"))
    await stream.ejections(ejection("10.0.0.2:1"))
    stream.cancel()
    entries = [*(await mesh.store.list(INSTANCES)).entries, *(await mesh.store.list(EJECTIONS)).entries]
    mesh.existing = [entry.key for entry in entries]
    again = await mesh.greeted()
    await again.instances(instance("a"))
    assert len(await mesh.ejections()) == 1
    await again.ejections(ejection("10.0.0.2:1"))
    assert [event.type for event in mesh.events.events()] == ["HostEjected"]
    mesh.clock.shift_s += 10
    await again.tell(heartbeat=report_pb2.Heartbeat())
    mesh.clock.shift_s += 10
    assert set(await mesh.instances()) == {"a"}
    assert len(await mesh.ejections()) == 1


async def test_what_the_grant_does_not_allow_is_refused_by_itself(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    problems = await stream.instances(
        instance("mine", service_account="orders-sa"),
        instance("other-account", service_account="payments"),
        instance("other-namespace", namespace="prod"),
    )
    assert set(await mesh.instances()) == {"mine"}
    assert len(problems) == 2
    assert "instance other-account: node node-1 may not run namespace default, service account payments" in problems[0]
    grant = NodeGrant(node="node-1", namespaces=("*",), service_accounts=("*",))
    await mesh.store.transact([], [Put(grant_key("node-1"), grant.encode())])
    assert await stream.instances(instance("other-namespace", namespace="prod")) == []
    assert set(await mesh.instances()) == {"other-namespace"}


async def test_parts_that_are_garbage_do_not_cost_the_rest(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    problems = await stream.instances(
        instance("good"),
        instance("../../etc"),
        instance("weight", weight=4_000_000_000),
        instance("labels", labels={"k": "v" * 10_000}),
        instance("ports", ports=[]),
        report_pb2.Instance(),
    )
    assert set(await mesh.instances()) == {"good"}
    assert len(problems) == 5
    problems = await stream.ejections(ejection("10.0.0.2:1"), ejection("a b"), report_pb2.Ejection())
    assert len(await mesh.ejections()) == 1
    assert len(problems) == 2
    assert await stream.tell() == ["found neither instances, ejections nor circuit breakers, nor a heartbeat"]
    assert await stream.tell(hello=HELLO) == [
        "found neither instances, ejections nor circuit breakers, nor a heartbeat"
    ]
    assert set(await mesh.instances()) == {"good"}


@pytest.mark.parametrize(
    ("report", "code", "words"),
    [
        ({"heartbeat": report_pb2.Heartbeat()}, grpc.StatusCode.INVALID_ARGUMENT, "expected hello"),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "expected hello"),
        (
            {"hello": report_pb2.Hello(node="node-2", address="10.0.0.2")},
            grpc.StatusCode.PERMISSION_DENIED,
            "the client certificate names node 'node-1'",
        ),
        ({"hello": report_pb2.Hello(node="node-1")}, grpc.StatusCode.INVALID_ARGUMENT, "no address"),
        (
            {"hello": report_pb2.Hello(node="node-1", address="a b")},
            grpc.StatusCode.INVALID_ARGUMENT,
            "found address",
        ),
        (
            {"hello": report_pb2.Hello(node="node-1", address="10.0.0.1", locality="a/b/c/d")},
            grpc.StatusCode.INVALID_ARGUMENT,
            "region/zone/subzone",
        ),
    ],
)
async def test_a_stream_that_does_not_begin_well_ends(
    mesh: Mesh, report: dict[str, Any], code: grpc.StatusCode, words: str
) -> None:
    found, details = await mesh.stream().refused(report_pb2.AgentReport(sequence=1, **report))
    assert found is code
    assert words in details
    assert (await mesh.store.list(node_key(""))).entries == ()


async def test_a_workloads_certificate_is_not_a_nodes(mesh: Mesh) -> None:
    settings = ControlPlaneSettings(address=mesh.served.mtls)
    keys = await make_keys([f"spiffe://{TRUST_DOMAIN}/ns/default/sa/orders-sa"])
    workload = (await authority.renew(settings, mesh.identity, mesh.trust_pem, keys)).identities[0]
    code, details = await mesh.stream(workload).refused(report_pb2.AgentReport(sequence=1, hello=HELLO))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "expected a node's identity" in details


async def test_silence_ends_the_stream(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "SILENCE_S", 0.2)
    stream = await mesh.greeted()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream._call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_store_that_is_away_ends_the_stream_and_acknowledges_nothing(mesh: Mesh) -> None:
    stream = await mesh.greeted()
    await mesh.store.close()
    told = report_pb2.AgentReport(sequence=2, instances=report_pb2.InstanceSet(instances=[instance("a")]))
    code, _ = await stream.refused(told)
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_the_gate_hears_of_nodes_that_have_registered(mesh: Mesh) -> None:
    now = SystemClock().monotonic()
    assert mesh.gate.look(["node-1"], [], now) == ("node-1",)
    stream = await mesh.greeted()
    assert mesh.gate.look(["node-1"], [], now) == ("node-1",)
    await stream.instances()
    assert mesh.gate.look(["node-1"], [], now) == ()
