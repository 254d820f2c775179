"""Rules of Bulkhead."""

from controlplane.policy.bulkhead import Bulkhead
from controlplane.policy.rules.circuit_breaker import check_count, check_share, check_target
from controlplane.policy.rules.fields import check_duration, check_export_to
from controlplane.policy.violations import Path, Report

MAX_CONCURRENT = 1_000_000
MAX_QUEUE = 10_000


def check_bulkhead(spec: Bulkhead, path: Path, report: Report) -> None:
    """Everything about one Bulkhead on its own."""
    check_target(report, path / "target", spec.target)
    check_count(report, path / "maxConcurrent", spec.max_concurrent, MAX_CONCURRENT)
    check_share(report, path / "sharePercent", spec.share_percent)
    if spec.queue is not None:
        queue = path / "queue"
        check_count(report, queue / "size", spec.queue.size, MAX_QUEUE)
        check_duration(report, queue / "maxWait", spec.queue.max_wait)
        if spec.queue.max_wait is not None and not spec.queue.size:
            report.refuse(queue / "size", "a size beside maxWait: nothing waits without room")
    check_export_to(report, path / "exportTo", spec.export_to)
