"""Rules of AuthorizationPolicy.

Source: istio validation.go ValidateAuthorizationPolicy, security.go ValidateAttribute, CheckValidPathTemplate;
        control-plane.md 2.5.
Differs: an annotation `istio.io/dry-run` that is neither true nor false is refused, since what it means decides.
"""

import re
from collections.abc import Callable, Sequence

from controlplane.policy.authorization_policy import (
    DRY_RUN,
    Action,
    AuthorizationPolicy,
    Operation,
    Rule,
    Source,
    When,
)
from controlplane.policy.rules.security import check_targets
from controlplane.policy.spec import Spec, wire_name
from controlplane.policy.syntax import CIDR, HEADER, is_cidr, is_header_name
from controlplane.policy.violations import METADATA, Path, Report

MAX_ACCOUNT = 320
_ACCOUNT = re.compile(r"[^/*]+(?:/[^/*]+)?")
_IDENTITY = ("principals", "request_principals", "namespaces", "service_accounts", "trust_domains")
_BOOLEANS = ("true", "false", "1", "0", "t", "f", "T", "F", "TRUE", "FALSE", "True", "False")
_IP_KEYS = frozenset({"source.ip", "remote.ip", "destination.ip"})
_PORT_KEY = "destination.port"
_TEXT_KEYS = frozenset(
    {
        "source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal",
        "request.auth.principal", "request.auth.audiences", "request.auth.presenter", "connection.sni",
    }
)  # fmt: skip
HEADERS_KEY = "request.headers"
CLAIMS_KEY = "request.auth.claims"
_BRACKETED = re.compile(r"\[([^\[\]]+)\]")
_PLAIN = frozenset({*_IP_KEYS, _PORT_KEY, *_TEXT_KEYS})
# CUSTOM decides before identities are established by tokens, and Istio forbids the certificate's as well.
_NOT_CUSTOM = ("source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain", "request.auth.")


def check_authorization_policy(spec: AuthorizationPolicy, path: Path, report: Report) -> None:
    """Everything about one AuthorizationPolicy on its own."""
    check_targets(report, path, spec.selector, spec.target_refs)
    custom = spec.action is Action.CUSTOM
    if custom and (spec.provider is None or not spec.provider.name):
        report.refuse(path / "provider" / "name", "the name of an extension provider, which CUSTOM asks")
    if not custom and spec.provider is not None:
        report.refuse(path / "provider", f"none with action {spec.action}: only CUSTOM asks a provider")
    if spec.action in (Action.DENY, Action.CUSTOM) and not spec.rules:
        report.refuse(
            path / "rules", f"at least one rule: {spec.action} without rules never applies; `- {{}}` is every request"
        )  # fmt: skip
    for index, rule in enumerate(spec.rules):
        _check_rule(report, (path / "rules").at(index), rule, custom=custom)
    _check_dry_run(report)


def name_in_brackets(key: str, prefix: str) -> tuple[str, ...]:
    """The names of `prefix[name][name]...`; none when the key has another form."""
    rest = key.removeprefix(prefix)
    names = tuple(_BRACKETED.findall(rest))
    return names if rest != key and "".join(f"[{name}]" for name in names) == rest else ()


def _check_dry_run(report: Report) -> None:
    path = (METADATA / "annotations").key(DRY_RUN)
    value = report.value_at(path)
    if value is not None and value not in _BOOLEANS:
        report.refuse(path, "true or false")


def _check_rule(report: Report, path: Path, rule: Rule, *, custom: bool) -> None:
    for name, written in (("from", "from_"), ("to", "to")):
        if written in rule.model_fields_set and not getattr(rule, written):
            report.refuse(path / name, "at least one entry, or no such field: it would never match")
    for index, one in enumerate(rule.from_):
        own = (path / "from").at(index) / "source"
        if _is_present(report, own, one.source):
            assert one.source is not None
            _check_source(report, own, one.source, custom=custom)
    for index, to in enumerate(rule.to):
        own = (path / "to").at(index) / "operation"
        if _is_present(report, own, to.operation):
            assert to.operation is not None
            _check_operation(report, own, to.operation)
    for index, when in enumerate(rule.when):
        _check_when(report, (path / "when").at(index), when, custom=custom)


def _is_present(report: Report, path: Path, part: Spec | None) -> bool:
    """Whether some field holds values; an empty one would match everybody."""
    if part is None or not any(getattr(part, name) for name in type(part).model_fields):
        report.refuse(path, "at least one field with values")
        return False
    for name in part.model_fields_set:
        if not getattr(part, name):
            report.refuse(path / wire_name(name), "at least one value, or no such field")
    return True


def _both(name: str) -> tuple[str, str]:
    return name, f"not_{name}"


