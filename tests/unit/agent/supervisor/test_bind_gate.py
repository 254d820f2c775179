"""A listener whose address is taken is refused to the server, and asked for again once it is free."""

import socket
from collections.abc import Iterator

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)

from agent.ipc.messages import LISTENER
from agent.model.listener import Direction, FilterChain, Listener, TcpProxy
from agent.supervisor.bind_gate import AGAIN_S, BindGate
from agent.supervisor.sockets import ListenerSockets
from agent.xds.delta import DeltaSession
from agent.xds.resources import Decoded, Held
from agent.xds.session import AdsSession, Outcome
from agent.xds.sotw import SotwSession
from mesh.xds import type_url

NODE = Node(id="n")


def listener(port: int, name: str = "in") -> Listener:
    chain = FilterChain(name="tcp", network=TcpProxy(stat_prefix="t", cluster="c"))
    return Listener(
        name=name, address="127.0.0.1", port=port, direction=Direction.INBOUND, filter_chains=(chain,)
    )  # fmt: skip


def decode(url: str, name: str, body: bytes) -> Decoded:
    """The body is the port."""
    return Decoded(values=((LISTENER, name, listener(int(body), name)),))


def held(port: int, name: str = "in") -> Held:
    body = str(port).encode()
    return Held(
        type_url=type_url.LISTENER, name=name, version="v1", body=body, decoded=decode(type_url.LISTENER, name, body)
    )  # fmt: skip


@pytest.fixture
def sockets() -> Iterator[ListenerSockets]:
    made = ListenerSockets(1)
    yield made
    made.close_all()


