"""From an agent's report to registry values: checked at the edge, with a reason for what is refused. Sans-io.

Source: proto/mesh/api/v1/report.proto.
Invariants: what passes has names that can stand in a store key; one bad instance does not cost the others.
"""

import re
from collections.abc import Iterable, Mapping

from controlplane.distribution.breakers import EVENTS, MAX_BREAKERS, BreakerRow
from controlplane.policy.workload_entry import MAX_WEIGHT
from controlplane.registry.instances import Ejection, Instance, InstancePort, Node
from mesh.api.v1 import report_pb2
from mesh.vocabulary import DEFAULT_NAMESPACE, DEFAULT_SERVICE_ACCOUNT, HealthStatus, Locality

MAX_INSTANCES = 2000  # on one node
MAX_EJECTIONS = 20_000  # reported by one node
_MAX_LABELS = 64
_MAX_LABEL_CHARS = 512
_MAX_LOCALITY_CHARS = 256
_MAX_PORTS = 64
_MAX_WEIGHT = 128  # Envoy's limit for an endpoint
_MAX_TEXT = 1024
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CLUSTER = re.compile(r"[A-Za-z0-9._|*-]{1,512}")
_ADDRESS = re.compile(r"[A-Za-z0-9._:%-]{1,253}")
_ENDPOINT = re.compile(r"[A-Za-z0-9._:\[\]-]{1,300}")
_BREAKER = re.compile(r"[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}")
_MAX_CALLER = 512
_PROTOCOLS = frozenset({"", "HTTP", "HTTP2", "GRPC", "TCP"})


def node_of(hello: report_pb2.Hello) -> Node:
    """Raises ValueError that says what was found and expected."""
    if not hello.address:
        raise ValueError("found no address in hello")
    if len(hello.locality) > _MAX_LOCALITY_CHARS:
        raise ValueError(
            f"found a locality of {len(hello.locality)} characters, expected at most {_MAX_LOCALITY_CHARS}"
        )
    return Node(
        name=hello.node,
        address=_matching(_ADDRESS, hello.address, "address"),
        locality=Locality.parse(hello.locality),
        version=hello.version[:64],
        outbound_address=_matching(_ADDRESS, hello.outbound_address or "127.0.0.1", "outbound address"),
        outbound_port=_port(hello.outbound_port or 15001, "outbound_port"),
    )


def instances_of(reported: Iterable[report_pb2.Instance], node: Node) -> tuple[dict[str, Instance], list[str]]:
    """`(instances by id, problems)`."""
    found: dict[str, Instance] = {}
    problems: list[str] = []
    for item in reported:
        try:
            if item.id in found:
                raise ValueError("the id stands twice in the report")
            if len(found) >= MAX_INSTANCES:
                raise ValueError(f"a node may have at most {MAX_INSTANCES} instances")
            found[item.id] = _instance(item, node)
        except ValueError as error:
            problems.append(f"instance {item.id[:100]}: {error}")
    return found, problems


def ejections_of(reported: Iterable[report_pb2.Ejection], node: str) -> tuple[list[Ejection], list[str]]:
    """`(ejections, problems)`."""
    found: dict[tuple[str, str], Ejection] = {}
    problems: list[str] = []
    for item in reported:
        if len(found) >= MAX_EJECTIONS:
            problems.append(f"more than {MAX_EJECTIONS} ejections; the rest was left out")
            break
        if not _CLUSTER.fullmatch(item.cluster) or not _ENDPOINT.fullmatch(item.endpoint):
            problems.append(f"ejection of {item.endpoint[:100]} from {item.cluster[:100]}: not a cluster and address")
            continue
        found[item.cluster, item.endpoint] = _ejection(item, node)
    return list(found.values()), problems


