"""CSDS over real gRPC on loopback, asked by a plain client: what the ledger knows, and what an agent says itself."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.service.status.v3.csds_pb2 import ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus

from controlplane.compiler.types import Compiled, Resource
from controlplane.discovery import agent_desk
from controlplane.discovery.agent_desk import AgentDesk
from controlplane.discovery.client_status import ClientStatuses
from controlplane.discovery.csds import SERVICE, ClientStatusService, Permit, everyone, of_api
from controlplane.distribution.ledger import Connection, DistributionLedger
from controlplane.distribution.stream_sync import Held, Sent, Span, StreamSync
from controlplane.snapshot.view import EMPTY, View
from mesh.api.v1 import report_pb2
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import Dialect, Locality
from mesh.xds.codec import pack_any
from mesh.xds.type_url import CLUSTER, CLUSTER_LOAD_ASSIGNMENT, ROUTE_CONFIGURATION

SPAN = Span(0, 1)


def resource(name: str, version: str = "v2", url: str = CLUSTER) -> Resource:
    return Resource(url, name, version, b"body", pack_any(url, b"body"))


@dataclass
class Plane:
    """A ledger with streams, and the service over it."""

    ledger: DistributionLedger = field(default_factory=DistributionLedger)
    desk: AgentDesk = field(default_factory=AgentDesk)
    views: dict[int, View] = field(default_factory=dict)
    permit: Permit = everyone
    address: str = ""

    def view_on(self, stream: int) -> View | None:
        return self.views.get(stream)

    def connect(self, node: str, dialect: Dialect = Dialect.ENVOY, *names: str) -> StreamSync:
        """A stream whose view has clusters of these names."""
        stream = len(self.views) + 1
        resources = {CLUSTER: {name: resource(name) for name in names}}
        self.views[stream] = View(2, Compiled(resources), EMPTY)
        return self.ledger.connect(
            Connection(
                stream=stream, node=node, dialect=dialect, user_agent=dialect.value, address="ipv4:10.0.0.1:1",
                namespace="default", locality=Locality("eu", "a"), delta=True, connected_since=0.0,
            )
        )  # fmt: skip

    async def fetch(self, *matchers: dict[str, Any], **metadata: str) -> list[ClientConfig]:
        async with grpc.aio.insecure_channel(self.address) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/FetchClientStatus",
                request_serializer=ClientStatusRequest.SerializeToString,
                response_deserializer=ClientStatusResponse.FromString,
            )
            request = ClientStatusRequest(node_matchers=[{"node_id": one} for one in matchers])  # type: ignore[arg-type,list-item]
            answer = await call(request, timeout=20, metadata=tuple(metadata.items()))
            return list(answer.config)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    made = Plane()
    statuses = ClientStatuses(made.ledger, lambda: made, made.desk)
    service = ClientStatusService(statuses, trust_domain="cluster.local")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service.handler(lambda context: made.permit(context)),))
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield made
    await server.stop(None)


def shown(config: ClientConfig) -> dict[str, tuple[str, str, str]]:
    """name -> (client status, server status, version in use)."""
    return {
        entry.name: (
            ClientResourceStatus.Name(entry.client_status),
            ConfigStatus.Name(entry.config_status),
            entry.version_info,
        )
        for entry in config.generic_xds_configs
    }


async def test_what_the_ledger_knows_of_an_envoy(plane: Plane) -> None:
    sync = plane.connect("edge-1", Dialect.ENVOY, "synced", "again", "bad", "held")
    names = ("synced", "again", "bad")
    sync.sent(CLUSTER, "1", Sent(SPAN, {name: resource(name, "v1") for name in names}, frozenset(names)))
    sync.ack(CLUSTER, "1")
    sync.sent(CLUSTER, "2", Sent(SPAN, {"bad": resource("bad")}, frozenset({"bad"})))
    sync.nack(CLUSTER, "2", "no such policy", {"bad": "no such policy"})
    sync.sent(
        CLUSTER, "3", Sent(SPAN, {"again": resource("again"), "new": resource("new")}, frozenset({"again", "new"}))
    )
    sync.of(ROUTE_CONFIGURATION).held = {"r": Held(SPAN, "CDS held")}
    (config,) = await plane.fetch()
    assert shown(config) == {
        "synced": ("ACKED", "SYNCED", "v2"),
        "again": ("ACKED", "STALE", ""),
        "new": ("REQUESTED", "STALE", ""),
        "bad": ("NACKED", "ERROR", ""),
        "r": ("REQUESTED", "NOT_SENT", ""),
    }
    (bad,) = (entry for entry in config.generic_xds_configs if entry.name == "bad")
    assert (bad.error_state.details, bad.error_state.version_info) == ("no such policy", "v2")
    assert (config.node.id, config.node.locality.region, config.client_scope) == ("edge-1", "eu", "stream 1")


class Agent:
    """The other end of a report stream."""

    def __init__(self, plane: Plane, node: str, config: bytes | None) -> None:
        self.asked: list[report_pb2.ClientStatusRequest] = []
        self.config = config
        self.problems: list[str] = []
        self.desk = plane.desk
        self.line = plane.desk.connect(node, self.send)

    async def send(self, reply: report_pb2.ReportReply) -> None:
        self.asked.append(reply.client_status_request)
        if self.config is not None:
            answer = report_pb2.ClientStatus(
                request_id=reply.client_status_request.request_id, client_config=self.config
            )
            self.problems += self.desk.answered(self.line, answer)


async def test_an_agent_speaks_for_itself(plane: Plane) -> None:
    """What it uses is its own word; what was sent is the server's."""
    sync = plane.connect("node-1", Dialect.GOSSAMER, "a", "b")
    sync.sent(CLUSTER, "1", Sent(SPAN, {"a": resource("a"), "b": resource("b")}, frozenset({"a", "b"})))
    sync.ack(CLUSTER, "1")
    said = ClientConfig()
    said.generic_xds_configs.add(
        type_url=CLUSTER, name="a", version_info="v1", client_status=ClientResourceStatus.NACKED
    )
    said.generic_xds_configs.add(
        type_url=CLUSTER_LOAD_ASSIGNMENT, name="a", client_status=ClientResourceStatus.DOES_NOT_EXIST
    )
    agent = Agent(plane, "node-1", said.SerializeToString())
    (config,) = await plane.fetch()
    listed = [
        (entry.type_url, entry.name, entry.client_status, entry.config_status) for entry in config.generic_xds_configs
    ]
    assert listed == [
        (CLUSTER, "a", ClientResourceStatus.NACKED, ConfigStatus.SYNCED),
        (CLUSTER_LOAD_ASSIGNMENT, "a", ClientResourceStatus.DOES_NOT_EXIST, ConfigStatus.NOT_SENT),
        (CLUSTER, "b", ClientResourceStatus.ACKED, ConfigStatus.SYNCED),
    ]
    assert config.node.id == "node-1"
    assert [one.exclude_resource_contents for one in agent.asked] == [True]
    await plane.fetch({"exact": "node-1"})
    assert not agent.asked[-1].exclude_resource_contents, "contents are told of chosen nodes"


