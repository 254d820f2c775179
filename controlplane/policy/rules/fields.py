"""Rules that many kinds share, each about one field: durations, ports, percentages, names, labels, exportTo."""

from collections.abc import Mapping, Sequence

from controlplane.policy import syntax
from controlplane.policy.violations import Path, Report

_MS = 1_000_000  # nanoseconds


def check_duration(report: Report, path: Path, seconds: float | None, *, zero: bool = False) -> None:
    """At least 1 ms, in whole milliseconds; with `zero` also 0. None = unset."""
    if seconds is None or (zero and seconds == 0):
        return
    nanos = round(seconds * 1e9)
    if nanos < _MS or nanos % _MS:
        report.refuse(path, f"a duration of at least 1ms in whole milliseconds{', or 0s' if zero else ''}")


def check_port(report: Report, path: Path, number: int, *, optional: bool = False) -> None:
    """1..65535; with `optional` also 0, protobuf's unset."""
    if not (1 <= number <= 65535 or (optional and number == 0)):
        report.refuse(path, "a port from 1 to 65535")


def check_percent(report: Report, path: Path, value: float | None) -> None:
    """0..100."""
    if value is not None and not 0 <= value <= 100:
        report.refuse(path, "a percentage from 0 to 100")


def check_not_negative(report: Report, path: Path, value: int) -> None:
    """>= 0."""
    if value < 0:
        report.refuse(path, "a number of at least 0")


def check_labels(report: Report, path: Path, labels: Mapping[str, str], *, wildcard_hint: bool = False) -> None:
    """Kubernetes' syntax of labels."""
    hint = "; wildcards are not supported here" if wildcard_hint else ""
    for key, value in labels.items():
        if not syntax.is_label_key(key):
            report.refuse(path.key(key), f"{syntax.LABEL_KEY}{hint}", found=key)
        elif not syntax.is_label_value(value):
            report.refuse(path.key(key), f"{syntax.LABEL_VALUE}{hint}")


def check_domain(report: Report, path: Path, host: str) -> None:
    """A domain or short name without wildcard."""
    if not syntax.is_domain(host):
        report.refuse(path, syntax.DOMAIN)


def check_export_to(report: Report, path: Path, entries: Sequence[str], *, nobody: bool = False) -> None:
    """`.`, `*` or namespaces, each once, `*` alone; with `nobody` also `~`, alone."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        known = entry in (".", "*") or (nobody and entry == "~") or syntax.is_dns_label(entry)
        if not known:
            report.refuse(path.at(index), f"'.', '*'{', ' + repr('~') if nobody else ''} or a namespace")
            continue
        name = report.namespace if entry == "." else entry
        if name in seen:
            report.refuse(path.at(index), f"each namespace once (it stands at {path.at(seen[name])} too)")
        seen.setdefault(name, index)
    for lonely in ("*", "~"):
        if lonely in entries and len(entries) > 1:
            report.refuse(path.at(entries.index(lonely)), f"{lonely!r} to stand alone")


def check_unique(report: Report, paths: Sequence[Path], names: Sequence[object], what: str) -> None:
    """Every name once; the later ones are refused. `paths` are those of the names."""
    first: dict[object, Path] = {}
    for path, name in zip(paths, names, strict=True):
        if name in first:
            report.refuse(path, f"{what} that is used once (it stands at {first[name]} too)")
        else:
            first[name] = path


def check_selector(report: Report, path: Path, labels: Mapping[str, str]) -> None:
    """Labels of workloads. An empty selector is allowed and probably not meant."""
    check_labels(report, path, labels, wildcard_hint=True)
    if not labels:
        report.warn(path, "a selector without labels selects every workload of the namespace")
