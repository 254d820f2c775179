"""Rules of HTTPRoute: what excludes what (2.3.12), and the values of its parts.

Source: Istio's virtual service validation; gRPC's status codes.
"""

import re

from controlplane.policy import syntax
from controlplane.policy.http_route import (
    CorsPolicy,
    HTTPDirectResponse,
    HTTPFaultInjection,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
)
from controlplane.policy.rules.destinations import check_destination, check_weights
from controlplane.policy.rules.fields import check_duration, check_percent, check_port
from controlplane.policy.rules.headers import authority_values, check_headers
from controlplane.policy.rules.http_match import check_http_match
from controlplane.policy.rules.string_match import check_regex, check_string_match
from controlplane.policy.violations import Found, Path, Report

_RETRY_ON = (
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
)
_GRPC_STATUS = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
# Istio takes 300 to 399 and drops the route of those that no proxy can send.
REDIRECT_CODES = (301, 302, 303, 307, 308)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*")
_MAX_BODY = 1024 * 1024
_LARGE_BODY = 100 * 1024


def check_http_route(report: Report, path: Path, route: HTTPRoute, *, delegated: bool, gateway: bool) -> None:
    """One entry of spec.http. `delegated`: the VirtualService has no hosts and is referred to by another."""
    _check_action(report, path, route, delegated=delegated)
    for index, match in enumerate(route.match):
        check_http_match(report, (path / "match").at(index), match, gateway=gateway)
    _check_targets(report, path, route)
    check_headers(report, path / "headers", route.headers)
    check_duration(report, path / "timeout", route.timeout, zero=True)
    _check_redirect(report, path / "redirect", route)
    _check_direct_response(report, path / "directResponse", route.direct_response)
    _check_rewrite(report, path, route)
    _check_retries(report, path / "retries", route.retries)
    _check_fault(report, path / "fault", route.fault)
    _check_mirrors(report, path, route)
    _check_cors(report, path / "corsPolicy", route.cors_policy)


def _check_action(report: Report, path: Path, route: HTTPRoute, *, delegated: bool) -> None:
    """Exactly one of route, redirect, directResponse, delegate; fault and rewrite only with a route."""
    actions = {
        "route": bool(route.route),
        "redirect": route.redirect is not None,
        "directResponse": route.direct_response is not None,
        "delegate": route.delegate is not None,
    }
    written = [name for name, present in actions.items() if present]
    if not written:
        report.refuse(path / "route", "one of route, redirect, directResponse and delegate", found=None)
    for name in written[1:]:
        report.refuse(path / name, f"only one of {', '.join(actions)}", found=Found(f"{written[0]} and {name}"))
    if route.delegate is not None and delegated:
        report.refuse(path / "delegate", "no delegate in a VirtualService without hosts: delegation has one level")
    answered = next((name for name in ("redirect", "directResponse") if actions[name]), None)
    for name, present in (("fault", route.fault is not None), ("rewrite", route.rewrite is not None)):
        if answered is not None and present:
            report.refuse(path / name, f"no {name} beside {answered}", found=Found(f"{answered} and {name}"))


def _check_targets(report: Report, path: Path, route: HTTPRoute) -> None:
    targets = path / "route"
    for index, target in enumerate(route.route):
        check_destination(report, targets.at(index) / "destination", target.destination)
        check_headers(report, targets.at(index) / "headers", target.headers)
    check_weights(report, targets, [target.weight for target in route.route])


def _check_redirect(report: Report, path: Path, route: HTTPRoute) -> None:
    redirect = route.redirect
    if redirect is None:
        return
    if redirect.uri and redirect.prefix_rewrite:
        report.refuse(path / "prefixRewrite", "only one of uri and prefixRewrite", found=Found("uri and prefixRewrite"))
    uris = [match.uri for match in route.match if match.uri is not None]
    if redirect.prefix_rewrite and any(uri.prefix is None for uri in uris):
        report.refuse(path / "prefixRewrite", "every match of the uri to be a prefix")
    if not (redirect.uri or redirect.prefix_rewrite or redirect.authority or redirect.scheme or _has_port(redirect)):
        report.refuse(path, "a uri, prefixRewrite, authority, scheme or port")
    if redirect.redirect_code and redirect.redirect_code not in REDIRECT_CODES:
        report.refuse(path / "redirectCode", f"one of {', '.join(map(str, REDIRECT_CODES))}")
    if redirect.scheme not in ("", "http", "https"):
        report.refuse(path / "scheme", "http or https")
    if redirect.port is not None:
        check_port(report, path / "port", redirect.port, optional=True)
        if redirect.derive_port is not None:
            report.refuse(path / "derivePort", "only one of port and derivePort", found=Found("port and derivePort"))


def _has_port(redirect: HTTPRedirect) -> bool:
    return redirect.port is not None or redirect.derive_port is not None


def _check_direct_response(report: Report, path: Path, answer: HTTPDirectResponse | None) -> None:
    if answer is None:
        return
    _check_status(report, path / "status", answer.status)
    if answer.body is None:
        return
    if answer.body.string is not None and answer.body.bytes_ is not None:
        report.refuse(path / "body", "only one of string and bytes", found=Found("string and bytes"))
    size = len(answer.body.content or b"")
    if size > _MAX_BODY:
        report.add(path / "body", f"found {size} bytes, expected at most {_MAX_BODY}")
    elif size > _LARGE_BODY:
        report.warn(path / "body", f"has {size} bytes, which travel to every proxy with each change of the routes")


def _check_status(report: Report, path: Path, status: int) -> None:
    if not 200 <= status <= 599:
        report.refuse(path, "a status from 200 to 599")


