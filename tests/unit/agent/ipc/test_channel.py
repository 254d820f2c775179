"""The channel between supervisor and worker, on a real socket pair."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.ipc import channel as channel_module
from agent.ipc import frames
from agent.ipc.channel import Channel, ChannelFull, pair
from agent.ipc.frames import FrameError
from agent.ipc.messages import AddListener, Commit, Committed, Ping, Ready


class End:
    """One end, with what it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.got: list[tuple[Any, list[int]]] = []
        self.closed: list[str] = []
        self.told = asyncio.Event()
        self.channel = Channel(sock, self._message, self._closed)

    def _message(self, message: Any, descriptors: list[int]) -> None:
        self.got.append((message, descriptors))
        self.told.set()

    def _closed(self, reason: str) -> None:
        self.closed.append(reason)
        self.told.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.told.clear()
                await self.told.wait()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    near, far = pair()
    made = End(near), End(far)
    yield made
    for end in made:
        for _, descriptors in end.got:
            for descriptor in descriptors:
                os.close(descriptor)
        end.channel.close()


@pytest.fixture
async def raw() -> AsyncIterator[tuple[socket.socket, End]]:
    """A peer that may send anything."""
    near, far = pair()
    end = End(far)
    yield near, end
    near.close()
    end.channel.close()


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


async def test_messages_arrive_in_order_both_ways(ends: tuple[End, End]) -> None:
    near, far = ends
    for number in range(2000):
        near.channel.send(Ping(number))
        far.channel.send(Committed(number, ("x" * 100,)))
    await far.until(lambda: len(far.got) == 2000)
    await near.until(lambda: len(near.got) == 2000)
    assert [message.token for message, _ in far.got] == list(range(2000))
    assert [message.version for message, _ in near.got] == list(range(2000))
    assert near.channel.queued_bytes == far.channel.queued_bytes == 0


async def test_descriptors_arrive_with_their_message_and_are_duplicates(ends: tuple[End, End]) -> None:
    near, far = ends
    for number in range(20):
        read, write = os.pipe()
        os.write(write, b"%d" % number)
        os.close(write)
        near.channel.send(Ping(number))
        near.channel.send(AddListener(f"l{number}"), [read])
        os.close(read)
    await far.until(lambda: len(far.got) == 40)
    for number, (message, descriptors) in enumerate(far.got[1::2]):
        assert message == AddListener(f"l{number}")
        assert os.read(descriptors[0], 10) == b"%d" % number
    assert all(descriptors == [] for _, descriptors in far.got[::2])


async def test_a_peer_that_does_not_read_fills_a_bounded_queue(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "MAX_QUEUED_BYTES", 1_000_000)
    near, far = ends
    far.channel._loop.remove_reader(far.channel._sock)
    sent = 0
    while near.channel.queued_bytes < 998_000:
        near.channel.send(Committed(sent, ("x" * 1000,)))
        sent += 1
    with pytest.raises(ChannelFull, match="waiting"):
        near.channel.send(Committed(sent, ("x" * 3000,)))
    assert near.channel.queued_bytes <= 1_000_000
    far.channel._loop.add_reader(far.channel._sock, far.channel._on_readable)
    assert await near.channel.drained(10)
    near.channel.send(Ping(1))
    await far.until(lambda: len(far.got) == sent + 1)
    assert [message.version for message, _ in far.got[:-1]] == list(range(sent))


