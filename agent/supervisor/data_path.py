"""The data path of a node as its supervisor sees it: the workers, what they serve, what they decide together.

Owns:   who learns what is published, which identities there are and what a worker says; the workers' end.
Not:    each part's own rules: processes (pool), warming and the disk (config_flow), ejections, breakers, hash_tables,
        authorizers, the rate limit service (agent.report); what is accepted (agent.xds), which identities there are
        (identity_flow).
Source: design section 1; decisions 35, 36.

    session --flow.step--> ConfigFlow --publish--> WorkerPool
                               +---------follow--> ejections, hash tables, authorizers, breakers --verdict--> WorkerPool
    WorkerPool --Hooks--> the part that it concerns

Invariants: a verdict on a host reaches workers and hash tables alike; what a worker that is gone had in flight is
        forgotten everywhere.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

import grpc

from agent.admin.totals import Totals
from agent.ipc.messages import (
    CLUSTER,
    BreakerNews,
    CheckAnswers,
    CheckQuestions,
    EjectRequest,
    Identities,
    LimitAnswers,
    LimitQuestions,
    StatsDelta,
)
from agent.model.cluster import Cluster
from agent.report.load import LoadSums, Place
from agent.report.rate_limits import RateLimitClient
from agent.settings import Settings
from agent.supervisor.authorizers import Authorizers
from agent.supervisor.breakers import Breakers
from agent.supervisor.cells import CellBook
from agent.supervisor.config_flow import ConfigFlow
from agent.supervisor.ejections import Ejections, MakeDetector
from agent.supervisor.hash_tables import HashTableBook
from agent.supervisor.pool import WorkerPool
from agent.supervisor.sockets import ListenerSockets
from agent.supervisor.waits import within
from agent.supervisor.worker_link import Launch
from agent.xds.session import AdsSession
from agent.xds.warming import Tables
from mesh.clock import Clock
from mesh.vocabulary import Locality

LATER_S = 1.0  # a worker ends its drain by itself; it is waited for so much longer


class DataPath:
    """agent.supervisor.pool.Hooks. Make it inside a running loop, in the main thread; nothing is started by that."""

    def __init__(
        self,
        settings: Settings,
        session: AdsSession,
        sockets: ListenerSockets,
        *,
        owner: str,
        connect: Callable[[], grpc.aio.Channel],
        make_detector: MakeDetector,
        changed: Callable[[], None],
        clock: Clock,
        program: tuple[str, ...] = (),
    ) -> None:
        """`owner`: of the last known good; `connect`: to the control plane; `changed`: ejections or breakers have;
        `program`: another worker program (tests)."""
        self._workers_ended = asyncio.Event()  # since `drain`
        self.totals = Totals()
        self.loads = LoadSums()
        self._limits = RateLimitClient(connect, clock=clock.monotonic)
        self.cells = CellBook(settings.proxy.workers)
        self.pool = WorkerPool(_launch(settings, program), sockets, self.cells, self, clock=clock)
        self.ejections = Ejections(
            make_detector,
            tell=self._tell_host_state,
            changed=changed,
            count=self.totals.count,
            clock=clock,
            rng=random.random,
        )
        self.breakers = Breakers(
            tell=self.pool.set_breaker,
            forget=self.pool.drop_breaker,
            changed=changed,
            count=self.totals.count,
            gauge=self.totals.replace_gauge,
            clock=clock,
        )
        self._hash_tables = HashTableBook(self.pool.set_hash_tables, self.pool.drop_hash_tables)
        self.flow = ConfigFlow(
            session,
            self.pool,
            state_dir=settings.state_dir,
            node=owner,
            clock=clock,
            on_published=self._published,
        )
        self._authorizers = Authorizers(
            settings.state_dir, self._served_cluster, self.flow.assignment, clock=clock.monotonic
        )

    # --- what is served -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers, and serve what the session holds from the disk."""
        self.pool.start()
        self.flow.begin()

    def use(self, identities: Identities) -> None:
        """Whoever connects or accepts does it with these from now on."""
        self._limits.renew()
        self._authorizers.renew(identities)
        self.pool.set_identities(identities)

    def tick(self) -> None:
        """Several times a second."""
        self.pool.tick()
        self.flow.tick()
        self.ejections.tick()
        self.breakers.tick()

    def _published(self, tables: Tables) -> None:
        clusters = {name: value for name, value in tables[CLUSTER].items() if isinstance(value, Cluster)}
        self.ejections.follow(clusters, self.flow.assignment)
        self._hash_tables.follow(clusters, self.flow.assignment)
        self._authorizers.follow()
        self.breakers.follow(tables)

    def _tell_host_state(self, cluster: str, host: str, ejected: bool) -> None:
        self.pool.set_host_state(cluster, host, ejected=ejected)
        self._hash_tables.set_ejected(cluster, host, ejected)

    # --- what is asked of it ------------------------------------------------------------------------------------

    def place_of(self, cluster: str, host: str) -> Place:
        """Where a served host is; nowhere and first when it is not served any more."""
        assignment = self.flow.assignment(cluster)
        for endpoint in assignment.endpoints if assignment is not None else ():
            if endpoint.key == host:
                return endpoint.locality, endpoint.priority
        return Locality(), 0

    def service_of(self, cluster: str) -> str:
        """The EDS name of a served cluster, "" when it is that of the cluster itself."""
        found = self._served_cluster(cluster)
        return found.eds_name if found is not None and found.eds_name != cluster else ""

    def set_gauges(self) -> None:
        """Say how many workers, hosts and ejected hosts there are."""
        self.totals.set_gauge("server.concurrency", len(self.pool.links))
        for name, value in self.flow.tables[CLUSTER].items():
            assert isinstance(value, Cluster)
            prefix = f"cluster.{name.replace(':', '_')}."
            assignment = self.flow.assignment(name)
            hosts = len(assignment.endpoints) if assignment is not None else 0
            self.totals.set_gauge(f"{prefix}membership_total", hosts)
            if value.outlier_detection is not None:
                active = self.ejections.active(name)
                self.totals.set_gauge(f"{prefix}outlier_detection.ejections_active", active)

    def _served_cluster(self, name: str) -> Cluster | None:
        found = self.flow.tables[CLUSTER].get(name)
        return found if isinstance(found, Cluster) else None

    # --- agent.supervisor.pool.Hooks ----------------------------------------------------------------------------

    def eject_request(self, request: EjectRequest) -> None:
        self.ejections.request(request)

    def breaker_news(self, news: BreakerNews) -> None:
        self.breakers.news(news)

    def limit_questions(self, questions: LimitQuestions, reply: Callable[[LimitAnswers], None]) -> None:
        self._limits.ask(questions, reply)

    def check_questions(self, pid: int, questions: CheckQuestions, reply: Callable[[CheckAnswers], None]) -> None:
        self._authorizers.ask(pid, questions, reply)

    def stats(self, pid: int, delta: StatsDelta) -> None:
        self.totals.add(pid, delta)
        self.loads.add(pid, delta.hosts)
        self.ejections.count(delta.hosts, delta.late)

    def worker_gone(self, pid: int) -> None:
        self.totals.forget_worker(pid)
        self.loads.forget_worker(pid)
        self.breakers.worker_gone()
        self._authorizers.forget_worker(pid)
        if not self.pool.links:
            self._workers_ended.set()

    # --- the end ------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Tell the workers to end within `timeout_s`, and wait for that."""
        self._workers_ended.clear()  # before, there was none for a moment whenever the only one was replaced
        self.pool.drain(timeout_s)
        if self.pool.links:
            await within(timeout_s + LATER_S, self._workers_ended)

    async def close(self) -> None:
        """Nobody asks any more, nothing is built any more."""
        await self._hash_tables.close()
        await self._authorizers.close()


def _launch(settings: Settings, program: tuple[str, ...]) -> Launch:
    proxy = settings.proxy
    found = Launch(
        slot=0,
        slots=proxy.workers,
        node=settings.node.name,
        state_dir=settings.state_dir,
        access_log=settings.state_dir / proxy.access_log,
        log_level=settings.log.level,
        log_json=settings.log.json,
    )
    return replace(found, program=program) if program else found
