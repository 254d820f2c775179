"""Outlier detection over any history of detections, sweeps, counts, checks and changes of hosts."""

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from agent.cluster.outlier_detection import OutlierDetector, Verdict
from agent.cluster.outlier_monitor import (
    CONSECUTIVE_5XX,
    CONSECUTIVE_GATEWAY_FAILURE,
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
    OutlierMonitor,
)
from agent.model.cluster import OutlierDetection
from tests.support.hosts import host

HOSTS = tuple("abcdefgh")
KINDS = (CONSECUTIVE_5XX, CONSECUTIVE_GATEWAY_FAILURE, CONSECUTIVE_LOCAL_ORIGIN_FAILURE)


@st.composite
def configs(draw: st.DrawFn) -> OutlierDetection:
    percents = st.sampled_from([0, 1, 10, 34, 50, 99, 100])
    base_s = draw(st.sampled_from([0.5, 3.0, 30.0]))
    return OutlierDetection(
        interval_s=draw(st.sampled_from([1.0, 10.0])),
        base_ejection_time_s=base_s,
        max_ejection_time_s=base_s * draw(st.sampled_from([1.0, 2.5, 10.0])),
        max_ejection_time_jitter_s=draw(st.sampled_from([0.0, 0.25, 5.0])),
        max_ejection_percent=draw(percents),
        always_eject_one_host=draw(st.booleans()),
        enforcing_consecutive_5xx=draw(percents),
        enforcing_consecutive_gateway_failure=draw(percents),
        enforcing_success_rate=draw(percents),
        enforcing_failure_percentage=draw(percents),
        success_rate_minimum_hosts=draw(st.integers(1, 5)),
        success_rate_request_volume=draw(st.integers(1, 20)),
        failure_percentage_minimum_hosts=draw(st.integers(1, 5)),
        failure_percentage_request_volume=draw(st.integers(1, 20)),
        successful_active_health_check_uneject_host=draw(st.booleans()),
    )


@dataclass(frozen=True)
class Detect:
    host: str
    kind: str


@dataclass(frozen=True)
class Count:
    host: str
    requests: int
    failed: int


@dataclass(frozen=True)
class Sweep:
    after_s: float


@dataclass(frozen=True)
class Healthy:
    host: str


@dataclass(frozen=True)
class Hosts:
    names: tuple[str, ...]


A_HOST = st.sampled_from(HOSTS)
EVENTS = st.lists(
    st.one_of(
        st.builds(Detect, A_HOST, st.sampled_from(KINDS)),
        st.builds(Count, A_HOST, st.integers(0, 50), st.integers(0, 50)),
        st.builds(Sweep, st.sampled_from([0.0, 1.0, 7.0, 100.0])),
        st.builds(Healthy, A_HOST),
        st.builds(Hosts, st.lists(A_HOST, max_size=8, unique=True).map(tuple)),
    ),
    max_size=60,
)
LUCK = st.floats(0, 1, exclude_max=True)


class Model:
    """Who is ejected, told by verdicts alone; each verdict is checked as it comes."""

    def __init__(self, config: OutlierDetection, luck: float) -> None:
        self.config = config
        self.luck = luck
        self.now = 1000.0
        self.hosts: tuple[str, ...] = ()
        self.ejected: dict[str, float] = {}  # until
        self.detector = OutlierDetector(config)
        self.play(Hosts(HOSTS[:5]))

    def rng(self) -> float:
        return self.luck

    def play(self, event: object) -> None:
        match event:
            case Detect(name, kind):
                verdict = self.detector.detected(name, kind, "", self.now, self.rng)
                assert (verdict is None) == (name in self.ejected or name not in self.hosts)
                self.check(verdict)
            case Count(name, requests, failed):
                self.detector.count(name, requests, max(requests - failed, 0))
            case Healthy(name):
                self.check(self.detector.healthy(name, self.now))
            case Sweep(after_s):
                self.now += after_s
                for verdict in self.detector.sweep(self.now, self.rng):
                    self.check(verdict)
                assert all(until > self.now for until in self.ejected.values()), "who is due is back after a sweep"
            case Hosts(names):
                self.hosts = names
                self.ejected = {name: until for name, until in self.ejected.items() if name in names}
                self.detector.set_hosts(names)
        assert self.detector.active == len(self.ejected)

    def check(self, verdict: Verdict | None) -> None:
        if verdict is None:
            return
        assert verdict.host in self.hosts
        if verdict.blocked_by:
            assert not verdict.ejected
            assert verdict.host not in self.ejected
            if verdict.blocked_by == "max_ejection_percent":
                assert not self.room()
        elif verdict.ejected:
            assert verdict.host not in self.ejected
            assert self.room()
            longest = self.config.max_ejection_time_s + self.config.max_ejection_time_jitter_s
            length = verdict.until - self.now
            assert self.config.base_ejection_time_s - 1e-6 <= length <= longest + 1e-6
            assert verdict.times >= 1
            self.ejected[verdict.host] = verdict.until
        else:
            del self.ejected[verdict.host]

    def room(self) -> bool:
        """Whether one more may be ejected."""
        after = len(self.ejected) + 1
        if 100 * after <= self.config.max_ejection_percent * len(self.hosts):
            return True
        return self.config.always_eject_one_host and after == 1


