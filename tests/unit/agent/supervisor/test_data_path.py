"""What is published reaches everyone it concerns, and what workers say the one who answers. Workers are stubs."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent import settings
from agent.ipc.messages import (
    CLUSTER,
    LISTENER,
    CheckAnswers,
    CheckQuestions,
    EjectRequest,
    Identities,
    LimitAnswers,
    LimitQuestions,
    StatsDelta,
)
from agent.model.cluster import Cluster, Endpoint, LbPolicy, LoadAssignment, OutlierDetection
from agent.model.ext_authz import CheckVerdict
from agent.model.rate_limit import LimitQuestion
from agent.model.tls import KeyPair
from agent.supervisor.data_path import DataPath
from agent.supervisor.sockets import ListenerSockets
from agent.xds.resources import Decoded, Held
from mesh.clock import SystemClock
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import Locality
from mesh.xds import type_url
from tests.unit.agent.supervisor.test_authorizers import question
from tests.unit.agent.supervisor.test_ejections import Detector
from tests.unit.agent.supervisor.test_pool import ROOT, free_port, get, listener, until

HERE = Locality(region="eu", zone="a", sub_zone="")
HOST = Endpoint(address="10.0.0.1", port=80, locality=HERE, priority=1)
DETECTED = Cluster(
    name="c:1",
    static=LoadAssignment(cluster="c:1", endpoints=(HOST,)),
    outlier_detection=OutlierDetection(),
    lb_policy=LbPolicy.RING_HASH,
)
EJECT = EjectRequest(cluster="c:1", host=HOST.key, kind="consecutive_5xx", count=5, last_status=503)
ROWS = (("c:1", HOST.key, 10, 7, 3, 2),)
DELTA = StatsDelta(counters={"cluster.c_1.upstream_rq_total": 10}, gauges={"g": 4}, histograms={}, sums={}, hosts=ROWS)


def no_channel() -> grpc.aio.Channel:
    raise LookupError("no identity yet")


class Node:
    """A data path with the session that it serves."""

    def __init__(self, folder: Path) -> None:
        self.resources: list[Held] = []
        self.changes = 0
        self.sockets = ListenerSockets(1)
        self.detectors: list[Detector] = []
        self.data_path = DataPath(
            settings.Settings(
                node=settings.NodeSettings(name="n1", address="127.0.0.1"),
                control_plane=settings.ControlPlaneSettings(address="cp:18000"),
                proxy=settings.ProxySettings(state_dir=str(folder)),
            ),
            self,  # type: ignore[arg-type]
            self.sockets,
            owner="n1",
            connect=no_channel,
            make_detector=self._detector,
            changed=self._changed,
            clock=SystemClock(),
            program=("-m", "tests.support.stub_worker"),
        )

    def _detector(self, config: OutlierDetection) -> Detector:
        self.detectors.append(Detector(config))
        return self.detectors[-1]

    def _changed(self) -> None:
        self.changes += 1

    def all_held(self) -> tuple[Held, ...]:
        return tuple(self.resources)

    def absent(self) -> dict[tuple[str, str], str]:
        return {}

    def serve(self, *values: Any) -> None:
        """Accept these clusters and listeners, and nothing else."""
        kinds = {Cluster: (type_url.CLUSTER, CLUSTER)}
        self.resources = [
            Held(
                type_url=url, name=item.name, version="1", body=b"", decoded=Decoded(values=((kind, item.name, item),))
            )
            for item in values
            for url, kind in (kinds.get(type(item), (type_url.LISTENER, LISTENER)),)
        ]
        self.data_path.flow.step()

    def close(self) -> None:
        self.data_path.pool.kill()
        self.sockets.close_all()
        self.data_path.cells.close()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """Nothing runs."""
    made = Node(tmp_path)
    yield made
    await made.data_path.close()
    made.close()


@pytest.fixture
def _modules(monkeypatch: pytest.MonkeyPatch) -> None:
    if "PYTHONPATH" not in os.environ:  # else the build that is tested
        monkeypatch.setenv("PYTHONPATH", str(ROOT))


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[int]:
    """Its worker runs and serves a listener: the port."""

    async def ticks() -> None:
        while True:
            node.data_path.tick()
            await asyncio.sleep(0.02)

    port = free_port()
    node.data_path.start()
    node.serve(DETECTED, listener(port))
    task = spawn("ticks", ticks())
    try:
        await until(lambda: node.data_path.pool.serving)
        yield port
    finally:
        await cancel_and_wait(task)


async def told(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await get(port, "/told"))
    return found


async def test_what_is_published_is_followed_by_all(node: Node) -> None:
    node.serve(DETECTED)
    data_path = node.data_path
    assert [detector.hosts for detector in node.detectors] == [{HOST.key}]
    assert not data_path._hash_tables.idle
    await until(lambda: data_path._hash_tables.idle)
    assert "c:1" in data_path.pool._hash_tables
    node.serve()
    assert data_path.pool._hash_tables == {}
    data_path.eject_request(EJECT)
    assert data_path.ejections.ejections() == ()  # nobody's business any more


async def test_where_a_host_is_and_whose(node: Node) -> None:
    named = Cluster(name="outbound|80||a", static=LoadAssignment(cluster="x", endpoints=()), eds_name="a.default")
    node.serve(DETECTED, named)
    assert node.data_path.place_of("c:1", HOST.key) == (HERE, 1)
    assert node.data_path.place_of("c:1", "10.0.0.2:80") == node.data_path.place_of("?", HOST.key) == (Locality(), 0)
    assert [node.data_path.service_of(name) for name in ("c:1", named.name, "?")] == ["", "a.default", ""]


async def test_gauges_say_who_is_there(node: Node) -> None:
    node.serve(DETECTED, Cluster(name="plain", static=LoadAssignment(cluster="plain", endpoints=())))
    node.data_path.eject_request(EJECT)
    node.data_path.set_gauges()
    assert node.data_path.totals.gauges() == {
        "server.concurrency": 0,
        "cluster.c_1.membership_total": 1,
        "cluster.c_1.outlier_detection.ejections_active": 1,
        "cluster.plain.membership_total": 0,
    }


async def test_an_ejection_is_shown_and_leaves_the_hash_tables_too(node: Node) -> None:
    node.serve(DETECTED)
    await until(lambda: node.data_path._hash_tables.idle)
    node.data_path.eject_request(EJECT)
    assert node.changes == 1
    assert [(item.cluster, item.host) for item in node.data_path.ejections.ejections()] == [("c:1", HOST.key)]
    assert node.data_path.pool._ejected == node.data_path._hash_tables._ejected == {("c:1", HOST.key)}
    assert not node.data_path._hash_tables.idle


async def test_statistics_go_to_totals_load_reports_and_detection(node: Node) -> None:
    node.serve(DETECTED)
    node.data_path.stats(7, DELTA)
    assert "cluster.c_1.upstream_rq_total: 10" in node.data_path.totals.as_text()
    assert node.data_path.totals.gauges()["g"] == 4
    assert node.data_path.loads._rows == {("c:1", HOST.key): [10, 7, 3]}
    assert node.detectors[0].counted == [(HOST.key, 10, 7)]
    node.data_path.worker_gone(7)
    assert node.data_path.totals.gauges().get("g", 0) == 0
    assert node.data_path.loads._active == {}
    assert node.data_path.loads._rows == {("c:1", HOST.key): [10, 7, 3]}  # what it did, it did


async def test_questions_are_answered_where_nobody_can_be_asked(node: Node) -> None:
    """Without an identity, of a cluster that is not served."""
    node.serve(DETECTED)
    limits: list[LimitAnswers] = []
    checks: list[CheckAnswers] = []
    asked = LimitQuestion(number=3, domain="d", descriptors=((("k", "v"),),), timeout_s=1.0)
    node.data_path.limit_questions(LimitQuestions((asked,)), limits.append)
    node.data_path.check_questions(7, CheckQuestions((question(4),), ()), checks.append)
    await until(lambda: limits and checks)
    assert [answer.number for answers in limits for answer in answers.answers] == [3]
    assert [(one.number, one.verdict) for answers in checks for one in answers.answers] == [(4, CheckVerdict.ERROR)]


@pytest.mark.usefixtures("_modules")
async def test_workers_get_verdicts_and_identities(node: Node) -> None:
    pair = KeyPair(identity="spiffe://td/ns/a/sa/b", chain_pem=b"c", key_pem=b"k")
    async with running(node) as port:
        node.data_path.use(Identities((pair,), b"", ()))
        node.data_path.eject_request(EJECT)
        await asyncio.wait_for(node.data_path.pool.served(), 5)
        found = await told(port)
    assert found["tables"] == {"cluster": ["c:1"], "listener": ["in"]}
    assert (found["identities"], found["ejected"]) == (["spiffe://td/ns/a/sa/b"], [["c:1", HOST.key]])


@pytest.mark.usefixtures("_modules")
@pytest.mark.parametrize("crashes", [0, 1])
async def test_the_end_waits_for_the_workers(node: Node, crashes: int) -> None:
    """Also for one that has taken the place of another."""
    async with running(node):
        pool = node.data_path.pool
        for _ in range(crashes):
            before = pool.links[0].pid
            os.kill(before, signal.SIGKILL)
            await until(lambda before=before: pool.serving and pool.links[0].pid != before)
        assert len(pool.links) == 1
        await node.data_path.drain(10.0)
        assert pool.links == ()
