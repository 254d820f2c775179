"""The agent's report stream against the real Reports service over mTLS on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from envoy.service.status.v3.csds_pb2 import ClientConfig

from agent.identity import authority, channels
from agent.identity.keys import make_keys
from agent.model.reports import EjectedHost, LocalInstance, ShownBreaker
from agent.report import client as client_module
from agent.report.client import ReportClient
from agent.settings import ControlPlaneSettings
from controlplane.discovery.admission import Gate
from controlplane.discovery.reports import ReportsService
from controlplane.distribution.events import EventLog
from controlplane.registry.codec import decode_ejection, decode_instance
from controlplane.store.keys import EJECTIONS, INSTANCES
from mesh.api.v1 import report_pb2, report_pb2_grpc
from mesh.clock import SystemClock
from mesh.identity import join_token
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import HealthStatus
from tests.support.authorities import TRUST_DOMAIN, ServedAuthority
from tests.unit.agent.report.test_messages import EJECTED, INSTANCE

HELLO = report_pb2.Hello(node="node-1", address="10.0.0.1")


class Said:
    """The source of what is told."""

    def __init__(self) -> None:
        self.now: tuple[LocalInstance, ...] = (replace(INSTANCE, namespace="default"),)
        self.ejected: tuple[EjectedHost, ...] = ()
        self.broken: tuple[ShownBreaker, ...] = ()

    def instances(self) -> tuple[LocalInstance, ...]:
        return self.now

    def ejections(self) -> tuple[EjectedHost, ...]:
        return self.ejected

    def breakers(self) -> tuple[ShownBreaker, ...]:
        return self.broken

    def client_status(self, *, contents: bool) -> bytes:
        config = ClientConfig()
        config.generic_xds_configs.add(name="a", version_info="whole" if contents else "")
        return config.SerializeToString()


class Agent:
    """One client with its certificate, and the control plane that it reports to."""

    def __init__(self, served: ServedAuthority) -> None:
        self.served = served
        self.said = Said()
        self.bodies: list[str] = []
        service = ReportsService(
            served.store,
            trust_domain=TRUST_DOMAIN,
            existing=lambda _: (),
            gate=Gate(wait_s=0.0, started=0.0),
            events=EventLog(),
            clock=SystemClock(),
        )
        agent, self.desk = self, service.desk

        class Listening(report_pb2_grpc.ReportsServicer):
            async def Report(self, request_iterator, context):  # type: ignore[no-untyped-def]
                async def heard():  # type: ignore[no-untyped-def]
                    async for report in request_iterator:
                        agent.bodies.append(report.WhichOneof("body"))
                        yield report

                await service.Report(heard(), context)

        served.services.append(lambda server: report_pb2_grpc.add_ReportsServicer_to_server(Listening(), server))
        self.client: ReportClient

    async def join(self) -> None:
        settings = ControlPlaneSettings(address=self.served.mtls, join_address=self.served.tls)
        held = join_token.parse(await self.served.token(), "token")
        keys = await make_keys([f"spiffe://{TRUST_DOMAIN}/node/node-1"])
        signed = await authority.join(settings, "node-1", held, keys)

        def connect() -> grpc.aio.Channel:
            return channels.mtls(self.served.mtls, settings.server_name, signed.identities[0], signed.trust_pem)

        self.client = ReportClient(HELLO, self.said, connect, clock=SystemClock(), rng=lambda: 0.0)
        self.task = spawn("reports", self.client.run())

    async def stored(self) -> list[str]:
        entries = (await self.served.store.list(INSTANCES)).entries
        return [f"{found.id} {found.health}" for found in (decode_instance(entry.value) for entry in entries)]

    async def ejected(self) -> list[str]:
        entries = (await self.served.store.list(EJECTIONS)).entries
        return [decode_ejection(entry.value).endpoint for entry in entries]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another task brings it about
            await asyncio.sleep(0.01)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    served = await ServedAuthority.open(tmp_path / "ca")
    made = Agent(served)
    await served.start()
    await made.join()
    yield made
    await cancel_and_wait(made.task)
    assert made.task.done()
    await served.stop()


async def test_a_stream_begins_with_hello_and_both_sets(agent: Agent) -> None:
    agent.said.ejected = (EJECTED,)
    await until(lambda: agent.client.connected)
    assert await agent.client.settle(10)
    assert agent.bodies[:3] == ["hello", "instances", "ejections"]
    assert await agent.stored() == ["orders-3001 UNHEALTHY"]
    assert await agent.ejected() == ["10.0.0.2:20000"]
    assert (agent.client.error, agent.client.problems) == ("", ())


async def test_a_change_is_told_at_once_and_only_what_changed(agent: Agent) -> None:
    await until(lambda: agent.client.connected)
    assert await agent.client.settle(10)
    told = len(agent.bodies)
    agent.said.now = (replace(agent.said.now[0], health=HealthStatus.HEALTHY),)
    agent.client.changed()
    assert await agent.client.settle(10)
    assert agent.bodies[told:] == ["instances"]
    assert await agent.stored() == ["orders-3001 HEALTHY"]


async def test_questions_about_resources_are_answered_at_once(agent: Agent) -> None:
    """Between the reports, by the same stream; several at once each get their own answer."""
    assert await agent.desk.client_config("node-1", contents=False) is None, "nobody is there yet"
    await until(lambda: agent.client.connected)
    assert await agent.client.settle(10)
    found = await asyncio.gather(
        *(agent.desk.client_config("node-1", contents=contents) for contents in (True, False, True))
    )
    assert [one and one.generic_xds_configs[0].version_info for one in found] == ["whole", "", "whole"]
    assert await agent.desk.client_config("node-2", contents=False) is None
    assert agent.client.connected
    await agent.served.stop()
    assert await agent.desk.client_config("node-1", contents=False) is None


async def test_nothing_new_is_a_heartbeat(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "HEARTBEAT_S", 0.05)
    await until(lambda: agent.bodies.count("heartbeat") >= 3)
    assert agent.bodies.count("instances") == 1
    assert agent.bodies.count("ejections") == 1


async def test_after_a_restart_of_the_control_plane_everything_is_told_again(agent: Agent) -> None:
    await until(lambda: agent.client.connected)
    await agent.served.stop()
    await until(lambda: not agent.client.connected and agent.client.error != "")
    agent.said.now = ()
    agent.said.ejected = (EJECTED,)
    agent.bodies.clear()
    await agent.served.start()
    await until(lambda: agent.client.connected)
    assert await agent.client.settle(10)
    assert agent.bodies[:3] == ["hello", "instances", "ejections"]
    assert await agent.ejected() == ["10.0.0.2:20000"]


async def test_settling_without_a_control_plane_is_given_up(agent: Agent) -> None:
    await until(lambda: agent.client.connected)
    await agent.served.stop()
    await until(lambda: not agent.client.connected)
    assert not await agent.client.settle(0.05)


async def test_what_was_refused_is_known_until_it_is_mended(agent: Agent) -> None:
    await until(lambda: agent.client.connected)
    good = agent.said.now[0]
    agent.said.now = (good, replace(good, id="bad", namespace="prod"))
    assert await agent.client.settle(10)
    (problem,) = agent.client.problems
    assert problem.startswith("instance bad: node node-1 may not run namespace prod")
    agent.said.ejected = (EJECTED,)
    assert await agent.client.settle(10)
    assert agent.client.problems == (problem,), "another kind of set says nothing about it"
    agent.said.now = (good,)
    assert await agent.client.settle(10)
    assert agent.client.problems == ()


async def test_a_control_plane_that_acknowledges_nothing_is_given_up(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(client_module, "SILENCE_S", 0.2)
    await until(lambda: agent.client.connected)

    async def silence(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(ReportsService, "registered", lambda *_: None)
    monkeypatch.setattr("controlplane.discovery.reports._Reporter.take", silence)
    agent.said.now = ()
    agent.client.changed()
    await until(lambda: "nothing was acknowledged" in agent.client.error)
