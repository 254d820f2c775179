"""Rules of GatewayClass, Gateway and ReferenceGrant of the Kubernetes Gateway API, and of the references in its routes.

Source: the OpenAPI schemas and CEL rules of its CRDs, standard channel.
Differs: an HTTPS listener without `tls` is refused here, where the CRD leaves it to the listener's conditions.
"""

from collections.abc import Sequence
from itertools import pairwise

from controlplane.policy import syntax
from controlplane.policy.gateway_api import (
    FromNamespaces,
    GatewayClassSpec,
    GatewaySpec,
    LabelSelectorRequirement,
    Listener,
    ListenerTLS,
    ParentReference,
    ReferenceGrantSpec,
    SelectorOperator,
    TLSMode,
)
from controlplane.policy.rules.fields import check_labels, check_port, check_unique
from controlplane.policy.violations import Found, Path, Report

_MAX_LISTENERS = 64
_MAX_CERTIFICATES = 64
_MAX_ADDRESSES = 16
_MAX_PARENTS = 32
_MAX_GRANTS = 16
_WITHOUT_TLS = ("HTTP", "TCP", "UDP")
_WITHOUT_HOST = ("TCP", "UDP")
HOSTNAME = "a lower-case host name, or *. and one"
_SOME = (SelectorOperator.IN, SelectorOperator.NOT_IN)


def check_gateway_class(spec: GatewayClassSpec, path: Path, report: Report) -> None:
    """Everything about one GatewayClass on its own."""
    domain, slash, name = spec.controller_name.partition("/")
    if not (slash and name and syntax.is_lower_subdomain(domain)):
        report.refuse(path / "controllerName", "a domain and a path, such as gossamer.mesh/gateway-controller")


def check_gateway_spec(spec: GatewaySpec, path: Path, report: Report) -> None:
    """Everything about one Gateway on its own."""
    if not syntax.is_lower_subdomain(spec.gateway_class_name):
        report.refuse(path / "gatewayClassName", f"the name of a GatewayClass ({syntax.LOWER_SUBDOMAIN})")
    if not spec.listeners:
        report.refuse(path / "listeners", "at least one listener")
    check_length(report, path / "listeners", spec.listeners, _MAX_LISTENERS)
    check_length(report, path / "addresses", spec.addresses, _MAX_ADDRESSES)
    for index, listener in enumerate(spec.listeners):
        _check_listener(report, (path / "listeners").at(index), listener)
    places = [(path / "listeners").at(index) for index in range(len(spec.listeners))]
    check_unique(report, [where / "name" for where in places], [own.name for own in spec.listeners], "a name")
    told = [(own.port, own.protocol, own.hostname) for own in spec.listeners]
    check_unique(report, places, told, "port, protocol and hostname")


def check_length(report: Report, path: Path, values: Sequence[object], most: int) -> None:
    """At most so many."""
    if len(values) > most:
        report.refuse(path, f"at most {most} entries", found=Found(f"{len(values)} entries"))


def check_hostname(report: Report, path: Path, host: str) -> None:
    """A domain name, in lower case, that may begin with `*.`; no address."""
    name = host.removeprefix("*.")
    if not syntax.is_lower_subdomain(name) or syntax.is_ip(name):
        report.refuse(path, HOSTNAME)


def _check_listener(report: Report, path: Path, own: Listener) -> None:
    if not syntax.is_lower_subdomain(own.name):
        report.refuse(path / "name", f"a listener's name ({syntax.LOWER_SUBDOMAIN})")
    check_port(report, path / "port", own.port)
    if not own.protocol or not syntax.is_label_key(own.protocol):
        report.refuse(path / "protocol", "HTTP, HTTPS, TLS, TCP, UDP or domain/protocol")
    if own.hostname:
        check_hostname(report, path / "hostname", own.hostname)
        if own.protocol in _WITHOUT_HOST:
            report.refuse(path / "hostname", f"none beside protocol {own.protocol}")
    _check_tls(report, path / "tls", own)
    _check_allowed(report, path / "allowedRoutes", own)


def _check_tls(report: Report, path: Path, own: Listener) -> None:
    tls = own.tls
    if tls is None:
        if own.protocol in ("HTTPS", "TLS"):
            report.refuse(path, f"the TLS settings of a listener whose protocol is {own.protocol}")
        return
    if own.protocol in _WITHOUT_TLS:
        report.refuse(path, f"none beside protocol {own.protocol}")
        return
    if own.protocol == "HTTPS" and tls.mode is not TLSMode.TERMINATE:
        report.refuse(path / "mode", "Terminate beside protocol HTTPS")
    _check_certificates(report, path, tls)


