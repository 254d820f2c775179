"""Rules of Kubernetes' Service.

Source: Kubernetes' service validation, as far as it concerns what the mesh uses.
"""

from collections.abc import Sequence

from controlplane.policy import syntax
from controlplane.policy.rules.fields import check_labels, check_port, check_unique
from controlplane.policy.service import KubernetesServicePort, Service, ServiceType
from controlplane.policy.violations import Path, Report


def check_service(spec: Service, path: Path, report: Report) -> None:
    """Everything about one Service on its own."""
    check_labels(report, path / "selector", spec.selector)
    _check_ports(report, path / "ports", spec.ports)
    if spec.type is ServiceType.EXTERNAL_NAME:
        if not syntax.is_domain(spec.external_name):
            report.refuse(path / "externalName", "a domain name")
    elif not spec.ports and not spec.is_headless:
        report.refuse(path / "ports", "at least one port")
    if spec.session_affinity not in ("", "None", "ClientIP"):
        report.refuse(path / "sessionAffinity", "None or ClientIP")
    for name, wire in (
        ("external_traffic_policy", "externalTrafficPolicy"),
        ("internal_traffic_policy", "internalTrafficPolicy"),
    ):
        if getattr(spec, name) not in ("", "Cluster", "Local"):
            report.refuse(path / wire, "Cluster or Local")
    if spec.cluster_ip not in ("", "None") and not syntax.is_ip(spec.cluster_ip):
        report.refuse(path / "clusterIP", "an IP address or None")


def _check_ports(report: Report, path: Path, ports: Sequence[KubernetesServicePort]) -> None:
    places = [path.at(index) for index in range(len(ports))]
    for where, port in zip(places, ports, strict=True):
        check_port(report, where / "port", port.port)
        check_port(report, where / "nodePort", port.node_port, optional=True)
        if (port.name or len(ports) > 1) and not syntax.is_lower_dns_label(port.name):
            report.refuse(where / "name", syntax.LOWER_DNS_LABEL)
        if isinstance(port.target_port, str) and not syntax.is_service_port_name(port.target_port):
            report.refuse(where / "targetPort", "a port from 1 to 65535, or a port's name of at most 15 characters")
        if port.app_protocol and not syntax.is_label_key(port.app_protocol):
            report.refuse(where / "appProtocol", "a protocol's name")
    if len(ports) > 1:
        check_unique(report, [where / "name" for where in places], [port.name for port in ports], "a name")
    numbers = [(port.protocol, port.port) for port in ports]
    check_unique(report, [where / "port" for where in places], numbers, "a port")