def _check_source(report: Report, path: Path, source: Source, *, custom: bool) -> None:
    for name in type(source).model_fields:
        _check_values(report, path / wire_name(name), getattr(source, name))
    for name in (*_both("ip_blocks"), *_both("remote_ip_blocks")):
        _check_each(report, path / wire_name(name), getattr(source, name), is_cidr, CIDR)
    for name in _both("service_accounts"):
        _check_accounts(report, path / wire_name(name), getattr(source, name))
    if any(map(source.__getattribute__, _both("service_accounts"))):
        for name in (*_both("principals"), *_both("namespaces")):
            if getattr(source, name):
                report.refuse(path / wire_name(name), "none beside serviceAccounts, which say the same")
    if custom:
        for name in (own for base in _IDENTITY for own in _both(base)):
            if getattr(source, name):
                report.refuse(path / wire_name(name), "none with CUSTOM, which asks before who calls is established")


def _check_operation(report: Report, path: Path, operation: Operation) -> None:
    for name in type(operation).model_fields:
        _check_values(report, path / wire_name(name), getattr(operation, name))
    for name in _both("ports"):
        _check_each(report, path / wire_name(name), getattr(operation, name), _is_port, "a port from 1 to 65535")
    for name in _both("paths"):
        for index, value in enumerate(getattr(operation, name)):
            problem = path_template_problem(value)
            if problem:
                report.refuse((path / wire_name(name)).at(index), problem)
    for name in _both("methods"):
        for index, value in enumerate(getattr(operation, name)):
            if value != value.upper():
                own = (path / wire_name(name)).at(index)
                report.warn(own, f"methods are compared as they are: {value} is not {value.upper()}")


def _check_when(report: Report, path: Path, when: When, *, custom: bool) -> None:
    for name in ("values", "notValues"):
        _check_values(report, path / name, when.values if name == "values" else when.not_values)
    if not when.values and not when.not_values:
        report.refuse(path, "values or notValues")
    if custom and when.key.startswith(_NOT_CUSTOM):
        report.refuse(path / "key", "another attribute with CUSTOM, which asks before who calls is established")
    fits, what = _test_of(when.key)
    if fits is None:
        report.refuse(path / "key", what)
        return
    for name, values in (("values", when.values), ("notValues", when.not_values)):
        _check_each(report, path / name, values, fits, what)


def _test_of(key: str) -> tuple[Callable[[str], bool] | None, str]:
    """How values of a key are checked, and what is expected of them; (None, expected key) for an unknown key."""
    if key in _IP_KEYS:
        return is_cidr, CIDR
    if key == _PORT_KEY:
        return _is_port, "a port from 1 to 65535"
    if key == "source.serviceAccount":
        return _is_account, "name or namespace/name without wildcards"
    if key in _TEXT_KEYS:
        return bool, "a value that is not empty"
    names = name_in_brackets(key, HEADERS_KEY)
    if len(names) == 1 and is_header_name(names[0]):
        return bool, "a value that is not empty"
    if key.startswith(HEADERS_KEY):
        return None, f"{HEADERS_KEY}[name] with {HEADER}"
    if name_in_brackets(key, CLAIMS_KEY):
        return bool, "a value that is not empty"
    return None, f"one of {', '.join(sorted(_PLAIN))}, {HEADERS_KEY}[name], {CLAIMS_KEY}[name]"


def _check_values(report: Report, path: Path, values: Sequence[str]) -> None:
    for index, value in enumerate(values):
        if not value:
            report.refuse(path.at(index), "a value that is not empty")
        elif "*" in value[1:-1] and "{" not in value:
            report.warn(path.at(index), "`*` stands for anything only at the beginning or the end")


def _check_each(
    report: Report, path: Path, values: Sequence[str], fits: Callable[[str], bool], expected: str
) -> None:  # fmt: skip
    for index, value in enumerate(values):
        if value and not fits(value):
            report.refuse(path.at(index), expected)


def _check_accounts(report: Report, path: Path, values: Sequence[str]) -> None:
    expected = f"name or namespace/name without wildcards, at most {MAX_ACCOUNT} characters"
    _check_each(report, path, values, _is_account, expected)


def _is_account(value: str) -> bool:
    return len(value) <= MAX_ACCOUNT and _ACCOUNT.fullmatch(value) is not None


def _is_port(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 6 and 1 <= int(value) <= 65535


def path_template_problem(value: str) -> str:
    """Why a path with `{*}` or `{**}` is none, in words that follow "expected"; "" for a good one or another path."""
    if "{*}" not in value and "{**}" not in value:
        return ""
    if not value.startswith("/"):
        return "a template that begins with /"
    segments = value[1:].split("/")
    for index, segment in enumerate(segments):
        if segment == "{**}" and index != len(segments) - 1:
            return "{**} as the last segment"
        if segment not in ("{*}", "{**}") and re.search(r"[*{}]", segment):
            return "{*} and {**} as whole segments, and no other *, { or } beside them"
    return ""
