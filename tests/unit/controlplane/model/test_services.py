"""Services by their definitions, and which port of a workload is meant."""

from dataclasses import replace

import pytest

from controlplane.model.services import Origin, Port, visible, workload_port
from controlplane.policy.protocols import Protocol
from controlplane.registry.instances import InstancePort
from tests.support.compiling import instance, mesh_of, put

A = "a.default.svc.cluster.local"
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 3001}]}
"""
ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %s}
spec: {hosts: [%s], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: %s}]}
"""


def port(number: int = 80, name: str = "", target: int | str = 80) -> Port:
    return Port(number=number, name=name, protocol=Protocol.HTTP, target=target)


ONE = (InstancePort(name="http", port=3001, protocol="HTTP"),)
TWO = (*ONE, InstancePort(name="admin", port=9000, protocol="HTTP"))


@pytest.mark.parametrize(
    ("wanted", "ports", "found"),
    [
        (port(target="admin"), TWO, 9000),  # targetPort by name
        (port(name="admin"), TWO, 9000),  # the service port's own name
        (port(target=3001), TWO, 3001),  # the target's number
        (port(number=9000, target=1), TWO, 9000),  # the service's number
        (port(target=8080), ONE, 3001),  # a registered port beats a numeric target
        (port(target="nothing"), ONE, 3001),
        (port(target=8080), TWO, None),
        (port(target="nothing"), TWO, None),
        (port(target=8080), (), 8080),  # a workload that lists none
        (port(target="nothing"), (), 80),
    ],
)
def test_workload_port(wanted: Port, ports: tuple[InstancePort, ...], found: int | None) -> None:
    """Decision 8."""
    own = workload_port(wanted, replace(instance("i"), ports=ports))
    assert (own.port if own is not None else None) == found


def test_registration_makes_a_service() -> None:
    """Decision 33: its ports are those of its instances."""
    mesh = put(mesh_of(), instance("a1", service="a"), instance("a2", service="a.default", port=3002, node="node-2"))
    service = mesh.service(A)
    assert service is not None
    assert service.origin is Origin.REGISTRATION
    assert [own.number for own in service.ports] == [3001, 3002]
    assert [own.workload.id for own in mesh.endpoints(A, 3001)] == ["a1"]


def test_posted_service_wins() -> None:
    """Over the registration and over a ServiceEntry for the same host, however old."""
    mesh = put(mesh_of(ENTRY % ("se", A, "10.1.0.1"), SERVICE), instance("a1", service="a"))
    service = mesh.service(A)
    assert service is not None
    assert service.origin is Origin.SERVICE
    assert [own.key for own in mesh.endpoints(A, 80)] == ["10.0.0.1:20000"]


def test_oldest_service_entry_wins() -> None:
    mesh = mesh_of(
        ENTRY % ("young", "x.example.com", "10.1.0.1") + "---\n" + ENTRY % ("younger", "x.example.com", "10.1.0.2")
    )
    assert [own.address for own in mesh.endpoints("x.example.com", 80)] == ["10.1.0.1"]


def test_another_namespace_cannot_join() -> None:
    """A registration under a full name of another namespace is not an endpoint there."""
    mesh = put(mesh_of(), instance("a1", service="a"), instance("evil", service="a.default", namespace="other"))
    assert [own.workload.id for own in mesh.endpoints(A, 3001)] == ["a1"]


def test_selectorless_service_has_registrations() -> None:
    """Those that registered under its name."""
    mesh = put(
        mesh_of(SERVICE.replace("selector: {app: a}, ", "")), instance("a1", service="a"), instance("b1", service="b")
    )
    assert [own.workload.id for own in mesh.endpoints(A, 80)] == ["a1"]


def test_workload_entry_joins_by_label() -> None:
    """It has no agent, so its port is its own and takes no TLS."""
    entry = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: we}
spec: {address: 10.8.0.1, labels: {app: a}, ports: {http: 8000}}
"""
    mesh = put(mesh_of(SERVICE + "---\n" + entry), instance("a1", service="a"))
    assert [(own.key, own.tls) for own in mesh.endpoints(A, 80)] == [("10.0.0.1:20000", True), ("10.8.0.1:8000", False)]


@pytest.mark.parametrize(
    ("export_to", "namespace", "seen"),
    [(("*",), "b", True), ((".",), "a", True), ((".",), "b", False), (("b",), "b", True), (("~",), "a", False)],
)
def test_visible(export_to: tuple[str, ...], namespace: str, seen: bool) -> None:
    assert visible(export_to, "a", namespace) is seen