async def test_drained_waits_for_the_low_mark_and_gives_up(ends: tuple[End, End]) -> None:
    near, far = ends
    far.channel._loop.remove_reader(far.channel._sock)
    assert await near.channel.drained(0.01)
    for _ in range(3):
        near.channel.send(Committed(1, ("x" * 1_000_000,)))
    assert not await near.channel.drained(0.01)
    near.channel.close()
    assert await near.channel.drained(10)


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "a frame above the limit": frames.HEADER.pack(frames.MAX_BODY_BYTES + 1, 0, 0),
    "too many descriptors": frames.HEADER.pack(1, 0, frames.MAX_DESCRIPTORS + 1),
    "a wrong checksum": frames.HEADER.pack(3, 1, 0) + b"abc",
    "a body that is no message": frames.encode(Ping(1))[:-1] + b"x",
    "descriptors that did not come": frames.encode(Ping(1), 2),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_closes_the_channel_once_and_what_came_before_is_delivered(
    raw: tuple[socket.socket, End], name: str
) -> None:
    peer, end = raw
    peer.sendall(frames.encode(Ping(7)) + GARBAGE[name])
    await end.until(lambda: bool(end.closed))
    assert [message for message, _ in end.got] == [Ping(7)]
    assert len(end.closed) == 1
    assert end.channel.closed
    end.channel.send(Ping(8))  # does nothing: `on_closed` has said so
    assert end.channel.queued_bytes == 0


async def test_a_stream_that_comes_byte_by_byte_is_the_same(raw: tuple[socket.socket, End]) -> None:
    peer, end = raw
    peer.setblocking(False)
    data = b"".join(frames.encode(message) for message in (Ping(1), Commit(2), Ready(3)))
    for place in range(len(data)):
        peer.send(data[place : place + 1])
        await asyncio.sleep(0)
    await end.until(lambda: len(end.got) == 3)
    assert [message for message, _ in end.got] == [Ping(1), Commit(2), Ready(3)]


async def test_the_end_of_the_peer_is_told_once_and_a_close_of_ours_never(ends: tuple[End, End]) -> None:
    near, far = ends
    near.channel.send(Ping(1))
    near.channel.close()
    near.channel.close()
    await far.until(lambda: bool(far.closed))
    assert far.closed == ["the peer closed"]
    assert [message for message, _ in far.got] == [Ping(1)]
    assert near.closed == []


async def test_unread_descriptors_are_closed_with_the_channel() -> None:
    before = open_descriptors()
    near, far = pair()
    sender, receiver = End(near), End(far)
    read, write = os.pipe()
    half = frames.encode(AddListener("l"), 1)[:-1]
    socket.send_fds(near, [half], [read])
    receiver.channel._on_readable()
    assert len(receiver.channel._descriptors) == 1
    sender.channel.send(AddListener("queued"), [read])
    for end in (sender, receiver):
        end.channel.close()
    os.close(read)
    os.close(write)
    assert open_descriptors() == before


async def test_a_value_outside_the_vocabulary_is_refused_and_the_channel_goes_on(ends: tuple[End, End]) -> None:
    near, far = ends
    with pytest.raises(FrameError):
        near.channel.send("text")  # type: ignore[arg-type]
    near.channel.send(Ping(1))
    await far.until(lambda: len(far.got) == 1)


async def test_many_messages_are_handled_in_slices(ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "SLICE_S", 0.0)
    near, far = ends
    turns: list[int] = []

    async def count() -> None:
        while len(far.got) < 500:
            turns.append(len(far.got))
            await asyncio.sleep(0)

    for number in range(500):
        near.channel.send(Ping(number))
    async with asyncio.timeout(10):
        await count()
    assert [message.token for message, _ in far.got] == list(range(500))
    assert len(set(turns)) > 100, "other tasks had their turns meanwhile"


async def test_a_handler_that_fails_does_not_get_the_message_again_and_the_next_one_comes() -> None:
    near, far = pair()
    got: list[Any] = []
    failures: list[Any] = []
    last = asyncio.Event()

    def handle(message: Any, _: list[int]) -> None:
        got.append(message)
        if message == Ping(1):
            raise RuntimeError("handler")
        last.set()

    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    channel = Channel(far, handle, lambda _: None)
    near.sendall(frames.encode(Ping(1)) + frames.encode(Ping(2)))
    async with asyncio.timeout(10):
        await last.wait()
    channel.close()
    near.close()
    assert got == [Ping(1), Ping(2)]
    assert [str(failure) for failure in failures] == ["handler"]
