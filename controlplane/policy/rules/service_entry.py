"""Rules of ServiceEntry.

Source: Istio's service entry validation and CRD constraints.
"""

from controlplane.policy import hosts, syntax
from controlplane.policy.protocols import Protocol, declared_protocol
from controlplane.policy.rules.fields import check_export_to, check_labels, check_port, check_unique
from controlplane.policy.rules.workload_entry import check_endpoint
from controlplane.policy.service_entry import Resolution, ServiceEntry
from controlplane.policy.violations import Found, Path, Report

_MAX = 256
_DNS = (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
_DYNAMIC = (Protocol.HTTP, Protocol.TLS, Protocol.GRPC, Protocol.HTTP2)
_PROTOCOLS = ", ".join(protocol for protocol in Protocol if protocol is not Protocol.UNSUPPORTED)


def check_service_entry(spec: ServiceEntry, path: Path, report: Report) -> None:
    """Everything about one ServiceEntry on its own."""
    _check_hosts(report, path / "hosts", spec)
    _check_addresses(report, path / "addresses", spec)
    _check_ports(report, path / "ports", spec)
    _check_endpoints(report, path, spec)
    _check_resolution(report, path, spec)
    check_export_to(report, path / "exportTo", spec.export_to, nobody=True)
    for name in ("hosts", "addresses", "ports"):
        if len(getattr(spec, name)) > _MAX:
            report.add(path / name, f"found {len(getattr(spec, name))} items, expected at most {_MAX}")


def _check_hosts(report: Report, path: Path, spec: ServiceEntry) -> None:
    if not spec.hosts:
        report.refuse(path, "at least one host")
    for index, host in enumerate(spec.hosts):
        if host == "*" or not syntax.is_wildcard_domain(host):
            report.refuse(path.at(index), "a domain name, or a wildcard such as *.example.com")


def _check_addresses(report: Report, path: Path, spec: ServiceEntry) -> None:
    for index, address in enumerate(spec.addresses):
        if not syntax.is_cidr(address):
            report.refuse(path.at(index), syntax.CIDR)
        elif "/" in address and spec.resolution not in (Resolution.NONE, Resolution.STATIC):
            report.refuse(path.at(index), "an address: blocks are only for resolution NONE and STATIC")


def _check_ports(report: Report, path: Path, spec: ServiceEntry) -> None:
    for index, port in enumerate(spec.ports):
        where = path.at(index)
        check_port(report, where / "number", port.number)
        check_port(report, where / "targetPort", port.target_port, optional=True)
        if not syntax.is_dns_label(port.name):
            report.refuse(where / "name", syntax.DNS_LABEL)
        if port.protocol and declared_protocol(port.protocol) is Protocol.UNSUPPORTED:
            report.refuse(where / "protocol", f"one of {_PROTOCOLS}")
    places = [path.at(index) for index in range(len(spec.ports))]
    check_unique(report, [where / "name" for where in places], [port.name for port in spec.ports], "a name")
    check_unique(report, [where / "number" for where in places], [port.number for port in spec.ports], "a port")
    if len(spec.hosts) > 1 and spec.resolution is not Resolution.NONE:
        for where, port in zip(places, spec.ports, strict=True):
            if not (port.effective_protocol.is_http or port.effective_protocol.is_tls):
                report.refuse(where / "protocol", "HTTP or TLS: several hosts cannot be told apart otherwise")


def _check_endpoints(report: Report, path: Path, spec: ServiceEntry) -> None:
    if spec.workload_selector is not None:
        check_labels(report, path / "workloadSelector" / "labels", spec.workload_selector.labels, wildcard_hint=True)
        if spec.endpoints:
            report.refuse(path / "endpoints", "only one of endpoints and workloadSelector", found=Found("both"))
        if not spec.workload_selector.labels:
            report.warn(path / "workloadSelector", "selects every workload of the namespace")
    names = {port.name for port in spec.ports}
    dns = spec.resolution is not Resolution.STATIC
    for index, endpoint in enumerate(spec.endpoints):
        check_endpoint(report, (path / "endpoints").at(index), endpoint, port_names=names, names=dns)


def _check_resolution(report: Report, path: Path, spec: ServiceEntry) -> None:
    match spec.resolution:
        case Resolution.NONE if spec.endpoints:
            report.refuse(path / "endpoints", "no endpoints with resolution NONE", found=Found("endpoints"))
        case Resolution.DNS_ROUND_ROBIN if len(spec.endpoints) > 1:
            report.refuse(path / "endpoints", "at most one endpoint with resolution DNS_ROUND_ROBIN")
        case Resolution.DYNAMIC_DNS:
            _check_dynamic(report, path, spec)
    if spec.resolution in _DNS and not spec.endpoints and spec.workload_selector is None:
        for index, host in enumerate(spec.hosts):
            if hosts.is_wildcard(host):
                report.refuse((path / "hosts").at(index), "a name that DNS can look up, or endpoints")


def _check_dynamic(report: Report, path: Path, spec: ServiceEntry) -> None:
    for index, host in enumerate(spec.hosts):
        if not hosts.is_wildcard(host):
            report.refuse((path / "hosts").at(index), "a wildcard with resolution DYNAMIC_DNS")
    for name in ("addresses", "endpoints"):
        if getattr(spec, name):
            report.refuse(path / name, f"no {name} with resolution DYNAMIC_DNS")
    for index, port in enumerate(spec.ports):
        if port.effective_protocol not in _DYNAMIC:
            report.refuse((path / "ports").at(index) / "protocol", "HTTP, HTTP2, GRPC or TLS with DYNAMIC_DNS")
