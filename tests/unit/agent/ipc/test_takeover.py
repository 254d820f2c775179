"""How a worker shows its sockets to the next supervisor."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

from agent.ipc.channel import Channel
from agent.ipc.messages import AddListener, Drain, Ping, Ready
from agent.ipc.takeover import TakeoverPoint


async def test_a_successor_gets_every_listener_then_ready_and_is_heard(tmp_path: Path) -> None:
    path = str(tmp_path / "takeover.sock")
    point_sock = socket.socket(socket.AF_UNIX)
    point_sock.bind(path)
    point_sock.listen()
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[Any] = []
    successors: list[Channel] = []
    point = TakeoverPoint(
        point_sock,
        listeners=lambda: {"in": listener.fileno(), "out": listener.fileno()},
        on_message=lambda message, _: heard.append(message),
        on_closed=lambda _: None,
        on_successor=successors.append,
    )
    got: list[tuple[Any, list[int]]] = []
    arrived = asyncio.Event()

    def take(message: Any, descriptors: list[int]) -> None:
        got.append((message, descriptors))
        if isinstance(message, Ready):
            arrived.set()

    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    channel = Channel(peer, take, lambda _: None)
    async with asyncio.timeout(10):
        await arrived.wait()
    assert [message for message, _ in got] == [AddListener("in"), AddListener("out"), Ready(os.getpid())]
    for _, descriptors in got[:2]:
        with socket.socket(fileno=descriptors[0]) as twin:
            assert twin.getsockname() == listener.getsockname()
    channel.send(Ping(1))
    channel.send(Drain(5.0))
    async with asyncio.timeout(10):
        while len(heard) < 2:  # noqa: ASYNC110 - the handler is a plain function
            await asyncio.sleep(0.01)
    assert heard == [Ping(1), Drain(5.0)]
    for end in (channel, *successors, point):
        end.close()
    listener.close()
