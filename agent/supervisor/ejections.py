"""The one gate of outlier detection: workers ask, this decides for all of them, and says so to the control plane.

Owns:   a detector per cluster, who is told of verdicts, when sweeps are due, what is shown and reported.
Not:    the rules (agent.cluster.outlier_detection behind `Detector`), counting results (workers).
Source: data-plane.md 1.1; decision 3.
Invariants: every worker is told the same verdicts in the same order; a host that leaves its cluster takes its state
        with it; sweeps come at each cluster's own interval; a blocked detection is shown for BLOCKED_SHOWN_S.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.ipc.messages import EjectRequest
from agent.model.cluster import Cluster, LoadAssignment, OutlierDetection
from agent.model.reports import EjectedHost
from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.resilience.backoff import Rng
from mesh.vocabulary import HealthStatus

_log = get_logger(__name__)

BLOCKED_SHOWN_S = 30.0
_OLD_NAMES = frozenset({"consecutive_5xx", "success_rate"})
_UNFIT = frozenset({HealthStatus.UNHEALTHY, HealthStatus.TIMEOUT, HealthStatus.DRAINING})
HostRow = tuple[str, str, int, int, int, int]  # StatsDelta.hosts: cluster, host, requests, successes, errors, active
LateRow = tuple[str, str, int]  # StatsDelta.late: cluster, host, failures on a connection that was there


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a detector says about a host. `until`: monotonic, the earliest return; `blocked_by` "" = enforced."""

    host: str
    ejected: bool
    reason: str = ""
    detail: str = ""
    times: int = 0
    until: float = 0.0
    blocked_by: str = ""


class Detector(Protocol):
    """The outlier detection of one cluster. Times: monotonic seconds."""

    def set_hosts(self, hosts: Iterable[str]) -> None: ...
    def eject(self, request: EjectRequest, now: float, rng: Rng) -> Decision | None: ...
    def count(self, host: str, requests: int, successes: int) -> None: ...
    def count_local(self, host: str, connected: int, failed: int) -> None: ...
    def sweep(self, now: float, rng: Rng) -> tuple[Decision, ...]: ...
    def healthy(self, host: str, now: float) -> Decision | None: ...


MakeDetector = Callable[[OutlierDetection], Detector]
Tell = Callable[[str, str, bool], None]  # (cluster, host, ejected)


@dataclass(slots=True)
class _Watched:
    config: OutlierDetection
    detector: Detector
    next_sweep: float
    health: dict[str, HealthStatus]


