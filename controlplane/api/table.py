"""Objects as rows: the `Table` that kubectl and meshctl print. Pure; `now` is seconds since the epoch.

Owns:   the columns of each kind, Age, the Table object.
Source: Kubernetes meta.k8s.io/v1 Table; column priority 0 is always shown, 1 with `-o wide`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.api.status import problem_name, problems
from controlplane.distribution.reach import reach_of
from controlplane.policy.gateway_api import GROUP
from controlplane.policy.secret import OPAQUE

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `cell` gives its text for an object and the time."""

    name: str
    cell: Callable[[Manifest, float], str]
    description: str = ""
    wide: bool = False
    format: str = ""

    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": "string",
            "format": self.format,
            "description": self.description or self.name,
            "priority": int(self.wide),
        }


def _spec(path: str) -> Callable[[Manifest, float], str]:
    """The text of a field of the spec by its dotted path; lists are joined by commas."""

    def cell(manifest: Manifest, _: float) -> str:
        value: Any = manifest.get("spec") or {}
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, list):
            return ",".join(str(item) for item in value)
        return "" if value is None else str(value)

    return cell


def _name(manifest: Manifest, _: float) -> str:
    return str(manifest["metadata"]["name"])


def _age(manifest: Manifest, now: float) -> str:
    return age(str(manifest["metadata"].get("creationTimestamp", "")), now)


def _status(manifest: Manifest, _: float) -> str:
    """The problems, or OK."""
    return ",".join(map(problem_name, problems(manifest.get("status") or {}))) or "OK"


def _proxies(manifest: Manifest, _: float) -> str:
    """`3/4`: how many of the proxies that use it have acknowledged it, and how many refuse it."""
    reach = reach_of((manifest.get("status") or {}).get("proxies"))
    if reach is None:
        return ""
    refused = f" ({reach.rejected} rejected)" if reach.rejected else ""
    return f"{reach.acknowledged}/{reach.interested}{refused}"


def _service_ports(manifest: Manifest, _: float) -> str:
    ports = (manifest.get("spec") or {}).get("ports") or ()
    return ",".join(f"{port.get('port')}/{port.get('protocol', 'TCP')}" for port in ports)


def _gateway_ports(manifest: Manifest, _: float) -> str:
    """Each port once, in order."""
    servers = (manifest.get("spec") or {}).get("servers") or ()
    ports = [server.get("port") or {} for server in servers]
    return ",".join(dict.fromkeys(f"{port.get('number')}/{port.get('protocol')}" for port in ports))


def _listener_ports(manifest: Manifest, _: float) -> str:
    """Each port once, in order."""
    listeners = (manifest.get("spec") or {}).get("listeners") or ()
    return ",".join(dict.fromkeys(f"{own.get('port')}/{own.get('protocol')}" for own in listeners))


def _addresses(manifest: Manifest, _: float) -> str:
    return ",".join(own["value"] for own in (manifest.get("status") or {}).get("addresses") or ())


def _attached(manifest: Manifest, _: float) -> str:
    """How many routes its listeners have, each counted once per listener."""
    return str(sum(own["attachedRoutes"] for own in (manifest.get("status") or {}).get("listeners") or ()))


def _condition(name: str) -> Callable[[Manifest, float], str]:
    """The status of one condition; Unknown before somebody said it."""

    def cell(manifest: Manifest, _: float) -> str:
        conditions = (manifest.get("status") or {}).get("conditions") or ()
        return next((str(own["status"]) for own in conditions if own.get("type") == name), "Unknown")

    return cell


def _parents(manifest: Manifest, _: float) -> str:
    """The Gateways that a route names, with the listener where it names one."""
    parents = (manifest.get("spec") or {}).get("parentRefs") or ()
    return ",".join("/".join(own[name] for name in _PARENT if own.get(name)) for own in parents)


def _accepted_by(manifest: Manifest, _: float) -> str:
    """`1/2`: how many of its parents have taken it."""
    parents = (manifest.get("status") or {}).get("parents") or ()
    taken = [own for own in parents if any(_is_accepted(item) for item in own["conditions"])]
    return f"{len(taken)}/{len(parents)}"


def _is_accepted(condition: Mapping[str, Any]) -> bool:
    return condition.get("type") == "Accepted" and condition.get("status") == "True"


def _grants(name: str) -> Callable[[Manifest, float], str]:
    """The entries of one side of a ReferenceGrant: `shop/HTTPRoute`, `Service/orders`."""

    def cell(manifest: Manifest, _: float) -> str:
        entries = (manifest.get("spec") or {}).get(name) or ()
        return ",".join(
            "/".join(str(own[part]) for part in ("namespace", "kind", "name") if own.get(part)) for own in entries
        )

    return cell


def _service_type(manifest: Manifest, _: float) -> str:
    return str((manifest.get("spec") or {}).get("type", "ClusterIP"))


def _secret_type(manifest: Manifest, _: float) -> str:
    return str(manifest.get("type") or OPAQUE)


def _secret_keys(manifest: Manifest, _: float) -> str:
    """How many values it holds."""
    return str(len(manifest.get("data") or {}))


