"""Outlier detection: which hosts of a cluster are ejected, and until when.

Owns:   the decision on every detection, the time of ejections and its growth, sweeps, success rate and failure
        percentage.
Not:    counting failures in a row (agent.cluster.outlier_monitor, in the workers), telling anybody, active checks.
Source: data-plane.md 1.1; envoy/config/cluster/v3/outlier_detection.proto.
Differs: a host is judged once per sweep; Envoy ejects one that is an outlier in two ways a second time.

              a detection that is allowed and enforced
   in use  ----------------------------------------------->  ejected
     ^                                                          |
     +---- sweep at or after `until`; active check healthy -----+

Invariants:
  ejected <= max(hosts * max_ejection_percent / 100, 1 if always_eject_one_host), but for hosts that leave
  until = last ejection + min(base * backoff, max) + jitter, backoff >= 1 while ejected
  backoff grows by one per ejection until base * backoff reaches max + base, and sinks by one at each sweep that finds
  the host in use for at least an interval, and leaves it in use
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from agent.cluster.outlier_monitor import (
    CONSECUTIVE_5XX,
    CONSECUTIVE_GATEWAY_FAILURE,
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
)
from agent.model.cluster import OutlierDetection
from mesh.resilience.backoff import Rng

SUCCESS_RATE = "success_rate"
FAILURE_PERCENTAGE = "failure_percentage"
LOCAL_ORIGIN_SUCCESS_RATE = "local_origin_success_rate"
LOCAL_ORIGIN_FAILURE_PERCENTAGE = "local_origin_failure_percentage"
MAX_EJECTION_PERCENT = "max_ejection_percent"
ENFORCING_PERCENT = "enforcing_percent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """On one host. `ejected` False and `blocked_by` "" = it is back; `blocked_by` = detected, but left in use.

    `times`: ejections since it last had no back-off left; `until`: monotonic seconds, the earliest return.
    """

    host: str
    ejected: bool
    reason: str = ""
    detail: str = ""
    times: int = 0
    until: float = 0.0
    blocked_by: str = ""


class _Record:
    """One host."""

    __slots__ = (
        "back_at",
        "backoff",
        "connected",
        "ejected",
        "ejected_at",
        "jitter_s",
        "requests",
        "successes",
        "times",
        "tries",
    )

    def __init__(self) -> None:
        self.ejected = False
        self.backoff = 0
        self.times = 0
        self.ejected_at = 0.0
        self.back_at = 0.0  # the last return
        self.jitter_s = 0.0
        self.requests = 0  # answers since the last sweep
        self.successes = 0
        self.tries = 0  # connections that were wanted or failed since then, when failures are split
        self.connected = 0


@dataclass(frozen=True, slots=True)
class _Rate:
    """A host with requests in the interval that ends; `percent` of them succeeded."""

    host: str
    percent: float
    requests: int


class OutlierDetector:
    """One cluster. Times are monotonic seconds; `rng` decides enforcing percents and jitter."""

    __slots__ = ("_active", "_config", "_enforcing", "_max_s", "_records")

    def __init__(self, config: OutlierDetection) -> None:
        self._config = config
        self._max_s = max(config.max_ejection_time_s, config.base_ejection_time_s)
        self._records: dict[str, _Record] = {}
        self._active = 0
        self._enforcing = {
            CONSECUTIVE_5XX: config.enforcing_consecutive_5xx,
            CONSECUTIVE_GATEWAY_FAILURE: config.enforcing_consecutive_gateway_failure,
            CONSECUTIVE_LOCAL_ORIGIN_FAILURE: config.enforcing_consecutive_local_origin_failure,
            SUCCESS_RATE: config.enforcing_success_rate,
            FAILURE_PERCENTAGE: config.enforcing_failure_percentage,
            LOCAL_ORIGIN_SUCCESS_RATE: config.enforcing_local_origin_success_rate,
            LOCAL_ORIGIN_FAILURE_PERCENTAGE: config.enforcing_failure_percentage_local_origin,
        }

    @property
    def active(self) -> int:
        """How many hosts are ejected."""
        return self._active

    def set_hosts(self, hosts: Iterable[str]) -> None:
        """Exactly these are in the cluster. One that leaves takes its state with it."""
        before = self._records
        self._records = {host: before.get(host) or _Record() for host in hosts}
        self._active = sum(record.ejected for record in self._records.values())

    def detected(self, host: str, reason: str, detail: str, now: float, rng: Rng) -> Verdict | None:
        """A host is an outlier. None: it is ejected already, or not of this cluster."""
        record = self._records.get(host)
        if record is None or record.ejected:
            return None
        blocked_by = self._blocked_by(reason, rng)
        if blocked_by:
            return Verdict(
                host=host, ejected=False, reason=reason, detail=detail, times=record.times, blocked_by=blocked_by
            )
        self._eject(record, now, rng)
        return Verdict(
            host=host, ejected=True, reason=reason, detail=detail, times=record.times, until=self._until(record)
        )

    def count(self, host: str, requests: int, successes: int) -> None:
        """Add what workers have counted since they last told."""
        record = self._records.get(host)
        if record is not None:
            record.requests += requests
            record.successes += successes

    def count_local(self, host: str, connected: int, failed: int) -> None:
        """The same where failures without an answer are split off: tries that had a connection, and failures without
        an answer, be it that there was none or that it came to nothing."""
        record = self._records.get(host)
        if record is not None:
            record.tries += connected + failed
            record.connected += connected

    def healthy(self, host: str, now: float) -> Verdict | None:
        """An active check has found the host healthy. None: that changes nothing."""
        record = self._records.get(host)
        if record is None or not record.ejected or not self._config.successful_active_health_check_uneject_host:
            return None
        return self._take_back(host, record, now)

    def sweep(self, now: float, rng: Rng) -> tuple[Verdict, ...]:
        """The end of an interval: returns that are due, then judgements of the interval's counts."""
        verdicts: list[Verdict] = []
        for host, record in self._records.items():
            if record.ejected and now >= self._until(record):
                verdicts.append(self._take_back(host, record, now))
        answers, tries = self._take_rates()
        verdicts += self._judge_success_rates(SUCCESS_RATE, answers, now, rng)
        verdicts += self._judge_failure_percentages(FAILURE_PERCENTAGE, answers, now, rng)
        verdicts += self._judge_success_rates(LOCAL_ORIGIN_SUCCESS_RATE, tries, now, rng)
        verdicts += self._judge_failure_percentages(LOCAL_ORIGIN_FAILURE_PERCENTAGE, tries, now, rng)
        for record in self._records.values():
            if not record.ejected:
                self._cool(record, now)
        return tuple(verdicts)

    # --- ejections ------------------------------------------------------------------------------------------------

    def _blocked_by(self, reason: str, rng: Rng) -> str:
        config = self._config
        allowed = 100 * (self._active + 1) <= config.max_ejection_percent * len(self._records)
        if not allowed and not (config.always_eject_one_host and not self._active):
            return MAX_EJECTION_PERCENT
        enforcing = self._enforcing[reason]
        if enforcing < 100 and rng() * 100 >= enforcing:
            return ENFORCING_PERCENT
        return ""

    def _eject(self, record: _Record, now: float, rng: Rng) -> None:
        config = self._config
        record.ejected = True
        record.ejected_at = now
        record.times += 1
        self._active += 1
        jitter_ms = int(config.max_ejection_time_jitter_s * 1000)
        record.jitter_s = int(rng() * (jitter_ms + 1)) / 1000 if jitter_ms else 0.0
        if record.backoff * config.base_ejection_time_s < self._max_s + config.base_ejection_time_s:
            record.backoff += 1

    def _take_back(self, host: str, record: _Record, now: float) -> Verdict:
        record.ejected = False
        record.back_at = now
        self._active -= 1
        return Verdict(host=host, ejected=False)

    def _until(self, record: _Record) -> float:
        ejected_s = min(self._config.base_ejection_time_s * record.backoff, self._max_s)
        return record.ejected_at + ejected_s + record.jitter_s

    def _cool(self, record: _Record, now: float) -> None:
        """A host that has been in use for an interval has its back-off lowered."""
        if record.backoff and now - record.back_at >= self._config.interval_s:
            record.backoff -= 1
            if not record.backoff:
                record.times = 0

    # --- rates ----------------------------------------------------------------------------------------------------

    def _take_rates(self) -> tuple[list[_Rate], list[_Rate]]:
        """The rates of the hosts in use, by answers and by connections; the next interval begins."""
        answers, tries = [], []
        for host, record in self._records.items():
            if record.requests > 0 and not record.ejected:
                answers.append(_Rate(host, 100.0 * record.successes / record.requests, record.requests))
            if record.tries > 0 and not record.ejected:
                tries.append(_Rate(host, 100.0 * record.connected / record.tries, record.tries))
            record.requests = record.successes = record.tries = record.connected = 0
        return answers, tries

    def _judge_success_rates(self, reason: str, rates: list[_Rate], now: float, rng: Rng) -> list[Verdict]:
        """Hosts whose rate is more than so many standard deviations under the average."""
        config = self._config
        judged = [rate for rate in rates if rate.requests >= config.success_rate_request_volume]
        if not judged or len(judged) < config.success_rate_minimum_hosts:
            return []
        average = sum(rate.percent for rate in judged) / len(judged)
        variance = sum((rate.percent - average) ** 2 for rate in judged) / len(judged)
        threshold = average - config.success_rate_stdev_factor / 1000 * sqrt(variance)
        verdicts = []
        for rate in judged:
            if rate.percent < threshold:
                detail = (
                    f"success rate {rate.percent:.1f} % of {rate.requests} requests, "
                    f"average {average:.1f} %, threshold {threshold:.1f} %"
                )
                verdicts.append(self.detected(rate.host, reason, detail, now, rng))
        return [verdict for verdict in verdicts if verdict is not None]

    def _judge_failure_percentages(self, reason: str, rates: list[_Rate], now: float, rng: Rng) -> list[Verdict]:
        """Hosts that failed too often by themselves."""
        config = self._config
        judged = [rate for rate in rates if rate.requests >= config.failure_percentage_request_volume]
        if not judged or len(judged) < config.failure_percentage_minimum_hosts:
            return []
        verdicts = []
        for rate in judged:
            failed = 100.0 - rate.percent
            if failed >= config.failure_percentage_threshold:
                detail = f"{failed:.1f} % of {rate.requests} requests failed"
                verdicts.append(self.detected(rate.host, reason, detail, now, rng))
        return [verdict for verdict in verdicts if verdict is not None]
