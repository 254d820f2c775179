"""The keys of an agent's settings.

Owns:   the keys, their meaning, defaults and what they demand of each other; a Service as it is registered (also by the
        local API).
Not:    how values are read (values), files and environment (reading), what is done with them.
Source: deploy/README.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.settings.tables import build, error, setting
from agent.settings.values import (
    address,
    boolean,
    duration_s,
    host_port,
    http_url,
    integer,
    labels,
    matching,
    one_of,
    port_range,
    tcp_target,
    text,
    workers,
)
from mesh.vocabulary import DEFAULT_NAMESPACE, DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN, Locality

PROTOCOLS = ("", "HTTP", "HTTP2", "GRPC", "TCP")
SERVER_NAME = "gossamer-controlplane"
SYSTEM_ROOTS = "system"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


def _locality(value: Any) -> Locality:
    return Locality.parse(text(value))


def _ports(value: Any) -> "tuple[ServicePort, ...]":
    if not isinstance(value, list) or not 0 < len(value) <= 64:
        raise ValueError(f"found {value!r}, expected a list of 1 to 64 tables {{name, port, protocol}}")
    found = tuple(build(ServicePort, item, f"ports[{index}]") for index, item in enumerate(value))
    if len({item.port for item in found}) != len(found):
        raise ValueError("found a port twice")
    return found


def _check(value: Any) -> "ServiceCheck":
    return build(ServiceCheck, value, "check")


_port = integer(1, 65535)
_name = matching(_NAME, "letters, digits, '.', '_' and '-'")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """`address`: where other nodes reach this one."""

    name: str = setting(matching(_NODE, "at most 63 lower-case letters, digits, '.' and '-'"))
    address: str = setting(address)
    locality: Locality = setting(_locality, Locality())


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneSettings:
    """`address`: mTLS; `join_address`: server TLS, used with the token. `server_name`: in the server's certificate.

    `mode` "xds": a server that is not ours. Then `address` is plaintext, or TLS when `tls_ca` is set ("system" = the
    machine's roots), with `tls_cert` and `tls_key` as the client's certificate; there is no join, no identity and no
    report but load; `server_name` is then that of `address` unless set. `protocol`: of ADS, "delta" or "sotw".
    """

    address: str = setting(tcp_target)
    mode: str = setting(one_of("mesh", "xds"), "mesh")
    protocol: str = setting(one_of("delta", "sotw"), "delta")
    tls_ca: str = setting(text, "")
    tls_cert: str = setting(text, "")
    tls_key: str = setting(text, "")
    join_address: str = setting(tcp_target, "")
    token_file: str = setting(text, "")
    server_name: str = setting(text, SERVER_NAME)
    trust_domain: str = setting(
        matching(_TRUST_DOMAIN, "lower-case letters, digits, '.', '-', '_'"), DEFAULT_TRUST_DOMAIN
    )

    def __post_init__(self) -> None:
        foreign = [f"{name} = {value!r}" for name, value in self._tls().items() if value]
        joining = [name for name in ("join_address", "token_file") if getattr(self, name)]
        if self.mode == "mesh" and foreign:
            raise ValueError(f"found {foreign[0]}, expected it with mode = 'xds' only")
        if self.mode == "xds" and joining:
            raise ValueError(f"found {joining[0]}, expected it with mode = 'mesh' only: nothing is joined")
        if bool(self.tls_cert) != bool(self.tls_key) or (self.tls_cert and not self.tls_ca):
            raise ValueError("found a part of tls_ca, tls_cert and tls_key, expected tls_ca with both or none of them")

    @property
    def is_ours(self) -> bool:
        """Is it a Gossamer control plane, where this node has an identity and reports?"""
        return self.mode == "mesh"

    def _tls(self) -> dict[str, str]:
        return {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """`access_log` relative to `state_dir`. `keys`: "disk" (in state_dir) or "memory" (a restart needs a token)."""

    state_dir: str = setting(text, "/var/lib/gossamer-agent")
    workers: int = setting(workers, 1)
    outbound_address: str = setting(address, "127.0.0.1")
    outbound_port: int = setting(_port, 15001)
    workload_port_start: int = setting(_port, 15100)
    inbound_port_range: tuple[int, int] = setting(port_range, (20000, 20999))
    admin: tuple[str, int] = setting(host_port, ("127.0.0.1", 15000))
    access_log: str = setting(text, "access.log")
    keys: str = setting(one_of("disk", "memory"), "disk")
    drain_timeout_s: float = setting(duration_s, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Whether the node is a gateway: then Gateways whose selector its `labels` fit give it listeners.

    `address`: where it binds their ports, "" = the node's. `namespace` and `service_account`: its identity; the Secrets
    of its servers are in that namespace.
    """

    enabled: bool = setting(boolean, False)
    namespace: str = setting(_name, DEFAULT_NAMESPACE)
    service_account: str = setting(_name, DEFAULT_SERVICE_ACCOUNT)
    labels: tuple[tuple[str, str], ...] = setting(labels, ())
    address: str = setting(address, "")

    def __post_init__(self) -> None:
        if self.labels and not self.enabled:
            raise ValueError("found labels, expected enabled = true beside them")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    level: str = setting(one_of("debug", "info", "warning", "error"), "info")
    json: bool = setting(boolean, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    name: str = setting(text, "")
    port: int = setting(_port)
    protocol: str = setting(one_of(*PROTOCOLS), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCheck:
    """Exactly one of `http`, `tcp` and `ttl_s`. `deregister_after_s` 0 = never."""

    http: str = setting(http_url, "")
    tcp: str = setting(tcp_target, "")
    ttl_s: float = setting(duration_s, 0.0)
    interval_s: float = setting(duration_s, 10.0)
    timeout_s: float = setting(duration_s, 5.0)
    unhealthy_threshold: int = setting(integer(1, 1000), 2)
    healthy_threshold: int = setting(integer(1, 1000), 2)
    deregister_after_s: float = setting(duration_s, 0.0)

    def __post_init__(self) -> None:
        if sum(1 for value in (self.http, self.tcp, self.ttl_s) if value) != 1:
            raise ValueError("expected exactly one of http, tcp and ttl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One local instance. `address`: where the application listens. `outbound_port` 0 = the agent chooses."""

    name: str = setting(_name)
    namespace: str = setting(_name, DEFAULT_NAMESPACE)
    service_account: str = setting(_name, DEFAULT_SERVICE_ACCOUNT)
    id: str = setting(_name, "")
    address: str = setting(address, "127.0.0.1")
    ports: tuple[ServicePort, ...] = setting(_ports)
    labels: tuple[tuple[str, str], ...] = setting(labels, ())
    weight: int = setting(integer(1, 128), 1)
    outbound_port: int = setting(integer(0, 65535), 0)
    check: ServiceCheck | None = setting(_check, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    node: NodeSettings
    control_plane: ControlPlaneSettings
    proxy: ProxySettings
    log: LogSettings = LogSettings()
    gateway: GatewaySettings = GatewaySettings()
    services: tuple[Service, ...] = ()

    @property
    def state_dir(self) -> Path:
        return Path(self.proxy.state_dir)


SECTIONS: Mapping[str, type] = {
    "node": NodeSettings,
    "control_plane": ControlPlaneSettings,
    "proxy": ProxySettings,
    "log": LogSettings,
    "gateway": GatewaySettings,
}


def service(table: Any, where: str) -> Service:
    """A `[[service]]` table: `port = 3001` is short for one port, the id's default is `<name>-<port>`."""
    if not isinstance(table, Mapping):
        raise error(where, f"found {table!r}, expected a table")
    plain = dict(table)
    if "port" in plain:
        if "ports" in plain:
            raise error(f"{where}.port", "found port and ports, expected one of them")
        plain["ports"] = [{"port": plain.pop("port")}]
    elif "ports" not in plain:
        raise error(f"{where}.port", "found nothing, a value is required")
    found = build(Service, plain, where)
    return found if found.id else build(Service, {**plain, "id": f"{found.name}-{found.ports[0].port}"}, where)
