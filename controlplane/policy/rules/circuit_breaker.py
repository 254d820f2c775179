"""Rules of CircuitBreaker, and of the target that it has in common with Bulkhead."""

import re

from controlplane.policy import syntax
from controlplane.policy.call_target import CallTarget
from controlplane.policy.circuit_breaker import (
    CircuitBreaker,
    Failures,
    Fallback,
    FallbackCache,
    FallbackResponse,
    HalfOpen,
    Window,
    WindowType,
    status_range,
)
from controlplane.policy.rules.destinations import check_destination
from controlplane.policy.rules.fields import check_domain, check_duration, check_export_to, check_port
from controlplane.policy.violations import Found, Path, Report

FLAGS = ("DC", "DPE", "FI", "NC", "RL", "SI", "UC", "UF", "UH", "UO", "UPE", "UR", "URX", "UT")
MAX_BUCKETS = 1000
MAX_REQUESTS = 1_000_000
MAX_PROBES = 100_000
MAX_ENTRIES = 100_000
MAX_CACHE_BYTES = 1 << 30
MAX_BODY = 64 * 1024  # it travels to every proxy in every route
_MAX_NAME = 253
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "upgrade", "keep-alive"})


def check_circuit_breaker(spec: CircuitBreaker, path: Path, report: Report) -> None:
    """Everything about one CircuitBreaker on its own."""
    check_target(report, path / "target", spec.target)
    if spec.failures is not None:
        _check_failures(report, path / "failures", spec.failures)
    if spec.window is not None:
        _check_window(report, path / "window", spec.window)
    _check_volume(report, path / "requestVolume", spec)
    check_share(report, path / "errorPercent", spec.error_percent)
    check_duration(report, path / "sleepWindow", spec.sleep_window)
    if spec.half_open is not None:
        _check_half_open(report, path / "halfOpen", spec.half_open)
    if spec.fallback is not None:
        _check_fallback(report, path / "fallback", spec.fallback)
        _check_loop(report, path / "fallback" / "service", spec)
    check_export_to(report, path / "exportTo", spec.export_to)


def check_target(report: Report, path: Path, target: CallTarget | None) -> None:
    """A service without wildcards, and what narrows it."""
    if target is None:
        report.refuse(path, "a target with a host")
        return
    check_domain(report, path / "host", target.host)
    if target.subset and not syntax.is_dns_label(target.subset):
        report.refuse(path / "subset", syntax.DNS_LABEL)
    if target.port is not None:
        check_port(report, path / "port" / "number", target.port.number)
    if len(target.route) > _MAX_NAME:
        report.refuse(path / "route", f"a name of at most {_MAX_NAME} characters")


def _check_failures(report: Report, path: Path, failures: Failures) -> None:
    for index, text in enumerate(failures.statuses):
        if status_range(text) is None:
            report.refuse((path / "statuses").at(index), "a status such as 503, 500-504 or 5xx, from 100 to 599")
    for index, flag in enumerate(failures.flags):
        if flag not in FLAGS:
            report.refuse((path / "flags").at(index), f"one of {', '.join(FLAGS)}")
    check_duration(report, path / "slowCallDuration", failures.slow_call_duration)
    check_share(report, path / "slowCallPercent", failures.slow_call_percent)
    if failures.slow_call_percent is not None and failures.slow_call_duration is None:
        report.refuse(path / "slowCallDuration", "a duration beside slowCallPercent")


def _check_window(report: Report, path: Path, window: Window) -> None:
    if window.type_ is WindowType.COUNT:
        check_count(report, path / "size", window.size, MAX_REQUESTS)
        for name in ("duration", "buckets"):
            if getattr(window, name):
                report.refuse(path / name, "it unset: a window of type COUNT has a size")
        return
    check_duration(report, path / "duration", window.duration)
    check_count(report, path / "buckets", window.buckets, MAX_BUCKETS)
    if window.size:
        report.refuse(path / "size", "it unset: a window of type TIME has a duration")


def _check_volume(report: Report, path: Path, spec: CircuitBreaker) -> None:
    check_count(report, path, spec.request_volume, MAX_REQUESTS)
    size = spec.window_size
    if size and spec.request_volume > size:
        report.refuse(path, f"at most {size}: the window holds no more, so that it would never open")


def _check_half_open(report: Report, path: Path, half_open: HalfOpen) -> None:
    check_count(report, path / "probes", half_open.probes, MAX_PROBES)
    check_duration(report, path / "maxWait", half_open.max_wait, zero=True)


def _check_fallback(report: Report, path: Path, fallback: Fallback) -> None:
    written = [name for name in ("response", "service", "cached") if getattr(fallback, name) is not None]
    if len(written) != 1:
        words = " and ".join(written) or "none of them"
        report.refuse(path, "exactly one of response, service and cached", found=Found(words))
    if fallback.response is not None:
        _check_response(report, path / "response", fallback.response)
    if fallback.service is not None:
        check_destination(report, path / "service", fallback.service)
        if fallback.service.host.startswith("*"):
            report.refuse(path / "service" / "host", syntax.DOMAIN)
    if fallback.cached is not None:
        _check_cache(report, path / "cached", fallback.cached)


def _check_response(report: Report, path: Path, response: FallbackResponse) -> None:
    if response.status and not 200 <= response.status <= 599:
        report.refuse(path / "status", "a status from 200 to 599")
    body = response.body
    if body is not None:
        if body.string is not None and body.bytes_ is not None:
            report.refuse(path / "body", "only one of string and bytes", found=Found("string and bytes"))
        size = len(body.content or b"")
        if size > MAX_BODY:
            report.add(path / "body", f"found {size} bytes, expected at most {MAX_BODY}")
    for name, value in response.headers.items():
        own = (path / "headers").key(name)
        if not syntax.is_header_name(name) or name.lower() in _FRAMING:
            report.refuse(own, f"{syntax.HEADER} that does not frame the answer", found=name)
        elif _VALUE.fullmatch(value) is None:
            report.refuse(own, "a header's value, without control characters")


def _check_cache(report: Report, path: Path, cache: FallbackCache) -> None:
    check_duration(report, path / "maxAge", cache.max_age)
    check_count(report, path / "maxEntries", cache.max_entries, MAX_ENTRIES)
    check_count(report, path / "maxBytes", cache.max_bytes, MAX_CACHE_BYTES)


def _check_loop(report: Report, path: Path, spec: CircuitBreaker) -> None:
    """What is broken cannot stand in for itself."""
    target, other = spec.target, spec.fallback.service if spec.fallback is not None else None
    if target is None or other is None or target.host != other.host:
        return
    if target.subset == other.subset and target.port_number in (0, other.port_number or target.port_number):
        report.refuse(path, "a service, subset or port other than the target", found=Found("the target itself"))


def check_count(report: Report, path: Path, value: int, most: int) -> None:
    """1..most; 0 = unset."""
    if value > most:
        report.refuse(path, f"a number from 1 to {most}")


def check_share(report: Report, path: Path, value: float | None) -> None:
    """Above 0, up to 100; None = unset."""
    if value is not None and not 0 < value <= 100:
        report.refuse(path, "a percentage above 0, at most 100")
