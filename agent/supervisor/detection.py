"""The detector behind agent.supervisor.ejections: the pure rules, in the words of that gate.

Owns:   the text of a worker's request, Verdict -> Decision.
Not:    the rules (agent.cluster.outlier_detection), who is told (agent.supervisor.ejections).
"""

from collections.abc import Iterable

from agent.cluster.outlier_detection import OutlierDetector, Verdict
from agent.cluster.outlier_monitor import (
    CONSECUTIVE_5XX,
    CONSECUTIVE_GATEWAY_FAILURE,
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
)
from agent.ipc.messages import EjectRequest
from agent.model.cluster import OutlierDetection
from agent.supervisor.ejections import Decision, Detector
from mesh.logs import get_logger
from mesh.resilience.backoff import Rng

_log = get_logger(__name__)

_FAILURES = {
    CONSECUTIVE_5XX: "5xx or failures to connect",
    CONSECUTIVE_GATEWAY_FAILURE: "gateway failures",
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE: "failures without an answer",
}


class ClusterDetector:
    """`agent.supervisor.ejections.Detector` of one cluster."""

    __slots__ = ("_rules",)

    def __init__(self, config: OutlierDetection) -> None:
        self._rules = OutlierDetector(config)

    def set_hosts(self, hosts: Iterable[str]) -> None:
        self._rules.set_hosts(hosts)

    def eject(self, request: EjectRequest, now: float, rng: Rng) -> Decision | None:
        """A worker's monitor has fired. None: nothing changes."""
        failures = _FAILURES.get(request.kind)
        if failures is None:
            _log.warning("unknown kind of detection", cluster=request.cluster, found=request.kind)
            return None
        detail = f"{request.count} {failures} in a row, the last was {request.last_status}"
        return _decision(self._rules.detected(request.host, request.kind, detail, now, rng))

    def count(self, host: str, requests: int, successes: int) -> None:
        self._rules.count(host, requests, successes)

    def count_local(self, host: str, connected: int, failed: int) -> None:
        self._rules.count_local(host, connected, failed)

    def sweep(self, now: float, rng: Rng) -> tuple[Decision, ...]:
        decisions = map(_decision, self._rules.sweep(now, rng))
        return tuple(decision for decision in decisions if decision is not None)

    def healthy(self, host: str, now: float) -> Decision | None:
        return _decision(self._rules.healthy(host, now))


def _decision(verdict: Verdict | None) -> Decision | None:
    if verdict is None:
        return None
    return Decision(
        host=verdict.host,
        ejected=verdict.ejected,
        reason=verdict.reason,
        detail=verdict.detail,
        times=verdict.times,
        until=verdict.until,
        blocked_by=verdict.blocked_by,
    )


def make_detector(config: OutlierDetection) -> Detector:
    """A detector without hosts yet."""
    return ClusterDetector(config)
