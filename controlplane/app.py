"""The composition root: the only place that builds everything, in the order in which it can work, and takes it down.

Owns:   start-up order, what is connected to what, the tasks in the background, the graceful stop.
Not:    any rule of the mesh; each part owns its own: the ports (ports), the store's opening (open_store), the state
        directory with ready.json (files).
Source: design section 1 (processes and ports); common contract of ready.json.

    etcd -> store -> CA -> reconcile (first snapshot) -> gRPC ports -> REST -> ready.json -> ... -> stop
The stop goes the other way and takes at most 10 s: ready.json is removed, streams end, open calls get `drain_s`.
"""

import asyncio
import os
import random
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from prometheus_client import REGISTRY

from controlplane.api.auth import parse_token_file
from controlplane.api.view import Dependencies
from controlplane.ca.service import CertificateAuthority, open_authority
from controlplane.compiler.compile import Compiler
from controlplane.discovery.admission import Gate
from controlplane.discovery.client_status import ClientStatuses
from controlplane.discovery.csds import ClientStatusService
from controlplane.discovery.lrs import LoadReportingService
from controlplane.discovery.metrics import DiscoveryMetrics
from controlplane.discovery.reports import ReportsService
from controlplane.discovery.server import Collaborators, DiscoveryService
from controlplane.distribution.events import EventLog
from controlplane.distribution.ledger import DistributionLedger
from controlplane.distribution.traffic import TrafficTable
from controlplane.files import READY, read_text, replica_id, take_state_dir, write_ready
from controlplane.open_store import open_store
from controlplane.ports import Ports, Services, reachable
from controlplane.ratelimit.service import LimitMetrics, RateLimitService
from controlplane.ratelimit.shares import Shares
from controlplane.reconcile.history_pruner import HistoryPruner
from controlplane.reconcile.jwks import JwksKeeper
from controlplane.reconcile.metrics import ReconcileMetrics
from controlplane.reconcile.reconciler import Reconciler
from controlplane.reconcile.replica import Replica
from controlplane.reconcile.replica_view import ReplicaView
from controlplane.reconcile.rollout_reports import Reporter
from controlplane.reconcile.rollouts import RolloutDriver
from controlplane.reconcile.root_rotation import RootRotation
from controlplane.reconcile.status_writer import StatusWriter
from controlplane.returned_memory import returner
from controlplane.settings import Settings, is_loopback
from controlplane.snapshot.cache import Update
from controlplane.store.history import Retention
from controlplane.store.protocol import ConfigStore
from mesh.clock import Clock, SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.tasks import cancel_and_wait, spawn

_log = get_logger(__name__)

_GATE_LOOK_S = 0.05


class Failures:
    """A background task that fails takes the process down: half a control plane is worse than a restart."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self.first: BaseException | None = None

    def __call__(self, error: BaseException) -> None:
        self.first = self.first or error
        self._stop.set()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises MeshError when it cannot start or a part of it failed."""
    clock = SystemClock()
    tokens = _api_tokens(settings)
    failures = Failures(stop)
    async with AsyncExitStack() as stack:
        state_dir = take_state_dir(settings, stack)
        opened = await open_store(settings, stack)
        authority = await open_authority(
            opened.store,
            state_dir=state_dir,
            trust_domain=settings.mesh.trust_domain,
            clock=clock,
            leaf_ttl_s=settings.certificate_ttl_s,
        )
        plane = ControlPlane(settings, opened.store, authority, replica_id(state_dir), clock, failures)
        bound = await plane.start(stack, tokens)
        ready_file = state_dir / READY
        write_ready(ready_file, {**bound, "etcd": opened.endpoints, "pid": os.getpid()})
        stack.callback(ready_file.unlink, missing_ok=True)
        _log.info("ready", **bound, etcd=opened.endpoints)
        await stop.wait()
        _log.info("stopping")
    if failures.first is not None:
        raise MeshError(ErrorCode.INTERNAL, repr(failures.first), subject="a part of the control plane failed")


