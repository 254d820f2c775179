"""What an agent is told at its start: defaults < TOML file < environment < flags.

Owns:   the keys, their meaning, limits and defaults; a Service as it is registered (also by the local API).
Not:    what is done with them.
Source: deploy/README.md. Environment: GOSSAMER_AGENT_<SECTION>_<KEY>, for example GOSSAMER_AGENT_PROXY_WORKERS.
Invariants: an unknown key, variable or value raises SETTINGS naming it and the nearest known one; nothing has been
        bound or written by then. A path is absolute, or relative to the folder of the file that names it.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE, DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN, Locality

ENV_PREFIX = "GOSSAMER_AGENT_"
PROTOCOLS = ("", "HTTP", "HTTP2", "GRPC", "TCP")
SERVER_NAME = "gossamer-controlplane"
SYSTEM_ROOTS = "system"
MAX_SERVICES = 1000
MAX_WORKERS = 256
MAX_LABELS = 64
MAX_LABEL_CHARS = 512
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_T = TypeVar("_T")


def _is(parse: Callable[[Any], Any], default: Any = MISSING) -> Any:
    """A key: how its value is read, and its default (none = it must be given)."""
    return field(metadata={"parse": parse}, **({} if default is MISSING else {"default": default}))


# --- how values are read: each raises ValueError that says what was found and expected --------------------------------


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"found {value!r}, expected text")
    return value


def matching(pattern: re.Pattern[str], expected: str) -> Callable[[Any], str]:
    """Text of a form."""

    def parse(value: Any) -> str:
        if not pattern.fullmatch(text(value)):
            raise ValueError(f"found {value!r}, expected {expected}")
        return str(value)

    return parse


def integer(low: int, high: int) -> Callable[[Any], int]:
    """A whole number, also as text (from the environment)."""

    def parse(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(f"found {value!r}, expected a whole number from {low} to {high}")
        return number

    return parse


def one_of(*values: str) -> Callable[[Any], str]:
    """One of a few words."""

    def parse(value: Any) -> str:
        if value not in values:
            raise ValueError(f"found {value!r}, expected {' or '.join(repr(v) for v in values if v)}")
        return str(value)

    return parse


def boolean(value: Any) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    found = known.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError(f"found {value!r}, expected true or false")
    return found


def duration_s(value: Any) -> float:
    """Seconds from `10s`, `1m30s`, `500ms` or a number of seconds. Above 0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(min(value, 1e9))  # tomllib reads whole numbers of any size
    else:
        parts = _DURATION.fullmatch(text(value))
        if parts is None or not value:
            raise ValueError(f"found {value!r}, expected a duration as 10s, 1m30s or 500ms")
        scales = (3600.0, 60.0, 1.0, 0.001)
        seconds = sum(float(part) * scale for part, scale in zip(parts.groups(), scales, strict=True) if part)
    if not 0 < seconds <= 7 * 86400:
        raise ValueError(f"found {value!r}, expected a duration above 0 and up to a week")
    return seconds


def address(value: Any) -> str:
    """A host with nothing else: an IP address or a name."""
    if not text(value) or len(value) > 253 or any(char.isspace() or char in "/@" for char in value):
        raise ValueError(f"found {value!r}, expected an IP address or a host name")
    return str(value)


def host_port(value: Any) -> tuple[str, int]:
    """`host:port`; IPv6 in brackets."""
    host, _, port = text(value).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"found {value!r}, expected host:port")
    return address(host.strip("[]")), int(port)


def port_range(value: Any) -> tuple[int, int]:
    """`20000-20999`, both included."""
    low, _, high = text(value).partition("-")
    digits = value.isascii() and low.isdigit() and high.isdigit()
    if not (digits and 0 < int(low) <= int(high) < 65536):
        raise ValueError(f"found {value!r}, expected a range of ports as 20000-20999")
    return int(low), int(high)


def workers(value: Any) -> int:
    """A number, or `auto` = the cores that this process may use."""
    if value == "auto":
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    return integer(1, MAX_WORKERS)(value)


def labels(value: Any) -> tuple[tuple[str, str], ...]:
    """A table of texts, as sorted pairs."""
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise ValueError(f"found {value!r}, expected a table of texts")
    if len(value) > MAX_LABELS or any(len(part) > MAX_LABEL_CHARS for pair in value.items() for part in pair):
        raise ValueError(f"found {len(value)} labels, expected at most 64 of at most {MAX_LABEL_CHARS} characters")
    return tuple(sorted(value.items()))


