"""What the admin pages say about this agent.

Owns:   gathering and shaping the facts; readiness.
Not:    HTTP (agent.admin).
Source: Envoy's /clusters, /config_dump, /certs, /server_info; decisions 14 (a key is never shown), 35.
"""

import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.config.route.v3.route_components_pb2 import VirtualHost as VirtualHostMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration as RouteConfigurationMessage
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from agent.admin.totals import Totals
from agent.identity.renewal import IdentityKeeper
from agent.identity.vault import Vault
from agent.ipc.messages import CLUSTER, LISTENER
from agent.model.cells import CONNECTIONS, PENDING, REQUESTS, RETRIES
from agent.model.cluster import Cluster, Endpoint
from agent.model.listener import Listener
from agent.model.reports import EjectedHost
from agent.report.client import ReportClient
from agent.settings import Settings
from agent.supervisor.bind_gate import BindGate
from agent.supervisor.breakers import Breakers
from agent.supervisor.build import BUILD
from agent.supervisor.cells import CellBook
from agent.supervisor.config_flow import ConfigFlow
from agent.supervisor.ejections import Ejections
from agent.supervisor.pool import WorkerPool
from agent.workloads.registry import Workloads
from agent.xds.client import AdsClient
from agent.xds.resources import Held
from agent.xds.session import AdsSession
from agent.xds.status import client_config
from mesh.clock import Clock
from mesh.version import VERSION
from mesh.xds import type_url

