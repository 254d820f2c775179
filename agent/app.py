"""The composition root of the agent's supervisor: the only place that builds everything.

Owns:   what is connected to what, the order of the start and of the end, signals.
Not:    any rule of its own: what workers serve and decide (supervisor.data_path), the node's identity
        (supervisor.node_identity), certificates in use (supervisor.identity_flow), what is told of this node
        (supervisor.node_report), leave-taking (supervisor.departure).
Source: design sections 1, 2, 5; decisions 14, 27, 35, 36.

    start: lock -> identities, services, last known good from the disk -> a predecessor's sockets -> admin -> workers
           serve -> identity -> ADS, reports, load -> the predecessor's workers drain once ours serve
    SIGTERM, POST /drain + /quitquitquit: instances DRAINING -> peers learn -> workers drain -> instances gone -> exit 0
    SIGHUP: the new program is executed in this process's place; it finds our workers as after a crash
    a successor with --replace asks: exit at once, the workers stay for it

Invariants: nothing is bound before the settings are known to be good; the workers serve what the disk holds before the
        control plane is reached; the end takes at most departure.END_S.
"""

import asyncio
import resource
import signal
from collections.abc import Callable, Coroutine
from enum import IntEnum
from pathlib import Path
from typing import Any

from agent.admin.http import AdminServer
from agent.admin.routes import Routes
from agent.identity import user_secrets
from agent.report.client import ReportClient
from agent.report.load import LoadReporter
from agent.settings import Settings
from agent.supervisor import departure
from agent.supervisor.ads_session import make_session, owner
from agent.supervisor.bind_gate import BindGate
from agent.supervisor.build import BUILD
from agent.supervisor.data_path import DataPath
from agent.supervisor.ejections import MakeDetector
from agent.supervisor.facts import AgentFacts, Parts
from agent.supervisor.handover import LeavePoint, Orphans, StateLock, take_state_dir
from agent.supervisor.identity_flow import IdentityFlow
from agent.supervisor.node import hello, xds_node
from agent.supervisor.node_identity import NodeIdentity
from agent.supervisor.node_report import Announcements, NodeReport
from agent.supervisor.registrations import LocalRegistrations
from agent.supervisor.sockets import ListenerSockets
from agent.supervisor.waits import within
from agent.workloads.checker import Checker
from agent.workloads.registry import Workloads, port_plan
from agent.xds.client import AdsClient
from agent.xds.resources import Decode, Decoded
from mesh.clock import Clock, SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.tasks import cancel_and_wait, spawn

_log = get_logger(__name__)

