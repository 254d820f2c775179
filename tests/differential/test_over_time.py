"""Ejection, growth and panic: both under the same script of failing origins.

Every scenario has a cluster and origins of its own and runs on both sides, all of them at once: a script sends requests
at a steady pace while some of the origins fail, and what came of it is compared. Times count as order and ratio only.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mesh.tasks import cancel_and_wait, spawn
from mesh.xds import type_url
from tests.differential.overseer import EnvoyEvents, Event, Overseer, of_host
from tests.differential.pair import AgentSide, EnvoySide, World
from tests.support import decoding
from tests.support.decoding import Json
from tests.support.numbered_origins import NumberedOrigins, numbered_origins
from tests.support.workers import running_worker

PACE_S = 0.01
GROWTH_BASE_S = 0.5
FAILS, RESETS, REFUSES = 500, 0, -2


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`failing`: what the first hosts do, the others answer 200. `requests`: how many each side is sent.

    `well_at`: before this one the first host is well again.
    """

    detection: Json
    failing: tuple[int, ...] = (FAILS,)
    hosts: int = 3
    requests: int = 120
    well_at: int = -1
    common: Json = field(default_factory=dict)


def rates(**detection: Any) -> Json:
    """Judged by rates alone, at the first sweep that has seen enough."""
    return {
        "interval": "1.5s", "consecutive_5xx": 0, "consecutive_local_origin_failure": 0,
        "success_rate_request_volume": 8, "failure_percentage_request_volume": 8, "max_ejection_percent": 100,
        "base_ejection_time": "30s", **detection,
    }  # fmt: skip


def in_a_row(**detection: Any) -> Json:
    return {"consecutive_5xx": 3, "max_ejection_percent": 100, "base_ejection_time": "30s", **detection}


# What one success rate has ejected, Envoy would judge, and count, a second time.
UNSEEN = {"failure_percentage_request_volume": 100_000}
SPLIT = {"split_external_local_origin_errors": True}
GATEWAY = {"enforcing_consecutive_gateway_failure": 100}
SCENARIOS: dict[str, Scenario] = {
    "5xx": Scenario(detection=in_a_row()),
    "below the threshold": Scenario(detection=in_a_row(consecutive_5xx=1000)),
    "gateway, detected only": Scenario(
        detection=in_a_row(consecutive_5xx=0, consecutive_gateway_failure=4), failing=(503,), requests=30
    ),
    "gateway": Scenario(
        detection=in_a_row(consecutive_5xx=0, consecutive_gateway_failure=4, **GATEWAY), failing=(502,)
    ),
    "500 is no gateway failure": Scenario(
        detection=in_a_row(consecutive_5xx=0, consecutive_gateway_failure=3, **GATEWAY)
    ),
    "resets are 5xx": Scenario(detection=in_a_row(), failing=(RESETS,)),
    "refusals are 5xx": Scenario(detection=in_a_row(), failing=(REFUSES,)),
    "split, refusals": Scenario(
        detection=in_a_row(**SPLIT, consecutive_5xx=0, consecutive_local_origin_failure=3), failing=(REFUSES,)
    ),
    "split, resets are never in a row": Scenario(
        detection=in_a_row(**SPLIT, consecutive_local_origin_failure=2), failing=(RESETS,)
    ),
    "split, 5xx": Scenario(detection=in_a_row(**SPLIT)),
    "success rate": Scenario(detection=rates(**UNSEEN), hosts=5, requests=300),
    "failure percentage": Scenario(
        detection=rates(enforcing_failure_percentage=100, enforcing_success_rate=0), hosts=5, requests=300
    ),
    "split, success rate of refusals": Scenario(
        detection=rates(**SPLIT, **UNSEEN), failing=(REFUSES,), hosts=5, requests=300
    ),
    "split, success rate of resets": Scenario(detection=rates(**SPLIT), failing=(RESETS,), hosts=5, requests=300),
    "split, failure percentage of refusals": Scenario(
        detection=rates(
            **SPLIT, enforcing_local_origin_success_rate=0, enforcing_failure_percentage_local_origin=100
        ),
        failing=(REFUSES,),
        hosts=5,
        requests=300,
    ),
    "too few are allowed": Scenario(
        detection=in_a_row(max_ejection_percent=40), failing=(FAILS, FAILS, FAILS), hosts=5
    ),
    "none is allowed": Scenario(detection=in_a_row(max_ejection_percent=10)),
    "one always": Scenario(
        detection=in_a_row(max_ejection_percent=0, always_eject_one_host=True), failing=(FAILS, FAILS, FAILS)
    ),
    "panic": Scenario(detection=in_a_row(), failing=(FAILS, FAILS), hosts=2),
    "no panic": Scenario(
        detection=in_a_row(), failing=(FAILS, FAILS), hosts=2,
        common={"healthy_panic_threshold": {"value": 0}},
    ),
    "growth": Scenario(
        detection=in_a_row(
            interval="0.5s", base_ejection_time=f"{GROWTH_BASE_S}s", max_ejection_time=f"{3 * GROWTH_BASE_S}s"
        ),
        requests=620,
    ),
    "judged twice": Scenario(detection=rates(), hosts=5, requests=300),
    "two at a time": Scenario(
        detection=in_a_row(), failing=(FAILS, FAILS), hosts=5, common={"update_merge_window": "1s"}
    ),
    "back and well": Scenario(detection=in_a_row(interval="0.3s", base_ejection_time="0.6s"), requests=260, well_at=30),
}  # fmt: skip


