"""The one gate of outlier detection: every worker is told the same, and what is shown says why."""

from collections.abc import Callable, Iterable

from agent.ipc.messages import EjectRequest
from agent.model.cluster import Cluster, Endpoint, LoadAssignment, OutlierDetection
from agent.supervisor.ejections import BLOCKED_SHOWN_S, Decision, Ejections
from mesh.vocabulary import HealthStatus
from tests.support.clock import ManualClock

A, B = "10.0.0.1:80", "10.0.0.2:80"
CONFIG = OutlierDetection(interval_s=10, base_ejection_time_s=30)


class Detector:
    """Ejects whom it is asked to, one host at most; its sweep lets everybody back after base_ejection_time."""

    def __init__(self, config: OutlierDetection) -> None:
        self.config = config
        self.hosts: set[str] = set()
        self.until: dict[str, float] = {}
        self.counted: list[tuple[str, int, int]] = []
        self.local: list[tuple[str, int, int]] = []
        self.sweeps = 0

    def set_hosts(self, hosts: Iterable[str]) -> None:
        self.hosts = set(hosts)
        self.until = {host: until for host, until in self.until.items() if host in self.hosts}

    def eject(self, request: EjectRequest, now: float, rng: Callable[[], float]) -> Decision | None:
        if request.host in self.until:
            return None
        fields = {
            "host": request.host,
            "reason": request.kind,
            "detail": f"{request.count} times {request.last_status}",
        }
        if self.until:
            return Decision(ejected=False, blocked_by="max_ejection_percent", **fields)
        self.until[request.host] = now + self.config.base_ejection_time_s
        return Decision(ejected=True, times=1, until=self.until[request.host], **fields)

    def count(self, host: str, requests: int, successes: int) -> None:
        self.counted.append((host, requests, successes))

    def count_local(self, host: str, connected: int, failed: int) -> None:
        self.local.append((host, connected, failed))

    def sweep(self, now: float, rng: Callable[[], float]) -> tuple[Decision, ...]:
        self.sweeps += 1
        back = [host for host, until in self.until.items() if now >= until]
        for host in back:
            del self.until[host]
        return tuple(Decision(host=host, ejected=False) for host in back)

    def healthy(self, host: str, now: float) -> Decision | None:
        return Decision(host=host, ejected=False) if self.until.pop(host, None) is not None else None


