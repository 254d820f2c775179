"""Rules of HTTPRoute and GRPCRoute of the Kubernetes Gateway API.

Source: the OpenAPI schemas and CEL rules of its CRDs, standard channel; GEP-2257 for durations, GEP-1731 for retries.
"""

import re
from collections.abc import Sequence

from controlplane.policy import syntax
from controlplane.policy.gateway_api_routes import (
    BackendObjectReference,
    GRPCMethodMatch,
    GRPCRouteSpec,
    HTTPHeaderFilter,
    HTTPHeaderMatch,
    HTTPPathMatch,
    HTTPPathModifier,
    HTTPRequestMirrorFilter,
    HTTPRequestRedirectFilter,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRetry,
    HTTPRouteRule,
    HTTPRouteSpec,
    HTTPRouteTimeouts,
    HTTPURLRewriteFilter,
    PathMatchType,
    PathModifierType,
    RouteBackend,
    RouteFilter,
    RouteRule,
    RouteSpec,
    ValueMatchType,
)
from controlplane.policy.regexes import regex_problem
from controlplane.policy.rules.fields import check_port, check_unique
from controlplane.policy.rules.gateway_api import check_hostname, check_length, check_parents, check_reference
from controlplane.policy.rules.http_route import REDIRECT_CODES
from controlplane.policy.spec import wire_name
from controlplane.policy.violations import Found, Path, Report

_MAX_HOSTNAMES = 16
_MAX_RULES = 16
_MAX_MATCHES = 64
_MAX_MATCHES_IN_ALL = 128
_MAX_FILTERS = 16
_MAX_BACKENDS = 16
_MAX_HEADERS = 16
_MAX_PATH = 1024
_MAX_VALUE = 4096
_MAX_WEIGHT = 1_000_000
_PATH = re.compile(r"/(?:[A-Za-z0-9/\-._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*")
_UNSAFE = re.compile(r"//|/\.\.?(?:/|\Z)|%2f", re.IGNORECASE)
_DURATION = re.compile(r"(?:[0-9]{1,5}(?:h|m|s|ms)){1,4}")
_SERVICE = re.compile(r"\.?[a-z_][a-z_0-9]*(?:\.[a-z_][a-z_0-9]*)*", re.IGNORECASE)
_METHOD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
# The field of each type of filters, in the order of their words in the API.
_HTTP_FILTERS = ("request_header_modifier", "response_header_modifier", "request_mirror", "request_redirect",
                 "url_rewrite", "extension_ref")  # fmt: skip
_GRPC_FILTERS = ("request_header_modifier", "response_header_modifier", "request_mirror", "extension_ref")
_REPEATABLE = ("RequestMirror", "ExtensionRef")


def check_http_route_spec(spec: HTTPRouteSpec, path: Path, report: Report) -> None:
    """Everything about one HTTPRoute on its own."""
    _check_route(report, path, spec)
    for index, rule in enumerate(spec.rules):
        where = (path / "rules").at(index)
        for number, match in enumerate(rule.matches):
            _check_match(report, (where / "matches").at(number), match)
        _check_redirect_alone(report, where, rule)
        _check_prefixes(report, where, rule)
        _check_timeouts(report, where / "timeouts", rule.timeouts)
        _check_retry(report, where / "retry", rule.retry)


def check_grpc_route_spec(spec: GRPCRouteSpec, path: Path, report: Report) -> None:
    """Everything about one GRPCRoute on its own."""
    _check_route(report, path, spec)
    for index, rule in enumerate(spec.rules):
        matches = (path / "rules").at(index) / "matches"
        for number, match in enumerate(rule.matches):
            where = matches.at(number)
            if match.method is not None:
                _check_grpc_method(report, where / "method", match.method)
            _check_value_matches(report, where / "headers", match.headers, header=True)


def _check_route(report: Report, path: Path, spec: RouteSpec) -> None:
    check_parents(report, path / "parentRefs", spec.parent_refs)
    check_length(report, path / "hostnames", spec.hostnames, _MAX_HOSTNAMES)
    for index, host in enumerate(spec.hostnames):
        check_hostname(report, (path / "hostnames").at(index), host)
    rules = path / "rules"
    check_length(report, rules, spec.rules, _MAX_RULES)
    total = sum(len(rule.matches) for rule in spec.rules)
    if total > _MAX_MATCHES_IN_ALL:
        report.refuse(rules, f"at most {_MAX_MATCHES_IN_ALL} matches in all rules", found=Found(f"{total} matches"))
    named = [(index, rule.name) for index, rule in enumerate(spec.rules) if rule.name]
    check_unique(report, [rules.at(index) / "name" for index, _ in named], [name for _, name in named], "a name")
    for index, rule in enumerate(spec.rules):
        _check_rule(report, rules.at(index), rule)