def _check_certificates(report: Report, path: Path, tls: ListenerTLS) -> None:
    refs = path / "certificateRefs"
    if tls.mode is TLSMode.TERMINATE and not tls.certificate_refs and not tls.options:
        report.refuse(refs, "at least one certificate: mode is Terminate")
    check_length(report, refs, tls.certificate_refs, _MAX_CERTIFICATES)
    for index, reference in enumerate(tls.certificate_refs):
        check_reference(report, refs.at(index), reference.name, reference.namespace, "a Secret")
    for name in tls.options:
        report.warn((path / "options").key(name), "is not known here and does nothing")


def check_reference(report: Report, path: Path, name: str, namespace: str, what: str) -> None:
    """The name of an object and its namespace, which may be empty."""
    if not syntax.is_lower_subdomain(name):
        report.refuse(path / "name", f"the name of {what} ({syntax.LOWER_SUBDOMAIN})")
    if namespace and not syntax.is_lower_dns_label(namespace):
        report.refuse(path / "namespace", syntax.LOWER_DNS_LABEL)


def _check_allowed(report: Report, path: Path, own: Listener) -> None:
    allowed = own.effective_routes
    namespaces, selector = allowed.effective_namespaces, allowed.effective_namespaces.selector
    where = path / "namespaces" / "selector"
    if namespaces.from_ is FromNamespaces.SELECTOR and selector is None:
        report.refuse(where, "a selector of namespaces: from is Selector")
    if selector is not None:
        check_labels(report, where / "matchLabels", selector.match_labels, wildcard_hint=True)
        for index, item in enumerate(selector.match_expressions):
            _check_expression(report, (where / "matchExpressions").at(index), item)
    for index, kind in enumerate(allowed.kinds):
        if not kind.kind:
            report.refuse((path / "kinds").at(index) / "kind", "a kind of routes")


def _check_expression(report: Report, path: Path, item: LabelSelectorRequirement) -> None:
    if not syntax.is_label_key(item.key):
        report.refuse(path / "key", syntax.LABEL_KEY)
    if item.operator is None:
        report.refuse(path / "operator", f"one of {', '.join(SelectorOperator)}")
    elif (item.operator in _SOME) != bool(item.values):
        expected = "at least one value" if item.operator in _SOME else "none"
        report.refuse(path / "values", f"{expected} beside operator {item.operator}")


def check_parents(report: Report, path: Path, parents: Sequence[ParentReference]) -> None:
    """The parentRefs of a route."""
    check_length(report, path, parents, _MAX_PARENTS)
    for index, parent in enumerate(parents):
        where = path.at(index)
        check_reference(report, where, parent.name, parent.namespace, f"a {parent.kind}")
        if not parent.kind:
            report.refuse(where / "kind", "a kind, such as Gateway")
        if parent.section_name and not syntax.is_lower_subdomain(parent.section_name):
            report.refuse(where / "sectionName", f"a listener's name ({syntax.LOWER_SUBDOMAIN})")
        if parent.port is not None:
            check_port(report, where / "port", parent.port)
    _check_distinct(report, path, parents)


def _check_distinct(report: Report, path: Path, parents: Sequence[ParentReference]) -> None:
    """Of several references to one parent each names another section or port, and all of them do."""
    places: dict[tuple[str, ...], list[int]] = {}
    for index, parent in enumerate(parents):
        owner = parent.group, parent.kind, parent.namespace or report.namespace, parent.name
        places.setdefault(owner, []).append(index)
    for own in places.values():
        for first, other in pairwise(own):
            whole = not (parents[first].section_name or parents[first].port)
            if whole or not (parents[other].section_name or parents[other].port):
                report.refuse(path.at(other), f"a sectionName or port here and at {path.at(first)}, which names it too")
        sections = [(parents[index].section_name, parents[index].port) for index in own]
        if all(any(section) for section in sections):
            check_unique(report, [path.at(index) for index in own], sections, "sectionName and port")


def check_reference_grant(spec: ReferenceGrantSpec, path: Path, report: Report) -> None:
    """Everything about one ReferenceGrant on its own."""
    for name, kinds in (("from", [own.kind for own in spec.from_]), ("to", [own.kind for own in spec.to])):
        if not kinds:
            report.refuse(path / name, "at least one entry")
        check_length(report, path / name, kinds, _MAX_GRANTS)
        for index, kind in enumerate(kinds):
            if not kind:
                report.refuse((path / name).at(index) / "kind", "a kind")
    for index, source in enumerate(spec.from_):
        if not syntax.is_lower_dns_label(source.namespace):
            report.refuse((path / "from").at(index) / "namespace", syntax.LOWER_DNS_LABEL)
    for index, target in enumerate(spec.to):
        if target.name and not syntax.is_lower_subdomain(target.name):
            report.refuse((path / "to").at(index) / "name", syntax.LOWER_SUBDOMAIN)
