"""A connected proxy, and the scope in which it shares resources with others.

Owns:   reading the node of an xDS stream; what of a proxy its shared resources depend on.
Not:    what a scope is given (controlplane.compiler).
Source: envoy.config.core.v3.Node; the metadata keys are DIALECT, NAMESPACE, SERVICE_ACCOUNT, LABELS, ADDRESS,
        OUTBOUND_ADDRESS, OUTBOUND_PORT, TLS_DIR (Envoy: the folder of identity.yaml and roots.yaml), TLS (gRPC: true
        when the bootstrap has the certificate provider `default`), WORKLOADS (the instances of a bare Envoy, or of a
        gRPC server, which is its own inbound proxy), GATEWAY (true: Gateways select it by its LABELS) and
        GATEWAY_ADDRESS (where it binds their ports; by default its ADDRESS).

Invariants: a Proxy lives as long as its stream and is compared by identity; equal ProxyScopes get equal resources.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from envoy.config.core.v3.base_pb2 import Node as XdsNode
from google.protobuf.json_format import MessageToDict

from controlplane.policy.frozen import EMPTY, FrozenMap
from controlplane.registry.instances import Instance, InstancePort
from mesh.vocabulary import DEFAULT_NAMESPACE, DEFAULT_SERVICE_ACCOUNT, Dialect, Locality

_AGENTS = {"gossamer-agent": Dialect.GOSSAMER, "envoy": Dialect.ENVOY}
_MAX_WORKLOADS = 256
# Client features (envoy docs, client_features.rst). The second has two names in the field: the list's and xRFC's.
_TTL = "xds.config.supports-resource-ttl"
_WRAPPED = frozenset({"xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw"})
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
GATEWAY_ID = "gateway"  # of the instance that a gateway proxy is


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proxy:
    """One connected node. `tls_dir` is empty when an Envoy has no certificates; agents report their `workloads`."""

    id: str
    dialect: Dialect
    namespace: str = DEFAULT_NAMESPACE
    service_account: str = DEFAULT_SERVICE_ACCOUNT
    labels: FrozenMap[str, str] = EMPTY
    locality: Locality = Locality()
    address: str = "127.0.0.1"
    outbound_address: str = "127.0.0.1"
    outbound_port: int = 15001
    delta: bool = False
    tls_dir: str = ""
    tls: bool = True  # whether it has certificates of the mesh
    secrets: bool = False  # it has shown that it may have the Secrets of its namespace
    ttl: bool = False  # whether its resources may have a TTL, on the protocol that it speaks
    user_agent: str = ""
    workloads: tuple[Instance, ...] = ()
    gateway: bool = False
    gateway_address: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Caller:
    """Whose outbound traffic it is: a namespace, and those labels that some rule tests, as sorted pairs."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def route_configuration(self) -> str:
        """`outbound.<namespace>`, with a hash of the labels when there are any."""
        if not self.labels:
            return f"outbound.{self.namespace}"
        text = ",".join(f"{key}={value}" for key, value in self.labels)
        return f"outbound.{self.namespace}.{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyScope:
    """All that shared resources depend on beside the MeshState. Hashable.

    `callers` is sorted, without duplicates, never empty. An agent serves several workloads, any other proxy is one.
    """

    dialect: Dialect
    callers: tuple[Caller, ...]
    locality: Locality
    delta: bool
    tls: bool
    tls_dir: str = ""
    secrets: bool = False

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Of the callers; sorted."""
        return tuple(sorted({caller.namespace for caller in self.callers}))


def proxy_from_node(node: XdsNode, *, delta: bool) -> Proxy:
    """Parse the node of a stream's first request. Raises ValueError that says what was found and expected."""
    metadata: dict[str, Any] = MessageToDict(node.metadata)
    dialect = _dialect(metadata, node.user_agent_name)
    locality = Locality(node.locality.region, node.locality.zone, node.locality.sub_zone)
    workloads = _list(metadata, "WORKLOADS") if dialect is not Dialect.GOSSAMER else []
    if len(workloads) > _MAX_WORKLOADS:
        raise ValueError(f"found {len(workloads)} WORKLOADS, expected at most {_MAX_WORKLOADS}")
    tls_dir = _text(metadata, "TLS_DIR")
    address = _text(metadata, "ADDRESS", "127.0.0.1")
    tls = _has_certificates(dialect, metadata, tls_dir)
    own = dialect is Dialect.GRPC
    instances = tuple(_workload(item, node.id, address, locality, agent=tls, own_inbound=own) for item in workloads)
    first = instances[0] if instances else None
    proxy = Proxy(
        id=node.id,
        dialect=dialect,
        namespace=_name(metadata, "NAMESPACE", first.namespace if first else DEFAULT_NAMESPACE),
        service_account=_name(metadata, "SERVICE_ACCOUNT", first.service_account if first else DEFAULT_SERVICE_ACCOUNT),
        labels=_labels(metadata) or FrozenMap(first.labels if first else None),
        locality=locality,
        address=address,
        outbound_address=_text(metadata, "OUTBOUND_ADDRESS", "127.0.0.1"),
        outbound_port=_port(metadata, "OUTBOUND_PORT", 15001),
        delta=delta,
        tls_dir=tls_dir if dialect is Dialect.ENVOY else "",
        tls=tls,
        ttl=_TTL in node.client_features and (delta or not _WRAPPED.isdisjoint(node.client_features)),
        user_agent=node.user_agent_name,
        workloads=instances,
        gateway=dialect is not Dialect.GRPC and metadata.get("GATEWAY") in (True, "true"),
        gateway_address=_text(metadata, "GATEWAY_ADDRESS", address),
    )
    # Agents report themselves.
    own_gateway = proxy.gateway and dialect is Dialect.ENVOY
    return replace(proxy, workloads=(*instances, _gateway(proxy))) if own_gateway else proxy