@dataclass
class Trace:
    """What one side did: `asked` counts each host's tries, `statuses` the client's answers, in their order."""

    events: list[list[Event]]
    asked: Counter[int]
    last_asked: Counter[int]
    statuses: list[int]
    stats: dict[str, int]

    @property
    def kinds(self) -> list[list[str]]:
        """The events of each host in words."""
        return [[str(event) for event in of_one] for of_one in self.events]


class Both:
    """Both sides with all scenarios' clusters; `traces` by scenario: (Envoy's, the agent's)."""

    def __init__(self, envoy: EnvoySide, agent: AgentSide, overseer: Overseer, events: EnvoyEvents) -> None:
        self.envoy = envoy
        self.agent = agent
        self.overseer = overseer
        self.events = events
        self.traces: dict[str, tuple[Trace, Trace]] = {}

    async def play(self, name: str, sides: tuple["Origins", "Origins"]) -> None:
        scenario = SCENARIOS[name]
        found = await asyncio.gather(
            self._play(scenario, name, sides[0], self.envoy), self._play(scenario, name, sides[1], self.agent)
        )
        await asyncio.sleep(0.2)
        self.events.read()
        stats = (self.envoy.stats(f"cluster.{domain_of(name)}."), self._agent_stats(domain_of(name)))
        traces = []
        for (origins, statuses, half), events, own in zip(
            found, (self.events.events, self.overseer.events), stats, strict=True
        ):
            asked, later = Counter(origins.asked), Counter(origins.asked[half:])
            traces.append(Trace([of_host(events, port) for port in origins.ports], asked, later, statuses, own))
        self.traces[name] = (traces[0], traces[1])

    async def _play(
        self, scenario: Scenario, name: str, origins: "Origins", side: EnvoySide | AgentSide
    ) -> tuple["Origins", list[int], int]:
        """(the origins, what the client was answered, how many requests they had in the first half)."""
        statuses = []
        half = 0
        for number in range(scenario.requests):
            if number == scenario.requests // 2:
                half = len(origins.asked)
            if number == scenario.well_at:
                origins.inner.statuses[0] = 200
            statuses.append((await origins.inner.answer_of(side.ports["http"], domain_of(name))).status)
            await asyncio.sleep(PACE_S)
        return origins, statuses, half

    def _agent_stats(self, domain: str) -> dict[str, int]:
        return {**self.agent.stats(f"cluster.{domain}."), **self.overseer.counted}


class Origins:
    """The hosts of one scenario for one side, each side its own: nobody may wait for the other."""

    def __init__(self, inner: NumberedOrigins, refusing: list[socket.socket]) -> None:
        self.inner = inner
        self.ports = [sock.getsockname()[1] for sock in refusing] + inner.ports
        self._offset = len(refusing)

    @property
    def asked(self) -> list[int]:
        return [number + self._offset for number in self.inner.asked]


