"""From the node's values to report messages."""

from agent.model.reports import EjectedHost, LocalInstance, LocalPort
from agent.report.messages import ejection_set, instance_set
from controlplane.discovery.report_values import ejections_of, instances_of
from controlplane.registry.instances import Node
from mesh.vocabulary import HealthStatus

INSTANCE = LocalInstance(
    id="orders-3001",
    service="orders",
    namespace="shop",
    service_account="orders-sa",
    labels=(("app", "orders"), ("version", "v1")),
    app_address="127.0.0.2",
    ports=(LocalPort(name="http", port=3001, protocol="HTTP", inbound_port=20000),),
    weight=3,
    outbound_port=15100,
    health=HealthStatus.UNHEALTHY,
    health_reason="connection refused",
    health_since_ms=1_790_000_000_000,
    bypass_possible=True,
)
EJECTED = EjectedHost(
    cluster="outbound|80||users",
    host="10.0.0.2:20000",
    reason="consecutive_5xx",
    detail="5 consecutive 5xx, the last one 503",
    times=2,
    since_ms=1,
    until_ms=2,
    enforced=False,
    blocked_by="max_ejection_percent",
)


def test_the_control_plane_reads_what_the_agent_says() -> None:
    """Through the reader of the other end: no field is lost or confused."""
    node = Node(name="n", address="10.0.0.1")
    found, problems = instances_of(instance_set([INSTANCE]).instances, node)
    assert problems == []
    read = found["orders-3001"]
    for name in ("service", "namespace", "service_account", "app_address", "weight", "outbound_port"):
        assert getattr(read, name) == getattr(INSTANCE, name)
    assert read.labels == dict(INSTANCE.labels)
    assert [(p.name, p.port, p.protocol, p.inbound_port) for p in read.ports] == [("http", 3001, "HTTP", 20000)]
    assert (read.health, read.health_reason) == (HealthStatus.UNHEALTHY, "connection refused")
    assert (read.health_since_ms, read.bypass_possible) == (1_790_000_000_000, True)


def test_ejections_keep_every_field() -> None:
    (read,), problems = ejections_of(ejection_set([EJECTED]).ejections, "n")
    assert problems == []
    assert (read.cluster, read.endpoint, read.node) == (EJECTED.cluster, EJECTED.host, "n")
    for name in ("reason", "detail", "times", "since_ms", "until_ms", "enforced", "blocked_by"):
        assert getattr(read, name) == getattr(EJECTED, name)
