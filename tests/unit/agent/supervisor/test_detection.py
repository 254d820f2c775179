"""The detector behind the supervisor's gate, asked as agent.supervisor.ejections asks it."""

from agent.cluster.outlier_monitor import OutlierMonitor
from agent.ipc.messages import EjectRequest
from agent.model.cluster import Cluster, LoadAssignment, OutlierDetection
from agent.supervisor.detection import make_detector
from agent.supervisor.ejections import Ejections
from mesh.vocabulary import HealthStatus
from tests.support.clock import ManualClock
from tests.support.hosts import endpoint, host


class Gate:
    """An Ejections gate with the real detector and what it told."""

    def __init__(self, hosts: int, config: OutlierDetection) -> None:
        self.clock = ManualClock()
        self.told: list[tuple[str, bool]] = []
        self.counted: dict[str, int] = {}
        self.hosts = {endpoint(number).key: host(number) for number in range(1, hosts + 1)}
        self._cluster = Cluster(name="c", outlier_detection=config)
        self.monitor = OutlierMonitor(config)
        self.gate = Ejections(
            make_detector,
            tell=self._tell,
            changed=lambda: None,
            count=self._count,
            clock=self.clock,
            rng=lambda: 0.999,
        )
        self.follow(*(endpoint(number) for number in range(1, hosts + 1)))

    def follow(self, *endpoints: object) -> None:
        assignment = LoadAssignment(cluster="c", endpoints=endpoints)  # type: ignore[arg-type]
        self.gate.follow({"c": self._cluster}, lambda _: assignment)

    def _tell(self, cluster: str, key: str, ejected: bool) -> None:
        self.told.append((key, ejected))
        self.hosts[key].ejected = ejected

    def _count(self, name: str) -> None:
        short = name.removeprefix("cluster.c.outlier_detection.")
        self.counted[short] = self.counted.get(short, 0) + 1

    def errors(self, count: int) -> None:
        """So many 500 in turn over the hosts that are in use, or over all when none is (panic)."""
        for turn in range(count):
            usable = [member for member in self.hosts.values() if not member.ejected] or list(self.hosts.values())
            member = usable[turn % len(usable)]
            for kind, failures in self.monitor.answer_failed(member, 500):
                self.gate.request(EjectRequest("c", member.key, kind, failures, 500))


def test_as_recorded_from_envoy() -> None:
    """Source: golden_t5_outlier_cb.txt: ten 500 to clusters of two hosts or one, threshold 3."""
    base = {"consecutive_5xx": 3, "interval_s": 1.0, "base_ejection_time_s": 3.0}
    two = Gate(2, OutlierDetection(**base))  # type: ignore[arg-type]
    two.errors(10)
    assert two.counted == {
        "ejections_consecutive_5xx": 2,
        "ejections_detected_consecutive_5xx": 2,
        "ejections_overflow": 2,
    }
    one = Gate(1, OutlierDetection(**base, max_ejection_percent=100))  # type: ignore[arg-type]
    one.errors(10)
    assert one.counted == {
        "ejections_consecutive_5xx": 1,
        "ejections_total": 1,
        "ejections_detected_consecutive_5xx": 1,
        "ejections_enforced_total": 1,
        "ejections_enforced_consecutive_5xx": 1,
    }
    for settings in ({"max_ejection_percent": 50}, {"always_eject_one_host": True}):
        gate = Gate(2, OutlierDetection(**base, **settings))  # type: ignore[arg-type]
        gate.errors(10)
        assert gate.counted == {
            "ejections_consecutive_5xx": 3,
            "ejections_total": 1,
            "ejections_detected_consecutive_5xx": 3,
            "ejections_enforced_total": 1,
            "ejections_enforced_consecutive_5xx": 1,
            "ejections_overflow": 2,
        }
        gate.clock.advance(5)
        gate.gate.tick()
        assert gate.told == [("10.0.0.1:80", True), ("10.0.0.1:80", False)]
        assert gate.gate.active("c") == 0


def test_the_report_says_why_and_until_when() -> None:
    gate = Gate(2, OutlierDetection(consecutive_5xx=3, max_ejection_percent=50, base_ejection_time_s=30.0))
    gate.errors(10)
    first, second = gate.gate.ejections()
    wall_ms = int(gate.clock.wall() * 1000)
    assert (first.host, first.enforced, first.times) == ("10.0.0.1:80", True, 1)
    assert (first.reason, first.detail) == (
        "consecutive_5xx",
        "3 5xx or failures to connect in a row, the last was 500",
    )
    assert (first.since_ms, first.until_ms) == (wall_ms, wall_ms + 30_000)
    assert (second.enforced, second.blocked_by) == (False, "max_ejection_percent")


def test_a_success_rate_ejects_at_the_sweep() -> None:
    gate = Gate(5, OutlierDetection(max_ejection_percent=100))
    gate.gate.count(("c", key, 100, 0 if key == "10.0.0.3:80" else 100, 0, 0) for key in gate.hosts)
    gate.clock.advance(10)
    gate.gate.tick()
    assert gate.told == [("10.0.0.3:80", True)]
    assert gate.counted["ejections_enforced_success_rate"] == 1


def test_an_active_check_that_turns_healthy_brings_the_host_back() -> None:
    gate = Gate(1, OutlierDetection(consecutive_5xx=1, max_ejection_percent=100))
    gate.errors(1)
    gate.follow(endpoint(1, health=HealthStatus.UNHEALTHY))
    assert gate.told == [("10.0.0.1:80", True)]
    gate.follow(endpoint(1, health=HealthStatus.HEALTHY))
    assert gate.told == [("10.0.0.1:80", True), ("10.0.0.1:80", False)]


def test_a_kind_that_nobody_knows_is_refused() -> None:
    gate = Gate(1, OutlierDetection(max_ejection_percent=100))
    gate.gate.request(EjectRequest("c", "10.0.0.1:80", "consecutive_nonsense", 1, 500))
    assert gate.told == []
    assert gate.gate.ejections() == ()