def http_url(value: Any) -> str:
    """An `http://host[:port]/path` URL: health checks are made in plain text to the local application."""
    if not re.fullmatch(r"http://[^/\s@]+(/[^\s]*)?", text(value)):
        raise ValueError(f"found {value!r}, expected http://host:port/path")
    return str(value)


def tcp_target(value: Any) -> str:
    host_port(value)
    return str(value)


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


# --- the keys ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """`address`: where other nodes reach this one."""

    name: str = _is(matching(_NODE, "at most 63 lower-case letters, digits, '.' and '-'"))
    address: str = _is(address)
    locality: Locality = _is(_locality, Locality())


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneSettings:
    """`address`: mTLS; `join_address`: server TLS, used with the token. `server_name`: in the server's certificate.

    `mode` "xds": a server that is not ours. Then `address` is plaintext, or TLS when `tls_ca` is set ("system" = the
    machine's roots), with `tls_cert` and `tls_key` as the client's certificate; there is no join, no identity and no
    report but load; `server_name` is then that of `address` unless set. `protocol`: of ADS, "delta" or "sotw".
    """

    address: str = _is(tcp_target)
    mode: str = _is(one_of("mesh", "xds"), "mesh")
    protocol: str = _is(one_of("delta", "sotw"), "delta")
    tls_ca: str = _is(text, "")
    tls_cert: str = _is(text, "")
    tls_key: str = _is(text, "")
    join_address: str = _is(tcp_target, "")
    token_file: str = _is(text, "")
    server_name: str = _is(text, SERVER_NAME)
    trust_domain: str = _is(matching(_TRUST_DOMAIN, "lower-case letters, digits, '.', '-', '_'"), DEFAULT_TRUST_DOMAIN)

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

    state_dir: str = _is(text, "/var/lib/gossamer-agent")
    workers: int = _is(workers, 1)
    outbound_address: str = _is(address, "127.0.0.1")
    outbound_port: int = _is(_port, 15001)
    workload_port_start: int = _is(_port, 15100)
    inbound_port_range: tuple[int, int] = _is(port_range, (20000, 20999))
    admin: tuple[str, int] = _is(host_port, ("127.0.0.1", 15000))
    access_log: str = _is(text, "access.log")
    keys: str = _is(one_of("disk", "memory"), "disk")
    drain_timeout_s: float = _is(duration_s, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Whether the node is a gateway: then Gateways whose selector its `labels` fit give it listeners.

    `address`: where it binds their ports, "" = the node's. `namespace` and `service_account`: its identity; the Secrets
    of its servers are in that namespace.
    """

    enabled: bool = _is(boolean, False)
    namespace: str = _is(_name, DEFAULT_NAMESPACE)
    service_account: str = _is(_name, DEFAULT_SERVICE_ACCOUNT)
    labels: tuple[tuple[str, str], ...] = _is(labels, ())
    address: str = _is(address, "")

    def __post_init__(self) -> None:
        if self.labels and not self.enabled:
            raise ValueError("found labels, expected enabled = true beside them")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    level: str = _is(one_of("debug", "info", "warning", "error"), "info")
    json: bool = _is(boolean, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    name: str = _is(text, "")
    port: int = _is(_port)
    protocol: str = _is(one_of(*PROTOCOLS), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCheck:
    """Exactly one of `http`, `tcp` and `ttl_s`. `deregister_after_s` 0 = never."""

    http: str = _is(http_url, "")
    tcp: str = _is(tcp_target, "")
    ttl_s: float = _is(duration_s, 0.0)
    interval_s: float = _is(duration_s, 10.0)
    timeout_s: float = _is(duration_s, 5.0)
    unhealthy_threshold: int = _is(integer(1, 1000), 2)
    healthy_threshold: int = _is(integer(1, 1000), 2)
    deregister_after_s: float = _is(duration_s, 0.0)

    def __post_init__(self) -> None:
        if sum(1 for value in (self.http, self.tcp, self.ttl_s) if value) != 1:
            raise ValueError("expected exactly one of http, tcp and ttl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One local instance. `address`: where the application listens. `outbound_port` 0 = the agent chooses."""

    name: str = _is(_name)
    namespace: str = _is(_name, DEFAULT_NAMESPACE)
    service_account: str = _is(_name, DEFAULT_SERVICE_ACCOUNT)
    id: str = _is(_name, "")
    address: str = _is(address, "127.0.0.1")
    ports: tuple[ServicePort, ...] = _is(_ports)
    labels: tuple[tuple[str, str], ...] = _is(labels, ())
    weight: int = _is(integer(1, 128), 1)
    outbound_port: int = _is(integer(0, 65535), 0)
    check: ServiceCheck | None = _is(_check, None)


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


# Relative ones are relative to the folder of the file.
_PATHS = (
    ("control_plane", "token_file"),
    ("control_plane", "tls_ca"),
    ("control_plane", "tls_cert"),
    ("control_plane", "tls_key"),
    ("proxy", "state_dir"),
)


# --- reading ----------------------------------------------------------------------------------------------------------


def error(subject: str, message: str, hint: str = "") -> MeshError:
    return MeshError(ErrorCode.SETTINGS, message, subject=subject, hint=hint)


def key_of(item: "Field[Any]") -> str:
    """How a field is written by users: units are in the value there."""
    return item.name.removesuffix("_s")


def build(cls: type[_T], table: Any, where: str) -> _T:
    """A dataclass of this module from a table. Raises SETTINGS naming the key."""
    if not isinstance(table, Mapping):
        raise error(where, f"found {table!r}, expected a table")
    known = {key_of(item): item for item in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise error(f"{where}.{key}", "unknown key", _nearest(str(key), known))
    values: dict[str, Any] = {}
    for key, item in known.items():
        if key in table:
            values[item.name] = _parsed(item, table[key], f"{where}.{key}")
        elif item.default is MISSING:
            raise error(f"{where}.{key}", "found nothing, a value is required")
    try:
        return cls(**values)
    except ValueError as problem:
        raise error(where, str(problem)) from problem


def _parsed(item: "Field[Any]", value: Any, where: str) -> Any:
    try:
        return item.metadata["parse"](value)
    except MeshError as problem:  # of a table within: named from here on
        outer = where.removesuffix(key_of(item))
        raise error(f"{outer}{problem.subject}", problem.message, problem.hint) from problem
    except ValueError as problem:
        raise error(where, str(problem)) from problem


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"


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


def read_file(path: Path) -> dict[str, Any]:
    """The file's tables, its paths made absolute. Raises SETTINGS."""
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError as problem:
        raise error(str(path), "no such file", "name one with --config") from problem
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise error(str(path), str(problem)) from problem
    for section, key in _PATHS:
        table = tables.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str) and table[key] not in ("", SYSTEM_ROOTS):
            table[key] = str(path.absolute().parent / table[key])
    return tables


def read_environment(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """GOSSAMER_AGENT_<SECTION>_<KEY> as tables. Raises SETTINGS for a variable that names no key."""
    known = {
        f"{ENV_PREFIX}{section}_{key_of(item)}".upper(): (section, key_of(item))
        for section, cls in SECTIONS.items()
        for item in fields(cls)
    }
    found: dict[str, dict[str, Any]] = {}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable not in known:
            raise error(variable, "unknown variable", _nearest(variable, known))
        section, key = known[variable]
        found.setdefault(section, {})[key] = value
    return found


def load(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """All settings. `flags`: section -> key -> value. Raises SETTINGS."""
    tables = read_file(path) if path is not None else {}
    where = str(path) if path is not None else "settings"
    for key in tables:
        if key not in SECTIONS and key != "service":
            raise error(f"{where}: {key}", "unknown section", _nearest(key, [*SECTIONS, "service"]))
    environment = read_environment(environ)
    sections: dict[str, Any] = {
        name: build(cls, _merged(name, tables, environment, flags or {}, where), f"{where}: {name}")
        for name, cls in SECTIONS.items()
    }
    listed = tables.get("service", [])
    if not isinstance(listed, list) or len(listed) > MAX_SERVICES:
        raise error(f"{where}: service", f"expected at most {MAX_SERVICES} tables [[service]]")
    services = tuple(service(table, f"{where}: service[{index}]") for index, table in enumerate(listed))
    _require_distinct_ids(services, where)
    return Settings(services=services, **sections)


def _merged(name: str, *sources_and_where: Any) -> dict[str, Any]:
    *sources, where = sources_and_where
    merged: dict[str, Any] = {}
    for source in sources:
        table = source.get(name, {})
        if not isinstance(table, Mapping):
            raise error(f"{where}: {name}", f"found {table!r}, expected a table")
        merged.update(table)
    return merged


def _require_distinct_ids(services: tuple[Service, ...], where: str) -> None:
    seen: set[str] = set()
    for index, item in enumerate(services):
        if item.id in seen:
            raise error(f"{where}: service[{index}].id", f"found {item.id!r} twice, ids are unique on a node")
        seen.add(item.id)