@pytest.mark.parametrize("config", [None, b"\xff\xff"])
async def test_an_agent_that_does_not_answer_costs_its_word_only(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, config: bytes | None
) -> None:
    monkeypatch.setattr(agent_desk, "ANSWER_S", 0.05)
    sync = plane.connect("node-1", Dialect.GOSSAMER, "a")
    sync.sent(CLUSTER, "1", Sent(SPAN, {"a": resource("a")}, frozenset({"a"})))
    sync.ack(CLUSTER, "1")
    agent = Agent(plane, "node-1", config)
    (found,) = await plane.fetch()
    assert shown(found) == {"a": ("ACKED", "SYNCED", "v2")}
    assert agent.asked
    assert bool(agent.problems) == (config is not None)
    assert agent.line.open == {}


async def test_the_end_of_a_report_stream_ends_its_questions(plane: Plane) -> None:
    agent = Agent(plane, "node-1", None)
    asking = asyncio.ensure_future(plane.desk.client_config("node-1", contents=False))
    while not agent.asked:  # noqa: ASYNC110 - the other task brings it about
        await asyncio.sleep(0)
    plane.desk.disconnect("node-1", agent.line)
    assert await asking is None
    assert plane.desk.answered(agent.line, report_pb2.ClientStatus(request_id="1")) == []


