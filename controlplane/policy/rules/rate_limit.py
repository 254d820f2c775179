"""Rules of RateLimit."""

from collections.abc import Sequence

from controlplane.policy import syntax
from controlplane.policy.rate_limit import Attribute, Limit, LimitHeaders, LimitKey, Place, RateLimit, Reach, Window
from controlplane.policy.rules.fields import check_duration, check_selector, check_unique
from controlplane.policy.rules.string_match import check_string_match
from controlplane.policy.violations import Found, Path, Report

MAX_LIMITS = 32
MAX_KEYS = 8
MAX_REQUESTS = 100_000_000
MAX_TIMEOUT_S = 5.0
_OF_GLOBAL = "it only beside scope: GLOBAL"


def check_rate_limit(spec: RateLimit, path: Path, report: Report) -> None:
    """Everything about one RateLimit on its own."""
    if spec.selector is not None:
        check_selector(report, path / "selector" / "matchLabels", spec.selector.match_labels)
    places = path / "enforceAt"
    check_unique(report, [places.at(index) for index in range(len(spec.enforce_at))], spec.enforce_at, "a place")
    _check_scope(spec, path, report)
    limits = path / "limits"
    if not 1 <= len(spec.limits) <= MAX_LIMITS:
        report.refuse(limits, f"1 to {MAX_LIMITS} limits", found=Found(f"{len(spec.limits)} limits"))
    for index, limit in enumerate(spec.limits):
        _check_limit(spec, limit, limits.at(index), report)
    names = [limit.name for limit in spec.limits]
    check_unique(report, [limits.at(index) / "name" for index in range(len(names))], names, "a name")


def _check_scope(spec: RateLimit, path: Path, report: Report) -> None:
    if spec.scope is Reach.GLOBAL:
        check_duration(report, path / "timeout", spec.timeout)
        if spec.timeout_s > MAX_TIMEOUT_S:
            report.refuse(path / "timeout", f"at most {MAX_TIMEOUT_S:g}s")
        return
    if spec.failure_mode is not None:
        report.refuse(path / "failureMode", _OF_GLOBAL)
    if spec.timeout is not None:
        report.refuse(path / "timeout", _OF_GLOBAL)
    if spec.headers is LimitHeaders.RATELIMIT:
        report.refuse(path / "headers", f"NONE or X_RATELIMIT; {_OF_GLOBAL}")


def _check_limit(spec: RateLimit, limit: Limit, path: Path, report: Report) -> None:
    if not syntax.is_dns_label(limit.name):
        report.refuse(path / "name", syntax.DNS_LABEL)
    _check_match(limit, path / "match", report)
    if len(limit.keys) > MAX_KEYS:
        report.refuse(path / "keys", f"at most {MAX_KEYS} keys", found=Found(f"{len(limit.keys)} keys"))
    for index, key in enumerate(limit.keys):
        _check_key(spec, key, (path / "keys").at(index), report)
    _check_unique_of(limit.keys, path / "keys", report)
    rates = path / "rates"
    if not 1 <= len(limit.rates) <= len(Window):
        report.refuse(rates, f"1 to {len(Window)} rates", found=Found(f"{len(limit.rates)} rates"))
    for index in range(len(limit.rates)):
        _check_rate(spec, limit, rates.at(index), index, report)
    windows = [rate.per for rate in limit.rates]
    paths = [rates.at(index) / "per" for index, window in enumerate(windows) if window is not None]
    check_unique(report, paths, [window for window in windows if window is not None], "a window")


def _check_match(limit: Limit, path: Path, report: Report) -> None:
    match = limit.match
    if match is None:
        return
    for index, method in enumerate(match.methods):
        if not (syntax.is_header_name(method) and method == method.upper()):
            report.refuse((path / "methods").at(index), "an HTTP method in upper case, such as GET")
    check_string_match(report, path / "path", match.path)
    if match.path is not None and match.path.is_presence:
        report.refuse(path / "path", "one of exact, prefix and regex")
    for name, value in match.headers.items():
        own = (path / "headers").key(name)
        if not syntax.is_header_name(name):
            report.refuse(own, syntax.HEADER, found=name)
        check_string_match(report, own, value, presence=True)


def _check_key(spec: RateLimit, key: LimitKey, path: Path, report: Report) -> None:
    written = [name for name in ("attribute", "header", "claim") if getattr(key, name) is not None]
    if len(written) != 1:
        found = Found(" and ".join(written) or "none of them")
        report.refuse(path, "exactly one of attribute, header and claim", found=found)
        return
    if key.header is not None and not syntax.is_header_name(key.header):
        report.refuse(path / "header", syntax.HEADER)
    if key.claim is not None and not key.claim:
        report.refuse(path / "claim", "the name of a claim")
    if key.attribute is Attribute.PRINCIPAL and Place.OUTBOUND in spec.places:
        report.refuse(path / "attribute", "another key beside enforceAt: OUTBOUND, where every client is the workload")


def _check_unique_of(keys: Sequence[LimitKey], path: Path, report: Report) -> None:
    check_unique(report, [path.at(index) for index in range(len(keys))], [key.name for key in keys], "a key")


def _check_rate(spec: RateLimit, limit: Limit, path: Path, index: int, report: Report) -> None:
    rate = limit.rates[index]
    if not 1 <= rate.requests <= MAX_REQUESTS:
        report.refuse(path / "requests", f"a number from 1 to {MAX_REQUESTS}")
    if rate.per is None:
        report.refuse(path / "per", f"one of {', '.join(Window)}")
    if rate.burst is None:
        return
    if spec.scope is Reach.GLOBAL:
        report.refuse(path / "burst", "it only beside scope: LOCAL")
    elif not 1 <= rate.burst <= MAX_REQUESTS:
        report.refuse(path / "burst", f"a number from 1 to {MAX_REQUESTS}")