LISTENERS_WITHIN_S = 10.0  # an xDS server that knows nothing of our instances will never send their listeners
_MESSAGES: dict[str, type[Message]] = {
    type_url.CLUSTER: ClusterMessage,
    type_url.CLUSTER_LOAD_ASSIGNMENT: ClusterLoadAssignment,
    type_url.LISTENER: ListenerMessage,
    type_url.ROUTE_CONFIGURATION: RouteConfigurationMessage,
    type_url.VIRTUAL_HOST: VirtualHostMessage,
}
_SECRET_FIELDS = frozenset({"private_key", "private_key_provider", "password", "session_ticket_keys"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the facts are gathered from."""

    settings: Settings
    node: Node
    clock: Clock
    totals: Totals
    session: AdsSession
    client: AdsClient
    flow: ConfigFlow
    pool: WorkerPool
    gate: BindGate
    cells: CellBook
    ejections: Ejections
    breakers: Breakers
    workloads: Workloads
    vault: Vault
    keeper: IdentityKeeper
    reports: ReportClient


class AgentFacts:
    """agent.admin.routes.Facts. `on_drain` and `on_quit` are what the two POST pages do."""

    def __init__(self, parts: Parts, *, on_drain: Callable[[], None], on_quit: Callable[[], None]) -> None:
        self._parts = parts
        self._on_drain = on_drain
        self._on_quit = on_quit
        self._started = parts.clock.wall()
        self.draining = False

    @property
    def totals(self) -> Totals:
        return self._parts.totals

    def drain(self) -> None:
        self._on_drain()

    def quit(self) -> None:
        self._on_quit()

    # --- /ready -----------------------------------------------------------------------------------------------

    def ready(self) -> tuple[bool, str]:
        """Does this agent serve its node? Else what is missing."""
        why = "DRAINING" if self.draining else self._missing()
        return not why, why or "LIVE"

    def _missing(self) -> str:
        parts = self._parts
        if not parts.pool.published:
            reason = parts.client.health.error or next(iter(parts.keeper.problems.values()), "")
            return f"no configuration yet {reason}".rstrip()
        if not parts.pool.serving:
            return "workers are not up to date"
        return next(iter(self._unbound()), "") or self._missing_listeners()

    def _unbound(self) -> list[str]:
        problems = {**self._parts.gate.problems, **self._parts.pool.bind_problems}
        return [f"listener {name} is not bound: {why}" for name, why in problems.items()]

    def _missing_listeners(self) -> str:
        parts = self._parts
        bound = {port for _, port in parts.pool.addresses.values()}
        wanted = {item.outbound_port for item in parts.workloads.services.values()}
        wanted |= {port for item in parts.workloads.services.values() for port in item.inbound.values()}
        missing = sorted(wanted - bound)
        since = max(parts.client.health.since, self._started)
        if not missing or parts.clock.wall() - since > LISTENERS_WITHIN_S:
            return ""
        return f"no listener yet on port {', '.join(map(str, missing[:10]))}"

    # --- the pages --------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Everything that is not as it should be."""
        parts = self._parts
        problems = self._unbound()
        problems += [f"{_short(url)} {name} is refused: {why}" for (url, name), why in parts.session.refused().items()]
        problems += parts.pool.problems()
        problems += parts.flow.waiting
        problems += [f"identity {name}: {why}" for name, why in parts.keeper.problems.items()]
        problems += parts.reports.problems
        problems += [problem for item in parts.workloads.services.values() for problem in item.problems]
        problems += [
            f"{name} listens beyond loopback and can be called past the mesh"
            for name, item in parts.workloads.services.items()
            if item.bypass_possible
        ]
        if parts.client.health.error:
            problems.append(f"control plane: {parts.client.health.error}")
        if parts.flow.save_error:
            problems.append(f"the last known good is not written: {parts.flow.save_error}")
        return {"status": "degraded" if problems else "ok", "problems": problems}

    def server_info(self) -> dict[str, Any]:
        parts = self._parts
        ready, why = self.ready()
        return {
            "version": VERSION,
            "build": BUILD,
            "state": "DRAINING" if self.draining else "LIVE" if ready else "INITIALIZING",
            "reason": "" if ready else why,
            "node": {
                "id": parts.settings.node.name,
                "address": parts.settings.node.address,
                "locality": str(parts.settings.node.locality),
            },
            "pid": os.getpid(),
            "uptime_s": int(parts.clock.wall() - self._started),
            "control_plane": {
                "address": parts.settings.control_plane.address,
                "mode": parts.settings.control_plane.mode,
                "protocol": parts.settings.control_plane.protocol,
                "identifier": parts.session.connected_to,
                "connected": parts.client.health.connected,
                "synced": parts.session.synced,
                "since": _time(parts.client.health.since),
                "last_response": _time(parts.client.health.last_response),
                "error": parts.client.health.error,
            },
            "reports": {"connected": parts.reports.connected, "error": parts.reports.error},
            "workers": [
                {
                    "slot": link.slot,
                    "pid": link.pid,
                    "phase": link.phase.value,
                    "loop_lag_ms": round(link.loop_lag_ms, 2),
                    "problems": list(link.problems),
                }
                for link in parts.pool.links
            ],
            "worker_restarts": parts.pool.restarts,
        }

    def config_dump(self) -> dict[str, Any]:
        """The accepted resources as they came, with versions; what is refused; what waits."""
        parts = self._parts
        return {
            "configs": [
                {
                    "type_url": url,
                    "version": state.version,
                    "resources": [_dumped(item) for _, item in sorted(state.held.items())],
                    "refused": dict(sorted(state.refused.items())),
                    "absent": dict(sorted(state.absent.items())),
                }
                for url, state in parts.session.types.items()
            ],
            "waiting": list(parts.flow.waiting),
        }

    def client_status(self) -> dict[str, Any]:
        """The same as CSDS has it: a ClientConfig without contents."""
        found = client_config(self._parts.session, self._parts.node)
        return MessageToDict(found, preserving_proto_field_name=True)

    def clusters(self) -> list[dict[str, Any]]:
        """Every cluster that is served, with its hosts: health, ejection and why, limits in use."""
        parts = self._parts
        ejected = {(item.cluster, item.host): item for item in parts.ejections.ejections()}
        found = []
        for name, value in sorted(parts.flow.tables[CLUSTER].items()):
            assert isinstance(value, Cluster)
            assignment = parts.flow.assignment(name)
            hosts = assignment.endpoints if assignment is not None else ()
            found.append(
                {
                    "name": name,
                    "lb_policy": value.lb_policy.name,
                    "in_use": {
                        "connections": parts.cells.total(name, 0, CONNECTIONS),
                        "pending": parts.cells.total(name, 0, PENDING),
                        "requests": parts.cells.total(name, 0, REQUESTS),
                        "retries": parts.cells.total(name, 0, RETRIES),
                    },
                    "hosts": [_host(host, ejected.get((name, host.key))) for host in hosts],
                }
            )
        return found

    def circuit_breakers(self) -> list[dict[str, Any]]:
        """Every circuit breaker: its state, since when and why, and what counts towards the next."""
        windows = self._parts.breakers.windows()
        return [
            {
                "name": item.breaker,
                "caller": item.caller,
                "state": item.phase.name,
                "since": _time(item.since_ms / 1000),
                "why": item.why,
                "opened": item.opened,
                "window": dict(zip(("requests", "failed", "slow"), windows[item.breaker, item.caller], strict=True)),
            }
            for item in self._parts.breakers.shown()
        ]

    def listeners(self) -> list[dict[str, Any]]:
        parts = self._parts
        found = []
        for name, value in sorted(parts.flow.tables[LISTENER].items()):
            assert isinstance(value, Listener)
            problem = parts.pool.bind_problems.get(name, "")
            found.append(
                {
                    "name": name,
                    "address": f"{value.address}:{value.port}",
                    "direction": value.direction.name,
                    "identity": value.identity,
                    "bound": name in parts.pool.addresses,
                    "problem": problem,
                }
            )
        return found

    def certs(self) -> dict[str, Any]:
        """Identities with their lifetimes; never keys."""
        parts = self._parts
        renewals = parts.keeper.renew_times()
        return {
            "certificates": [
                {
                    "spiffe_id": name,
                    "not_before": _time(item.not_before_s),
                    "not_after": _time(item.not_after_s),
                    "renewal": _time(renewals.get(name, 0.0)),
                    "expires_in_s": int(item.not_after_s - parts.clock.wall()),
                    "sha256": _fingerprint(item.chain_pem),
                }
                for name, item in sorted(parts.vault.identities.items())
            ],
            "trust_roots": [_fingerprint(pem) for pem in _certificates(parts.vault.trust_pem)],
            "problems": dict(parts.keeper.problems),
        }


def _host(endpoint: Endpoint, ejection: EjectedHost | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "address": endpoint.key,
        "health": endpoint.health.value,
        "locality": str(endpoint.locality),
        "priority": endpoint.priority,
        "weight": endpoint.weight,
        "ejected": ejection is not None and ejection.enforced,
    }
    if ejection is not None:
        found["ejection"] = {
            "reason": ejection.reason,
            "detail": ejection.detail,
            "times": ejection.times,
            "since": _time(ejection.since_ms / 1000),
            "until": _time(ejection.until_ms / 1000),
            "enforced": ejection.enforced,
            "blocked_by": ejection.blocked_by,
        }
    return found


def _dumped(item: Held) -> dict[str, Any]:
    try:
        message = _MESSAGES[item.type_url].FromString(item.body)
        shown = _without_secrets(MessageToDict(message, preserving_proto_field_name=True))
    except (DecodeError, TypeError, KeyError) as error:  # an extension whose type is not loaded here
        shown = {"unprintable": str(error)}
    return {"name": item.name, "version": item.version, "resource": shown}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "[redacted]" if key in _SECRET_FIELDS else _without_secrets(part) for key, part in value.items()}
    return [_without_secrets(part) for part in value] if isinstance(value, list) else value


def _certificates(bundle_pem: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----"
    return [part.strip() + b"\n" + end + b"\n" for part in bundle_pem.split(end) if part.strip()]


def _fingerprint(chain_pem: bytes) -> str:
    """SHA-256 of the first certificate's DER."""
    first = next(iter(_certificates(chain_pem)), b"")
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first.decode())).hexdigest()
    except ValueError:
        return ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""


def _short(url: str) -> str:
    return type_url.SHORT_NAMES.get(url, url)