def _check_rule(report: Report, path: Path, rule: RouteRule) -> None:
    if rule.name and not syntax.is_lower_subdomain(rule.name):
        report.refuse(path / "name", syntax.LOWER_SUBDOMAIN)
    check_length(report, path / "matches", rule.matches, _MAX_MATCHES)
    _check_filters(report, path / "filters", rule.filters)
    check_length(report, path / "backendRefs", rule.backend_refs, _MAX_BACKENDS)
    for index, backend in enumerate(rule.backend_refs):
        _check_backend(report, (path / "backendRefs").at(index), backend)


def _check_backend(report: Report, path: Path, backend: RouteBackend) -> None:
    _check_target(report, path, backend)
    if not 0 <= backend.weight <= _MAX_WEIGHT:
        report.refuse(path / "weight", f"a weight from 0 to {_MAX_WEIGHT}")
    _check_filters(report, path / "filters", backend.filters)


def _check_target(report: Report, path: Path, target: BackendObjectReference) -> None:
    check_reference(report, path, target.name, target.namespace, f"a {target.kind or 'Service'}")
    if target.port is not None:
        check_port(report, path / "port", target.port)
    elif target.is_service:
        report.refuse(path / "port", "the Service's port")


# --- matches


def _check_match(report: Report, path: Path, match: HTTPRouteMatch) -> None:
    if match.path is not None:
        _check_path(report, path / "path", match.path)
    _check_value_matches(report, path / "headers", match.headers, header=True)
    _check_value_matches(report, path / "queryParams", match.query_params, header=False)


def _check_path(report: Report, path: Path, own: HTTPPathMatch) -> None:
    where = path / "value"
    if own.type is PathMatchType.REGULAR_EXPRESSION:
        problem = regex_problem(own.value)
        if problem is not None:
            report.refuse(where, problem)
    elif len(own.value) > _MAX_PATH:
        report.refuse(where, f"at most {_MAX_PATH} characters")
    elif not _PATH.fullmatch(own.value):
        report.refuse(where, "a path that begins with / and is written as in a URL")
    elif _UNSAFE.search(own.value):
        report.refuse(where, "a path without //, /./, /../ and %2f")


def _check_value_matches(report: Report, path: Path, matches: Sequence[HTTPHeaderMatch], *, header: bool) -> None:
    check_length(report, path, matches, _MAX_HEADERS)
    for index, own in enumerate(matches):
        where = path.at(index)
        if not syntax.is_header_name(own.name):
            report.refuse(where / "name", syntax.HEADER if header else "a query parameter's name")
        if own.type is ValueMatchType.REGULAR_EXPRESSION:
            problem = regex_problem(own.value)
            if problem is not None:
                report.refuse(where / "value", problem)
        elif not 0 < len(own.value) <= _MAX_VALUE:
            report.refuse(where / "value", f"a value of 1 to {_MAX_VALUE} characters")
    names = [own.name.lower() if header else own.name for own in matches]
    places = [path.at(index) / "name" for index in range(len(matches))]
    check_unique(report, places, names, "a name")


def _check_grpc_method(report: Report, path: Path, own: GRPCMethodMatch) -> None:
    if not (own.service or own.method):
        report.refuse(path, "a service, a method, or both", found=Found("neither"))
    for name, value, form in (("service", own.service, _SERVICE), ("method", own.method, _METHOD)):
        if own.type is ValueMatchType.REGULAR_EXPRESSION:
            problem = regex_problem(value) if value else None
            if problem is not None:
                report.refuse(path / name, problem)
        elif value and (len(value) > _MAX_PATH or not form.fullmatch(value)):
            report.refuse(path / name, f"the name of a {name}")


# --- filters


