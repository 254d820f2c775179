"""Rules of header operations.

Source: Istio's virtual service validation; Envoy's custom request and response headers (`%` starts a command).
"""

import re
from collections.abc import Mapping

from controlplane.policy import syntax
from controlplane.policy.http_route import HeaderOperations, Headers
from controlplane.policy.violations import Path, Report

# A literal, `%%`, or a command such as %REQ(x-user)% or %START_TIME(%Y)%. RFC 9110 values have no control characters.
_VALUE = re.compile(r"(?:[^%\x00-\x08\x0a-\x1f\x7f]|%%|%[A-Za-z0-9_]{1,64}(?:\([^()]{0,1024}\))?(?::\d{1,9})?%)*")
_AUTHORITY = frozenset({":authority", "host"})


def check_headers(report: Report, path: Path, headers: Headers | None) -> None:
    """Names and values; only a request's authority may be set of what HTTP itself uses."""
    if headers is None:
        return
    for side, operations in (("request", headers.request), ("response", headers.response)):
        if operations is not None:
            _check_operations(report, path / side, operations, authority=side == "request")


def _check_operations(report: Report, path: Path, operations: HeaderOperations, *, authority: bool) -> None:
    for action, pairs in (("set", operations.set), ("add", operations.add)):
        for name, value in pairs.items():
            _check_name(report, (path / action).key(name), name, authority=authority)
            if _VALUE.fullmatch(value) is None:
                report.refuse((path / action).key(name), "a header's value, with % written as %%")
    for index, name in enumerate(operations.remove):
        _check_name(report, (path / "remove").at(index), name, authority=False)


def _check_name(report: Report, path: Path, name: str, *, authority: bool) -> None:
    if name.lower() in _AUTHORITY and authority:
        return
    if name.startswith(":") or name.lower() in _AUTHORITY:
        report.refuse(path, "a header that HTTP itself does not use", found=name)
    elif not syntax.is_header_name(name):
        report.refuse(path, syntax.HEADER, found=name)


def authority_values(headers: Headers | None, path: Path) -> list[Path]:
    """Where a request's authority is written."""
    if headers is None or headers.request is None:
        return []
    actions: tuple[tuple[str, Mapping[str, str]], ...] = (("set", headers.request.set), ("add", headers.request.add))
    request = path / "request"
    return [(request / action).key(name) for action, pairs in actions for name in pairs if name.lower() in _AUTHORITY]