async def test_questions_to_one_agent_are_bounded(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_desk, "ANSWER_S", 0.2)
    agent = Agent(plane, "node-1", None)
    asked = (plane.desk.client_config("node-1", contents=False) for _ in range(agent_desk.MAX_OPEN + 5))
    assert set(await asyncio.gather(*asked)) == {None}
    assert len(agent.asked) == agent_desk.MAX_OPEN


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [
        ([], ["edge-1", "node-1", "node-2"]),
        ([{"exact": "node-1"}], ["node-1"]),
        ([{"exact": "NODE-1", "ignore_case": True}], ["node-1"]),
        ([{"prefix": "node-"}], ["node-1", "node-2"]),
        ([{"suffix": "-1"}], ["edge-1", "node-1"]),
        ([{"contains": "ge"}, {"exact": "node-2"}], ["edge-1", "node-2"]),
        ([{"exact": "nobody"}], []),
    ],
)
async def test_nodes_are_chosen_by_matchers(plane: Plane, matchers: list[dict[str, Any]], expected: list[str]) -> None:
    for node in ("node-2", "edge-1", "node-1"):
        plane.connect(node)
    assert [config.node.id for config in await plane.fetch(*matchers)] == expected


async def test_contents_come_with_a_matcher_only(plane: Plane) -> None:
    sync = plane.connect("edge-1", Dialect.ENVOY, "a")
    sync.sent(CLUSTER, "1", Sent(SPAN, {"a": resource("a")}, frozenset({"a"})))
    sync.ack(CLUSTER, "1")
    (plain,) = await plane.fetch()
    assert not plain.generic_xds_configs[0].HasField("xds_config")
    (whole,) = await plane.fetch({"exact": "edge-1"})
    assert whole.generic_xds_configs[0].xds_config.value == b"body"


async def test_a_matcher_that_is_not_known_is_named(plane: Plane) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plane.fetch({"safe_regex": {"regex": ".*"}})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "node_id.safe_regex" in str(caught.value.details())


async def test_who_sees_what(plane: Plane) -> None:
    """A node sees itself; the API's port wants its token."""
    for node in ("node-1", "node-2"):
        plane.connect(node)
    plane.permit = lambda _: "node-1"
    assert [config.node.id for config in await plane.fetch()] == ["node-1"]
    assert await plane.fetch({"exact": "node-2"}) == []

    def author(authorization: str) -> str:
        if authorization != "Bearer t":
            raise MeshError(ErrorCode.UNAUTHENTICATED, "no token", subject="authorization")
        return "ops"

    plane.permit = of_api(author)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plane.fetch()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(await plane.fetch(authorization="Bearer t")) == 2


async def test_a_stream_is_answered_request_by_request(plane: Plane) -> None:
    plane.connect("node-1")
    async with grpc.aio.insecure_channel(plane.address) as channel:
        stream: Any = channel.stream_stream(
            f"/{SERVICE}/StreamClientStatus",
            request_serializer=ClientStatusRequest.SerializeToString,
            response_deserializer=ClientStatusResponse.FromString,
        )(timeout=20)
        for expected in (1, 2):
            await stream.write(ClientStatusRequest())
            assert len((await stream.read()).config) == expected
            plane.connect("node-2")