def _check_filters(report: Report, path: Path, filters: Sequence[RouteFilter]) -> None:
    check_length(report, path, filters, _MAX_FILTERS)
    for index, own in enumerate(filters):
        _check_filter(report, path.at(index), own)
    for index, own in enumerate(filters):
        earlier = [other.type for other in filters[:index]]
        if own.type is not None and own.type not in _REPEATABLE and own.type in earlier:
            report.refuse(path.at(index) / "type", f"{own.type} once (it is at {path.at(earlier.index(own.type))} too)")
    kinds = [str(own.type) for own in filters]
    if "RequestRedirect" in kinds and "URLRewrite" in kinds:
        where = path.at(max(kinds.index("RequestRedirect"), kinds.index("URLRewrite")))
        report.refuse(where / "type", "only one of RequestRedirect and URLRewrite")


def _check_filter(report: Report, path: Path, own: RouteFilter) -> None:
    fields = _HTTP_FILTERS if isinstance(own, HTTPRouteFilter) else _GRPC_FILTERS
    if own.type is None:
        report.refuse(path / "type", "the type of the filter")
        return
    wanted = next(name for name in fields if wire_name(name).lower() == own.type.lower())
    if getattr(own, wanted) is None:
        report.refuse(path / wire_name(wanted), f"the settings of a {own.type}")
    for name in fields:
        if name != wanted and getattr(own, name) is not None:
            report.refuse(path / wire_name(name), f"none in a filter whose type is {own.type}")
    for name in ("request_header_modifier", "response_header_modifier"):
        if getattr(own, name) is not None:
            _check_headers(report, path / wire_name(name), getattr(own, name), request=name.startswith("request"))
    if own.request_mirror is not None:
        _check_mirror(report, path / "requestMirror", own.request_mirror)
    if own.extension_ref is not None:
        check_reference(report, path / "extensionRef", own.extension_ref.name, "", "an object")
        if not own.extension_ref.kind:
            report.refuse(path / "extensionRef" / "kind", "a kind")
    if isinstance(own, HTTPRouteFilter):
        _check_redirect(report, path / "requestRedirect", own.request_redirect)
        _check_rewrite(report, path / "urlRewrite", own.url_rewrite)


def _check_headers(report: Report, path: Path, own: HTTPHeaderFilter, *, request: bool) -> None:
    for name, headers in (("set", own.set), ("add", own.add)):
        places = [(path / name).at(index) for index in range(len(headers))]
        check_length(report, path / name, headers, _MAX_HEADERS)
        for where, header in zip(places, headers, strict=True):
            _check_header_name(report, where / "name", header.name, host=request)
            if not 0 < len(header.value) <= _MAX_VALUE or not _VALUE.fullmatch(header.value):
                report.refuse(where / "value", f"a header's value of 1 to {_MAX_VALUE} characters")
        names = [header.name.lower() for header in headers]
        check_unique(report, [where / "name" for where in places], names, "a name")
    check_length(report, path / "remove", own.remove, _MAX_HEADERS)
    for index, removed in enumerate(own.remove):
        _check_header_name(report, (path / "remove").at(index), removed, host=False)


def _check_header_name(report: Report, path: Path, name: str, *, host: bool) -> None:
    """`host`: it may be the Host, by which a request is sent on under another name."""
    if not syntax.is_header_name(name):
        report.refuse(path, syntax.HEADER)
    elif name.lower() == "host" and not host:
        report.refuse(path, "a header that HTTP itself does not use")


def _check_mirror(report: Report, path: Path, own: HTTPRequestMirrorFilter) -> None:
    if own.backend_ref is None:
        report.refuse(path / "backendRef", "a backend")
    else:
        _check_target(report, path / "backendRef", own.backend_ref)
    if own.percent is not None and not 0 <= own.percent <= 100:
        report.refuse(path / "percent", "a percentage from 0 to 100")
    if own.percent is not None and own.fraction is not None:
        report.refuse(path / "fraction", "only one of percent and fraction", found=Found("both"))
    if own.fraction is not None:
        where = path / "fraction"
        if own.fraction.denominator < 1:
            report.refuse(where / "denominator", "a number of at least 1")
        elif not 0 <= own.fraction.numerator <= own.fraction.denominator:
            report.refuse(where / "numerator", f"a number from 0 to the denominator {own.fraction.denominator}")