TICK_S = 0.25
FIRST_CHECKS_S = 3.0  # the first report waits so long for first results of health checks
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
        self._lock: StateLock | None = None

    # --- life -------------------------------------------------------------------------------------------------

    async def run(self, *, replace_other: bool = False) -> Ending:
        """Serve until told to end. Raises MeshError when the start fails."""
        state_dir = self._settings.state_dir
        _make_private(state_dir)
        self._identity = NodeIdentity(self._settings, clock=self._clock, on_change=self._identities_changed)
        if self._settings.control_plane.is_ours:
            self._identity.keeper.can_begin()
        self._lock = await take_state_dir(state_dir, replace=replace_other)
        self._identity.load()  # a predecessor may have renewed it until it left
        self._build()
        self._build_clients()
        try:
            await self._start()
            ending = await self._ending
            await self._end(ending)
        except BaseException:
            self._data_path.pool.kill()
            raise
        finally:
            await self._data_path.close()
            await cancel_and_wait(*self._tasks)
        return ending

    def stop(self, ending: Ending = Ending.DONE) -> None:
        """Begin the end. The first call decides."""
        if not self._ending.done():
            _log.info("the agent ends", how=ending.name.lower())
            self._ending.set_result(ending)

    # --- building ---------------------------------------------------------------------------------------------

    def _build(self) -> None:
        """Make the services, the session with the last known good, and what carries both; nothing is bound."""
        settings = self._settings
        self._workloads = Workloads(
            settings.state_dir, port_plan(settings), clock=self._clock, on_change=self._workloads_changed
        )
        self._announcements = Announcements(
            settings, self._workloads, self._identity.keeper, changed=self._report_changed
        )
        self._sockets = ListenerSockets(settings.proxy.workers)
        self._gate = BindGate(self._sockets)
        self._node = xds_node(settings)
        self._session = make_session(settings, self._node, self._decode, self._unusable)
        self._data_path = DataPath(
            settings,
            self._session,
            self._sockets,
            owner=owner(settings),
            connect=self._identity.connect,
            make_detector=self._make_detector,
            changed=self._report_changed,
            clock=self._clock,
            program=self._program,
        )
        self._identities = IdentityFlow(self._identity.vault, self._session, self._data_path.use)

    def _build_clients(self) -> None:
        """Make what speaks with the control plane, and what speaks with the node's operator."""
        data_path, identity, clock = self._data_path, self._identity, self._clock
        self._client = AdsClient(
            self._session, identity.connect, on_change=self._accepted, served=data_path.pool.served, clock=clock
        )
        source = NodeReport(self._announcements, data_path.ejections, data_path.breakers, self._session, self._node)
        self._reports = ReportClient(hello(self._settings), source, identity.connect, clock=clock)
        self._load_reporter = LoadReporter(
            self._node,
            data_path.loads,
            data_path.place_of,
            identity.connect,
            clock=clock,
            service_of=data_path.service_of,
        )
        self._facts = AgentFacts(
            Parts(
                settings=self._settings, node=self._node, clock=clock, totals=data_path.totals, session=self._session,
                client=self._client, flow=data_path.flow, pool=data_path.pool, gate=self._gate, cells=data_path.cells,
                ejections=data_path.ejections, breakers=data_path.breakers, workloads=self._workloads,
                vault=identity.vault, keeper=identity.keeper, reports=self._reports,
            ),
            on_drain=self._drain,
            on_quit=self.stop,
        )  # fmt: skip
        self._admin = AdminServer(Routes(self._facts, LocalRegistrations(self._workloads)))

    # --- the start --------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        settings = self._settings
        self._orphans = Orphans(settings.state_dir, self._data_path.check_questions)
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
        if self._identity.vault.identities:
            self._identities_changed(False)
        self._data_path.start()
        self._signals()
        for name, coro in self._work():
            self._tasks.append(spawn(name, coro, on_failure=lambda _: self.stop(Ending.FAILED)))
        workers = settings.proxy.workers
        _log.info("agent started", node=settings.node.name, admin=self._admin.address, workers=workers, build=BUILD)

    def _work(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs beside the workers. Without our control plane there is nobody to join and to report to."""
        checker = Checker(self._workloads)
        always = [("ticks", self._ticks()), ("health checks", checker.run())]
        if not self._settings.control_plane.is_ours:
            return [*always, ("ads", self._client.run()), ("load reports", self._load_reporter.run())]
        return [
            *always,
            ("identities", self._identity.keeper.run()),
            ("ads", self._identity.when_held(self._client.run())),
            ("reports", self._identity.when_held(self._report())),
            ("load reports", self._identity.when_held(self._load_reporter.run())),
        ]

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGUSR1, self._data_path.pool.reopen_logs)

    def _on_hangup(self) -> None:
        """Upgrade in place, unless the new settings would not start."""
        if self._may_restart():
            self.stop(Ending.RESTART)

    async def _report(self) -> None:
        """Report from the moment that first checks and certificates are there: a restart takes no service out."""
        await within(FIRST_CHECKS_S, self._announcements.settled)
        await self._reports.run()

    # --- what happens -----------------------------------------------------------------------------------------

    async def _ticks(self) -> None:
        while True:
            self._data_path.tick()
            self._take_over()
            if self._gate.is_outdated(self._session, self._clock.monotonic()):
                self._client.reconnect()
            self._set_gauges()
            await asyncio.sleep(TICK_S)

    def _take_over(self) -> None:
        """Ours accept on the old workers' sockets: those may go."""
        self._orphans.reap()
        if self._orphans.alive and not self._orphans.drained and self._data_path.pool.serving:
            _log.info("the predecessor's workers are drained", workers=self._orphans.alive)
            self._orphans.drain(ORPHAN_DRAIN_S)
            self._sockets.close_unclaimed()

    def _set_gauges(self) -> None:
        totals = self._data_path.totals
        totals.set_gauge("server.live", int(self._facts.ready()[0]))
        totals.set_gauge("control_plane.connected_state", int(self._client.health.connected))
        self._data_path.set_gauges()

    def _unusable(self, decoded: Decoded) -> str:
        """Why a resource cannot be used on this machine; nothing when it can."""
        return self._gate.usable(decoded) or user_secrets.why_not(decoded.pair, decoded.trust_pem)

    def _accepted(self) -> None:
        """The session holds something else. Certificates come before the listeners that show them."""
        self._identities.accepted()
        self._data_path.flow.step()

    def _workloads_changed(self) -> None:
        self._announcements.workloads_changed()

    def _identities_changed(self, node_renewed: bool) -> None:
        self._identities.renewed()
        self._identity.look()
        if node_renewed:
            self._client.reconnect()
        self._announcements.look()

    def _report_changed(self) -> None:
        self._reports.changed()

    # --- the end ----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Readiness fails and the peers are told; connections are still served."""
        self._facts.draining = True
        self._announcements.drain()

    async def _end(self, ending: Ending) -> None:
        data_path = self._data_path
        if ending is Ending.DONE:
            timeout_s = self._settings.proxy.drain_timeout_s
            await departure.leave(data_path, self._announcements, self._reports, drain=self._drain, timeout_s=timeout_s)
            data_path.pool.kill()
            self._sockets.close_all()
        else:
            data_path.pool.abandon()
        self._leave_point.close()
        await self._admin.close()
        await data_path.flow.close()


def _make_private(state_dir: Path) -> None:
    """Raises SETTINGS."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        state_dir.chmod(0o700)
    except OSError as error:
        raise MeshError(
            ErrorCode.SETTINGS, f"not usable: {error.strerror}", subject=f"proxy.state_dir {state_dir}"
        ) from error


def raise_file_limit() -> None:
    """Every connection is a descriptor: use what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or soft == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
