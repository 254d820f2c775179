"""Rules of HTTPMatchRequest, and of the selectors that all routes share."""

from collections.abc import Mapping, Sequence

from controlplane.policy import syntax
from controlplane.policy.http_route import HTTPMatchRequest
from controlplane.policy.rules.fields import check_labels, check_port
from controlplane.policy.rules.string_match import check_string_match
from controlplane.policy.string_match import StringMatch
from controlplane.policy.violations import Path, Report

_PSEUDO_HEADERS = frozenset({":method", ":scheme", ":authority", ":path", ":status"})
_CLAIMS = "@request.auth.claims"


def check_http_match(report: Report, path: Path, match: HTTPMatchRequest, *, gateway: bool) -> None:
    """One entry of spec.http[].match. `gateway`: the VirtualService is bound to one, so claims of a JWT may be used."""
    check_string_match(report, path / "uri", match.uri, empty_prefix=True)
    for name in ("scheme", "method", "authority"):
        check_string_match(report, path / name, getattr(match, name))
    _check_headers(report, path / "headers", match.headers, gateway=gateway)
    _check_headers(report, path / "withoutHeaders", match.without_headers, gateway=gateway)
    for key, value in match.query_params.items():
        check_string_match(report, (path / "queryParams").key(key), value)
    check_proxy_selectors(report, path, match.port, match.source_labels, match.gateways, match.source_namespace)


def _check_headers(report: Report, path: Path, headers: Mapping[str, StringMatch], *, gateway: bool) -> None:
    for name, value in headers.items():
        where = path.key(name)
        check_string_match(report, where, value, presence=True)
        if name.startswith(_CLAIMS):
            if not gateway:
                report.refuse(
                    where, "claims of a token only in a VirtualService that is bound to a gateway", found=name
                )
        elif name not in _PSEUDO_HEADERS and not syntax.is_header_name(name):
            report.refuse(where, syntax.HEADER, found=name)


def check_proxy_selectors(
    report: Report,
    path: Path,
    port: int,
    source_labels: Mapping[str, str],
    gateways: Sequence[str],
    source_namespace: str,
) -> None:
    """What selects proxies instead of requests: port, source labels and namespace, gateways."""
    check_port(report, path / "port", port, optional=True)
    check_labels(report, path / "sourceLabels", source_labels)
    check_gateways(report, path / "gateways", gateways)
    if source_namespace and not syntax.is_dns_label(source_namespace):
        report.refuse(path / "sourceNamespace", syntax.DNS_LABEL)


def check_gateways(report: Report, path: Path, gateways: Sequence[str]) -> None:
    """`mesh`, a gateway's name, or namespace/name."""
    for index, gateway in enumerate(gateways):
        namespace, slash, name = gateway.partition("/")
        own = namespace == "." or syntax.is_dns_label(namespace)
        fits = own and syntax.is_dns_label(name) if slash else syntax.is_domain(gateway)
        if not fits:
            report.refuse(path.at(index), "mesh, the name of a gateway, or namespace/name")