@given(config=configs(), events=EVENTS, luck=LUCK)
def test_any_history(config: OutlierDetection, events: list[object], luck: float) -> None:
    """Never above max_ejection_percent, but for one host; nobody twice; times within their bounds."""
    model = Model(config, luck)
    for event in events:
        model.play(event)


@given(config=configs(), events=EVENTS, luck=LUCK)
def test_everybody_comes_back(config: OutlierDetection, events: list[object], luck: float) -> None:
    """When nothing more is detected, sweeps over the longest time bring all hosts back, and all back-off goes."""
    model = Model(config, luck)
    for event in events:
        model.play(event)
    model.play(Sweep(0.0))  # what was counted is judged now
    model.play(Sweep(config.max_ejection_time_s + config.max_ejection_time_jitter_s + 1))
    assert model.ejected == {}
    for _ in range(math.ceil(config.max_ejection_time_s / config.base_ejection_time_s) + 2):
        model.play(Sweep(config.interval_s))
    for name in model.hosts:
        verdict = model.detector.detected(name, CONSECUTIVE_5XX, "", model.now, lambda: 0.0)
        if verdict is not None and verdict.ejected:
            assert verdict.times == 1
            assert verdict.until == model.now + config.base_ejection_time_s


@given(
    thresholds=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    split=st.booleans(),
    outcomes=st.lists(st.sampled_from(["ok", "connect", "reset", "timeout", 500, 502, 503, 504, 599]), max_size=40),
)
def test_the_monitor_counts_as_a_dumb_one(
    thresholds: tuple[int, int, int], split: bool, outcomes: list[str | int]
) -> None:
    """Against lists of what came since the last reset."""
    max_5xx, max_gateway, max_local = thresholds
    monitor = OutlierMonitor(
        OutlierDetection(
            consecutive_5xx=max_5xx,
            consecutive_gateway_failure=max_gateway,
            consecutive_local_origin_failure=max_local,
            split_external_local_origin_errors=split,
        )
    )
    member = host(1)
    runs: dict[str, int] = {
        "consecutive_5xx": 0,
        "consecutive_gateway_failure": 0,
        "consecutive_local_origin_failure": 0,
    }
    limits = dict(zip(runs, (max_5xx, max_gateway, max_local), strict=True))
    for outcome in outcomes:
        raised: list[str] = []
        fired: tuple[tuple[str, int], ...] = ()
        if outcome == "ok":
            monitor.answer_succeeded(member)
            runs["consecutive_5xx"] = runs["consecutive_gateway_failure"] = 0
        elif outcome == "connect":
            monitor.connected(member)
            if split:
                runs["consecutive_local_origin_failure"] = 0
        elif isinstance(outcome, str) and split:
            fired = monitor.local_failed(member, 503)
            raised = ["consecutive_local_origin_failure"]
        else:
            status = {"reset": 503, "timeout": 504}[outcome] if isinstance(outcome, str) else outcome
            local = isinstance(outcome, str)
            fired = monitor.local_failed(member, status) if local else monitor.answer_failed(member, status)
            raised = ["consecutive_5xx"]
            if status in (502, 503, 504):
                raised.insert(0, "consecutive_gateway_failure")
            else:
                runs["consecutive_gateway_failure"] = 0
        if outcome == "ok" or isinstance(outcome, int):
            runs["consecutive_local_origin_failure"] = 0  # an answer comes on a connection
        expected = []
        for kind in raised:
            runs[kind] += 1
            if runs[kind] == limits[kind]:
                expected.append((kind, runs[kind]))
                runs[kind] = 0
        assert list(fired) == expected