@pytest.fixture
def foreign() -> Iterator[socket.socket]:
    """Another program that listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken


class Run:
    """A session with its gate; `sent` are the requests of the last event."""

    def __init__(self, sockets: ListenerSockets, make: type[AdsSession], *known: Held) -> None:
        self.sockets = sockets
        self.gate = BindGate(sockets)
        self.session = make(NODE, decode, known, usable=self.gate.usable)
        self.now = 0.0
        for item in known:
            self.open(item)
        self.connect()

    def open(self, item: Held) -> bool:
        """What the pool does with a listener that is held."""
        value = item.decoded.values[0][2]
        assert isinstance(value, Listener)
        return self.sockets.open(value)

    def connect(self) -> None:
        self.session.disconnected()
        self.sent = self.session.connected(self.now)

    def receive(self, *items: Held, version: str = "1") -> Outcome:
        if isinstance(self.session, DeltaSession):
            response = DeltaDiscoveryResponse(type_url=type_url.LISTENER, nonce=version)
            for item in items:
                resource = response.resources.add(name=item.name, version=item.version)
                resource.resource.type_url, resource.resource.value = item.type_url, item.body
            data = response.SerializeToString()
        else:
            world = DiscoveryResponse(type_url=type_url.LISTENER, nonce=version, version_info=version)
            for item in items:
                wrapped = world.resources.add()
                wrapped.Pack(_wrapped(item))
            data = world.SerializeToString()
        return self.session.received(data, self.now)

    def outdated_after(self, seconds: float) -> bool:
        first = self.gate.is_outdated(self.session, self.now)
        self.now += seconds
        return first or self.gate.is_outdated(self.session, self.now)


def _wrapped(item: Held):  # type: ignore[no-untyped-def]
    made = Resource(name=item.name, version=item.version)
    made.resource.type_url, made.resource.value = item.type_url, item.body
    return made


def port_of(taken: socket.socket) -> int:
    return int(taken.getsockname()[1])


def refusal(outcome: Outcome) -> str:
    """The error detail of the answer to the listeners."""
    (answer,) = (request for request in outcome.requests if request.type_url == type_url.LISTENER)
    return str(answer.error_detail.message)


BOTH = pytest.mark.parametrize("make", [DeltaSession, SotwSession])


@BOTH
def test_a_new_listener_whose_port_is_taken_is_refused(
    sockets: ListenerSockets, foreign: socket.socket, make: type[AdsSession]
) -> None:
    run = Run(sockets, make)
    port = port_of(foreign)
    outcome = run.receive(held(port))
    assert outcome.refused == {"in": f"127.0.0.1:{port}: Address already in use"}
    assert f"127.0.0.1:{port}: Address already in use" in refusal(outcome)
    assert not run.session.held(type_url.LISTENER)
    assert run.gate.problems == dict(outcome.refused)
    assert not run.outdated_after(AGAIN_S * 10), "nothing has changed"


@BOTH
def test_it_is_asked_for_again_once_the_port_is_free(
    sockets: ListenerSockets, foreign: socket.socket, make: type[AdsSession]
) -> None:
    run = Run(sockets, make)
    port = port_of(foreign)
    run.receive(held(port))
    foreign.close()
    assert not run.outdated_after(AGAIN_S / 2), "a port may be free for a moment only"
    assert run.outdated_after(AGAIN_S)
    run.connect()
    assert "in" not in _versions(run), "the server must send it again"
    outcome = run.receive(held(port), version="2")
    assert (outcome.refused, refusal(outcome), run.gate.problems) == ({}, "", {})
    assert run.open(held(port))
    assert not run.outdated_after(AGAIN_S * 10)


@BOTH
def test_what_is_held_and_cannot_be_bound_at_start_is_told_and_taken_back(
    sockets: ListenerSockets, foreign: socket.socket, make: type[AdsSession]
) -> None:
    """The last known good stays held, and the pool tries on; the server hears the truth."""
    known = held(port_of(foreign))
    run = Run(sockets, make, known)
    assert _versions(run).get("in") != "v1", "else the server would be silent and think that it is served"
    outcome = run.receive(known)
    assert "Address already in use" in refusal(outcome)
    assert run.session.held(type_url.LISTENER).keys() == {"in"}
    assert not run.outdated_after(AGAIN_S * 10)
    foreign.close()
    assert run.open(known), "the pool has got it"
    assert run.outdated_after(AGAIN_S)
    run.connect()
    outcome = run.receive(known, version="2")
    assert (outcome.refused, refusal(outcome), run.session.refused()) == ({}, "", {})


@BOTH
def test_what_was_accepted_and_then_not_bound_is_told_on_a_new_stream(
    sockets: ListenerSockets, make: type[AdsSession]
) -> None:
    run = Run(sockets, make)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = port_of(taken)
        taken.close()
        run.receive(held(port))
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", port))
        thief.listen()
        assert not run.open(held(port))
        assert run.outdated_after(AGAIN_S)
        run.connect()
        assert "Address already in use" in refusal(run.receive(held(port), version="2"))


def test_a_listener_that_moves_to_a_taken_port_stays_where_it_is(
    sockets: ListenerSockets, foreign: socket.socket
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = port_of(probe)
    run = Run(sockets, DeltaSession)
    run.receive(held(own))
    assert run.open(held(own))
    outcome = run.receive(held(port_of(foreign)), version="2")
    assert "Address already in use" in refusal(outcome)
    assert run.session.held(type_url.LISTENER)["in"] == held(own)


def test_a_port_that_passes_from_one_listener_to_another_is_not_refused(sockets: ListenerSockets) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = port_of(probe)
    run = Run(sockets, DeltaSession)
    run.receive(held(port, "old"))
    assert run.open(held(port, "old"))
    assert run.receive(held(port, "new"), version="2").refused == {}
    assert not run.open(held(port, "new")), "the old one is still there"
    assert "Address already in use" in sockets.why_not(listener(port, "new"))
    sockets.close("old")
    assert run.open(held(port, "new"))
    assert not run.outdated_after(AGAIN_S * 10)


def test_a_refused_listener_that_the_server_takes_back_is_forgotten(
    sockets: ListenerSockets, foreign: socket.socket
) -> None:
    run = Run(sockets, DeltaSession)
    run.receive(held(port_of(foreign)))
    gone = DeltaDiscoveryResponse(type_url=type_url.LISTENER, nonce="2", removed_resources=["in"])
    run.session.received(gone.SerializeToString(), run.now)
    foreign.close()
    assert not run.outdated_after(AGAIN_S * 10)
    assert run.gate.problems == {}


def _versions(run: Run) -> dict[str, str]:
    """What the first request of the stream says about the listeners that are held."""
    (request,) = (request for request in run.sent if request.type_url == type_url.LISTENER)
    if isinstance(request, DeltaDiscoveryRequest):
        return dict(request.initial_resource_versions)
    assert isinstance(request, DiscoveryRequest)
    return {name: request.version_info for name in run.session.held(type_url.LISTENER) if request.version_info}
