"""Rules of PeerAuthentication."""

from controlplane.policy.peer_authentication import PeerAuthentication
from controlplane.policy.rules.fields import check_port, check_selector
from controlplane.policy.violations import Path, Report


def check_peer_authentication(spec: PeerAuthentication, path: Path, report: Report) -> None:
    """Everything about one PeerAuthentication on its own."""
    if spec.selector is not None:
        check_selector(report, path / "selector" / "matchLabels", spec.selector.match_labels)
    ports = path / "portLevelMtls"
    if "port_level_mtls" in spec.model_fields_set and not spec.port_level_mtls:
        report.refuse(ports, "at least one port")
    if spec.port_level_mtls and not spec.selects_workloads:
        report.refuse(ports, "a selector beside it: ports belong to workloads")
    for port in spec.port_level_mtls:
        if not 1 <= port <= 65535:
            check_port(report, ports.key(port), port)
