"""Rules of WorkloadEntry, on its own and inside a ServiceEntry."""

from collections.abc import Set

from controlplane.policy import syntax
from controlplane.policy.rules.fields import check_labels, check_port
from controlplane.policy.violations import Path, Report
from controlplane.policy.workload_entry import MAX_WEIGHT, UNIX_PREFIX, WorkloadEntry


def check_workload_entry(spec: WorkloadEntry, path: Path, report: Report) -> None:
    """Everything about one WorkloadEntry that is an object of its own."""
    check_endpoint(report, path, spec)


def check_endpoint(
    report: Report, path: Path, spec: WorkloadEntry, *, port_names: Set[str] | None = None, names: bool = True
) -> None:
    """`port_names`: those of the ServiceEntry around it; `names`: whether the address may be a DNS name."""
    _check_address(report, path, spec, names=names)
    for name, port in spec.ports.items():
        where = (path / "ports").key(name)
        check_port(report, where, port)
        if not syntax.is_dns_label(name):
            report.refuse(where, syntax.DNS_LABEL, found=name)
        elif port_names is not None and name not in port_names:
            report.refuse(where, f"a port of the entry: {', '.join(sorted(port_names))[:200]}", found=name)
    check_labels(report, path / "labels", spec.labels)
    _check_locality(report, path / "locality", spec.locality)
    if spec.weight > MAX_WEIGHT:
        report.warn(path / "weight", f"counts as {MAX_WEIGHT}")
    if spec.service_account and not syntax.is_lower_subdomain(spec.service_account):
        report.refuse(path / "serviceAccount", syntax.LOWER_SUBDOMAIN)


def _check_address(report: Report, path: Path, spec: WorkloadEntry, *, names: bool) -> None:
    where = path / "address"
    if not spec.address:
        if not spec.network:
            report.refuse(where, "an IP address, a domain name or unix:///path")
        return
    if spec.address.startswith(UNIX_PREFIX):
        _check_unix(report, path, spec)
    elif names and not (syntax.is_ip(spec.address) or syntax.is_domain(spec.address)):
        report.refuse(where, "an IP address, a domain name or unix:///path")
    elif not names and not syntax.is_ip(spec.address):
        report.refuse(where, "an IP address or unix:///path: resolution STATIC looks no names up")


def _check_unix(report: Report, path: Path, spec: WorkloadEntry) -> None:
    name = spec.address.removeprefix(UNIX_PREFIX)
    if not name.startswith(("/", "@")) or name.endswith("/"):
        report.refuse(path / "address", "unix:// with an absolute path or an abstract socket")
    if spec.ports:
        report.refuse(path / "ports", "no ports beside a Unix socket")


def _check_locality(report: Report, path: Path, locality: str) -> None:
    parts = locality.split("/")
    if len(parts) > 3 or (locality and not parts[0]):
        report.refuse(path, "region[/zone[/subzone]]")
