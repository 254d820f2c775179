"""The composition root: the only place that builds everything, in the order in which it can work, and takes it down.

Owns:   start-up order, the ports, ready.json, health, the graceful stop.
Not:    any rule of the mesh; each part owns its own.
Source: design section 1 (processes and ports); common contract of ready.json.

    etcd -> store -> CA -> reconcile (first snapshot) -> gRPC ports -> REST -> ready.json -> ... -> stop
The stop goes the other way and takes at most 10 s: ready.json is removed, streams end, open calls get `drain_s`.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import secrets
import socket
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import REGISTRY

from controlplane.api.app import ControlService, build_rest_app
from controlplane.api.auth import Authenticator, parse_token_file
from controlplane.api.identity_service import IdentityService
from controlplane.api.view import Dependencies
from controlplane.ca.service import CertificateAuthority, open_authority
from controlplane.compiler.compile import Compiler
from controlplane.discovery.admission import Gate
from controlplane.discovery.channel import server_options
from controlplane.discovery.client_status import ClientStatuses
from controlplane.discovery.csds import ClientStatusService, everyone, of_api
from controlplane.discovery.lrs import LoadReportingService
from controlplane.discovery.metrics import DiscoveryMetrics
from controlplane.discovery.reports import ReportsService
from controlplane.discovery.server import Collaborators, DiscoveryService
from controlplane.distribution.events import EventLog
from controlplane.distribution.ledger import DistributionLedger
from controlplane.distribution.traffic import TrafficTable
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
from controlplane.settings import Settings, is_loopback, split_address
from controlplane.snapshot.cache import Update
from controlplane.store.embedded import EmbeddedEtcd, EmbeddedOptions
from controlplane.store.etcd.options import EtcdOptions
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.history import Retention
from controlplane.store.limits import limits_of
from controlplane.store.protocol import ConfigStore
from controlplane.store.schema import ensure_schema
from mesh.api.v1 import control_pb2_grpc, identity_pb2_grpc, report_pb2_grpc
from mesh.clock import Clock, SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.secret import Secret
from mesh.tasks import cancel_and_wait, spawn

_log = get_logger(__name__)

_GATE_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class OpenStore:
    """The store and where it is."""

    store: ConfigStore
    endpoints: str


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
        state_dir = _take_state_dir(settings, stack)
        opened = await _open_store(settings, stack)
        authority = await open_authority(
            opened.store,
            state_dir=state_dir,
            trust_domain=settings.mesh.trust_domain,
            clock=clock,
            leaf_ttl_s=settings.certificate_ttl_s,
        )
        plane = ControlPlane(settings, opened.store, authority, _replica_id(state_dir), clock, failures)
        bound = await plane.start(stack, tokens)
        ready_file = state_dir / "ready.json"
        _write_ready(ready_file, {**bound, "etcd": opened.endpoints, "pid": os.getpid()})
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
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
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
        bound = await self._start_grpc(stack, dependencies)
        bound["rest"] = await self._start_rest(stack, dependencies)
        record = {"rest": _reachable(bound["rest"]), "startedAt": int(self._clock.wall())}
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

    # --- ports

    async def _start_grpc(self, stack: AsyncExitStack, dependencies: Dependencies) -> dict[str, str]:
        settings = self._settings
        hosts = [split_address(address)[0] for address in (settings.grpc_mtls, settings.grpc_tls)]
        identity = self._authority.server_identity(hosts)
        identities = IdentityService(self._authority, clock=self._clock)
        mtls, tls = _server(settings.max_stream_age_s), _server()
        mtls.add_generic_rpc_handlers(
            (
                self._discovery.handler(authenticated=True),
                self._loads.handler(authenticated=True),
                self._csds.handler(self._csds.own_node),
                self._limits.handler(authenticated=True),
            )
        )
        report_pb2_grpc.add_ReportsServicer_to_server(self._reports, mtls)
        identity_pb2_grpc.add_IdentityServicer_to_server(identities, mtls)
        identity_pb2_grpc.add_IdentityServicer_to_server(identities, tls)
        control = ControlService(dependencies)
        control_pb2_grpc.add_ControlServicer_to_server(control, tls)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, tls)
        tls.add_generic_rpc_handlers((self._csds.handler(of_api(Authenticator(dependencies.api_tokens).author)),))
        _reflect(tls)
        bound = {
            "grpc_mtls": _bind(mtls, settings.grpc_mtls, identity.mtls_credentials()),
            "grpc_tls": _bind(tls, settings.grpc_tls, identity.tls_credentials()),
        }
        servers = [mtls, tls]
        if settings.xds_plaintext:
            plaintext = _server(settings.max_stream_age_s)
            plaintext.add_generic_rpc_handlers(
                (
                    self._discovery.handler(authenticated=False),
                    self._loads.handler(authenticated=False),
                    self._csds.handler(everyone),
                    self._limits.handler(authenticated=False),
                )
            )
            bound["xds_plaintext"] = _bind(plaintext, settings.xds_plaintext, None)
            servers.append(plaintext)
        for server in servers:
            await server.start()
        stack.push_async_callback(self._stop_grpc, servers, control)
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def _stop_grpc(self, servers: list[grpc.aio.Server], control: ControlService) -> None:
        await self._health.enter_graceful_shutdown()
        self._discovery.end_streams()
        await control.close()
        await asyncio.gather(*(server.stop(self._settings.drain_s) for server in servers))

    async def _start_rest(self, stack: AsyncExitStack, dependencies: Dependencies) -> str:
        runner = web.AppRunner(
            build_rest_app(dependencies),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=self._settings.drain_s,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, port = split_address(self._settings.rest)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise _cannot_bind("--rest", self._settings.rest, error.strerror or str(error)) from error
        address = runner.addresses[0]
        return _join(str(address[0]), int(address[1]))


def _retention(settings: Settings) -> Retention:
    return Retention(
        records=settings.history_records,
        age_s=settings.history_days * 86400.0,
        content_bytes=int(settings.history_mib * 1024 * 1024),
    )


def _server(max_stream_age_s: float = 0.0) -> grpc.aio.Server:
    return grpc.aio.server(options=server_options(max_stream_age_s))


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    host, port = split_address(address)
    target = _join(host, port)
    try:
        if credentials is None:
            actual = server.add_insecure_port(target)
        else:
            actual = server.add_secure_port(target, credentials)
    except RuntimeError as error:
        raise _cannot_bind("gRPC", target, str(error)) from error
    if actual == 0:
        raise _cannot_bind("gRPC", target, "the address is not available")
    return _join(host, actual)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(address: str) -> str:
    """The address for other replicas: the machine's name in place of one that means every interface."""
    host, port = split_address(address)
    return _join(socket.gethostname(), port) if host in ("0.0.0.0", "::") else address


