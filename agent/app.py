"""The composition root of the agent's supervisor: the only place that builds everything.

Owns:   what is connected to what, the order of the start and of the end, signals.
Not:    any rule of its own.
Source: design sections 1, 2, 5; decisions 14, 27, 35, 36.

    start: lock -> identities, services, last known good from the disk -> a predecessor's sockets -> admin -> workers
           serve -> identity -> ADS, reports, load -> the predecessor's workers drain once ours serve
    SIGTERM, POST /drain + /quitquitquit: instances DRAINING -> peers learn -> workers drain -> instances gone -> exit 0
    SIGHUP: the new program is executed in this process's place; it finds our workers as after a crash
    a successor with --replace asks: exit at once, the workers stay for it

Invariants: nothing is bound before the settings are known to be good; the workers serve what the disk holds before the
        control plane is reached; the end takes at most END_S.
"""

import asyncio
import random
import resource
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from enum import IntEnum
from typing import Any

import grpc

from agent.admin.http import AdminServer
from agent.admin.routes import Routes
from agent.admin.totals import Totals
from agent.identity import channels, user_secrets
from agent.identity.renewal import IdentityKeeper
from agent.identity.vault import Vault
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
from agent.model.reports import EjectedHost, LocalInstance, ShownBreaker
from agent.model.tls import KeyPair
from agent.report.client import ReportClient
from agent.report.load import LoadReporter, LoadSums, Place
from agent.report.rate_limits import RateLimitClient
from agent.settings import GatewaySettings, Settings
from agent.supervisor.authorizers import Authorizers
from agent.supervisor.bind_gate import BindGate
from agent.supervisor.breakers import Breakers
from agent.supervisor.build import BUILD
from agent.supervisor.cells import CellBook
from agent.supervisor.config_flow import ConfigFlow
from agent.supervisor.ejections import Ejections, MakeDetector
from agent.supervisor.facts import AgentFacts, Parts
from agent.supervisor.handover import LeavePoint, Orphans, StateLock, take_state_dir
from agent.supervisor.hash_tables import HashTableBook
from agent.supervisor.node import announced, gateway_instance, hello, xds_node
from agent.supervisor.pool import WorkerPool
from agent.supervisor.registrations import LocalRegistrations
from agent.supervisor.sockets import ListenerSockets
from agent.supervisor.worker_link import Launch
from agent.workloads.checker import Checker
from agent.workloads.registry import PortPlan, Workloads
from agent.xds import known_good
from agent.xds.client import AdsClient
from agent.xds.delta import DeltaSession
from agent.xds.resources import Decode, Decoded
from agent.xds.sotw import SotwSession
from agent.xds.status import client_config
from agent.xds.warming import Tables
from mesh.clock import Clock, SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import node_id, workload_id
from mesh.logs import get_logger
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import HealthStatus, Locality
from mesh.xds import type_url
from mesh.xds.names import TRUST_SECRET

_log = get_logger(__name__)

TICK_S = 0.25
END_S = 20.0
FIRST_CHECKS_S = 3.0  # the first report waits so long for first results of health checks
PEERS_LEARN_S = 0.5
ORPHAN_DRAIN_S = 5.0


class Ending(IntEnum):
    """Why `run` came back, as an exit code; RESTART = execute the program again in this place."""

    DONE = 0
    LEAVE = 3
    FAILED = 70  # a part of the supervisor failed: the workers stay for the next one
    RESTART = -1