def breakers_of(reported: Iterable[report_pb2.Breaker], node: str) -> tuple[list[BreakerRow], list[str]]:
    """`(circuit breakers, problems)`."""
    found: dict[tuple[str, str], BreakerRow] = {}
    problems: list[str] = []
    for item in reported:
        if len(found) >= MAX_BREAKERS:
            problems.append(f"more than {MAX_BREAKERS} circuit breakers; the rest was left out")
            break
        if not _BREAKER.fullmatch(item.name) or item.state not in EVENTS or len(item.caller) > _MAX_CALLER:
            problems.append(f"circuit breaker {item.name[:100]} {item.state[:20]}: not a policy and its state")
            continue
        row = BreakerRow(
            node=node, breaker=item.name, caller=item.caller, state=item.state, since_ms=item.since_ms,
            why=item.why[:_MAX_TEXT], opened=item.opened,
        )  # fmt: skip
        found[row.key] = row
    return list(found.values()), problems


def _instance(item: report_pb2.Instance, node: Node) -> Instance:
    _check_labels(item.labels)
    health = item.health or HealthStatus.UNKNOWN.value
    if health not in HealthStatus.__members__:
        raise ValueError(f"found health {health[:40]!r}, expected one of {', '.join(HealthStatus.__members__)}")
    if not int(not item.gateway) <= len(item.ports) <= _MAX_PORTS:
        raise ValueError(f"found {len(item.ports) or 'no'} ports, expected 1 to {_MAX_PORTS}")
    if item.weight > _MAX_WEIGHT:
        raise ValueError(f"found weight {item.weight}, expected at most {_MAX_WEIGHT}")
    return Instance(
        id=_matching(_NAME, item.id, "id"),
        node=node.name,
        namespace=_matching(_LABEL, item.namespace or DEFAULT_NAMESPACE, "namespace"),
        service="" if item.gateway else _matching(_NAME, item.service, "service"),
        service_account=_matching(_NAME, item.service_account or DEFAULT_SERVICE_ACCOUNT, "service account"),
        labels=dict(item.labels),
        address=node.address,
        ports=tuple(_instance_port(port) for port in item.ports),
        locality=node.locality,
        weight=min(item.weight, MAX_WEIGHT) or 1,
        outbound_port=_port(item.outbound_port, "outbound_port") if item.outbound_port else 0,
        app_address=_matching(_ADDRESS, item.app_address or "127.0.0.1", "application address"),
        health=HealthStatus(health),
        health_reason=item.health_reason[:_MAX_TEXT],
        health_since_ms=item.health_since_ms,
        bypass_possible=item.bypass_possible,
        gateway=item.gateway,
    )


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > _MAX_LABELS or any(len(part) > _MAX_LABEL_CHARS for pair in labels.items() for part in pair):
        raise ValueError(
            f"found {len(labels)} labels, expected at most {_MAX_LABELS} of at most {_MAX_LABEL_CHARS} characters"
        )


def _instance_port(item: report_pb2.InstancePort) -> InstancePort:
    if item.protocol not in _PROTOCOLS:
        raise ValueError(f"found protocol {item.protocol[:40]!r}, expected HTTP, HTTP2, GRPC or TCP")
    return InstancePort(
        name=item.name[:63],
        port=_port(item.port, "port"),
        protocol=item.protocol,
        inbound_port=_port(item.inbound_port, "inbound_port") if item.inbound_port else 0,
    )


def _ejection(item: report_pb2.Ejection, node: str) -> Ejection:
    return Ejection(
        cluster=item.cluster,
        endpoint=item.endpoint,
        node=node,
        reason=item.reason[:100],
        detail=item.detail[:_MAX_TEXT],
        times=item.times,
        since_ms=item.since_ms,
        until_ms=item.until_ms,
        enforced=item.enforced,
        blocked_by=item.blocked_by[:100],
    )


def _matching(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"found {what} {value[:100]!r}, expected letters, digits, '.', '_' and '-'")
    return value


def _port(value: int, what: str) -> int:
    if not 0 < value < 65536:
        raise ValueError(f"found {what} {value}, expected 1 to 65535")
    return value