class ControlPlane:
    """All parts of one replica."""

    def __init__(
        self,
        settings: Settings,
        store: ConfigStore,
        authority: CertificateAuthority,
        replica_name: str,
        clock: Clock,
        failures: Failures,
    ) -> None:
        self._settings = settings
        self._store = store
        self._authority = authority
        self._clock = clock
        self._failures = failures
        self._events = EventLog()
        self._traffic = TrafficTable()
        self._ledger = DistributionLedger()
        self._gate = Gate(wait_s=settings.registration_wait_s, started=clock.monotonic())
        self._replica = Replica(store, replica_name)
        self._reconciler = Reconciler(
            store=store,
            compiler=Compiler(),
            mesh_settings=settings.mesh,
            ledger=self._ledger,
            deliver=self._deliver,
            metrics=ReconcileMetrics(REGISTRY),
            clock=clock,
        )
        self._discovery = DiscoveryService(
            Collaborators(
                cache=self._reconciler.cache,
                ledger=self._ledger,
                gate=self._gate,
                store=store,
                existing=self._reconciler.leased_keys_of,
                events=self._events,
                metrics=DiscoveryMetrics(REGISTRY),
                clock=clock,
                trust_domain=authority.trust_domain,
                replica=replica_name,
                admission_per_s=settings.admission_per_s,
                send_timeout_s=settings.send_timeout_s,
                max_stream_age_s=settings.max_stream_age_s,
            )
        )
        self._reports = ReportsService(
            store,
            trust_domain=authority.trust_domain,
            existing=self._reconciler.leased_keys_of,
            gate=self._gate,
            events=self._events,
            clock=clock,
        )
        self._loads = LoadReportingService(self._traffic, trust_domain=authority.trust_domain, clock=clock)
        self._limits = RateLimitService(
            Shares(store),
            mesh=lambda: self._reconciler.mesh,
            replicas=lambda: len(self._reconciler.peers()),
            metrics=LimitMetrics(REGISTRY),
            trust_domain=authority.trust_domain,
            clock=clock,
        )
        self._statuses = ClientStatuses(self._ledger, lambda: self._reconciler.cache, self._reports.desk)
        self._csds = ClientStatusService(self._statuses, trust_domain=authority.trust_domain)
        self.view = ReplicaView(
            reconciler=self._reconciler,
            ledger=self._ledger,
            traffic=self._traffic,
            events=self._events,
            readiness=self._readiness,
            breakers=self._reports.breakers,
        )

    def _deliver(self, updates: Iterable[Update]) -> None:
        self._discovery.deliver(updates)

    async def start(self, stack: AsyncExitStack, tokens: Mapping[str, str] | None) -> dict[str, str]:
        """Start everything; what was started is taken down by `stack`. Gives the addresses by name."""
        self._spawn(stack, "reconciler", self._reconciler.run())
        self._spawn(stack, "gate", self._watch_gate())
        await self._reconciler.wait_synced()
        dependencies = self._dependencies(tokens)
        bound = await self._ports().open(stack, dependencies)
        record = {"rest": reachable(bound["rest"]), "startedAt": int(self._clock.wall())}
        stack.push_async_callback(self._replica.release)
        self._spawn(stack, "replica lease", self._replica.run(record))
        self._spawn(stack, "rollouts", self._rollout_driver().run())
        if memory := returner():
            self._spawn(stack, "returned memory", memory.run())
        self._spawn(stack, "CA roots", self._root_rotation().run())
        self._spawn(stack, "history pruner", HistoryPruner(self._store, _retention(self._settings), self._clock).run())
        self._spawn(stack, "keys of token issuers", self._jwks_keeper().run())
        self._spawn(stack, "status writer", StatusWriter(self._store, self._replica, self._reconciler.statuses).run())
        return bound

    def _ports(self) -> Ports:
        services = Services(
            authority=self._authority,
            discovery=self._discovery,
            reports=self._reports,
            loads=self._loads,
            limits=self._limits,
            csds=self._csds,
        )
        return Ports(self._settings, services, clock=self._clock)

    def _jwks_keeper(self) -> JwksKeeper:
        refresh_s = self._settings.jwks_refresh_s
        return JwksKeeper(self._store, self._reconciler, self._clock, random.random, refresh_s=refresh_s)

    def _rollout_driver(self) -> RolloutDriver:
        return RolloutDriver(
            store=self._store,
            replica=self._replica,
            reconciler=self._reconciler,
            reporter=Reporter(self._replica.name, self._reconciler, self._ledger, self._traffic),
            events=self._events,
            clock=self._clock,
        )

    def _root_rotation(self) -> RootRotation:
        return RootRotation(
            authority=self._authority,
            rotations=self._authority.rotations,
            replica=self._replica,
            reconciler=self._reconciler,
            ledger=self._ledger,
            events=self._events,
            clock=self._clock,
        )

    def _spawn(self, stack: AsyncExitStack, name: str, coro: Any) -> None:
        stack.push_async_callback(cancel_and_wait, spawn(name, coro, on_failure=self._failures))

    def _dependencies(self, tokens: Mapping[str, str] | None) -> Dependencies:
        return Dependencies(
            store=self._store,
            view=self.view,
            tokens=self._authority.tokens,
            roots_pem=lambda: self._authority.trust_bundle_pem,
            rotations=self._authority.rotations,
            api_tokens=tokens,
            bound_to_loopback=is_loopback(self._settings.rest),
            replica=self._replica.name,
            client_statuses=self._statuses.of,
            registry=REGISTRY,
            clock=self._clock,
        )

    async def _watch_gate(self) -> None:
        """Open the gate when known nodes have registered again, or have had their time."""
        await self._reconciler.wait_synced()
        waited_for: tuple[str, ...] = ()
        while not self._gate.open:
            mesh = self._reconciler.mesh
            known = (node.name for node in mesh.nodes() if node.dialect == "gossamer")
            missing = self._gate.look(known, (item.node for item in mesh.instances()), self._clock.monotonic())
            if missing and not waited_for:
                _log.info("waiting for known nodes to register again", count=len(missing), nodes=",".join(missing[:10]))
            waited_for = missing
            if not self._gate.open:
                await asyncio.sleep(_GATE_LOOK_S)
        self._discovery.open_gate()

    def _readiness(self) -> Mapping[str, str]:
        return {
            "etcd": self._store.problem,
            "synced": "" if self._reconciler.synced else "the first snapshot is not loaded",
            "gate": "" if self._gate.open else "waiting for known nodes to register",
        }


def _retention(settings: Settings) -> Retention:
    return Retention(
        records=settings.history_records,
        age_s=settings.history_days * 86400.0,
        content_bytes=int(settings.history_mib * 1024 * 1024),
    )


def _api_tokens(settings: Settings) -> dict[str, str] | None:
    if not settings.api_token_file:
        return None
    return parse_token_file(read_text("api_token_file", settings.api_token_file), source=settings.api_token_file)
