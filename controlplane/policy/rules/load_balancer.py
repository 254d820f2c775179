"""Rules of LoadBalancerSettings.

Source: Istio's destination rule and locality validation; the limit of maglev tables is Envoy's.
"""

import math
from collections.abc import Sequence

from controlplane.policy.load_balancer import (
    ConsistentHashLB,
    LoadBalancerSettings,
    LocalityFailover,
    LocalityLoadBalancerSetting,
    WarmupConfiguration,
    ZoneAwareLoadBalancerSetting,
)
from controlplane.policy.rules.fields import check_duration, check_percent, check_unique
from controlplane.policy.violations import Found, Path, Report

MAX_MAGLEV_TABLE = 5_000_011
_HASH_KEYS = {
    "http_header_name": "httpHeaderName",
    "http_cookie": "httpCookie",
    "use_source_ip": "useSourceIp",
    "http_query_parameter_name": "httpQueryParameterName",
}
_TOPOLOGY = frozenset({"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"})


def check_load_balancer(report: Report, path: Path, settings: LoadBalancerSettings | None, *, outlier: bool) -> None:
    """`outlier`: outlierDetection stands beside it; without it there is no failover."""
    if settings is None:
        return
    if settings.simple is not None and settings.consistent_hash is not None:
        report.refuse(path / "consistentHash", "only one of simple and consistentHash", found=Found("both"))
    _check_consistent_hash(report, path / "consistentHash", settings.consistent_hash)
    if settings.locality_lb_setting is not None and settings.zone_aware_lb_setting is not None:
        report.refuse(
            path / "zoneAwareLbSetting", "only one of localityLbSetting and zoneAwareLbSetting", found=Found("both")
        )
    _check_locality(report, path / "localityLbSetting", settings.locality_lb_setting, outlier=outlier)
    _check_zone_aware(report, path / "zoneAwareLbSetting", settings.zone_aware_lb_setting, outlier=outlier)
    if settings.warmup is not None and settings.warmup_duration_secs is not None:
        report.refuse(path / "warmupDurationSecs", "only one of warmupDurationSecs and warmup", found=Found("both"))
    check_duration(report, path / "warmupDurationSecs", settings.warmup_duration_secs)
    _check_warmup(report, path / "warmup", settings.warmup)


def _check_consistent_hash(report: Report, path: Path, settings: ConsistentHashLB | None) -> None:
    if settings is None:
        return
    keys = [wire for name, wire in _HASH_KEYS.items() if getattr(settings, name) is not None]
    if len(keys) != 1:
        report.refuse(
            path, f"exactly one of {', '.join(_HASH_KEYS.values())}", found=Found(" and ".join(keys) or "none")
        )
    for name in ("http_header_name", "http_query_parameter_name"):
        if getattr(settings, name) == "":
            report.refuse(path / _HASH_KEYS[name], "a name")
    _check_cookie(report, path / "httpCookie", settings)
    if settings.ring_hash is not None and settings.maglev is not None:
        report.refuse(path / "maglev", "only one of ringHash and maglev", found=Found("both"))
    if settings.minimum_ring_size:
        report.warn(path / "minimumRingSize", "is deprecated: use ringHash.minimumRingSize")
        if settings.ring_hash is not None or settings.maglev is not None:
            report.refuse(path / "minimumRingSize", "no minimumRingSize beside ringHash or maglev")
    if settings.maglev is not None:
        size = settings.maglev.table_size
        if not (0 < size < MAX_MAGLEV_TABLE and _is_prime(size)):
            report.refuse(path / "maglev" / "tableSize", f"a prime below {MAX_MAGLEV_TABLE}")


def _check_cookie(report: Report, path: Path, settings: ConsistentHashLB) -> None:
    cookie = settings.http_cookie
    if cookie is None:
        return
    if not cookie.name:
        report.refuse(path / "name", "the cookie's name")
    check_duration(report, path / "ttl", cookie.ttl, zero=True)
    names = [(path / "attributes").at(index) / "name" for index in range(len(cookie.attributes))]
    for where, attribute in zip(names, cookie.attributes, strict=True):
        if not attribute.name:
            report.refuse(where, "the attribute's name")
    check_unique(report, names, [attribute.name for attribute in cookie.attributes], "an attribute")