def _check_redirect(report: Report, path: Path, own: HTTPRequestRedirectFilter | None) -> None:
    if own is None:
        return
    if own.scheme not in ("", "http", "https"):
        report.refuse(path / "scheme", "http or https")
    _check_precise(report, path / "hostname", own.hostname)
    if own.port is not None:
        check_port(report, path / "port", own.port)
    if own.status_code not in REDIRECT_CODES:
        report.refuse(path / "statusCode", f"one of {', '.join(map(str, REDIRECT_CODES))}")
    _check_modifier(report, path / "path", own.path)


def _check_rewrite(report: Report, path: Path, own: HTTPURLRewriteFilter | None) -> None:
    if own is not None:
        _check_precise(report, path / "hostname", own.hostname)
        _check_modifier(report, path / "path", own.path)


def _check_precise(report: Report, path: Path, host: str) -> None:
    if host and (not syntax.is_lower_subdomain(host) or syntax.is_ip(host)):
        report.refuse(path, "a lower-case host name")


def _check_modifier(report: Report, path: Path, own: HTTPPathModifier | None) -> None:
    if own is None:
        return
    if own.type is None:
        report.refuse(path / "type", f"one of {', '.join(PathModifierType)}")
        return
    fields = {
        PathModifierType.REPLACE_FULL_PATH: ("replaceFullPath", own.replace_full_path),
        PathModifierType.REPLACE_PREFIX_MATCH: ("replacePrefixMatch", own.replace_prefix_match),
    }
    for kind, (name, value) in fields.items():
        if kind is own.type and value is None:
            report.refuse(path / name, f"what replaces it: type is {own.type}")
        elif kind is not own.type and value is not None:
            report.refuse(path / name, f"none beside type {own.type}")
        elif value and (len(value) > _MAX_PATH or not _PATH.fullmatch(value if value[0] == "/" else f"/{value}")):
            report.refuse(path / name, f"a path of at most {_MAX_PATH} characters, written as in a URL")


# --- a rule as a whole


def _check_redirect_alone(report: Report, path: Path, rule: HTTPRouteRule) -> None:
    if rule.backend_refs and any(own.request_redirect is not None for own in rule.filters):
        found = Found("RequestRedirect and backendRefs")
        report.refuse(path / "backendRefs", "none beside a RequestRedirect", found=found)


def _check_prefixes(report: Report, path: Path, rule: HTTPRouteRule) -> None:
    """What replaces a prefix needs to know which: exactly one match, of a PathPrefix; that of / when unset."""
    backends = path / "backendRefs"
    own = [(path / "filters", rule.filters)]
    own += [(backends.at(index) / "filters", item.filters) for index, item in enumerate(rule.backend_refs)]
    paths = [match.effective_path for match in rule.matches or (HTTPRouteMatch(),)]
    if len(paths) == 1 and paths[0].type is PathMatchType.PATH_PREFIX:
        return
    for where, filters in own:
        for index, item in enumerate(filters):
            for name in ("request_redirect", "url_rewrite"):
                settings = getattr(item, name)
                modifier = settings.path if settings is not None else None
                if modifier is not None and modifier.type is PathModifierType.REPLACE_PREFIX_MATCH:
                    place = where.at(index) / wire_name(name) / "path" / "replacePrefixMatch"
                    report.refuse(place, "exactly one match in the rule, with a path of type PathPrefix")


def _check_timeouts(report: Report, path: Path, own: HTTPRouteTimeouts | None) -> None:
    if own is None:
        return
    for name in ("request", "backendRequest"):
        _check_duration(report, path / name)
    whole, one = own.request, own.backend_request
    if whole and one and one > whole:
        report.refuse(path / "backendRequest", "at most the request's own timeout")


def _check_retry(report: Report, path: Path, own: HTTPRouteRetry | None) -> None:
    if own is None:
        return
    for index, code in enumerate(own.codes):
        if not 400 <= code <= 599:
            report.refuse((path / "codes").at(index), "a status from 400 to 599")
    if own.attempts is not None and own.attempts < 0:
        report.refuse(path / "attempts", "a number of at least 0; 0 switches retries off")
    _check_duration(report, path / "backoff")


def _check_duration(report: Report, path: Path) -> None:
    """As GEP-2257 writes it, which is narrower than Go: no fractions, no signs, nothing below 1 ms."""
    written = report.value_at(path)
    if isinstance(written, str) and not _DURATION.fullmatch(written):
        report.refuse(path, 'up to four numbers of at most five digits with h, m, s or ms, such as "1m30s"')
