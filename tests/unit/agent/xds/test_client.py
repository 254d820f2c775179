"""The gRPC shell against a server of its own kind (tests/support/ads_server.py): how streams end and begin again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse

from agent.xds import client as client_module
from agent.xds.client import AdsClient
from agent.xds.decoding import decode_resource
from agent.xds.delta import DeltaSession
from agent.xds.session import AdsSession
from agent.xds.sotw import SotwSession
from mesh.clock import SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn
from tests.support import ads_server
from tests.support.ads_server import CDS, EDS, AdsServer


@pytest.fixture
def server() -> Iterator[AdsServer]:
    with AdsServer() as made:
        made.put(ads_server.cluster("one"), ads_server.assignment("one", "10.0.0.1:1"))
        yield made


@pytest.fixture(params=[DeltaSession, SotwSession])
def session(request: pytest.FixtureRequest) -> AdsSession:
    made = request.param(Node(id="n"), decode_resource)
    assert isinstance(made, AdsSession)
    return made


class Running:
    """A client at work. `changes`: how often something else was held."""

    def __init__(
        self, session: AdsSession, server: AdsServer, *, first_answer_s: float = 60.0, limit: int = -1
    ) -> None:
        self.session = session
        self.changes = 0
        self.broken: MeshError | None = None
        self.may_serve = asyncio.Event()
        self.may_serve.set()
        self._target, self._limit = server.address, limit
        self.client = AdsClient(
            session, self._connect, on_change=self._changed, served=self._serve, clock=SystemClock(), rng=lambda: 0.0,
            first_answer_s=first_answer_s,
        )  # fmt: skip

    def _connect(self) -> grpc.aio.Channel:
        if self.broken is not None:
            raise self.broken
        options = (("grpc.max_receive_message_length", self._limit), ("grpc.use_local_subchannel_pool", 1))
        return grpc.aio.insecure_channel(self._target, options=options)

    def _changed(self) -> None:
        self.changes += 1

    async def _serve(self) -> None:
        await self.may_serve.wait()


@asynccontextmanager
async def running(made: Running) -> AsyncIterator[Running]:
    task = spawn("ads", made.client.run())
    try:
        yield made
    finally:
        await cancel_and_wait(task)
    assert not made.client.health.connected


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the server's threads bring it about
            await asyncio.sleep(0.01)


async def test_what_comes_is_held_and_told_once(session: AdsSession, server: AdsServer) -> None:
    async with running(Running(session, server)) as run:
        await until(lambda: session.held(EDS))
        await until(lambda: session.synced)
        assert (run.client.health.connected, run.client.health.error, run.client.health.attempts) == (True, "", 1)
        before = run.changes
        kind = DeltaDiscoveryResponse if isinstance(session, DeltaSession) else DiscoveryResponse
        if kind is DeltaDiscoveryResponse:  # in SotW an empty one takes all away
            server.say(kind(type_url=CDS, nonce="x").SerializeToString())
            await until(lambda: server.requests(CDS)[-1].response_nonce == "x")
            assert run.changes == before, "nothing is held otherwise"


async def test_a_server_that_never_answers_is_left(session: AdsSession, server: AdsServer) -> None:
    server.silent_streams = frozenset({0, 1})  # as wholes: one that answers half of what it is asked is not left
    async with running(Running(session, server, first_answer_s=0.1)) as run:
        await until(lambda: run.client.health.error == "no answer within 0.1 s")
        await until(lambda: session.held(EDS))
        assert len(server.streams) >= 3


async def test_silence_about_known_versions_is_tested_once(
    session: AdsSession, server: AdsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may say nothing to a client that has everything. The next stream tells no version, and is answered."""
    monkeypatch.setattr(client_module, "TICK_S", 0.05)
    async with running(Running(session, server)):
        await until(lambda: session.synced or len(session.held(EDS)) == 1)
        await until(lambda: len(server.requests(EDS)) >= 2)
    server.silent_streams = frozenset({1})
    async with running(Running(session, server, first_answer_s=0.2)):
        await until(lambda: len(server.streams) >= 3 and server.requests(CDS, stream=2))
        first, second = server.requests(CDS, stream=1)[0], server.requests(CDS, stream=2)[0]
        if isinstance(session, DeltaSession):
            assert dict(first.initial_resource_versions) == {"one": "1.1"}
            assert dict(second.initial_resource_versions) == {"one": "unknown"}
        else:
            assert (first.version_info, second.version_info) == ("1.1", "")
        await until(lambda: session.online and session.synced)
        assert set(session.held(EDS)) == {"one"}


