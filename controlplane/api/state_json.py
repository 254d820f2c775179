"""The mesh's state as JSON values: what /mesh/v1 and the gRPC Status call show of each thing. Pure.

Owns:   the shapes (field names, units, order of lists).
Not:    which of them are asked for and from where (state_views), their OpenAPI schemas (openapi_state).
Invariants: every value is JSON-ready; times are RFC 3339 in UTC, empty when there is none.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.service.status.v3.csds_pb2 import ClientConfig, ConfigStatus
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict

from controlplane.compiler.types import Condition, Resource
from controlplane.distribution.breakers import BreakerRow
from controlplane.distribution.ledger import ProxyState, RevisionStatus, TypeState
from controlplane.distribution.traffic import Traffic
from controlplane.model.mesh_state import MeshState
from controlplane.model.services import Service
from controlplane.model.views import Endpoint, ServiceView
from controlplane.policy.secret import HIDDEN
from controlplane.registry.instances import Ejection, Node
from controlplane.store.applies import ApplyRecord
from mesh.identity.spiffe import node_id, workload_id
from mesh.vocabulary import HealthStatus
from mesh.xds.names import ClusterKey
from mesh.xds.type_url import SHORT_NAMES

Json = dict[str, Any]

# UNKNOWN counts as healthy, as in Envoy: nobody checks it.
WELL = frozenset({HealthStatus.UNKNOWN, HealthStatus.HEALTHY})


def time_of(seconds: float) -> str:
    """RFC 3339 with milliseconds of seconds since the epoch; nothing for 0."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def node_json(node: Node, mesh: MeshState, sync: str) -> Json:
    """A node that has joined. `sync`: that of its proxy, empty when it is not connected."""
    return {
        "name": node.name,
        "address": node.address,
        "locality": str(node.locality),
        "dialect": node.dialect,
        "version": node.version,
        "identity": str(node_id(mesh.settings.trust_domain, node.name)),
        "outbound": f"{node.outbound_address}:{node.outbound_port}",
        "instances": len(mesh.instances_of(node.name)),
        "connected": bool(sync),
        "sync": sync,
    }


def service_json(view: ServiceView, service: Service, ejected: Mapping[str, list[Ejection]]) -> Json:
    """A service. `ejected`: enforced ejections by endpoint."""
    return {
        "host": service.host,
        "name": service.name,
        "namespace": service.namespace,
        "origin": service.origin.value,
        "definition": str(service.definition.ref) if service.definition is not None else "",
        "external": service.external,
        "ports": [
            {"number": port.number, "name": port.name, "protocol": port.protocol.value, "target": port.target}
            for port in service.ports
        ],
        "selector": dict(service.selector) if service.selector is not None else None,
        "endpoints": count_endpoints(endpoints_of(view), ejected),
        "virtual_services": [str(rule.ref) for rule in view.virtual_services],
        "destination_rules": [str(rule.ref) for rule in view.rules],
    }


def endpoints_of(view: ServiceView) -> dict[str, tuple[Endpoint, list[int]]]:
    """Each endpoint of a service once, by address, with the service ports that lead to it."""
    found: dict[str, tuple[Endpoint, list[int]]] = {}
    for number, endpoints in sorted(view.endpoints.items()):
        for endpoint in endpoints:
            found.setdefault(endpoint.key, (endpoint, []))[1].append(number)
    return found


def count_endpoints(
    endpoints: Mapping[str, tuple[Endpoint, list[int]]], ejected: Mapping[str, list[Ejection]]
) -> dict[str, int]:
    """How many there are, how many are well, and how many some node ejects."""
    well = sum(endpoint.workload.health in WELL for endpoint, _ in endpoints.values())
    return {
        "total": len(endpoints),
        "healthy": well,
        "unhealthy": len(endpoints) - well,
        "ejected": sum(any(item.enforced for item in ejected.get(key, ())) for key in endpoints),
    }


def ejections_by_endpoint(mesh: MeshState) -> dict[str, dict[str, list[Ejection]]]:
    """host -> endpoint -> what nodes eject (or would)."""
    found: dict[str, dict[str, list[Ejection]]] = {}
    for item in mesh.ejections():
        cluster = ClusterKey.parse(item.cluster)
        if cluster is not None:
            found.setdefault(cluster.host, {}).setdefault(item.endpoint, []).append(item)
    return found


def endpoint_json(
    host: str, endpoint: Endpoint, ports: list[int], ejections: Iterable[Ejection], trust_domain: str
) -> Json:
    """One endpoint of one service."""
    workload = endpoint.workload
    return {
        "address": endpoint.key,
        "service": host,
        "ports": ports,
        "node": workload.node,
        "id": workload.id,
        "namespace": workload.namespace,
        "service_account": workload.service_account,
        "identity": str(workload_id(trust_domain, workload.namespace, workload.service_account)),
        "labels": dict(workload.labels),
        "locality": str(workload.locality),
        "weight": workload.weight,
        "tls": endpoint.tls,
        "health": workload.health.value,
        "health_reason": workload.health_reason,
        "health_since": time_of(workload.health_since_ms / 1000),
        "bypass_possible": workload.bypass_possible,
        "warnings": ["BypassPossible"] if workload.bypass_possible else [],
        "ejections": [ejection_json(item) for item in ejections],
    }


