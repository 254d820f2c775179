"""Outlier detection, played from transcripts: a worker's monitor and the supervisor's detector joined together.

Commands (one a line; the output is what is decided, in order):
  cluster HOSTS... [SETTING=VALUE...]   a new cluster; settings are fields of agent.model.cluster.OutlierDetection
  hosts HOSTS...             the cluster's hosts from now on
  HOST STATUS...             a host answers; `reset`, `timeout` and `refused` are failures without an answer, `connect`
                             is a connection that is established
  count HOST REQUESTS SUCCESSES   more of this interval, for success rates
  local HOST CONNECTED FAILED     the same of connections and failures without an answer, when they are split
  healthy HOST               an active check has found it healthy
  sweep TIME                 the end of an interval; TIMEs are seconds and only grow
  luck NUMBER                what `rng` gives from now on (0.5 at first)
  state                      who is ejected, and the counts of failures in a row
"""

from pathlib import Path

import pytest

from agent.cluster.hosts import Host
from agent.cluster.outlier_detection import OutlierDetector, Verdict
from agent.cluster.outlier_monitor import OutlierMonitor
from agent.model.cluster import Endpoint, OutlierDetection
from tests.support import transcripts

HERE = Path(__file__).parent
LOCAL = {"reset": 503, "refused": 503, "timeout": 504}
LATE = {"reset", "timeout"}  # there was a connection


class Play:
    """One cluster, as one worker and the supervisor see it; a verdict reaches the worker at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.luck = 0.5
        self.hosts: dict[str, Host] = {}
        self.monitor = OutlierMonitor(OutlierDetection())
        self.detector = OutlierDetector(OutlierDetection())

    def execute(self, text: str) -> str:
        lines: list[str] = []
        for line in text.splitlines():
            verb, *words = line.split()
            if verb in self.hosts:
                lines += self._outcomes(self.hosts[verb], words)
            else:
                lines += getattr(self, f"do_{verb}")(words)
        return "\n".join(lines)

    def do_cluster(self, words: list[str]) -> list[str]:
        settings = {name: _value(value) for name, _, value in (word.partition("=") for word in words) if value}
        config = OutlierDetection(**settings)  # type: ignore[arg-type]
        self.monitor, self.detector = OutlierMonitor(config), OutlierDetector(config)
        self.hosts = {}
        return self.do_hosts([word for word in words if "=" not in word])

    def do_hosts(self, words: list[str]) -> list[str]:
        self.hosts = {name: self.hosts.get(name) or Host(Endpoint(address=name, port=1)) for name in words}
        self.detector.set_hosts(self.hosts)
        return []

    def do_luck(self, words: list[str]) -> list[str]:
        self.luck = float(words[0])
        return []

    def do_count(self, words: list[str]) -> list[str]:
        self.detector.count(words[0], int(words[1]), int(words[2]))
        return []

    def do_local(self, words: list[str]) -> list[str]:
        self.detector.count_local(words[0], int(words[1]), int(words[2]))
        return []

    def do_healthy(self, words: list[str]) -> list[str]:
        return self._told(self.detector.healthy(words[0], self.now))

    def do_sweep(self, words: list[str]) -> list[str]:
        self.now = float(words[0])
        return [line for verdict in self.detector.sweep(self.now, self._rng) for line in self._told(verdict)]

    def do_state(self, words: list[str]) -> list[str]:
        return [
            f"{name} {'ejected' if host.ejected else 'in use'}"
            f" 5xx={host.consecutive_5xx} gateway={host.consecutive_gateway} local={host.consecutive_local}"
            for name, host in self.hosts.items()
        ]

    def _outcomes(self, host: Host, words: list[str]) -> list[str]:
        lines: list[str] = []
        for word in words:
            if word == "connect":
                self.monitor.connected(host)
            elif word.isdigit() and int(word) < 500:
                self.monitor.answer_succeeded(host)
            else:
                status = LOCAL.get(word) or int(word)
                if word in LATE:
                    self.monitor.connected(host)
                failed = self.monitor.local_failed if word in LOCAL else self.monitor.answer_failed
                for kind, count in failed(host, status):
                    detail = f"{count} in a row"
                    lines += self._told(
                        self.detector.detected(host.endpoint.address, kind, detail, self.now, self._rng)
                    )
        return lines

    def _rng(self) -> float:
        return self.luck

    def _told(self, verdict: Verdict | None) -> list[str]:
        if verdict is None:
            return ["nothing"]
        cause = f"{verdict.reason} ({verdict.detail})"
        if verdict.blocked_by:
            return [f"{verdict.host} stays: {cause}, blocked by {verdict.blocked_by}"]
        host = self.hosts[verdict.host]
        host.ejected = verdict.ejected
        host.forget_failures()
        if not verdict.ejected:
            return [f"{verdict.host} is back"]
        return [f"{verdict.host} is ejected: {cause}, time {verdict.times}, until {verdict.until:g}"]


def _value(text: str) -> float | bool | int:
    if text in ("true", "false"):
        return text == "true"
    return float(text) if "." in text else int(text)


@pytest.mark.parametrize("path", transcripts.cases(HERE / "outlier_detection"), ids=lambda path: path.stem)
def test_outlier_detection(path: Path) -> None:
    transcripts.run(path, Play().execute)