def _check_rewrite(report: Report, path: Path, route: HTTPRoute) -> None:
    rewrite: HTTPRewrite | None = route.rewrite
    authorities = authority_values(route.headers, path / "headers")
    if rewrite is not None:
        where = path / "rewrite"
        if rewrite.uri and rewrite.uri_regex_rewrite is not None:
            report.refuse(where / "uriRegexRewrite", "only one of uri and uriRegexRewrite", found=Found("both"))
        if not (rewrite.uri or rewrite.uri_regex_rewrite or rewrite.authority):
            report.refuse(where, "a uri, uriRegexRewrite or authority")
        if rewrite.uri_regex_rewrite is not None:
            check_regex(report, where / "uriRegexRewrite" / "match", rewrite.uri_regex_rewrite.match)
            if not rewrite.uri_regex_rewrite.rewrite:
                report.refuse(where / "uriRegexRewrite" / "rewrite", "what the match is replaced with")
        if rewrite.authority:
            authorities.insert(0, where / "authority")
    for extra in authorities[1:]:
        report.refuse(extra, f"the authority to be set once (it is at {authorities[0]} too)")


def _check_retries(report: Report, path: Path, retries: HTTPRetry | None) -> None:
    if retries is None:
        return
    if retries.attempts < 0:
        report.refuse(path / "attempts", "a number of at least 0; 0 switches retries off")
    if retries.attempts == 0:
        for name in ("per_try_timeout", "retry_on", "retry_remote_localities"):
            if name in retries.model_fields_set:
                wire = {"per_try_timeout": "perTryTimeout", "retry_on": "retryOn"}.get(name, "retryRemoteLocalities")
                report.refuse(path / wire, "attempts of at least 1 beside it: 0 switches retries off")
    check_duration(report, path / "perTryTimeout", retries.per_try_timeout)
    check_duration(report, path / "backoff", retries.backoff)
    for word in retries.conditions:
        if word not in _RETRY_ON and not re.fullmatch(r"[1-5]\d\d", word, re.ASCII):
            report.refuse(path / "retryOn", f"status codes and any of {', '.join(_RETRY_ON)}", found=word)


def _check_fault(report: Report, path: Path, fault: HTTPFaultInjection | None) -> None:
    if fault is None:
        return
    if fault.delay is None and fault.abort is None:
        report.refuse(path, "a delay, an abort, or both")
    if fault.delay is not None:
        _check_percentage(report, path / "delay" / "percentage", fault.delay.percentage)
        check_percent(report, path / "delay" / "percent", fault.delay.percent)
        check_duration(report, path / "delay" / "fixedDelay", fault.delay.fixed_delay)
        if fault.delay.exponential_delay is not None:
            report.refuse(path / "delay" / "exponentialDelay", "fixedDelay: no proxy supports exponential delays")
    if fault.abort is not None:
        _check_abort(report, path / "abort", fault)


def _check_abort(report: Report, path: Path, fault: HTTPFaultInjection) -> None:
    abort = fault.abort
    if abort is None:
        return
    _check_percentage(report, path / "percentage", abort.percentage)
    written = [name for name in ("http_status", "grpc_status") if getattr(abort, name) is not None]
    if len(written) > 1:
        report.refuse(path / "grpcStatus", "only one of httpStatus and grpcStatus", found=Found("both"))
    if abort.http_status is not None:
        _check_status(report, path / "httpStatus", abort.http_status)
    if abort.grpc_status is not None and abort.grpc_status not in _GRPC_STATUS:
        report.refuse(path / "grpcStatus", f"one of {', '.join(_GRPC_STATUS)}")
    if abort.http2_error is not None:
        report.refuse(path / "http2Error", "httpStatus or grpcStatus: no proxy supports HTTP/2 errors")
    if not written and abort.http2_error is None:
        report.warn(path, "has neither httpStatus nor grpcStatus and does nothing")


def _check_percentage(report: Report, path: Path, percentage: "object | None") -> None:
    value = getattr(percentage, "value", None)
    check_percent(report, path / "value", value)


def _check_mirrors(report: Report, path: Path, route: HTTPRoute) -> None:
    if route.mirror is not None:
        check_destination(report, path / "mirror", route.mirror)
        if route.mirrors:
            report.refuse(path / "mirrors", "only one of mirror and mirrors", found=Found("both"))
    for index, mirror in enumerate(route.mirrors):
        where = (path / "mirrors").at(index)
        check_destination(report, where / "destination", mirror.destination)
        _check_percentage(report, where / "percentage", mirror.percentage)
    _check_percentage(report, path / "mirrorPercentage", route.mirror_percentage)
    if route.mirror_percent is not None:
        check_percent(report, path / "mirrorPercent", route.mirror_percent)
        report.warn(path / "mirrorPercent", "is deprecated: use mirrorPercentage")


def _check_cors(report: Report, path: Path, cors: CorsPolicy | None) -> None:
    if cors is None:
        return
    for index, origin in enumerate(cors.allow_origins):
        where = (path / "allowOrigins").at(index)
        check_string_match(report, where, origin)
        if not (origin.exact or origin.prefix or origin.regex):
            report.refuse(where, "an exact, prefix or regex that is not empty")
    for index, method in enumerate(cors.allow_methods):
        if method not in _METHODS:
            report.refuse((path / "allowMethods").at(index), f"one of {', '.join(_METHODS)}")
    for field, names in (("allowHeaders", cors.allow_headers), ("exposeHeaders", cors.expose_headers)):
        for index, name in enumerate(names):
            if name != "*" and not syntax.is_header_name(name):
                report.refuse((path / field).at(index), syntax.HEADER)
    if cors.max_age is not None and (cors.max_age <= 0 or not cors.max_age.is_integer()):
        report.refuse(path / "maxAge", "a duration in whole seconds, at least 1s")