async def test_a_response_that_is_too_large_is_said_to_be(session: AdsSession, server: AdsServer) -> None:
    async with running(Running(session, server, limit=50_000)) as run:
        await until(lambda: session.held(EDS))
        server.say(b"\0" * 100_000)
        await until(lambda: run.client.health.error)
        assert "a response is too large for this agent" in run.client.health.error
        assert "RESOURCE_EXHAUSTED" in run.client.health.error
        assert set(session.held(EDS)) == {"one"}, "what is held serves on"


async def test_bytes_that_are_no_response_end_the_stream(session: AdsSession, server: AdsServer) -> None:
    async with running(Running(session, server)) as run:
        await until(lambda: session.held(EDS))
        server.say(b"\xff\xff")
        await until(lambda: run.client.health.error == "found 2 bytes that are no response")
        await until(lambda: len(server.streams) == 2)
        before = session.held(EDS)["one"]
        server.put(ads_server.assignment("one", "10.0.0.2:1"))
        await until(lambda: session.held(EDS)["one"] is not before)
        await until(lambda: run.client.health.connected)


async def test_a_certificate_that_cannot_be_read_is_waited_for(session: AdsSession, server: AdsServer) -> None:
    made = Running(session, server)
    made.broken = MeshError(ErrorCode.SETTINGS, "cannot read it", subject="control_plane.tls_ca")
    async with running(made) as run:
        await until(lambda: run.client.health.attempts >= 2)
        assert "control_plane.tls_ca" in run.client.health.error
        made.broken = None
        await until(lambda: session.held(EDS))


async def test_nothing_is_acknowledged_before_it_is_served(session: AdsSession, server: AdsServer) -> None:
    async with running(Running(session, server)) as run:
        await until(lambda: any(request.response_nonce for request in server.requests(EDS)))
        run.may_serve.clear()
        asked, changes = len(server.requests(EDS)), run.changes
        server.put(ads_server.assignment("one", "10.0.0.2:1"))
        await until(lambda: run.changes > changes)
        await asyncio.sleep(0.1)
        assert len(server.requests(EDS)) == asked
        run.may_serve.set()
        await until(lambda: len(server.requests(EDS)) == asked + 1)


@pytest.mark.parametrize("answers_first", [False, True])
async def test_back_off_grows_while_streams_are_short(
    session: AdsSession, server: AdsServer, monkeypatch: pytest.MonkeyPatch, answers_first: bool
) -> None:
    """Answered or not: a stream must also live for a while before the next failure counts as the first one."""
    delays: list[float] = []

    async def note(self: AdsClient, seconds: float) -> None:
        delays.append(seconds)

    monkeypatch.setattr(AdsClient, "_pause", note)
    server.hangs_up, server.answers_first = True, answers_first
    async with running(Running(session, server)):
        await until(lambda: len(delays) >= 8)
    tenths = [round(delay / client_module.BACKOFF_BASE_S, 3) for delay in delays[:8]]
    assert tenths == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0], "with the least jitter, a tenth of 0.5, 1, 2, 4, 5 s"


async def test_a_stream_that_lived_begins_the_back_off_anew(
    session: AdsSession, server: AdsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LIVED_S", 0.0)
    delays: list[float] = []

    async def note(self: AdsClient, seconds: float) -> None:
        delays.append(seconds)

    monkeypatch.setattr(AdsClient, "_pause", note)
    async with running(Running(session, server)) as run:
        for number in range(1, 4):
            server.put(ads_server.assignment("one", f"10.0.0.{number}:1"))
            await until(lambda: run.client.health.connected)
            server.say(b"\xff\xff")
            await until(lambda number=number: len(delays) >= number)  # type: ignore[misc]
    assert set(delays) == {0.05}