class Ejections:
    """All clusters of this agent that have outlier detection."""

    def __init__(
        self,
        make: MakeDetector,
        *,
        tell: Tell,
        changed: Callable[[], None],
        count: Callable[[str], None],
        clock: Clock,
        rng: Rng,
    ) -> None:
        """`tell`: every worker; `changed`: what `ejections` gives is different; `count`: a statistic by name."""
        self._make = make
        self._tell = tell
        self._changed = changed
        self._count = count
        self._clock = clock
        self._rng = rng
        self._watched: dict[str, _Watched] = {}
        self._shown: dict[tuple[str, str], EjectedHost] = {}

    def ejections(self) -> tuple[EjectedHost, ...]:
        """Present ejections and lately blocked ones, by cluster and host."""
        return tuple(item for _, item in sorted(self._shown.items()))

    def active(self, cluster: str) -> int:
        """How many hosts of a cluster are ejected now."""
        return sum(1 for (name, _), item in self._shown.items() if name == cluster and item.enforced)

    # --- configuration ----------------------------------------------------------------------------------------

    def follow(self, clusters: Mapping[str, Cluster], assignment: Callable[[str], LoadAssignment | None]) -> None:
        """Watch exactly these clusters with their present hosts."""
        for name in [name for name in self._watched if name not in clusters]:
            self._forget(name)
        for name, cluster in clusters.items():
            if cluster.outlier_detection is None:
                self._forget(name)
                continue
            watched = self._watch(name, cluster.outlier_detection)
            found = assignment(name)
            self._set_hosts(name, watched, {e.key: e.health for e in found.endpoints} if found is not None else {})

    def _watch(self, name: str, config: OutlierDetection) -> _Watched:
        watched = self._watched.get(name)
        if watched is None or watched.config != config:
            self._forget(name)
            next_sweep = self._clock.monotonic() + config.interval_s
            watched = self._watched[name] = _Watched(config, self._make(config), next_sweep, {})
        return watched

    def _set_hosts(self, name: str, watched: _Watched, health: dict[str, HealthStatus]) -> None:
        before, watched.health = watched.health, health
        if before.keys() != health.keys():
            watched.detector.set_hosts(health)
            for host in [host for cluster, host in self._shown if cluster == name and host not in health]:
                self._take_back(name, host)
        for host, now_is in health.items():
            if before.get(host) in _UNFIT and now_is not in _UNFIT:
                self._apply(name, watched.detector.healthy(host, self._clock.monotonic()))

    def _forget(self, name: str) -> None:
        if self._watched.pop(name, None) is not None:
            for host in [host for cluster, host in self._shown if cluster == name]:
                self._take_back(name, host)

    # --- what happens -----------------------------------------------------------------------------------------

    def request(self, request: EjectRequest) -> None:
        """A worker's monitor has fired."""
        watched = self._watched.get(request.cluster)
        if watched is not None and request.host in watched.health:
            self._apply(request.cluster, watched.detector.eject(request, self._clock.monotonic(), self._rng))

    def count(self, rows: Iterable[HostRow], late: Iterable[LateRow] = ()) -> None:
        """What workers have counted, for success rates."""
        for cluster, host, requests, successes, errors, _ in rows:
            watched = self._watched.get(cluster)
            if watched is None or host not in watched.health:
                continue
            watched.detector.count(host, requests, successes)
            if watched.config.split_external_local_origin_errors:
                # An answer needs a connection; what is neither a success nor an answer is a failure without one.
                watched.detector.count_local(host, requests, errors - (requests - successes))
        for cluster, host, count in late:
            watched = self._watched.get(cluster)
            if watched is not None and host in watched.health:
                watched.detector.count_local(host, count, 0)

    def tick(self) -> None:
        """Sweep the clusters whose interval is over; drop blocked detections that have been shown long enough."""
        now = self._clock.monotonic()
        for name, watched in self._watched.items():
            if now >= watched.next_sweep:
                watched.next_sweep = now + watched.config.interval_s
                for decision in watched.detector.sweep(now, self._rng):
                    self._apply(name, decision)
        wall_ms = int(self._clock.wall() * 1000)
        over = [key for key, item in self._shown.items() if not item.enforced and item.until_ms <= wall_ms]
        for key in over:
            del self._shown[key]
        if over:
            self._changed()

    def _apply(self, cluster: str, decision: Decision | None) -> None:
        if decision is None:
            return
        if not decision.ejected and not decision.blocked_by:
            self._take_back(cluster, decision.host)
            return
        now, wall = self._clock.monotonic(), self._clock.wall()
        until = BLOCKED_SHOWN_S if decision.blocked_by else decision.until - now
        self._shown[cluster, decision.host] = EjectedHost(
            cluster=cluster,
            host=decision.host,
            reason=decision.reason,
            detail=decision.detail,
            times=decision.times,
            since_ms=int(wall * 1000),
            until_ms=int((wall + until) * 1000),
            enforced=not decision.blocked_by,
            blocked_by=decision.blocked_by,
        )
        self._note(cluster, decision)
        if not decision.blocked_by:
            self._tell(cluster, decision.host, True)
        self._changed()

    def _note(self, cluster: str, decision: Decision) -> None:
        prefix = f"cluster.{cluster.replace(':', '_')}.outlier_detection."
        self._count(f"{prefix}ejections_detected_{decision.reason}")
        if decision.reason in _OLD_NAMES:  # those that dashboards of before know
            self._count(f"{prefix}ejections_{decision.reason}")
            if decision.blocked_by != "max_ejection_percent":
                self._count(f"{prefix}ejections_total")
        if decision.blocked_by == "max_ejection_percent":
            self._count(f"{prefix}ejections_overflow")
        elif not decision.blocked_by:
            self._count(f"{prefix}ejections_enforced_total")
            self._count(f"{prefix}ejections_enforced_{decision.reason}")
        _log.warning(
            "host not ejected" if decision.blocked_by else "host ejected",
            cluster=cluster,
            host=decision.host,
            reason=decision.reason,
            detail=decision.detail,
            blocked_by=decision.blocked_by,
        )

    def _take_back(self, cluster: str, host: str) -> None:
        item = self._shown.pop((cluster, host), None)
        if item is None:
            return
        if item.enforced:
            _log.info("host is back", cluster=cluster, host=host)
            self._tell(cluster, host, False)
        self._changed()