def ejection_json(item: Ejection) -> Json:
    """What one node ejects, or detected and could not eject."""
    cluster = ClusterKey.parse(item.cluster)
    return {
        "node": item.node,
        "cluster": item.cluster,
        "subset": cluster.subset if cluster is not None else "",
        "reason": item.reason,
        "detail": item.detail,
        "times": item.times,
        "since": time_of(item.since_ms / 1000),
        "until": time_of(item.until_ms / 1000),
        "enforced": item.enforced,
        "blocked_by": item.blocked_by,
    }


def proxy_json(state: ProxyState, replica: str, rollout: str = "") -> Json:
    """One connected proxy; `types` by short name (CDS, ...); `rollout`: the one whose candidate it has, or empty;
    `unasked`: what its first state lacks, `CDS`, `EDS NAME` or `anything`, or empty."""
    return {
        "node": state.node,
        "stream": state.stream,
        "replica": replica,
        "dialect": state.dialect.value,
        "user_agent": state.user_agent,
        "address": state.address,
        "namespace": state.namespace,
        "locality": str(state.locality),
        "delta": state.delta,
        "connected_since": time_of(state.connected_since),
        "sync": state.sync,
        "rollout": rollout,
        "unasked": state.unasked,
        "types": {item.short_name: _type_json(item) for item in state.types},
    }


def _type_json(state: TypeState) -> Json:
    return {
        "state": state.sync,
        "resources": state.resources,
        "version": state.version,
        "revision": state.revision,
        "error": state.error,
        "rejected": [{"name": name, "reason": reason} for name, reason in state.rejected],
        "waits_for": [{"name": name, "waits_for": what} for name, what in state.waits_for],
    }


def client_status_json(config: ClientConfig, replica: str) -> Json:
    """What one proxy has; `types` by short name (CDS, ...), then by resource."""
    types: dict[str, list[Json]] = {}
    for entry in config.generic_xds_configs:
        short = SHORT_NAMES.get(entry.type_url, entry.type_url)
        types.setdefault(short, []).append(
            {
                "name": entry.name,
                "version": entry.version_info,
                "client": ClientResourceStatus.Name(entry.client_status),
                "server": ConfigStatus.Name(entry.config_status),
                "error": entry.error_state.details,
                "error_version": entry.error_state.version_info,
            }
        )
    return {
        "node": config.node.id,
        "user_agent": config.node.user_agent_name,
        "replica": replica,
        "scope": config.client_scope,
        "types": types,
    }


def revision_json(status: RevisionStatus, published: int) -> Json:
    """How far a revision has come among the proxies of one replica."""
    is_published = status.revision <= published
    return {
        "revision": status.revision,
        "published": is_published,
        "settled": is_published and status.settled,
        "acked": list(status.acked),
        "pending": list(status.pending),
        "waits_for": [
            {"node": item.node, "type": item.type, "name": item.name, "waits_for": item.waits_for}
            for item in status.waits
        ],
        "rejected": [
            {"node": item.node, "reasons": [{"name": name, "reason": reason} for name, reason in item.reasons]}
            for item in status.rejected
        ],
    }


def resource_json(resource: Resource) -> Json:
    """One xDS resource: the message with the wire's field names."""
    descriptor = descriptor_pool.Default().FindMessageTypeByName(resource.type_url.rpartition("/")[2])
    message = message_factory.GetMessageClass(descriptor).FromString(resource.body)
    return {
        "name": resource.name,
        "version": resource.version,
        "sources": [{"object": str(item.ref), "generation": item.generation} for item in resource.sources],
        "resource": _without_keys(MessageToDict(message, preserving_proto_field_name=True)),
    }


def _without_keys(value: Any) -> Any:
    """Private keys are for the proxies alone."""
    if isinstance(value, dict):
        return {key: HIDDEN if key == "private_key" else _without_keys(part) for key, part in value.items()}
    return [_without_keys(part) for part in value] if isinstance(value, list) else value


def traffic_json(item: Traffic) -> Json:
    """The fleet's load on one cluster and locality."""
    cluster = ClusterKey.parse(item.cluster)
    return {
        "cluster": item.cluster,
        "service": cluster.host if cluster is not None else "",
        "port": cluster.port if cluster is not None else 0,
        "subset": cluster.subset if cluster is not None else "",
        "locality": str(item.locality),
        "reporters": item.reporters,
        "requests_per_s": round(item.requests_per_s, 3),
        "errors_per_s": round(item.errors_per_s, 3),
        "success_ratio": round(item.success_ratio, 4),
        "in_progress": item.in_progress,
    }


def breaker_json(row: BreakerRow) -> Json:
    """A circuit breaker on one node."""
    namespace, _, name = row.breaker.partition("/")
    return {
        "name": name,
        "namespace": namespace,
        "node": row.node,
        "caller": row.caller,
        "state": row.state,
        "since": time_of(row.since_ms / 1000),
        "why": row.why,
        "opened": row.opened,
    }


def apply_json(record: ApplyRecord) -> Json:
    """Who changed what."""
    return {
        "id": record.id,
        "revision": record.revision,
        "author": record.author,
        "reason": record.reason,
        "at": time_of(record.at_ms / 1000),
        "objects": [
            {
                "object": str(item.ref),
                "group": item.ref.group,
                "kind": item.ref.kind,
                "namespace": item.ref.namespace,
                "name": item.ref.name,
                "action": item.action,
                "generation": item.generation,
            }
            for item in record.objects
        ],
    }


def condition_json(item: Condition) -> Json:
    """A finding on an object."""
    return {
        "object": str(item.ref),
        "type": item.type,
        "reason": item.reason,
        "message": item.message,
        "code": item.code,
    }
