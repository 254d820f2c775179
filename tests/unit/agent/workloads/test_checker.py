"""The tasks that make the checks: one per checked service, following the registrations."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.settings import ServiceCheck, service
from agent.workloads import bypass, checker
from agent.workloads.checker import Checker
from agent.workloads.health import Outcome, Result
from agent.workloads.registry import PortPlan, Workloads
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import HealthStatus
from tests.support.clock import ManualClock


class Checks:
    """A checker whose checks end at once with what the test says, and how many are under way."""

    def __init__(self, folder: Path) -> None:
        plan = PortPlan(
            inbound_range=(20000, 20999),
            inbound_address="127.0.0.1",
            outbound_start=15100,
            outbound_address="127.0.0.1",
            reserved=frozenset(),
        )
        self.workloads = Workloads(
            folder, plan, clock=ManualClock(), on_change=lambda: None, in_use=lambda host, port: False
        )
        self.made: list[ServiceCheck] = []
        self.result = Result(Outcome.PASSED)
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.most = 0
        self.checker = Checker(self.workloads, make=self._make, rng=lambda: 0.0)
        self.task = spawn("checker", self.checker.run())

    async def _make(self, check: ServiceCheck) -> Result:
        self.made.append(check)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return self.result

    def register(self, name: str, *, interval: str = "10ms", kind: str = "tcp") -> None:
        target = {"tcp": "127.0.0.1:1", "http": "http://127.0.0.1:1/", "ttl": "1h"}[kind]
        table = {"name": name, "port": 3001, "check": {kind: target, "interval": interval}}
        self.workloads.register(service(table, "service"))
        self.checker.follow()

    def health(self, name: str) -> HealthStatus:
        return self.workloads.services[f"{name}-3001"].health.status

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - tasks of the checker bring it about
                await asyncio.sleep(0.005)


@pytest.fixture
async def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Checks]:
    monkeypatch.setattr(bypass, "exposed_ports", lambda: frozenset({3001}))
    monkeypatch.setattr(checker, "SWEEP_S", 0.01)
    made = Checks(tmp_path)
    yield made
    await cancel_and_wait(made.task)
    assert made.running == 0, "the checks under way end with the checker"


async def test_a_service_is_checked_again_and_again_and_its_health_follows(checks: Checks) -> None:
    checks.register("a")
    await checks.until(lambda: len(checks.made) >= 3 and checks.health("a") is HealthStatus.HEALTHY)
    checks.result = Result(Outcome.REFUSED, "answered 503")
    await checks.until(lambda: checks.health("a") is HealthStatus.UNHEALTHY)


async def test_a_check_never_overlaps_the_one_before(checks: Checks) -> None:
    checks.gate.clear()
    checks.register("a", interval="1ms")
    await checks.until(lambda: checks.running == 1)
    await asyncio.sleep(0.05)
    assert (checks.most, len(checks.made)) == (1, 1)


async def test_many_services_are_not_checked_all_at_once(checks: Checks) -> None:
    checks.gate.clear()
    for number in range(checker.CONCURRENT + 10):
        checks.register(f"s{number}")
    await checks.until(lambda: checks.running == checker.CONCURRENT)
    await asyncio.sleep(0.05)
    assert checks.most == checker.CONCURRENT
    checks.gate.set()
    await checks.until(lambda: all(item.health.healthy for item in checks.workloads.services.values()))


async def test_a_service_that_leaves_is_checked_no_more(checks: Checks) -> None:
    checks.gate.clear()
    checks.register("a")
    await checks.until(lambda: checks.running == 1)
    checks.workloads.deregister("a-3001")
    await checks.until(lambda: checks.running == 0)
    checks.gate.set()
    count = len(checks.made)
    await asyncio.sleep(0.05)
    assert len(checks.made) == count


async def test_another_check_takes_the_place_of_the_one_before(checks: Checks) -> None:
    checks.register("a")
    await checks.until(lambda: checks.health("a") is HealthStatus.HEALTHY)
    checks.gate.clear()
    checks.register("a", kind="http")
    await checks.until(lambda: bool(checks.made[-1].http))
    assert checks.health("a") is HealthStatus.UNHEALTHY, "not checked yet"
    checks.gate.set()
    await checks.until(lambda: checks.health("a") is HealthStatus.HEALTHY)


async def test_a_time_to_live_check_is_not_made_here(checks: Checks) -> None:
    checks.register("a", kind="ttl")
    await checks.until(lambda: checks.workloads.services["a-3001"].bypass_possible)
    assert checks.made == []


async def test_bypasses_are_noted_while_it_runs(checks: Checks) -> None:
    checks.register("a")
    await checks.until(lambda: checks.workloads.services["a-3001"].bypass_possible)