class Agent:
    """One agent. Make it and `run` it inside a loop, in the main thread."""

    def __init__(
        self,
        settings: Settings,
        decode: Decode,
        make_detector: MakeDetector,
        *,
        clock: Clock | None = None,
        program: tuple[str, ...] = (),
        may_restart: Callable[[], bool] = lambda: True,
    ) -> None:
        """`program`: another worker program (tests); `may_restart`: are the settings on disk good?"""
        self._settings = settings
        self._decode = decode
        self._make_detector = make_detector
        self._clock = clock or SystemClock()
        self._program = program
        self._may_restart = may_restart
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[Any]] = []
        self._identified = asyncio.Event()
        self._settled = asyncio.Event()  # every health check has had a result, every identity is held or refused
        self._workers_ended = asyncio.Event()
        self._draining = False
        self._gone = False
        self._lock: StateLock | None = None
        self._identity_problems: set[str] = set()  # what was said about stored ones
        self._user_pairs: tuple[KeyPair, ...] = ()
        self._user_roots: tuple[tuple[str, bytes], ...] = ()

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self, *, replace_other: bool = False) -> Ending:
        """Serve until told to end. Raises MeshError when the start fails."""
        state_dir = self._settings.state_dir
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            state_dir.chmod(0o700)
        except OSError as error:
            raise MeshError(
                ErrorCode.SETTINGS, f"not usable: {error.strerror}", subject=f"proxy.state_dir {state_dir}"
            ) from error
        self._build_identities()
        if self._is_ours:
            self._keeper.can_begin()
        self._lock = await take_state_dir(state_dir, replace=replace_other)
        self._build_identities()  # a predecessor may have renewed them until it left
        self._build()
        self._build_workers()
        try:
            await self._start()
            ending = await self._ending
            await self._end(ending)
        except BaseException:
            self._pool.kill()
            raise
        finally:
            await self._hash_tables.close()
            await self._authorizers.close()
            await cancel_and_wait(*self._tasks)
        return ending

    def stop(self, ending: Ending = Ending.DONE) -> None:
        """Begin the end. The first call decides."""
        if not self._ending.done():
            _log.info("the agent ends", how=ending.name.lower())
            self._ending.set_result(ending)

    def _build_identities(self) -> None:
        settings = self._settings
        self._node_id = str(node_id(settings.control_plane.trust_domain, settings.node.name))
        on_disk = settings.proxy.keys == "disk" and self._is_ours
        self._vault = Vault(settings.state_dir / "identity" if on_disk else None)
        for problem in self._vault.load(self._clock.wall()):
            if problem not in self._identity_problems:
                _log.warning("a stored identity is not used", reason=problem)
                self._identity_problems.add(problem)
        self._keeper = IdentityKeeper(
            settings.control_plane,
            settings.node.name,
            self._node_id,
            self._vault,
            clock=self._clock,
            on_change=self._identities_changed,
        )

    def _build(self) -> None:
        """Make what the workers' part is built on, and read the last known good; nothing is bound."""
        settings, state_dir = self._settings, self._settings.state_dir
        self._totals = Totals()
        self._loads = LoadSums()
        self._limits = RateLimitClient(self._connect, clock=self._clock.monotonic)
        self._workloads = Workloads(state_dir, self._port_plan(), clock=self._clock, on_change=self._workloads_changed)
        self._reports = ReportClient(hello(settings), self, self._connect, clock=self._clock)
        known = known_good.load(state_dir, self._owner, self._decode)
        for problem in known.problems:
            _log.warning("a part of the last known good is not used", reason=problem)
        self._node = xds_node(settings)
        make = DeltaSession if settings.control_plane.protocol == "delta" else SotwSession
        always = {type_url.SECRET: frozenset({TRUST_SECRET})} if self._is_ours else {}
        self._sockets = ListenerSockets(settings.proxy.workers)
        self._gate = BindGate(self._sockets)
        self._session = make(self._node, self._decode, known.resources, always=always, usable=self._unusable)

    def _port_plan(self) -> PortPlan:
        proxy = self._settings.proxy
        return PortPlan(
            inbound_range=proxy.inbound_port_range,
            inbound_address=self._settings.node.address,
            outbound_start=proxy.workload_port_start,
            outbound_address=proxy.outbound_address,
            reserved=frozenset({proxy.outbound_port, proxy.admin[1]}),
        )

    def _build_workers(self) -> None:
        settings = self._settings
        proxy = settings.proxy
        launch = Launch(
            slot=0,
            slots=proxy.workers,
            node=settings.node.name,
            state_dir=settings.state_dir,
            access_log=settings.state_dir / proxy.access_log,
            log_level=settings.log.level,
            log_json=settings.log.json,
        )
        if self._program:
            launch = replace(launch, program=self._program)
        self._cells = CellBook(proxy.workers)
        self._pool = WorkerPool(launch, self._sockets, self._cells, self, clock=self._clock)
        self._ejections = Ejections(
            self._make_detector,
            tell=self._tell_host_state,
            changed=self._reports.changed,
            count=self._totals.count,
            clock=self._clock,
            rng=random.random,
        )
        self._breakers = Breakers(
            tell=self._pool.set_breaker,
            forget=self._pool.drop_breaker,
            changed=self._reports.changed,
            count=self._totals.count,
            gauge=self._totals.replace_gauge,
            clock=self._clock,
        )
        self._hash_tables = HashTableBook(self._pool.set_hash_tables, self._pool.drop_hash_tables)
        self._flow = ConfigFlow(
            self._session,
            self._pool,
            state_dir=settings.state_dir,
            node=self._owner,
            clock=self._clock,
            on_published=self._published,
        )
        self._authorizers = Authorizers(
            settings.state_dir, self._served_cluster, self._flow.assignment, clock=self._clock.monotonic
        )
        self._client = AdsClient(
            self._session, self._connect, on_change=self._accepted, served=self._pool.served, clock=self._clock
        )
        self._load_reporter = LoadReporter(
            self._node, self._loads, self._place_of, self._connect, clock=self._clock, service_of=self._service_of
        )
        self._facts = AgentFacts(
            Parts(
                settings=settings, node=self._node, clock=self._clock, totals=self._totals, session=self._session,
                client=self._client,
                flow=self._flow, pool=self._pool, gate=self._gate, cells=self._cells, ejections=self._ejections,
                breakers=self._breakers,
                workloads=self._workloads, vault=self._vault, keeper=self._keeper, reports=self._reports,
            ),
            on_drain=self._drain,
            on_quit=self.stop,
        )  # fmt: skip
        self._admin = AdminServer(Routes(self._facts, LocalRegistrations(self._workloads)))

    async def _start(self) -> None:
        settings = self._settings
        self._orphans = Orphans(settings.state_dir, self.check_questions)
        for sock in await self._orphans.find():
            self._sockets.adopt(sock)
        host, port = settings.proxy.admin
        try:
            await self._admin.start(host, port)
        except OSError as error:
            raise MeshError(
                ErrorCode.SETTINGS, f"cannot be bound: {error.strerror}", subject=f"proxy.admin {host}:{port}"
            ) from error
        self._leave_point = LeavePoint(settings.state_dir, lambda: self.stop(Ending.LEAVE))
        await self._leave_point.start()
        for problem in self._workloads.load(settings.services):
            _log.warning("a service is not registered as asked", reason=problem)
        if settings.gateway.enabled:
            self._workloads_changed()  # a gateway needs its identity also where no workload is
        if self._vault.identities:
            self._identities_changed(False)
        self._pool.start()
        self._flow.begin()
        self._signals()
        for name, coro in self._work():
            self._tasks.append(spawn(name, coro, on_failure=lambda _: self.stop(Ending.FAILED)))
        workers = settings.proxy.workers
        _log.info("agent started", node=settings.node.name, admin=self._admin.address, workers=workers, build=BUILD)

    def _work(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs beside the workers. Without our control plane there is nobody to join and to report to."""
        checker = Checker(self._workloads)
        always = [("ticks", self._ticks()), ("health checks", checker.run())]
        if not self._is_ours:
            return [*always, ("ads", self._client.run()), ("load reports", self._load_reporter.run())]
        return [
            *always,
            ("identities", self._keeper.run()),
            ("ads", self._when_identified(self._client.run())),
            ("reports", self._when_identified(self._report())),
            ("load reports", self._when_identified(self._load_reporter.run())),
        ]

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGUSR1, self._pool.reopen_logs)

    def _on_hangup(self) -> None:
        """Upgrade in place, unless the new settings would not start."""
        if self._may_restart():
            self.stop(Ending.RESTART)

    async def _when_identified(self, coro: Coroutine[Any, Any, None]) -> None:
        try:
            await self._identified.wait()  # bounded by the keeper, which tries for ever and says why
        except asyncio.CancelledError:
            coro.close()
            raise
        await coro

    async def _report(self) -> None:
        """Report from the moment that first checks and certificates are there: a restart takes no service out."""
        await _within(FIRST_CHECKS_S, self._settled)
        await self._reports.run()

    # --- time -------------------------------------------------------------------------------------------------

    async def _ticks(self) -> None:
        while True:
            self._pool.tick()
            self._flow.tick()
            self._ejections.tick()
            self._breakers.tick()
            self._take_over()
            if self._gate.is_outdated(self._session, self._clock.monotonic()):
                self._client.reconnect()
            self._gauges()
            await asyncio.sleep(TICK_S)

    def _take_over(self) -> None:
        """Ours accept on the old workers' sockets: those may go."""
        self._orphans.reap()
        if self._orphans.alive and not self._orphans.drained and self._pool.serving:
            _log.info("the predecessor's workers are drained", workers=self._orphans.alive)
            self._orphans.drain(ORPHAN_DRAIN_S)
            self._sockets.close_unclaimed()

    def _gauges(self) -> None:
        totals = self._totals
        totals.set_gauge("server.live", int(self._facts.ready()[0]))
        totals.set_gauge("server.concurrency", len(self._pool.links))
        totals.set_gauge("control_plane.connected_state", int(self._client.health.connected))
        for name, value in self._flow.tables[CLUSTER].items():
            assert isinstance(value, Cluster)
            prefix = f"cluster.{name.replace(':', '_')}."
            assignment = self._flow.assignment(name)
            totals.set_gauge(f"{prefix}membership_total", len(assignment.endpoints) if assignment is not None else 0)
            if value.outlier_detection is not None:
                totals.set_gauge(f"{prefix}outlier_detection.ejections_active", self._ejections.active(name))

    # --- what happens -----------------------------------------------------------------------------------------

    def _accepted(self) -> None:
        """The session holds something else."""
        if self._take_trust() | self._take_secrets():
            self._push_identities()
        self._flow.step()

    def _unusable(self, decoded: Decoded) -> str:
        """Why a resource cannot be used on this machine; nothing when it can."""
        return self._gate.usable(decoded) or user_secrets.why_not(decoded.pair, decoded.trust_pem)

    def _take_secrets(self) -> bool:
        """Of the user's, those that the session holds now. Are they others? They come before the listeners that show
        them, and go on in memory alone."""
        held = [item for name, item in self._session.held(type_url.SECRET).items() if name != TRUST_SECRET]
        pairs = tuple(item.decoded.pair for item in held if item.decoded.pair is not None)
        roots = tuple((item.name, item.decoded.trust_pem) for item in held if item.decoded.pair is None)
        changed = (pairs, roots) != (self._user_pairs, self._user_roots)
        self._user_pairs, self._user_roots = pairs, roots
        return changed

    def _take_trust(self) -> bool:
        """Trust what the control plane says now: it is newer than what came with a certificate. Is it another set?"""
        held = self._session.held(type_url.SECRET).get(TRUST_SECRET)
        if held is None or _certificates(held.decoded.trust_pem) == _certificates(self._vault.trust_pem):
            return False
        _log.info("the mesh's roots have changed", certificates=held.decoded.trust_pem.count(b"BEGIN CERTIFICATE"))
        try:
            self._vault.store((), held.decoded.trust_pem)
        except MeshError as error:  # what is in memory is used
            _log.error("the mesh's roots cannot be stored", reason=str(error))
        return True

    def _push_identities(self) -> None:
        self._limits.renew()
        pairs = tuple(item.key_pair for item in self._vault.identities.values())
        identities = Identities((*pairs, *self._user_pairs), self._vault.trust_pem, self._user_roots)
        self._authorizers.renew(identities)
        self._pool.set_identities(identities)

    def _published(self, tables: Tables) -> None:
        clusters = {name: value for name, value in tables[CLUSTER].items() if isinstance(value, Cluster)}
        self._ejections.follow(clusters, self._flow.assignment)
        self._hash_tables.follow(clusters, self._flow.assignment)
        self._authorizers.follow()
        self._breakers.follow(tables)

    def _tell_host_state(self, cluster: str, host: str, ejected: bool) -> None:
        self._pool.set_host_state(cluster, host, ejected=ejected)
        self._hash_tables.set_ejected(cluster, host, ejected)

    def _workloads_changed(self) -> None:
        trust_domain = self._settings.control_plane.trust_domain
        pairs = {*self._workloads.service_accounts(), *_own_account(self._settings.gateway)}
        self._keeper.want(str(workload_id(trust_domain, namespace, account)) for namespace, account in pairs)
        self._tell_instances()

    def _identities_changed(self, node_renewed: bool) -> None:
        self._take_trust()
        self._push_identities()
        if self._node_id in self._vault.identities:
            self._identified.set()
        if node_renewed:
            self._client.reconnect()
        self._tell_instances()

    def _tell_instances(self) -> None:
        """What is told of them may have changed."""
        local = self._local_instances()
        if self._workloads.settled and len(self._announced(local)) == len(local):
            self._settled.set()
        self._reports.changed()

    def _local_instances(self) -> tuple[LocalInstance, ...]:
        return (*self._workloads.instances(), *gateway_instance(self._settings.gateway))

    def _announced(self, local: tuple[LocalInstance, ...]) -> tuple[LocalInstance, ...]:
        return announced(local, self._settings.control_plane.trust_domain, self._keeper.decided)

    @property
    def _is_ours(self) -> bool:
        return self._settings.control_plane.is_ours

    @property
    def _owner(self) -> str:
        """Whose last known good it is: what one foreign server said is not asked of another."""
        name = self._settings.node.name
        return name if self._is_ours else f"{name} at {self._settings.control_plane.address}"

    def _connect(self) -> grpc.aio.Channel:
        control_plane = self._settings.control_plane
        if not self._is_ours:
            return channels.foreign(control_plane)
        identity = self._vault.identities[self._node_id]
        return channels.mtls(control_plane.address, control_plane.server_name, identity, self._vault.trust_pem)

    def _place_of(self, cluster: str, host: str) -> Place:
        assignment = self._flow.assignment(cluster)
        for endpoint in assignment.endpoints if assignment is not None else ():
            if endpoint.key == host:
                return endpoint.locality, endpoint.priority
        return Locality(), 0

    def _served_cluster(self, name: str) -> Cluster | None:
        found = self._flow.tables[CLUSTER].get(name)
        return found if isinstance(found, Cluster) else None

    def _service_of(self, cluster: str) -> str:
        found = self._served_cluster(cluster)
        return found.eds_name if found is not None and found.eds_name != cluster else ""

    # --- agent.report.client.Source ---------------------------------------------------------------------------

    def instances(self) -> tuple[LocalInstance, ...]:
        """What is reported: while the agent ends, everything drains, and then there is nothing."""
        if self._gone:
            return ()
        found = self._announced(self._local_instances())
        if not self._draining:
            return found
        return tuple(replace(item, health=HealthStatus.DRAINING, health_reason="the agent ends") for item in found)

    def ejections(self) -> tuple[EjectedHost, ...]:
        return self._ejections.ejections()

    def breakers(self) -> tuple[ShownBreaker, ...]:
        return self._breakers.shown()

    def client_status(self, *, contents: bool) -> bytes:
        return client_config(self._session, self._node, contents=contents).SerializeToString()

    # --- agent.supervisor.pool.Hooks --------------------------------------------------------------------------

    def eject_request(self, request: EjectRequest) -> None:
        self._ejections.request(request)

    def breaker_news(self, news: BreakerNews) -> None:
        self._breakers.news(news)

    def limit_questions(self, questions: LimitQuestions, reply: Callable[[LimitAnswers], None]) -> None:
        self._limits.ask(questions, reply)

    def check_questions(self, pid: int, questions: CheckQuestions, reply: Callable[[CheckAnswers], None]) -> None:
        self._authorizers.ask(pid, questions, reply)

    def stats(self, pid: int, delta: StatsDelta) -> None:
        self._totals.add(pid, delta)
        self._loads.add(pid, delta.hosts)
        self._ejections.count(delta.hosts, delta.late)

    def worker_gone(self, pid: int) -> None:
        self._totals.forget_worker(pid)
        self._loads.forget_worker(pid)
        self._breakers.worker_gone()
        self._authorizers.forget_worker(pid)
        if not self._pool.links:
            self._workers_ended.set()

    # --- the end ----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Readiness fails and the peers are told; connections are still served."""
        self._draining = self._facts.draining = True
        self._reports.changed()

    async def _end(self, ending: Ending) -> None:
        if ending is Ending.DONE:
            try:
                async with asyncio.timeout(END_S):
                    await self._drain_and_end()
            except TimeoutError:
                _log.error("the end took too long", limit_s=END_S)
            self._pool.kill()
            self._sockets.close_all()
        else:
            self._pool.abandon()
        self._leave_point.close()
        await self._admin.close()
        await self._flow.close()

    async def _drain_and_end(self) -> None:
        await self._flow.keep()
        self._drain()
        if await self._reports.settle(2.0):
            await asyncio.sleep(PEERS_LEARN_S)
        timeout_s = self._settings.proxy.drain_timeout_s
        self._pool.drain(timeout_s)
        if self._pool.links:
            await _within(timeout_s + 1.0, self._workers_ended)
        self._gone = True
        await self._reports.settle(1.0)


def _own_account(gateway: GatewaySettings) -> tuple[tuple[str, str], ...]:
    return ((gateway.namespace, gateway.service_account),) if gateway.enabled else ()


def _certificates(bundle_pem: bytes) -> frozenset[bytes]:
    return frozenset(part.strip() for part in bundle_pem.split(b"-----END CERTIFICATE-----"))


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for `event`, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def raise_file_limit() -> None:
    """Every connection is a descriptor: use what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or soft == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
