"""The local registration API's values, in the form of Consul's agent API.

Owns:   reading a service definition, writing services and checks.
Not:    HTTP (agent.admin), the services (registry).
Source: Consul's /v1/agent/service/register, /v1/agent/services, /v1/agent/checks; checks of type HTTP, TCP and TTL.
Differs: a field that would be ignored is refused by name; Meta becomes labels, a tag `key=value` too, and any other
        tag T the label `tag.T`; Meta `gossamer.mesh/service-account`, `gossamer.mesh/protocol` and
        `gossamer.mesh/outbound-port` set what Consul has no field for; without a label `app` it is the service's name.
"""

from collections.abc import Mapping
from typing import Any

from agent.settings import Service, service
from agent.workloads.registry import Registered
from mesh.errors import ErrorCode, MeshError

_PREFIX = "gossamer.mesh/"
# Fields of Consul's definition that say nothing to this mesh, and may stand there.
_INERT = frozenset({"EnableTagOverride", "TaggedAddresses", "Kind", "Datacenter", "Partition"})
_FIELDS = frozenset({"Name", "ID", "Tags", "Address", "Port", "Meta", "Check", "Checks", "Weights", "Namespace"})
_CHECK_FIELDS: Mapping[str, str] = {
    "HTTP": "http",
    "TCP": "tcp",
    "TTL": "ttl",
    "Interval": "interval",
    "Timeout": "timeout",
    "DeregisterCriticalServiceAfter": "deregister_after",
    "SuccessBeforePassing": "healthy_threshold",
    "FailuresBeforeCritical": "unhealthy_threshold",
}
_INERT_CHECK = frozenset({"Name", "CheckID", "ID", "Notes", "Method", "Header", "TLSSkipVerify", "Status"})
_MAX_TAGS = 64


def read(body: Any) -> Service:
    """A service from a registration's JSON. Raises INVALID naming the field."""
    if not isinstance(body, dict):
        raise _invalid("body", "expected a JSON object")
    for name in body:
        if name not in _FIELDS and name not in _INERT:
            raise _invalid(str(name)[:64], "this field is not supported")
    meta = body.get("Meta") or {}
    if not isinstance(meta, dict) or not all(isinstance(part, str) for pair in meta.items() for part in pair):
        raise _invalid("Meta", "expected an object of texts")
    table: dict[str, Any] = {
        "name": body.get("Name", ""),
        "ports": [{"port": body.get("Port"), "protocol": meta.get(f"{_PREFIX}protocol", "")}],
        "labels": _labels(body, meta),
    }
    weights = body.get("Weights") or {}
    if not isinstance(weights, dict):
        raise _invalid("Weights", "expected an object")
    optional = {
        "id": body.get("ID"),
        "namespace": body.get("Namespace"),
        "address": body.get("Address"),
        "service_account": meta.get(f"{_PREFIX}service-account"),
        "outbound_port": meta.get(f"{_PREFIX}outbound-port"),
        "weight": weights.get("Passing"),
        "check": _check(body),
    }
    table.update({key: value for key, value in optional.items() if value})
    try:
        return service(table, "service")
    except MeshError as error:
        raise MeshError(ErrorCode.INVALID, error.message, subject=error.subject, hint=error.hint) from error


def _labels(body: dict[str, Any], meta: dict[str, str]) -> dict[str, str]:
    tags = body.get("Tags") or []
    if not isinstance(tags, list) or len(tags) > _MAX_TAGS or not all(isinstance(tag, str) for tag in tags):
        raise _invalid("Tags", f"expected a list of at most {_MAX_TAGS} texts")
    found = {"app": str(body.get("Name", ""))}
    for tag in tags:
        key, equals, value = tag.partition("=")
        found[key if equals else f"tag.{tag}"] = value if equals else "true"
    found.update({key: value for key, value in meta.items() if not key.startswith(_PREFIX)})
    return found


def _check(body: dict[str, Any]) -> dict[str, Any] | None:
    """The one check of a definition; several are refused, since one health is reported."""
    several = body.get("Checks") or []
    if not isinstance(several, list):
        raise _invalid("Checks", "expected a list")
    listed = [item for item in (body.get("Check"), *several) if item]
    if not listed:
        return None
    if len(listed) > 1 or not isinstance(listed[0], dict):
        raise _invalid("Checks", "expected at most one check")
    for name in listed[0]:
        if name not in _CHECK_FIELDS and name not in _INERT_CHECK:
            raise _invalid(f"Check.{str(name)[:64]}", "this field is not supported")
    # 0, Consul's default, means what 1 means: the first result decides.
    found: dict[str, Any] = {ours: listed[0][name] for name, ours in _CHECK_FIELDS.items() if listed[0].get(name)}
    for key in ("healthy_threshold", "unhealthy_threshold"):
        found[key] = _threshold(found.get(key, 0), key)
    return found


def _threshold(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1000:
        raise _invalid(f"Check.{key}", f"found {value!r}, expected a whole number from 0 to 999")
    return max(value, 1)


def services_view(services: Mapping[str, Registered]) -> dict[str, Any]:
    """GET /v1/agent/services."""
    return {name: _service_view(item) for name, item in services.items()}


def _service_view(item: Registered) -> dict[str, Any]:
    spec = item.service
    return {
        "ID": spec.id,
        "Service": spec.name,
        "Namespace": spec.namespace,
        "Tags": [key.removeprefix("tag.") for key, _ in spec.labels if key.startswith("tag.")],
        "Meta": {key: value for key, value in spec.labels if not key.startswith("tag.")},
        "Address": spec.address,
        "Port": spec.ports[0].port,
        "Weights": {"Passing": spec.weight, "Warning": 1},
        "EnableTagOverride": False,
        "OutboundPort": item.outbound_port,
        "InboundPorts": {str(port): inbound for port, inbound in item.inbound.items()},
        "ServiceAccount": spec.service_account,
    }


def checks_view(services: Mapping[str, Registered]) -> dict[str, Any]:
    """GET /v1/agent/checks: check ids are `service:<service id>`, as Consul names them."""
    return {f"service:{name}": _check_view(item) for name, item in services.items() if item.service.check is not None}


def _check_view(item: Registered) -> dict[str, Any]:
    check = item.service.check
    assert check is not None
    warning = item.health.healthy and item.health.reason.startswith("warning")
    status = "warning" if warning else "passing" if item.health.healthy else "critical"
    return {
        "CheckID": f"service:{item.service.id}",
        "Name": f"Service '{item.service.name}' check",
        "Status": status,
        "Output": item.health.reason,
        "ServiceID": item.service.id,
        "ServiceName": item.service.name,
        "ServiceTags": [key.removeprefix("tag.") for key, _ in item.service.labels if key.startswith("tag.")],
        "Type": "http" if check.http else "tcp" if check.tcp else "ttl",
    }


def service_id_of(check_id: str) -> str:
    """The service that a check id means."""
    return check_id.removeprefix("service:")


def _invalid(subject: str, message: str) -> MeshError:
    return MeshError(ErrorCode.INVALID, message, subject=subject)