def _selector(manifest: Manifest, _: float) -> str:
    selector = (manifest.get("spec") or {}).get("selector") or {}
    labels = selector.get("matchLabels", selector) if isinstance(selector, Mapping) else {}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>"


def _limit_scope(manifest: Manifest, now: float) -> str:
    spec = manifest.get("spec") or {}
    return f"{spec.get('scope') or 'LOCAL'}{' (shadow)' if spec.get('shadow') else ''}"


def _limit_rates(manifest: Manifest, _: float) -> str:
    """`per-user 5/SECOND 100/DAY`."""
    limits = (manifest.get("spec") or {}).get("limits") or ()
    return ",".join(
        " ".join([str(limit.get("name")), *(f"{rate.get('requests')}/{rate.get('per')}" for rate in limit["rates"])])
        for limit in limits
    )


def _mtls_mode(manifest: Manifest, now: float) -> str:
    return _spec("mtls.mode")(manifest, now) or "PERMISSIVE"


_PARENT = ("namespace", "name", "sectionName")
_ROUTE_COLUMNS = (
    Column("Hostnames", _spec("hostnames")),
    Column("Parents", _parents),
    Column("Accepted", _accepted_by, "parents that have taken it, of those that it names"),
)
# By kind; where two groups have a kind of one name, by `kind.group`.
_COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "VirtualService": (Column("Gateways", _spec("gateways")), Column("Hosts", _spec("hosts"))),
    "DestinationRule": (Column("Host", _spec("host")),),
    "ServiceEntry": (
        Column("Hosts", _spec("hosts")),
        Column("Location", _spec("location")),
        Column("Resolution", _spec("resolution")),
    ),
    "WorkloadEntry": (
        Column("Address", _spec("address")),
        Column("Service account", _spec("serviceAccount"), wide=True),
    ),
    "Gateway": (Column("Ports", _gateway_ports), Column("Selector", _selector)),
    f"Gateway.{GROUP}": (
        Column("Class", _spec("gatewayClassName")),
        Column("Ports", _listener_ports),
        Column("Address", _addresses),
        Column("Programmed", _condition("Programmed")),
        Column("Routes", _attached),
    ),
    "GatewayClass": (Column("Controller", _spec("controllerName")), Column("Accepted", _condition("Accepted"))),
    "HTTPRoute": _ROUTE_COLUMNS,
    "GRPCRoute": _ROUTE_COLUMNS,
    "ReferenceGrant": (Column("From", _grants("from")), Column("To", _grants("to"))),
    "Secret": (Column("Type", _secret_type), Column("Data", _secret_keys)),
    "RateLimit": (
        Column("Scope", _limit_scope),
        Column("Limits", _limit_rates),
        Column("Selector", _selector, wide=True),
    ),
    "PeerAuthentication": (Column("Mode", _mtls_mode), Column("Selector", _selector, wide=True)),
    "Service": (
        Column("Type", _service_type),
        Column("Ports", _service_ports),
        Column("Selector", _selector, wide=True),
    ),
}
_FIRST = (Column("Name", _name, "name within its namespace", format="name"),)
_LAST = (
    Column("Status", _status, "the conditions that need attention"),
    Column("Proxies", _proxies, "proxies that have acknowledged it, of those that use it", wide=True),
    Column("Age", _age, "time since the creation"),
)


def columns_of(kind: str) -> tuple[Column, ...]:
    """The columns of a kind, `kind` or `kind.group`, in order."""
    own = _COLUMNS.get(kind) or _COLUMNS.get(kind.partition(".")[0], ())
    return (*_FIRST, *own, *_LAST)


def as_table(
    kind: str,
    manifests: Sequence[Manifest],
    *,
    now: float,
    metadata: Mapping[str, Any] | None = None,
    include: str = "Metadata",
    with_columns: bool = True,
) -> dict[str, Any]:
    """The Table of objects. `include`: what each row carries of its object: None, Metadata or Object."""
    columns = columns_of(kind)
    table: dict[str, Any] = {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": dict(metadata or {}),
        "columnDefinitions": [column.definition() for column in columns] if with_columns else None,
        "rows": [_row(columns, manifest, now, include) for manifest in manifests],
    }
    return table


def _row(columns: Sequence[Column], manifest: Manifest, now: float, include: str) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": [_cell(column, manifest, now) for column in columns]}
    if include == "Object":
        row["object"] = manifest
    elif include == "Metadata":
        row["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": manifest["metadata"],
        }
    return row


def _cell(column: Column, manifest: Manifest, now: float) -> str:
    try:
        return column.cell(manifest, now)
    except (TypeError, AttributeError, KeyError):  # not written by us: what stands there is no object of this kind
        return "<unreadable>"


def age(stamp: str, now: float) -> str:
    """`5s`, `12m`, `3h20m`, `4d`: how long ago an RFC 3339 time was; `<unknown>` when it is not one."""
    try:
        seconds = int(now - datetime.fromisoformat(stamp).timestamp())
    except ValueError:
        return "<unknown>"
    seconds = max(seconds, 0)
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 180:
        return f"{minutes}m"
    if hours < 10:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"