class Gate:
    """Ejections over fake detectors, with what they said."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.detectors: list[Detector] = []
        self.told: list[tuple[str, str, bool]] = []
        self.changes = 0
        self.counts: dict[str, int] = {}
        self.gate = Ejections(
            self._make, tell=lambda *verdict: self.told.append(verdict), changed=self._changed, count=self._count,
            clock=self.clock, rng=lambda: 0.5,
        )  # fmt: skip

    def _make(self, config: OutlierDetection) -> Detector:
        self.detectors.append(Detector(config))
        return self.detectors[-1]

    def _changed(self) -> None:
        self.changes += 1

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def follow(self, *hosts: str, config: OutlierDetection | None = CONFIG, **health: HealthStatus) -> None:
        """One cluster `c|1` of these hosts; `health` by the last octet, for example h1=UNHEALTHY."""
        endpoints = tuple(
            Endpoint(
                address=host.partition(":")[0],
                port=80,
                health=health.get(f"h{host.partition(':')[0][-1]}", HealthStatus.HEALTHY),
            )
            for host in hosts
        )
        cluster = Cluster(name="c:1", outlier_detection=config)
        self.gate.follow({"c:1": cluster}, lambda name: LoadAssignment(cluster=name, endpoints=endpoints))

    def request(self, host: str, cluster: str = "c:1") -> None:
        self.gate.request(
            EjectRequest(cluster=cluster, host=host, kind="consecutive_5xx", count=5, last_status=503)
        )  # fmt: skip


def test_an_ejection_is_told_shown_and_counted() -> None:
    gate = Gate()
    gate.follow(A, B)
    gate.request(A)
    assert gate.told == [("c:1", A, True)]
    (shown,) = gate.gate.ejections()
    assert (shown.cluster, shown.host, shown.reason, shown.detail) == ("c:1", A, "consecutive_5xx", "5 times 503")
    assert shown.enforced
    assert shown.until_ms - shown.since_ms == 30_000
    assert gate.gate.active("c:1") == 1
    assert gate.changes == 1
    assert gate.counts == {
        "cluster.c_1.outlier_detection.ejections_detected_consecutive_5xx": 1,
        "cluster.c_1.outlier_detection.ejections_consecutive_5xx": 1,
        "cluster.c_1.outlier_detection.ejections_total": 1,
        "cluster.c_1.outlier_detection.ejections_enforced_total": 1,
        "cluster.c_1.outlier_detection.ejections_enforced_consecutive_5xx": 1,
    }
    gate.request(A)
    assert len(gate.told) == 1, "it is out already"


def test_it_comes_back_with_the_sweep() -> None:
    gate = Gate()
    gate.follow(A, B)
    gate.request(A)
    gate.clock.advance(29)
    gate.gate.tick()
    assert gate.gate.active("c:1") == 1
    gate.clock.advance(2)
    gate.gate.tick()
    assert gate.gate.active("c:1") == 1, "the next sweep is not due yet"
    gate.clock.advance(10)
    gate.gate.tick()
    assert gate.told == [("c:1", A, True), ("c:1", A, False)]
    assert gate.gate.ejections() == ()


def test_sweeps_come_at_the_clusters_interval() -> None:
    gate = Gate()
    gate.follow(A)
    for _ in range(35):
        gate.clock.advance(1)
        gate.gate.tick()
    assert gate.detectors[0].sweeps == 3


def test_a_blocked_ejection_is_shown_for_a_while_and_never_told() -> None:
    gate = Gate()
    gate.follow(A, B)
    gate.request(A)
    gate.request(B)
    assert gate.told == [("c:1", A, True)]
    shown = {item.host: item for item in gate.gate.ejections()}
    assert (shown[B].enforced, shown[B].blocked_by) == (False, "max_ejection_percent")
    assert gate.gate.active("c:1") == 1
    assert gate.counts["cluster.c_1.outlier_detection.ejections_overflow"] == 1
    gate.clock.advance(BLOCKED_SHOWN_S + 1)
    gate.gate.tick()
    assert B not in {item.host for item in gate.gate.ejections()}


def test_unknown_hosts_and_clusters_are_nobodys_business() -> None:
    gate = Gate()
    gate.follow(A)
    gate.request("10.0.0.9:80")
    gate.request(A, cluster="other")
    gate.gate.count([("c:1", A, 5, 4, 0, 1), ("c:1", "10.0.0.9:80", 1, 1, 0, 0), ("other", A, 1, 1, 0, 0)])
    assert gate.told == []
    assert gate.detectors[0].counted == [(A, 5, 4)]


def test_a_host_that_leaves_takes_its_ejection_with_it() -> None:
    gate = Gate()
    gate.follow(A, B)
    gate.request(A)
    gate.follow(B)
    assert gate.told[-1] == ("c:1", A, False), "should it return, it is not out"
    assert gate.gate.ejections() == ()


def test_a_new_configuration_begins_anew_and_the_same_does_not() -> None:
    gate = Gate()
    gate.follow(A, B)
    gate.request(A)
    gate.follow(A, B)
    assert gate.gate.active("c:1") == 1
    gate.follow(A, B, config=OutlierDetection(consecutive_5xx=9))
    assert gate.told[-1] == ("c:1", A, False)
    gate.request(A)
    gate.follow(A, B, config=None)
    assert gate.told[-1] == ("c:1", A, False)
    assert gate.gate.ejections() == ()


def test_health_checks_that_pass_again_bring_a_host_back() -> None:
    gate = Gate()
    gate.follow(A, B)
    gate.request(A)
    gate.follow(A, B, h1=HealthStatus.UNHEALTHY)
    assert gate.gate.active("c:1") == 1
    gate.follow(A, B, h1=HealthStatus.HEALTHY)
    assert gate.told[-1] == ("c:1", A, False)


def test_split_failures_are_counted_by_connection() -> None:
    """Of 10 tries 6 had an answer, 4 of them a good one; of the other 4 one had got a connection."""
    split = OutlierDetection(split_external_local_origin_errors=True)
    gate = Gate()
    gate.follow(A, config=split)
    gate.gate.count([("c:1", A, 6, 4, 6, 0), ("other", A, 1, 1, 0, 0)], [("c:1", A, 1), ("c:1", B, 1)])
    assert gate.detectors[0].counted == [(A, 6, 4)]
    assert gate.detectors[0].local == [(A, 6, 4), (A, 1, 0)]
    plain = Gate()
    plain.follow(A)
    plain.gate.count([("c:1", A, 6, 4, 2, 0)])
    assert plain.detectors[0].local == []
