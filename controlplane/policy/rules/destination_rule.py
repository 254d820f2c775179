"""Rules of DestinationRule."""

from controlplane.policy import syntax
from controlplane.policy.destination_rule import DestinationRule
from controlplane.policy.rules.fields import check_export_to, check_labels, check_selector, check_unique
from controlplane.policy.rules.traffic_policy import check_traffic_policy
from controlplane.policy.violations import Path, Report


def check_destination_rule(spec: DestinationRule, path: Path, report: Report) -> None:
    """Everything about one DestinationRule on its own."""
    if not syntax.is_wildcard_domain(spec.host) and not syntax.is_ip(spec.host):
        report.refuse(path / "host", syntax.WILDCARD_DOMAIN)
    check_traffic_policy(report, path / "trafficPolicy", spec.traffic_policy)
    _check_subsets(report, path / "subsets", spec)
    check_export_to(report, path / "exportTo", spec.export_to)
    if spec.workload_selector is not None:
        check_selector(report, path / "workloadSelector" / "matchLabels", spec.workload_selector.match_labels)
        for index, entry in enumerate(spec.export_to):
            if entry not in (".", report.namespace):
                report.refuse((path / "exportTo").at(index), "only '.' beside workloadSelector")


def _check_subsets(report: Report, path: Path, spec: DestinationRule) -> None:
    names = [path.at(index) / "name" for index in range(len(spec.subsets))]
    for index, subset in enumerate(spec.subsets):
        if not syntax.is_dns_label(subset.name):
            report.refuse(names[index], syntax.DNS_LABEL)
        check_labels(report, path.at(index) / "labels", subset.labels)
        check_traffic_policy(report, path.at(index) / "trafficPolicy", subset.traffic_policy)
    check_unique(report, names, [subset.name for subset in spec.subsets], "a name")
