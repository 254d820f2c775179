"""The ports of one replica: which service listens on which, how they are bound, how they close.

Owns:   the gRPC servers and the REST site with their addresses; the graceful stop of streams and open calls.
Not:    what the services answer (discovery, ratelimit, api), when there is something to serve (app).
Source: docs/architecture.md, "Processes and ports".

    grpc_mtls: ADS, load reports, client status, rate limits, reports, renewal    grpc_tls: join, control API, health
    xds_plaintext: as grpc_mtls without reports and identity, off by default      rest: policies and mesh state

Invariants: a port that cannot be bound raises UNAVAILABLE naming its address; nothing is served before all gRPC ports
        are bound; the stop takes at most the settings' drain_s for open calls.
"""

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from controlplane.api.app import ControlService, build_rest_app
from controlplane.api.auth import Authenticator
from controlplane.api.identity_service import IdentityService
from controlplane.api.view import Dependencies
from controlplane.ca.service import CertificateAuthority
from controlplane.discovery.channel import server_options
from controlplane.discovery.csds import ClientStatusService, everyone, of_api
from controlplane.discovery.lrs import LoadReportingService
from controlplane.discovery.reports import ReportsService
from controlplane.discovery.server import DiscoveryService
from controlplane.ratelimit.service import RateLimitService
from controlplane.settings import Settings, split_address
from mesh.api.v1 import control_pb2_grpc, identity_pb2_grpc, report_pb2_grpc
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the ports serve, beside the API."""

    authority: CertificateAuthority
    discovery: DiscoveryService
    reports: ReportsService
    loads: LoadReportingService
    limits: RateLimitService
    csds: ClientStatusService


class Ports:
    """Open them once; the stack that is given then closes them."""

    def __init__(self, settings: Settings, services: Services, *, clock: Clock) -> None:
        self._settings = settings
        self._services = services
        self._clock = clock
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]

    async def open(self, stack: AsyncExitStack, dependencies: Dependencies) -> dict[str, str]:
        """Bind and serve everything. Gives the addresses by name. Raises UNAVAILABLE."""
        bound = await self._start_grpc(stack, dependencies)
        bound["rest"] = await self._start_rest(stack, dependencies)
        return bound

    async def _start_grpc(self, stack: AsyncExitStack, dependencies: Dependencies) -> dict[str, str]:
        settings, given = self._settings, self._services
        hosts = [split_address(address)[0] for address in (settings.grpc_mtls, settings.grpc_tls)]
        identity = given.authority.server_identity(hosts)
        identities = IdentityService(given.authority, clock=self._clock)
        mtls, tls = _server(settings.max_stream_age_s), _server()
        mtls.add_generic_rpc_handlers(
            (
                given.discovery.handler(authenticated=True),
                given.loads.handler(authenticated=True),
                given.csds.handler(given.csds.own_node),
                given.limits.handler(authenticated=True),
            )
        )
        report_pb2_grpc.add_ReportsServicer_to_server(given.reports, mtls)
        identity_pb2_grpc.add_IdentityServicer_to_server(identities, mtls)
        identity_pb2_grpc.add_IdentityServicer_to_server(identities, tls)
        control = ControlService(dependencies)
        control_pb2_grpc.add_ControlServicer_to_server(control, tls)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, tls)
        tls.add_generic_rpc_handlers((given.csds.handler(of_api(Authenticator(dependencies.api_tokens).author)),))
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
                    given.discovery.handler(authenticated=False),
                    given.loads.handler(authenticated=False),
                    given.csds.handler(everyone),
                    given.limits.handler(authenticated=False),
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
        self._services.discovery.end_streams()
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


def reachable(address: str) -> str:
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
