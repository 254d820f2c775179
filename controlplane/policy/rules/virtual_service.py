"""Rules of VirtualService: hosts, delegates, TLS and TCP routes; rules that no request can reach are warned of.

Source: Istio's virtual service validation; analyzer message IST0130.
"""

from collections.abc import Sequence

from controlplane.policy import hosts, syntax
from controlplane.policy.rules.destinations import check_destination, check_weights
from controlplane.policy.rules.fields import check_export_to
from controlplane.policy.rules.http_match import check_gateways, check_proxy_selectors
from controlplane.policy.rules.http_route import check_http_route
from controlplane.policy.violations import Path, Report
from controlplane.policy.virtual_service import (
    MESH_GATEWAY,
    L4MatchAttributes,
    RouteDestination,
    TLSMatchAttributes,
    VirtualService,
)


def check_virtual_service(spec: VirtualService, path: Path, report: Report) -> None:
    """Everything about one VirtualService on its own."""
    gateway = any(name != MESH_GATEWAY for name in spec.gateways)
    check_gateways(report, path / "gateways", spec.gateways)
    _check_hosts(report, path / "hosts", spec)
    _check_delegate(report, path, spec)
    if not (spec.http or spec.tls or spec.tcp):
        report.refuse(path / "http", "at least one of http, tls and tcp")
    for index, route in enumerate(spec.http):
        check_http_route(report, (path / "http").at(index), route, delegated=spec.is_delegate, gateway=gateway)
    _check_tls(report, path / "tls", spec)
    _check_tcp(report, path / "tcp", spec)
    check_export_to(report, path / "exportTo", spec.export_to)
    _warn_unreachable(report, path / "http", spec)


def _check_hosts(report: Report, path: Path, spec: VirtualService) -> None:
    for index, host in enumerate(spec.hosts):
        if host == "*" and spec.applies_to_mesh:
            report.refuse(path.at(index), "a narrower host: a bare * is only for gateways")
        elif not (syntax.is_wildcard_domain(host) or syntax.is_ip(host)):
            report.refuse(path.at(index), syntax.WILDCARD_DOMAIN)
    resolved = [hosts.resolve(host, report.namespace) for host in spec.hosts]
    for index, host in enumerate(resolved):
        earlier = next((other for other in range(index) if hosts.overlaps(resolved[other], host)), None)
        if earlier is not None:
            report.refuse(path.at(index), f"hosts that do not overlap ({path.at(earlier)} covers it)")


def _check_delegate(report: Report, path: Path, spec: VirtualService) -> None:
    """Without hosts it can only be referred to, which gives it HTTP routes and nothing else."""
    if spec.hosts:
        return
    for name in ("gateways", "tls", "tcp"):
        if getattr(spec, name):
            report.refuse(path / "hosts", f"at least one host: only a delegate has none, and a delegate has no {name}")


def _check_tls(report: Report, path: Path, spec: VirtualService) -> None:
    for index, route in enumerate(spec.tls):
        where = path.at(index)
        if not route.match:
            report.refuse(where / "match", "at least one match with sniHosts")
        for number, match in enumerate(route.match):
            _check_tls_match(report, (where / "match").at(number), match, spec)
        _check_targets(report, where / "route", route.route)


def _check_tls_match(report: Report, path: Path, match: TLSMatchAttributes, spec: VirtualService) -> None:
    if not match.sni_hosts:
        report.refuse(path / "sniHosts", "at least one server name")
    resolved = [hosts.resolve(host, report.namespace) for host in spec.hosts]
    for index, sni in enumerate(match.sni_hosts):
        where = (path / "sniHosts").at(index)
        if syntax.is_ip(sni):
            report.warn(where, "is an IP address, which most clients do not send as a server name")
        elif not syntax.is_wildcard_domain(sni):
            report.refuse(where, syntax.WILDCARD_DOMAIN)
        elif not any(hosts.covers(host, hosts.resolve(sni, report.namespace)) for host in resolved):
            report.refuse(where, f"a name within spec.hosts ({', '.join(spec.hosts)[:200]})")
    _check_l4(report, path, match)


def _check_tcp(report: Report, path: Path, spec: VirtualService) -> None:
    for index, route in enumerate(spec.tcp):
        where = path.at(index)
        for number, match in enumerate(route.match):
            _check_l4(report, (where / "match").at(number), match)
            if match.source_subnet and not syntax.is_cidr(match.source_subnet):
                report.refuse((where / "match").at(number) / "sourceSubnet", syntax.CIDR)
        _check_targets(report, where / "route", route.route)


def _check_l4(report: Report, path: Path, match: L4MatchAttributes | TLSMatchAttributes) -> None:
    for index, subnet in enumerate(match.destination_subnets):
        if not syntax.is_cidr(subnet):
            report.refuse((path / "destinationSubnets").at(index), syntax.CIDR)
    check_proxy_selectors(report, path, match.port, match.source_labels, match.gateways, match.source_namespace)


def _check_targets(report: Report, path: Path, targets: Sequence[RouteDestination]) -> None:
    if not targets:
        report.refuse(path, "at least one destination")
    for index, target in enumerate(targets):
        check_destination(report, path.at(index) / "destination", target.destination)
    check_weights(report, path, [target.weight for target in targets])


def _warn_unreachable(report: Report, path: Path, spec: VirtualService) -> None:
    catch_all = next((index for index, route in enumerate(spec.http) if route.is_catch_all), None)
    if catch_all is not None and catch_all + 1 < len(spec.http):
        report.warn(path.at(catch_all + 1), f"is never reached: {path.at(catch_all)} takes every request (IST0130)")
