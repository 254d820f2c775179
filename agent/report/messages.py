"""From the node's values to report messages. Pure.

Source: proto/mesh/api/v1/report.proto.
"""

from collections.abc import Iterable

from agent.model.reports import EjectedHost, LocalInstance, ShownBreaker
from mesh.api.v1 import report_pb2


def instance_set(instances: Iterable[LocalInstance]) -> report_pb2.InstanceSet:
    """Always the full set."""
    return report_pb2.InstanceSet(instances=[_instance(item) for item in instances])


def ejection_set(ejections: Iterable[EjectedHost]) -> report_pb2.EjectionSet:
    """Always the full set."""
    return report_pb2.EjectionSet(ejections=[_ejection(item) for item in ejections])


def breaker_set(breakers: Iterable[ShownBreaker]) -> report_pb2.BreakerSet:
    """Always the full set."""
    return report_pb2.BreakerSet(breakers=[_breaker(item) for item in breakers])


def _instance(item: LocalInstance) -> report_pb2.Instance:
    return report_pb2.Instance(
        id=item.id,
        service=item.service,
        namespace=item.namespace,
        service_account=item.service_account,
        labels=dict(item.labels),
        app_address=item.app_address,
        ports=[
            report_pb2.InstancePort(
                name=port.name, port=port.port, protocol=port.protocol, inbound_port=port.inbound_port
            )
            for port in item.ports
        ],
        weight=item.weight,
        outbound_port=item.outbound_port,
        health=item.health.value,
        health_reason=item.health_reason,
        bypass_possible=item.bypass_possible,
        health_since_ms=item.health_since_ms,
        gateway=item.gateway,
    )


def _ejection(item: EjectedHost) -> report_pb2.Ejection:
    return report_pb2.Ejection(
        cluster=item.cluster,
        endpoint=item.host,
        reason=item.reason,
        detail=item.detail,
        times=item.times,
        since_ms=item.since_ms,
        until_ms=item.until_ms,
        enforced=item.enforced,
        blocked_by=item.blocked_by,
    )


def _breaker(item: ShownBreaker) -> report_pb2.Breaker:
    return report_pb2.Breaker(
        name=item.breaker,
        caller=item.caller,
        state=item.phase.name,
        since_ms=item.since_ms,
        why=item.why,
        opened=item.opened,
    )
