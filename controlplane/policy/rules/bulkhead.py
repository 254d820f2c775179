"""Rules of Bulkhead."""

from controlplane.policy.bulkhead import Bulkhead, Side
from controlplane.policy.rules.circuit_breaker import check_count, check_share, check_target
from controlplane.policy.rules.fields import check_duration, check_export_to, check_unique
from controlplane.policy.violations import Path, Report

MAX_CONCURRENT = 1_000_000
MAX_QUEUE = 10_000


def check_bulkhead(spec: Bulkhead, path: Path, report: Report) -> None:
    """Everything about one Bulkhead on its own."""
    check_target(report, path / "target", spec.target)
    _check_sides(spec, path, report)
    check_count(report, path / "maxConcurrent", spec.max_concurrent, MAX_CONCURRENT)
    check_share(report, path / "sharePercent", spec.share_percent)
    if spec.queue is not None:
        queue = path / "queue"
        check_count(report, queue / "size", spec.queue.size, MAX_QUEUE)
        check_duration(report, queue / "maxWait", spec.queue.max_wait)
        if spec.queue.max_wait is not None and not spec.queue.size:
            report.refuse(queue / "size", "a size beside maxWait: nothing waits without room")
    check_export_to(report, path / "exportTo", spec.export_to)


def _check_sides(spec: Bulkhead, path: Path, report: Report) -> None:
    sides = path / "enforceAt"
    check_unique(report, [sides.at(index) for index in range(len(spec.enforce_at))], spec.enforce_at, "a place")
    if Side.INBOUND in spec.sides and spec.effective_target.route:
        report.refuse(path / "target" / "route", "no route beside enforceAt INBOUND: only callers know it")