@asynccontextmanager
async def origins_of(scenario: Scenario) -> AsyncIterator[Origins]:
    refuse = scenario.failing.count(REFUSES)
    with AsyncExitStackOfSockets(refuse) as refusing:
        async with numbered_origins(scenario.hosts - refuse) as inner:
            for number, status in enumerate(status for status in scenario.failing if status != REFUSES):
                inner.statuses[number] = status
            yield Origins(inner, refusing)


class AsyncExitStackOfSockets:
    """Sockets that are bound and never listen: connections to them are refused."""

    def __init__(self, count: int) -> None:
        self._sockets = [socket.socket() for _ in range(count)]

    def __enter__(self) -> list[socket.socket]:
        for sock in self._sockets:
            sock.bind(("127.0.0.1", 0))
        return self._sockets

    def __exit__(self, *error: object) -> None:
        for sock in self._sockets:
            sock.close()


def domain_of(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def world(sides: dict[str, Origins]) -> World:
    clusters, hosts = [], []
    for name, origins in sides.items():
        scenario, domain = SCENARIOS[name], domain_of(name)
        endpoints = [decoding.lb_endpoint("127.0.0.1", port) for port in origins.ports]
        clusters.append(
            {
                "name": domain, "type": "STATIC", "connect_timeout": "1s", "outlier_detection": scenario.detection,
                "load_assignment": {"cluster_name": domain, "endpoints": [{"lb_endpoints": endpoints}]},
                # Envoy would let a second ejection wait for up to a second.
                "common_lb_config": {"update_merge_window": "0s", **scenario.common},
            }
        )  # fmt: skip
        hosts.append(decoding.host(decoding.route({"cluster": domain}), name=domain, domains=[domain]))
    return World(routes={"r": {"virtual_hosts": hosts}}, clusters=tuple(clusters))


async def all_traces(folder: Path) -> dict[str, tuple[Trace, Trace]]:
    """Play every scenario."""
    async with AsyncExitStack() as stack:
        sides: list[dict[str, Origins]] = [{}, {}]
        for name, scenario in SCENARIOS.items():
            for own in sides:
                own[name] = await stack.enter_async_context(origins_of(scenario))
        envoy = EnvoySide(folder, world(sides[0]))
        stack.callback(envoy.close)
        await envoy.start()
        worker = await stack.enter_async_context(running_worker(folder))
        overseer = Overseer(worker)
        agent = AgentSide(folder, world(sides[1]), worker)
        await agent.start(stack)
        clusters = [decoding.value(type_url.CLUSTER, one) for one in world(sides[1]).clusters]
        overseer.follow({one.name: one for one in clusters})
        events = EnvoyEvents(folder / "ejections.json")
        watching = spawn("overseer", overseer.run())
        both = Both(envoy, agent, overseer, events)
        await asyncio.gather(*(both.play(name, (sides[0][name], sides[1][name])) for name in SCENARIOS))
        await cancel_and_wait(watching)
        return both.traces


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Trace, Trace]]]:
    with asyncio.Runner() as runner:
        yield runner.run(all_traces(tmp_path_factory.mktemp("over-time")))


Traces = dict[str, tuple[Trace, Trace]]
EXPECTED: dict[str, list[str]] = {
    "5xx": ["consecutive_5xx"],
    "below the threshold": [],
    "gateway, detected only": ["consecutive_gateway_failure not enforced"] * 2,
    "gateway": ["consecutive_gateway_failure"],
    "500 is no gateway failure": [],
    "resets are 5xx": ["consecutive_5xx"],
    "refusals are 5xx": ["consecutive_5xx"],
    "split, refusals": ["consecutive_local_origin_failure"],
    "split, resets are never in a row": [],
    "split, 5xx": ["consecutive_5xx"],
    "success rate": ["success_rate"],
    "failure percentage": ["success_rate not enforced", "failure_percentage"],
    "split, success rate of refusals": ["success_rate_local_origin"],
    "split, success rate of resets": ["success_rate_local_origin"],
    "split, failure percentage of refusals": [
        "success_rate_local_origin not enforced",
        "failure_percentage_local_origin",
    ],
    "none is allowed": [],
    "back and well": ["consecutive_5xx", "back"],
}