def _is_prime(number: int) -> bool:
    """For numbers below 5000011: at most 1118 divisions."""
    return number > 1 and all(number % factor for factor in range(2, math.isqrt(number) + 1))


def _check_locality(report: Report, path: Path, setting: LocalityLoadBalancerSetting | None, *, outlier: bool) -> None:
    if setting is None:
        return
    for name, wire in (("failover", "failover"), ("failover_priority", "failoverPriority")):
        if setting.distribute and getattr(setting, name):
            report.refuse(path / wire, f"only one of distribute and {wire}", found=Found("both"))
    if setting.failover:
        for index, label in enumerate(setting.failover_priority):
            if label.partition("=")[0] in _TOPOLOGY:
                report.refuse((path / "failoverPriority").at(index), "no topology label beside failover")
    _check_distribute(report, path / "distribute", setting)
    _check_failover(report, path / "failover", setting.failover)
    _warn_without_outlier(report, path, bool(setting.failover or setting.failover_priority), outlier=outlier)


def _check_distribute(report: Report, path: Path, setting: LocalityLoadBalancerSetting) -> None:
    _check_localities(
        report,
        [(path.at(index) / "from", item.from_) for index, item in enumerate(setting.distribute)],
    )
    for index, item in enumerate(setting.distribute):
        targets = path.at(index) / "to"
        for locality, weight in item.to.items():
            if not 1 <= weight <= 100:
                report.refuse(targets.key(locality), "a share from 1 to 100")
        if sum(item.to.values()) != 100:
            report.refuse(targets, "shares that add up to 100", found=Found(f"a sum of {sum(item.to.values())}"))
        _check_localities(report, [(targets.key(locality), locality) for locality in item.to])


def _check_localities(report: Report, entries: Sequence[tuple[Path, str]]) -> None:
    """region[/zone[/subzone]], the last part may be `*`; none inside another."""
    accepted: list[tuple[str, ...]] = []
    for path, locality in entries:
        parts = tuple(locality.split("/"))
        if len(parts) > 3 or not all(parts) or any("*" in part for part in parts[:-1]) or "*" in parts[-1][:-1]:
            report.refuse(path, "region[/zone[/subzone]], with * only at the end", found=locality)
            continue
        bare = parts[:-1] if parts[-1] == "*" else parts
        if any(bare[: len(other)] == other or other[: len(bare)] == bare for other in accepted):
            report.refuse(path, "localities that do not overlap", found=locality)
        accepted.append(bare)


def _check_failover(report: Report, path: Path, failovers: Sequence[LocalityFailover]) -> None:
    for index, item in enumerate(failovers):
        if item.from_ == item.to:
            report.refuse(path.at(index) / "to", "a region other than from")
        for name, region in (("from", item.from_), ("to", item.to)):
            if "/" in region or "*" in region:
                report.refuse(path.at(index) / name, "a region, without zone and without *")


def _check_zone_aware(
    report: Report, path: Path, setting: ZoneAwareLoadBalancerSetting | None, *, outlier: bool
) -> None:
    if setting is None:
        return
    for index, label in enumerate(setting.failover_priority):
        if label.partition("=")[0] in _TOPOLOGY:
            report.refuse((path / "failoverPriority").at(index), "no topology label: zones are handled already")
    _check_failover(report, path / "failover", setting.failover)
    if setting.min_cluster_size == 0:
        report.refuse(path / "minClusterSize", "a number of at least 1")
    _warn_without_outlier(report, path, bool(setting.failover or setting.failover_priority), outlier=outlier)


def _warn_without_outlier(report: Report, path: Path, fails_over: bool, *, outlier: bool) -> None:
    if fails_over and not outlier:
        report.warn(path, "fails over only when outlierDetection stands beside it")


def _check_warmup(report: Report, path: Path, warmup: WarmupConfiguration | None) -> None:
    if warmup is None:
        return
    if warmup.duration is None:
        report.refuse(path / "duration", "how long the warm-up takes")
    check_duration(report, path / "duration", warmup.duration)
    check_percent(report, path / "minimumPercent", warmup.minimum_percent)
    if warmup.aggression is not None and warmup.aggression <= 0:
        report.refuse(path / "aggression", "a number above 0")
