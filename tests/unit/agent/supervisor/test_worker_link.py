"""One worker from its start to its end, as its supervisor sees it. Real processes (tests.support.stub_worker)."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.ipc import frames
from agent.ipc.messages import CLUSTER, KINDS, Committed, EjectRequest, Identities, Pong, StatsDelta
from agent.ipc.shared import SharedCells
from agent.model.cluster import Cluster, LoadAssignment
from agent.supervisor.worker_link import Launch, Owner, Phase, Target, WorkerLink
from mesh.tasks import cancel_and_wait, spawn
from tests.support.clock import ManualClock

ROOT = Path(__file__).parents[4]


class Told(Owner):
    def __init__(self) -> None:
        self.gone: list[str] = []
        self.commits = 0
        self.requests: list[EjectRequest] = []
        self.deltas: list[StatsDelta] = []

    def on_eject_request(self, request: EjectRequest) -> None:
        self.requests.append(request)

    def on_stats(self, worker: WorkerLink, delta: StatsDelta) -> None:
        self.deltas.append(delta)

    def on_committed(self, worker: WorkerLink) -> None:
        self.commits += 1

    def on_gone(self, worker: WorkerLink, reason: str) -> None:
        self.gone.append(reason)


class Linked:
    def __init__(self, link: WorkerLink, told: Told, clock: ManualClock) -> None:
        self.link, self.told, self.clock = link, told, clock


@asynccontextmanager
async def linked(state_dir: Path, *program: str) -> AsyncIterator[Linked]:
    os.environ.setdefault("PYTHONPATH", str(ROOT))  # else the build that is tested
    launch = Launch(
        slot=0, slots=1, node="n", state_dir=state_dir, access_log=state_dir / "access.log", log_level="info",
        log_json=False, program=program or ("-m", "tests.support.stub_worker"),
    )  # fmt: skip
    told, clock = Told(), ManualClock()
    shared = SharedCells.create(4, 1)
    link = WorkerLink(launch, told, (shared.descriptor, shared.length), clock)
    try:
        yield Linked(link, told, clock)
    finally:
        link.lost("the test ends")
        shared.close()


def target(clusters: int) -> Target:
    names = [f"c{number}" for number in range(clusters)]
    made = {name: Cluster(name=name, static=LoadAssignment(cluster=name, endpoints=())) for name in names}
    return Target(tables={**{kind: {} for kind in KINDS}, CLUSTER: made}, sockets={}, cells={})


async def until(test: Callable[[], Any], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not test():  # noqa: ASYNC110 - another process is watched
            await asyncio.sleep(0.01)


async def test_start_feed_serve(tmp_path: Path) -> None:
    async with linked(tmp_path) as worker:
        link = worker.link
        assert link.phase is Phase.STARTING
        link.feed(target(1))
        assert not link.up_to_date
        await until(lambda: link.up_to_date)
        assert (link.phase, worker.told.commits) == (Phase.SERVING, 1)
        assert len(list(tmp_path.glob("worker-*.sock"))) == 1


async def test_only_the_newest_target_matters(tmp_path: Path) -> None:
    """Targets that come faster than they are sent are merged; an old Committed does not count for a new target."""
    async with linked(tmp_path) as worker:
        for number in range(20):
            worker.link.feed(target(number))
        await until(lambda: worker.link.up_to_date)
        assert worker.told.commits < 20
        worker.link.feed(target(500))
        assert not worker.link.up_to_date
        await until(lambda: worker.link.up_to_date)


async def test_a_silent_worker_is_lost_once(tmp_path: Path) -> None:
    async with linked(tmp_path) as worker:
        worker.link.feed(target(1))
        await until(lambda: worker.link.up_to_date)
        os.kill(worker.link.pid, signal.SIGSTOP)
        worker.clock.advance(1.9)
        worker.link.tick()
        assert worker.told.gone == []
        worker.clock.advance(0.2)
        worker.link.tick()
        worker.link.tick()
        assert worker.told.gone == ["it was silent for 2.1 s"]
        assert worker.link.phase is Phase.GONE
        assert not list(tmp_path.glob("worker-*.sock"))


async def test_pings_are_answered_with_the_loops_lag(tmp_path: Path) -> None:
    async with linked(tmp_path) as worker:
        worker.link.feed(target(1))
        await until(lambda: worker.link.up_to_date)
        heard = worker.link._heard
        worker.clock.advance(1)
        worker.link.tick()
        await until(lambda: worker.link._heard > heard)
        worker.link._on_message(Pong(1, 12.5), [])
        assert worker.link.loop_lag_ms == 12.5


async def test_an_exit_is_noticed(tmp_path: Path) -> None:
    async with linked(tmp_path, "-c", "raise SystemExit(7)") as worker:
        ticks = spawn("ticks", _ticks(worker.link))
        await until(lambda: worker.told.gone)
        await cancel_and_wait(ticks)
        assert len(worker.told.gone) == 1
        assert worker.link.phase is Phase.GONE
        assert worker.link._process.returncode == 7


async def _ticks(link: WorkerLink) -> None:
    while True:
        link.tick()
        await asyncio.sleep(0.01)


async def test_nonsense_of_a_worker_ends_it(tmp_path: Path) -> None:
    """A compromised or broken worker cannot make the supervisor do anything else."""
    async with linked(tmp_path) as worker:
        worker.link._on_message("hello", [])
        assert worker.told.gone == ["found str, which a worker does not say"]


async def test_descriptors_of_a_worker_are_closed(tmp_path: Path) -> None:
    async with linked(tmp_path) as worker:
        read, write = os.pipe()
        worker.link._on_message(Pong(1, 0.0), [write])
        assert os.read(read, 1) == b"", "the last writer is gone"
        os.close(read)


async def test_problems_are_kept_until_they_are_gone(tmp_path: Path) -> None:
    async with linked(tmp_path) as worker:
        worker.link._on_message(Committed(1, ("cluster a: no",)), [])
        assert worker.link.problems == ("cluster a: no",)
        worker.link._on_message(Committed(2), [])
        assert worker.link.problems == ()


async def test_drain_ends_it(tmp_path: Path) -> None:
    async with linked(tmp_path) as worker:
        worker.link.feed(target(1))
        await until(lambda: worker.link.up_to_date)
        worker.link.drain(1.0)
        assert worker.link.phase is Phase.DRAINING
        await until(lambda: worker.told.gone)
        assert worker.told.gone == ["drained"]
        assert worker.link._process.returncode is not None


async def test_what_cannot_be_sent_is_no_surprise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not read is lost when too much waits for it, and the supervisor goes on."""
    async with linked(tmp_path) as worker:
        os.kill(worker.link.pid, signal.SIGSTOP)
        monkeypatch.setattr("agent.ipc.channel.MAX_QUEUED_BYTES", frames.HEADER.size)
        worker.link.send(Identities((), b"x" * 1000))
        assert len(worker.told.gone) == 1
        assert worker.told.gone[0].startswith("it does not read")


@pytest.mark.parametrize("own", ["", "65536"], ids=["as we say", "as the operator says"])
async def test_a_worker_keeps_freed_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    if own:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", own)
    async with linked(tmp_path) as worker:
        environment = Path(f"/proc/{worker.link.pid}/environ").read_bytes().split(b"\0")
    assert b"MALLOC_MMAP_THRESHOLD_=1048576" in environment
    assert b"MALLOC_TRIM_THRESHOLD_=%b" % (own or "4194304").encode() in environment
