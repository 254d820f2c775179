"""One supervisor at a time holds the state directory; a predecessor's workers are found and their sockets kept."""

import asyncio
import socket
from pathlib import Path

import pytest

from agent.ipc.channel import Channel
from agent.ipc.messages import Drain, Drained
from agent.ipc.takeover import TakeoverPoint
from agent.supervisor import handover
from agent.supervisor.handover import LeavePoint, Orphans, StateLock, take_state_dir
from agent.supervisor.unix import bind_unix, connect_unix
from mesh.errors import ErrorCode, MeshError


def test_the_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = StateLock(tmp_path), StateLock(tmp_path)
    assert first.take()
    assert not second.take()
    assert second.holder().isdigit()


async def test_a_held_directory_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    lock = await take_state_dir(tmp_path, replace=False)
    with pytest.raises(MeshError) as refused:
        await take_state_dir(tmp_path, replace=False)
    assert refused.value.code is ErrorCode.CONFLICT
    assert lock.holder() in str(refused.value)
    assert "--replace" in str(refused.value)


async def test_the_holder_leaves_when_a_successor_asks(tmp_path: Path) -> None:
    lock = await take_state_dir(tmp_path, replace=False)
    asked = asyncio.Event()

    def leave() -> None:
        asked.set()
        handover.os.close(lock._descriptor)  # what the kernel does when the holder exits

    point = LeavePoint(tmp_path, leave)
    await point.start()
    try:
        async with asyncio.timeout(10):
            await take_state_dir(tmp_path, replace=True)
        assert asked.is_set()
    finally:
        point.close()
    assert not (tmp_path / handover.SOCKET).exists()


async def test_a_holder_that_does_not_leave_is_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "LEAVE_S", 0.1)
    await take_state_dir(tmp_path, replace=False)
    with pytest.raises(MeshError) as refused:
        await take_state_dir(tmp_path, replace=True)
    assert refused.value.code is ErrorCode.TIMEOUT


async def test_only_the_word_makes_it_leave(tmp_path: Path) -> None:
    left: list[bool] = []
    point = LeavePoint(tmp_path, lambda: left.append(True))
    await point.start()
    try:
        for word, answer in ((b"hello\n", []), (b"leave\n", [True])):
            reader, writer = await asyncio.open_unix_connection(
                sock=await asyncio.to_thread(connect_unix, tmp_path / handover.SOCKET, 1.0)
            )
            writer.write(word)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
            assert left == answer
    finally:
        point.close()


class OldWorker:
    """A worker's side of the takeover, in this process."""

    def __init__(self, path: Path, *listeners: socket.socket) -> None:
        self.said: list[object] = []
        self.channel: Channel | None = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bind_unix(sock, path)
        sock.listen()
        self.point = TakeoverPoint(
            sock,
            listeners=lambda: {f"l{number}": item.fileno() for number, item in enumerate(listeners)},
            on_message=lambda message, _: self._hear(message),
            on_closed=lambda _: None,
            on_successor=self._met,
        )

    def _met(self, channel: Channel) -> None:
        self.channel = channel

    def _hear(self, message: object) -> None:
        self.said.append(message)
        if isinstance(message, Drain):
            assert self.channel is not None
            self.channel.send(Drained())

    def close(self) -> None:
        self.point.close()
        if self.channel is not None:
            self.channel.close()


async def test_orphans_give_their_sockets_and_drain(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        worker = OldWorker(tmp_path / "worker-1.sock", listening)
        try:
            orphans = Orphans(tmp_path)
            async with asyncio.timeout(10):
                found = await orphans.find()
            assert [sock.getsockname() for sock in found] == [listening.getsockname()]
            assert orphans.alive == 1
            orphans.drain(3.0)
            async with asyncio.timeout(10):
                while orphans.alive:  # noqa: ASYNC110 - its answer travels through a socket
                    await asyncio.sleep(0.01)
            assert worker.said == [Drain(3.0)]
            for sock in found:
                sock.close()
        finally:
            worker.close()


async def test_files_of_dead_workers_are_removed(tmp_path: Path) -> None:
    dead = tmp_path / "worker-dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        bind_unix(sock, dead)  # nobody listens
    orphans = Orphans(tmp_path)
    assert await orphans.find() == []
    assert orphans.alive == 0
    assert not dead.exists()


async def test_a_worker_that_says_nothing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "ANSWER_S", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        bind_unix(sock, tmp_path / "worker-mute.sock")
        sock.listen()
        orphans = Orphans(tmp_path)
        assert await orphans.find() == []
        assert orphans.alive == 0


def test_long_paths_of_state_directories_work(tmp_path: Path) -> None:
    """AF_UNIX paths end at 107 bytes; directories do not."""
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = folder / "worker.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        bind_unix(sock, path)
        sock.listen()
        connect_unix(path, 1.0).close()
    assert path.stat().st_mode & 0o777 == 0o600