def _cannot_bind(what: str, address: str, reason: str) -> MeshError:
    return MeshError(
        ErrorCode.UNAVAILABLE,
        f"cannot listen on {address}: {reason}",
        subject=what,
        hint="is another control plane running? choose another address",
    )


def _reflect(server: grpc.aio.Server) -> None:
    names = (
        "mesh.api.v1.Control",
        "mesh.api.v1.Identity",
        health.SERVICE_NAME,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(names, server)


# --- the store, the state directory


async def _open_store(settings: Settings, stack: AsyncExitStack) -> OpenStore:
    if settings.embedded_etcd:
        etcd = EmbeddedEtcd(EmbeddedOptions(directory=Path(settings.embedded_etcd).absolute()))
        await etcd.start()
        stack.push_async_callback(etcd.stop)
        options = etcd.client_options()
    else:
        options = _etcd_options(settings)
    store = EtcdStore(options)
    stack.push_async_callback(store.close)
    await store.check()
    await ensure_schema(store, new_store_id=lambda: secrets.token_hex(8))
    return OpenStore(store, ",".join(options.endpoints))


def _etcd_options(settings: Settings) -> EtcdOptions:
    password = Secret("")
    if settings.etcd_password_file:
        password = Secret(_read_text("etcd_password_file", settings.etcd_password_file).strip())
    return EtcdOptions(
        endpoints=tuple(part.strip() for part in settings.etcd.split(",") if part.strip()),
        ca_file=_path(settings.etcd_ca),
        cert_file=_path(settings.etcd_cert),
        key_file=_path(settings.etcd_key),
        user=settings.etcd_user,
        password=password,
        limits=limits_of(settings.etcd_max_txn_ops, settings.etcd_max_request_bytes),
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _api_tokens(settings: Settings) -> dict[str, str] | None:
    if not settings.api_token_file:
        return None
    return parse_token_file(_read_text("api_token_file", settings.api_token_file), source=settings.api_token_file)


def _read_text(key: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MeshError(ErrorCode.SETTINGS, f"cannot read {path}: {error}", subject=key) from error


def _take_state_dir(settings: Settings, stack: AsyncExitStack) -> Path:
    """Make the folder and lock it until `stack` ends: it holds the name of one replica."""
    path = Path(settings.state_dir).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (path / "ready.json").unlink(missing_ok=True)
    except BlockingIOError as error:
        raise MeshError(
            ErrorCode.SETTINGS, f"another control plane uses {path}", subject="state_dir", hint="choose another folder"
        ) from error
    except OSError as error:
        raise MeshError(ErrorCode.SETTINGS, f"cannot write in {path}: {error.strerror}", subject="state_dir") from error
    return path


def _replica_id(state_dir: Path) -> str:
    """A name that this replica keeps over restarts."""
    path = state_dir / "replica-id"
    with contextlib.suppress(FileNotFoundError):
        found = path.read_text().strip()
        if found:
            return found
    name = f"cp-{secrets.token_hex(4)}"
    path.write_text(name + "\n")
    return name


def _write_ready(path: Path, value: Mapping[str, Any]) -> None:
    """By rename: a reader sees the whole file or none."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=2) + "\n")
    draft.replace(path)