def _gateway(proxy: Proxy) -> Instance:
    """The instance that a gateway proxy is."""
    return Instance(
        id=GATEWAY_ID,
        node=proxy.id,
        namespace=proxy.namespace,
        service="",
        service_account=proxy.service_account,
        labels=proxy.labels,
        address=proxy.address,
        ports=(),
        locality=proxy.locality,
        agent=proxy.tls,
        gateway=True,
    )


def _dialect(metadata: Mapping[str, Any], user_agent: str) -> Dialect:
    named = _text(metadata, "DIALECT")
    if named:
        if named not in Dialect.__members__.values():
            raise ValueError(f"found DIALECT {named[:40]!r}, expected one of {', '.join(Dialect)}")
        return Dialect(named)
    if user_agent.lower().startswith("grpc"):
        return Dialect.GRPC
    return _AGENTS.get(user_agent, Dialect.ENVOY)


def _has_certificates(dialect: Dialect, metadata: Mapping[str, Any], tls_dir: str) -> bool:
    match dialect:
        case Dialect.GOSSAMER:
            return True
        case Dialect.ENVOY:
            return bool(tls_dir)
        case Dialect.GRPC:
            return metadata.get("TLS") in (True, "true")


def _workload(
    item: Any, node: str, address: str, locality: Locality, *, agent: bool, own_inbound: bool
) -> Instance:  # fmt: skip
    """`own_inbound`: the application takes the mesh's traffic itself, on the port where it listens."""
    if not isinstance(item, dict):
        raise ValueError("found something else than an object in WORKLOADS")
    ports = tuple(_workload_port(port, own_inbound=own_inbound) for port in _list(item, "ports"))
    if not ports:
        raise ValueError("found a workload without ports in WORKLOADS")
    service = _name(item, "service", node)
    return Instance(
        id=_name(item, "id", f"{service}-{ports[0].port}"),
        node=node,
        namespace=_name(item, "namespace", DEFAULT_NAMESPACE),
        service=service,
        service_account=_name(item, "service_account", DEFAULT_SERVICE_ACCOUNT),
        labels=_labels(item, "labels"),
        address=address,
        ports=ports,
        locality=locality,
        app_address=_text(item, "app_address", address if own_inbound else "127.0.0.1"),
        agent=agent,
    )


def _workload_port(item: Any, *, own_inbound: bool) -> InstancePort:
    if not isinstance(item, dict):
        raise ValueError("found something else than an object in a workload's ports")
    port = _port(item, "port")
    return InstancePort(
        name=_text(item, "name"),
        port=port,
        protocol=_text(item, "protocol"),
        inbound_port=port if own_inbound else _port(item, "inbound_port", 0),
    )


def _text(metadata: Mapping[str, Any], key: str, default: str = "") -> str:
    value = metadata.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"found {type(value).__name__} as {key}, expected a string")
    return value or default


def _name(metadata: Mapping[str, Any], key: str, default: str) -> str:
    """A name that can stand in a store key and in a SPIFFE id."""
    value = _text(metadata, key, default)
    if not _NAME.fullmatch(value):
        raise ValueError(f"found {key} {value[:80]!r}, expected letters, digits, '.', '_' and '-'")
    return value


def _labels(metadata: Mapping[str, Any], key: str = "LABELS") -> FrozenMap[str, str]:
    value = metadata.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"found {key} {str(value)[:80]!r}, expected an object of strings")
    return FrozenMap(value)


def _list(metadata: Mapping[str, Any], key: str) -> list[Any]:
    value = metadata.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"found {type(value).__name__} as {key}, expected a list")
    return value


def _port(metadata: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = metadata.get(key, default)
    # A Struct has no integers: numbers arrive as floats, or as strings from people.
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if not isinstance(number, int | float) or isinstance(number, bool) or number != int(number):
        raise ValueError(f"found {key} {str(value)[:40]!r}, expected a port")
    if number != default and not 0 < number < 65536:
        raise ValueError(f"found {key} {number}, expected 1 to 65535")
    return int(number)