@pytest.mark.envoy
@pytest.mark.parametrize("name", EXPECTED)
def test_the_failing_host_is_ejected_alike(name: str, traces: Traces) -> None:
    """Who, how often and for what; the others are never."""
    envoy, agent = traces[name]
    assert envoy.kinds[0] == EXPECTED[name]
    assert agent.kinds == envoy.kinds
    assert not any(envoy.kinds[1:])


@pytest.mark.envoy
@pytest.mark.parametrize("name", ["5xx", "gateway", "resets are 5xx", "split, 5xx"])
def test_it_is_asked_as_often(name: str, traces: Traces) -> None:
    """Until it is ejected, and then no more: its threshold's worth, and who was on the way meanwhile."""
    for trace in traces[name]:
        threshold = 4 if name == "gateway" else 3
        assert threshold <= trace.asked[0] <= threshold + 1
        assert trace.last_asked[0] == 0


@pytest.mark.envoy
@pytest.mark.parametrize("name", ["below the threshold", "none is allowed", "split, resets are never in a row"])
def test_who_stays_keeps_its_share(name: str, traces: Traces) -> None:
    for trace in traces[name]:
        assert max(trace.asked.values()) - min(trace.asked.values()) <= 2


@pytest.mark.envoy
@pytest.mark.parametrize(("name", "ejected"), [("too few are allowed", 2), ("one always", 1)])
def test_no_more_than_allowed_are_ejected(name: str, ejected: int, traces: Traces) -> None:
    """Which ones it hits is a matter of the order of turns."""
    for trace in traces[name]:
        assert sum("consecutive_5xx" in kinds for kinds in trace.kinds) == ejected
    envoy, agent = traces[name]
    overflow = f"cluster.{domain_of(name)}.outlier_detection.ejections_overflow"
    assert envoy.stats[overflow] > 0
    assert agent.stats[overflow] > 0


@pytest.mark.envoy
def test_panic_gives_all_hosts_their_share(traces: Traces) -> None:
    for trace in traces["panic"]:
        assert all("consecutive_5xx" in kinds for kinds in trace.kinds)
        assert set(trace.statuses) == {500}
        assert abs(trace.last_asked[0] - trace.last_asked[1]) <= 2
        assert trace.stats["cluster.panic.lb_healthy_panic"] > 0


@pytest.mark.envoy
def test_without_panic_nobody_is_asked(traces: Traces) -> None:
    for trace in traces["no panic"]:
        assert trace.statuses[-1] == 503
        assert not trace.last_asked
        assert all(3 <= count <= 4 for count in trace.asked.values())


@pytest.mark.envoy
def test_each_ejection_in_a_row_is_longer(traces: Traces) -> None:
    """By its base, up to the longest; who comes back fails again before it is forgiven."""
    for trace in traces["growth"]:
        events = trace.events[0]
        assert [str(event) for event in events][:6] == ["consecutive_5xx", "back"] * 3
        lasted = [back.at - out.at for out, back in zip(events[0:6:2], events[1:6:2], strict=True)]
        assert lasted[0] < lasted[1] < lasted[2]
        for turn, seconds in enumerate(lasted, start=1):
            assert seconds >= 0.95 * turn * GROWTH_BASE_S


@pytest.mark.envoy
def test_a_host_that_is_well_again_has_its_share_again(traces: Traces) -> None:
    for trace in traces["back and well"]:
        assert trace.last_asked[0] > 5
        assert trace.statuses[-5:] == [200] * 5


@pytest.mark.envoy
def test_who_is_out_is_not_judged_again(traces: Traces) -> None:
    """Difference `judged-once`."""
    envoy, agent = traces["judged twice"]
    assert envoy.kinds[0] == ["success_rate", "failure_percentage not enforced"]
    assert agent.kinds[0] == ["success_rate"]


@pytest.mark.envoy
def test_the_second_of_two_ejections_holds_at_once(traces: Traces) -> None:
    """Difference `ejections-at-once`: Envoy's window is for changes of health, too."""
    envoy, agent = traces["two at a time"]
    for trace in (envoy, agent):
        assert ["consecutive_5xx"] == trace.kinds[0] == trace.kinds[1]
    assert max(envoy.asked[0], envoy.asked[1]) > 8
    assert max(agent.asked[0], agent.asked[1]) <= 4
