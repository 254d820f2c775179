"""Both sides under one script of failing origins: Envoy's log of ejections, and the agent's decisions.

Owns:   the supervisor's part of outlier detection beside a bare worker, events of both in one form.
Not:    the scripts (test_over_time).
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.ipc.messages import EjectRequest
from agent.model.cluster import OutlierDetection
from agent.supervisor.detection import make_detector
from agent.supervisor.ejections import Decision, Detector, Ejections
from mesh.clock import SystemClock
from mesh.resilience.backoff import Rng
from tests.support.workers import Fed

TICK_S = 0.02
_TYPES = {
    "local_origin_success_rate": "success_rate_local_origin",
    "local_origin_failure_percentage": "failure_percentage_local_origin",
}


@dataclass(frozen=True, slots=True)
class Event:
    """`kind`: Envoy's type in lower case, "" for a return. `at`: seconds, by the clock of who has decided."""

    host: str
    kind: str
    enforced: bool
    at: float

    def __str__(self) -> str:
        return f"{self.kind}{'' if self.enforced else ' not enforced'}" if self.kind else "back"


class Recorder:
    """A detector whose decisions are noted, but for what max_ejection_percent forbids: Envoy logs none of that."""

    def __init__(self, inner: Detector, events: list[Event]) -> None:
        self._inner = inner
        self._events = events

    def set_hosts(self, hosts: Iterable[str]) -> None:
        self._inner.set_hosts(hosts)

    def eject(self, request: EjectRequest, now: float, rng: Rng) -> Decision | None:
        return self._noted(self._inner.eject(request, now, rng), now)

    def count(self, host: str, requests: int, successes: int) -> None:
        self._inner.count(host, requests, successes)

    def count_local(self, host: str, connected: int, failed: int) -> None:
        self._inner.count_local(host, connected, failed)

    def sweep(self, now: float, rng: Rng) -> tuple[Decision, ...]:
        decisions = self._inner.sweep(now, rng)
        for decision in decisions:
            self._noted(decision, now)
        return decisions

    def healthy(self, host: str, now: float) -> Decision | None:
        return self._noted(self._inner.healthy(host, now), now)

    def _noted(self, decision: Decision | None, now: float) -> Decision | None:
        if decision is not None and decision.blocked_by != "max_ejection_percent":
            kind = _TYPES.get(decision.reason, decision.reason)
            self._events.append(Event(decision.host, kind, not decision.blocked_by, now))
        return decision


class Overseer:
    """What the supervisor does for a worker's outlier detection. `counted`: statistics by name."""

    def __init__(self, worker: Fed) -> None:
        self.events: list[Event] = []
        self.counted: Counter[str] = Counter()
        self._gate = Ejections(
            self._make,
            tell=worker.set_ejected,
            changed=lambda: None,
            count=lambda name: self.counted.update((name,)),
            clock=SystemClock(),
            rng=random.random,
        )
        worker.on_request = self._gate.request
        worker.on_stats = lambda delta: self._gate.count(delta.hosts, delta.late)

    def _make(self, config: OutlierDetection) -> Detector:
        return Recorder(make_detector(config), self.events)

    def follow(self, clusters: Mapping[str, Any]) -> None:
        """Watch these clusters, which hold their hosts."""
        self._gate.follow(clusters, lambda name: clusters[name].static)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._gate.tick()
            await asyncio.sleep(TICK_S)


class EnvoyEvents:
    """Envoy's log of ejections, as far as `read` has read it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: list[Event] = []

    def read(self) -> None:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines[len(self.events) :]:
            found = json.loads(line)
            kind = found["type"].lower() if found["action"] == "EJECT" else ""
            at = datetime.fromisoformat(found["timestamp"]).timestamp()
            self.events.append(Event(found["upstream_url"], kind, found["enforced"] or not kind, at))


def of_host(events: Iterable[Event], port: int) -> list[Event]:
    """Those of one loopback host."""
    return [event for event in events if event.host == f"127.0.0.1:{port}"]
