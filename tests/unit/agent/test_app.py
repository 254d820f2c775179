"""One agent begins, refuses to begin, and ends, with stub workers and a control plane that is not there."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent import settings
from agent.app import Agent, Ending
from agent.supervisor.detection import make_detector
from agent.xds.decoding import decode_foreign
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn
from tests.unit.agent.supervisor.test_pool import ROOT, free_port, until


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch) -> None:
    if "PYTHONPATH" not in os.environ:  # else the build that is tested
        monkeypatch.setenv("PYTHONPATH", str(ROOT))


async def ready(port: int) -> bytes:
    """What /ready answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


class Node:
    """One agent's settings, and the agents made of them."""

    def __init__(self, folder: Path, *, mode: str = "xds", state_dir: Path | None = None) -> None:
        self.admin = free_port()
        self.settings = settings.Settings(
            node=settings.NodeSettings(name="n1", address="127.0.0.1"),
            control_plane=settings.ControlPlaneSettings(address=f"127.0.0.1:{free_port()}", mode=mode),
            proxy=settings.ProxySettings(
                state_dir=str(state_dir or folder), admin=("127.0.0.1", self.admin), drain_timeout_s=2.0
            ),
        )
        self.may_restart = True

    def agent(self) -> Agent:
        return Agent(
            self.settings,
            decode_foreign,
            make_detector,
            program=("-m", "tests.support.stub_worker"),
            may_restart=lambda: self.may_restart,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[Agent, "asyncio.Task[Ending]"]]:
        agent = self.agent()
        task = spawn("agent", agent.run())
        try:
            await until(lambda: task.done() or agent._tasks)
            yield agent, task
        finally:
            agent.stop()
            await asyncio.wait({task}, timeout=15)
            await cancel_and_wait(task)

    def workers(self) -> list[Path]:
        return list(self.settings.state_dir.glob("worker-*.sock"))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_it_serves_its_pages_and_ends_as_asked(node: Node) -> None:
    async with node.running() as (agent, task):
        assert b"no configuration yet" in await ready(node.admin)
        assert node.settings.state_dir.stat().st_mode & 0o777 == 0o700
        (worker,) = [link.pid for link in agent._data_path.pool.links]
        agent.stop()
        agent.stop(Ending.FAILED)  # the first call decides
        async with asyncio.timeout(15):
            assert await task is Ending.DONE
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", node.admin)


async def test_a_hangup_restarts_it_only_with_good_settings(node: Node) -> None:
    async with node.running() as (agent, task):
        (link,) = agent._data_path.pool.links
        node.may_restart = False
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.05)
        assert not task.done()
        node.may_restart = True
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(15):
            assert await task is Ending.RESTART
        os.kill(link.pid, 0)  # its successor will find it
        os.kill(link.pid, signal.SIGKILL)


async def test_a_second_one_is_refused_and_harms_nothing(node: Node) -> None:
    async with node.running() as (_, task):
        with pytest.raises(MeshError, match="another agent") as caught:
            await node.agent().run()
        assert caught.value.code is ErrorCode.CONFLICT
        assert not task.done()
        assert b"no configuration yet" in await ready(node.admin)


async def test_a_part_that_fails_ends_it_and_leaves_the_workers(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node.running() as (agent, task):
        (link,) = agent._data_path.pool.links

        def fail() -> None:
            raise RuntimeError("a part fails")

        monkeypatch.setattr(agent._data_path, "tick", fail)
        async with asyncio.timeout(15):
            assert await task is Ending.FAILED
        os.kill(link.pid, 0)
        os.kill(link.pid, signal.SIGKILL)


async def test_an_admin_port_that_is_taken_is_a_bad_setting(node: Node) -> None:
    taken = rf"proxy\.admin 127\.0\.0\.1:{node.admin}"
    with socket.create_server(("127.0.0.1", node.admin)), pytest.raises(MeshError, match=taken) as caught:
        await node.agent().run()
    assert caught.value.code is ErrorCode.SETTINGS
    assert node.workers() == []


async def test_a_state_directory_that_cannot_be_made_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MeshError, match=r"proxy\.state_dir") as caught:
        await Node(tmp_path, state_dir=tmp_path / "file" / "state").agent().run()
    assert caught.value.code is ErrorCode.SETTINGS


async def test_nothing_is_begun_without_an_identity_and_a_token(tmp_path: Path) -> None:
    node = Node(tmp_path, mode="mesh")
    with pytest.raises(MeshError, match="no join token") as caught:
        await node.agent().run()
    assert caught.value.code is ErrorCode.SETTINGS
    assert not (tmp_path / "supervisor.lock").exists()
