"""Rules of destinations and their weights, for HTTP, TLS and TCP routes alike."""

from collections.abc import Sequence

from controlplane.policy import syntax
from controlplane.policy.http_route import Destination
from controlplane.policy.rules.fields import check_port
from controlplane.policy.violations import Found, Path, Report

_MAX_TOTAL_WEIGHT = 2**32 - 1


def check_destination(report: Report, path: Path, destination: Destination | None) -> None:
    """A host that is no bare `*`, a subset's name, a port."""
    if destination is None:
        report.refuse(path, "a destination with a host")
        return
    if destination.host == "*" or not syntax.is_wildcard_domain(destination.host):
        report.refuse(path / "host", syntax.DOMAIN)
    if destination.subset and not syntax.is_dns_label(destination.subset):
        report.refuse(path / "subset", syntax.DNS_LABEL)
    if destination.port is not None:
        check_port(report, path / "port" / "number", destination.port.number)


def check_weights(report: Report, path: Path, weights: Sequence[int]) -> None:
    """None negative; of several at least one positive (2.3.6), and no more in all than the wire can add up."""
    for index, weight in enumerate(weights):
        if weight < 0:
            report.refuse(path.at(index) / "weight", "a weight of at least 0")
    if len(weights) > 1 and all(weight == 0 for weight in weights):
        report.refuse(path, "weights with a sum above 0", found=Found(f"{len(weights)} destinations of weight 0"))
    if sum(weights) > _MAX_TOTAL_WEIGHT:
        expected = f"weights with a sum of at most {_MAX_TOTAL_WEIGHT}"
        report.refuse(path, expected, found=Found(f"a sum of {sum(weights)}"))
