"""`--workload name=billing,port=3005,...`: the instances that a bare Envoy stands before. Pure.

Source: controlplane/model/proxy.py reads them from the node's metadata WORKLOADS.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE, DEFAULT_SERVICE_ACCOUNT

FIRST_INBOUND_PORT = 20000
_KEYS = ("name", "id", "namespace", "service-account", "port", "protocol", "inbound-port", "address", "labels.KEY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One instance. `address`: where the application listens; `inbound_port`: where the Envoy accepts for it."""

    service: str
    port: int
    inbound_port: int
    id: str = ""
    namespace: str = DEFAULT_NAMESPACE
    service_account: str = DEFAULT_SERVICE_ACCOUNT
    protocol: str = ""
    address: str = "127.0.0.1"
    labels: dict[str, str] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """As an item of WORKLOADS."""
        port: dict[str, Any] = {"port": self.port, "inbound_port": self.inbound_port}
        if self.protocol:
            port |= {"name": self.protocol.lower(), "protocol": self.protocol}
        item: dict[str, Any] = {
            "service": self.service,
            "namespace": self.namespace,
            "service_account": self.service_account,
            "labels": self.labels,
            "app_address": self.address,
            "ports": [port],
        }
        return item | ({"id": self.id} if self.id else {})


def parse_workloads(texts: Sequence[str]) -> tuple[Workload, ...]:
    """Every `--workload`, with inbound ports chosen where none is given. Raises SETTINGS."""
    found = [_fields(text) for text in texts]
    taken = {_port(fields, "inbound-port", text) for fields, text in zip(found, texts, strict=True)} - {0}
    free = (port for port in range(FIRST_INBOUND_PORT, 65536) if port not in taken)
    workloads = tuple(
        _workload(fields, text, _port(fields, "inbound-port", text) or next(free))
        for fields, text in zip(found, texts, strict=True)
    )
    ports = [workload.inbound_port for workload in workloads]
    if len(set(ports)) != len(ports):
        raise _wrong(", ".join(texts), "found one inbound-port twice, expected each once")
    return workloads


def identity_of(workloads: Sequence[Workload], gateway: tuple[str, str] | None = None) -> tuple[str, str] | None:
    """(namespace, service account) of all workloads, and of the gateway if the Envoy is one; None without any.

    Raises SETTINGS when they differ.
    """
    found = {(workload.namespace, workload.service_account) for workload in workloads}
    found |= {gateway} if gateway is not None else set()
    if len(found) > 1:
        shown = " and ".join(f"{namespace}/{account}" for namespace, account in sorted(found))
        raise _wrong("--workload", f"found the identities {shown}, expected one: an Envoy carries one certificate")
    return next(iter(found), None)


def key_values(text: str, keys: Sequence[str], subject: str) -> dict[str, str]:
    """`KEY=VALUE,...` with `keys`, each at most once. Raises SETTINGS."""
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        known = key in keys or (key.startswith("labels.") and key != "labels.")
        if not equals or not known or key in fields:
            raise _wrong(subject, f"found {part!r}, expected KEY=VALUE, each once, with {', '.join(keys)}")
        fields[key] = value
    return fields


def _fields(text: str) -> dict[str, str]:
    fields = key_values(text, _KEYS, text)
    if not fields.get("name"):
        raise _wrong(text, "found no name=")
    return fields


def _workload(fields: dict[str, str], text: str, inbound_port: int) -> Workload:
    port = _port(fields, "port", text)
    if not port:
        raise _wrong(text, "found no port=, expected where the application listens")
    return Workload(
        service=fields["name"],
        id=fields.get("id", ""),
        namespace=fields.get("namespace") or DEFAULT_NAMESPACE,
        service_account=fields.get("service-account") or DEFAULT_SERVICE_ACCOUNT,
        port=port,
        protocol=fields.get("protocol", "").upper(),
        inbound_port=inbound_port,
        address=fields.get("address") or "127.0.0.1",
        labels={key.removeprefix("labels."): value for key, value in fields.items() if key.startswith("labels.")},
    )


def _port(fields: dict[str, str], key: str, text: str) -> int:
    value = fields.get(key, "")
    if not value:
        return 0
    if not (value.isascii() and value.isdigit()) or not 0 < int(value) < 65536:
        raise _wrong(text, f"found {key}={value}, expected a port, 1 to 65535")
    return int(value)


def _wrong(text: str, message: str) -> MeshError:
    subject = text if text.startswith("--") else f"--workload {text}"
    return MeshError(ErrorCode.SETTINGS, message, subject=subject)
