"""The shell around a session without a socket: coalescing, back-pressure, time, the end."""

import asyncio
import sys

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest
from prometheus_client import CollectorRegistry

from controlplane.compiler.types import Resource
from controlplane.discovery import first_state
from controlplane.discovery import session as sessions
from controlplane.discovery.delta import DeltaSession
from controlplane.discovery.metrics import DiscoveryMetrics
from controlplane.discovery.stream import Request, SlowReader, Stream
from controlplane.distribution.stream_sync import StreamSync
from controlplane.snapshot.cache import Update
from controlplane.snapshot.diff import DiffCache
from controlplane.snapshot.view import EMPTY, View
from mesh.clock import SystemClock
from mesh.xds.type_url import CLUSTER, VIRTUAL_HOST
from tests.support.ads import until
from tests.support.resources import cluster, compiled, vhds

WAIT_S = 20.0


def view(revision: int, *items: Resource) -> View:
    return View(revision, compiled(*items), EMPTY)


class Wire:
    """A stream with its two ends in the test's hands. `gate` closed = the client does not read."""

    def __init__(self, first: View, *, send_timeout_s: float = WAIT_S) -> None:
        self.requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self.responses: asyncio.Queue[DeltaDiscoveryResponse] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()
        self.sync = StreamSync()
        self.nacks: list[tuple[str, str]] = []
        self.revision = first.revision
        self.stream = Stream(
            DeltaSession(first, self.sync),
            diffs=DiffCache(),
            clock=SystemClock(),
            metrics=DiscoveryMetrics(CollectorRegistry()),
            control_plane=b"",
            send_timeout_s=send_timeout_s,
            on_nack=lambda url, message, _: self.nacks.append((url, message)),
        )

    def run(self, url: str = CLUSTER) -> "asyncio.Task[None]":
        self.ask(url)
        return asyncio.ensure_future(self.stream.run(self.requests.get, self._write))

    async def _write(self, data: bytes) -> None:
        await self.gate.wait()
        self.responses.put_nowait(DeltaDiscoveryResponse.FromString(data))

    def offer(self, *items: Resource) -> None:
        self.stream.offer(Update(1, view(self.revision + 1, *items), self.revision))
        self.revision += 1

    def ask(self, url: str = CLUSTER, **fields: object) -> None:
        self.requests.put_nowait(DeltaDiscoveryRequest(type_url=url, **fields))  # type: ignore[arg-type]

    async def receive(self) -> DeltaDiscoveryResponse:
        async with asyncio.timeout(WAIT_S):
            return await self.responses.get()

    async def take(self) -> DeltaDiscoveryResponse:
        response = await self.receive()
        self.ask(response.type_url, response_nonce=response.nonce)
        return response


async def ended(task: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(WAIT_S):
        await task


async def test_views_that_come_while_the_client_does_not_read_are_one() -> None:
    wire = Wire(view(1, cluster("a", "1")))
    task = wire.run()
    await wire.take()
    wire.gate.clear()
    for tag in ("2", "3"):  # one is being written, the next waits
        wire.offer(cluster("a", tag))
        await asyncio.sleep(0.01)
    for tag in ("4", "5", "6"):
        wire.offer(cluster("a", tag), cluster(f"b{tag}", eds=False))
    assert wire.sync.queued is not None
    assert wire.sync.pending_for(6)
    wire.gate.set()
    first, second = await wire.take(), await wire.take()
    assert [item.name for item in first.resources] == ["a"]
    assert sorted(item.name for item in second.resources) == ["a", "b6"]
    wire.requests.put_nowait(None)
    await ended(task)
    assert wire.responses.empty()
    assert wire.sync.queued is None


async def test_a_client_that_asks_and_does_not_read_is_not_read_either() -> None:
    """At most 64 responses wait; then its requests stay on the wire."""
    wire = Wire(view(1, cluster("a", eds=False)))
    task = wire.run()
    await wire.take()
    wire.gate.clear()
    for _ in range(300):
        wire.ask(resource_names_subscribe=["a"])
    await asyncio.sleep(0.05)
    assert wire.requests.qsize() > 200
    wire.gate.set()
    for _ in range(300):
        await wire.receive()
    wire.requests.put_nowait(None)
    await ended(task)


async def test_who_reads_nothing_is_cut_off() -> None:
    wire = Wire(view(1, cluster("a")), send_timeout_s=0.05)
    wire.gate.clear()
    with pytest.raises(SlowReader):
        await ended(wire.run())


async def test_a_held_removal_goes_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "REMOVAL_HOLD_S", 0.05)
    old, new = cluster("old", eds=False), cluster("new", eds=False)
    wire = Wire(view(1, old, new, vhds("r/h", "old")))
    task = wire.run()
    await wire.take()
    wire.ask(VIRTUAL_HOST)
    await wire.take()
    wire.offer(new, vhds("r/h", "new", tag="2"))
    assert (await wire.receive()).type_url == VIRTUAL_HOST  # and is never answered
    removal = await wire.receive()
    assert (removal.type_url, list(removal.removed_resources)) == (CLUSTER, ["old"])
    wire.stream.end()
    await ended(task)


async def test_the_end_comes_after_what_is_being_written() -> None:
    wire = Wire(view(1, cluster("a")))
    wire.gate.clear()
    task = wire.run()
    await asyncio.sleep(0.01)
    wire.stream.end()
    await asyncio.sleep(0.01)
    assert not task.done()
    wire.gate.set()
    await ended(task)
    assert (await wire.receive()).type_url == CLUSTER


async def test_a_refusal_is_told() -> None:
    wire = Wire(view(1, cluster("a")))
    task = wire.run()
    response = await wire.receive()
    request = DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce=response.nonce)
    request.error_detail.message = "a: no"
    wire.requests.put_nowait(request)
    wire.requests.put_nowait(None)
    await ended(task)
    assert wire.nacks == [(CLUSTER, "a: no")]


async def test_a_request_that_was_taken_is_let_go() -> None:
    """One on a reconnect names all that the client has, and nothing follows it when nothing has changed."""
    wire = Wire(view(1, cluster("a", "1")))
    request = DeltaDiscoveryRequest(type_url=CLUSTER)
    before = sys.getrefcount(request)
    wire.requests.put_nowait(request)
    task = asyncio.ensure_future(wire.stream.run(wire.requests.get, wire._write))
    await wire.receive()
    assert sys.getrefcount(request) == before
    wire.requests.put_nowait(None)
    await ended(task)


async def test_the_other_protocols_request_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(view(1))
    wire.requests.put_nowait(DiscoveryRequest(type_url=CLUSTER))
    await ended(asyncio.ensure_future(wire.stream.run(wire.requests.get, wire._write)))
    assert "found DiscoveryRequest on a DeltaSession" in caplog.text
    assert wire.responses.empty()


async def test_who_asks_for_less_or_nothing_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_state, "FIRST_STATE_S", 0.1)
    less, nothing = Wire(view(1, cluster("a"))), Wire(view(1))
    tasks = [less.run(), nothing.run("type.googleapis.com/unknown")]
    await less.take()
    await until("clusters", lambda: less.sync.types[CLUSTER].state() == "synced")
    assert less.sync.pending_for(1)
    await until("enough", lambda: not less.sync.pending_for(1))
    await until("idle", lambda: nothing.sync.idle)
    for wire, task in zip((less, nothing), tasks, strict=True):
        wire.requests.put_nowait(None)
        await task
