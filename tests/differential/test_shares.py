"""How much each host gets: priorities, localities, degraded hosts and panic; a new host's slow start; pauses before
tries. Statistics of both sides, compared with each other and with what the policy says."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.differential.pair import AgentSide, EnvoySide, World
from tests.support import decoding
from tests.support.decoding import Json
from tests.support.numbered_origins import NumberedOrigins, numbered_origins
from tests.support.workers import running_worker

HOSTS = 8
REQUESTS = 800
CLOSE = 0.075  # of all requests: more than four standard deviations of REQUESTS coin tosses
WINDOW_S = 2.0
Groups = Callable[[list[Json]], list[Json]]


def health(hosts: list[Json], *states: str) -> list[Json]:
    """The first hosts in these states."""
    for host, state in zip(hosts, states, strict=False):
        host["health_status"] = state
    return hosts


def zone(name: str, weight: int, hosts: list[Json], **more: Any) -> Json:
    return {"locality": {"zone": name}, "load_balancing_weight": weight, "lb_endpoints": hosts, **more}


def level(priority: int, hosts: list[Json]) -> Json:
    return {"priority": priority, "lb_endpoints": hosts}


WEIGHTED: Json = {"locality_weighted_lb_config": {}}
BAD = "UNHEALTHY"
# (hosts into groups, fields of common_lb_config, the shares of the first four and the last four hosts)
CASES: dict[str, tuple[Groups, Json, tuple[float, float]]] = {
    "all of the first level": (lambda h: [level(0, h[:4]), level(1, h[4:])], {}, (1, 0)),
    "half of the first level": (lambda h: [level(0, health(h[:4], BAD, BAD)), level(1, h[4:])], {}, (0.7, 0.3)),
    "a quarter of the first level": (
        lambda h: [level(0, health(h[:4], BAD, BAD, BAD)), level(1, h[4:])], {}, (0.35, 0.65)
    ),
    "nobody of the first level": (lambda h: [level(0, health(h[:4], *[BAD] * 4)), level(1, h[4:])], {}, (0, 1)),
    "both levels are bad": (
        lambda h: [level(0, health(h[:4], BAD, BAD, BAD)), level(1, health(h[4:], BAD, BAD, BAD))], {}, (0.5, 0.5)
    ),
    "both levels are bad, no panic": (
        lambda h: [level(0, health(h[:4], BAD, BAD, BAD)), level(1, health(h[4:], BAD, BAD, BAD))],
        {"healthy_panic_threshold": {"value": 0}}, (0.5, 0.5),
    ),
    "degraded hosts take what is left": (
        lambda h: [level(0, health(h[:4], BAD, BAD, "DEGRADED", "DEGRADED")), level(1, h[4:])], {}, (0, 1)
    ),
    "degraded hosts of one level": (
        lambda h: [level(0, health(h, *["DEGRADED"] * 4, BAD, BAD))], {}, (0.65, 0.35)
    ),
    "weights of zones": (lambda h: [zone("a", 1, h[:4]), zone("b", 3, h[4:])], WEIGHTED, (0.25, 0.75)),
    "weights of zones that do not count": (lambda h: [zone("a", 1, h[:4]), zone("b", 3, h[4:])], {}, (0.5, 0.5)),
    "a zone that is half bad": (
        lambda h: [zone("a", 1, health(h[:4], BAD, BAD)), zone("b", 2, h[4:])], WEIGHTED, (0.26, 0.74)
    ),
    "a level of zones that fails over": (
        lambda h: [
            zone("a", 1, health(h[:2], BAD, BAD)), zone("b", 1, health(h[2:4], BAD)),
            zone("c", 1, h[4:], priority=1),
        ],
        WEIGHTED, (0.35, 0.65),
    ),
}  # fmt: skip
AGAIN = {
    "retry_on": "5xx",
    "num_retries": 3,
    "retry_back_off": {"base_interval": "0.06s", "max_interval": "0.24s"},
}


def domain_of(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def static(name: str, groups: list[Json], **more: Any) -> Json:
    assignment = {"cluster_name": name, "endpoints": groups}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment, **more}


def starting(name: str, policy: str, ports: list[int]) -> Json:
    config = {"slow_start_config": {"slow_start_window": f"{WINDOW_S}s", "min_weight_percent": {"value": 5}}}
    field = "round_robin_lb_config" if policy == "ROUND_ROBIN" else "least_request_lb_config"
    groups = [{"lb_endpoints": [decoding.lb_endpoint("127.0.0.1", port) for port in ports]}]
    return static(name, groups, lb_policy=policy, **{field: config})


POLICIES = ("ROUND_ROBIN", "LEAST_REQUEST")


def world(ports: list[int], starting_ports: list[int]) -> World:
    clusters = []
    for name, (groups, common, _) in CASES.items():
        made = groups([decoding.lb_endpoint("127.0.0.1", port) for port in ports])
        clusters.append(static(domain_of(name), made, common_lb_config=common))
    clusters += [starting(f"starting-{policy}", policy, starting_ports) for policy in POLICIES]
    one = [{"lb_endpoints": [decoding.lb_endpoint("127.0.0.1", ports[0])]}]
    clusters.append(static("again", one, circuit_breakers={"thresholds": [{"max_retries": 100}]}))
    hosts = []
    for cluster in clusters:
        more = {"retry_policy": AGAIN} if cluster["name"] == "again" else {}
        route = decoding.route({"cluster": cluster["name"], **more})
        hosts.append(decoding.host(route, name=cluster["name"], domains=[cluster["name"]]))
    return World(routes={"r": {"virtual_hosts": hosts}}, clusters=tuple(clusters))


class WatchedEnvoy(EnvoySide):
    """Its clusters that start slowly have their endpoints in files, so that they can change."""

    def __init__(self, folder: Path, world: World) -> None:
        watched = [self._watched(folder, one) if "starting" in one["name"] else one for one in world.clusters]
        super().__init__(folder, World(routes=world.routes, clusters=tuple(watched)))

    @staticmethod
    def _watched(folder: Path, cluster: Json) -> Json:
        write_endpoints(folder, cluster)
        made = {key: value for key, value in cluster.items() if key != "load_assignment"}
        source = {"path_config_source": {"path": str(endpoints_path(folder, cluster))}, "resource_api_version": "V3"}
        return {**made, "type": "EDS", "eds_cluster_config": {"eds_config": source}}


def endpoints_path(folder: Path, cluster: Json) -> Path:
    return folder / f"endpoints-{cluster['name']}.json"


def write_endpoints(folder: Path, cluster: Json) -> None:
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    path = endpoints_path(folder, cluster)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"resources": [{"@type": kind, **cluster["load_assignment"]}]}))
    new.rename(path)


class Both:
    def __init__(self, envoy: WatchedEnvoy, agent: AgentSide, origins: NumberedOrigins, folder: Path) -> None:
        self.sides = (envoy, agent)
        self.agent = agent
        self.origins = origins
        self._folder = folder

    async def shares(self, domain: str, count: int = REQUESTS) -> list[list[float]]:
        """Of each host, by Envoy and by the agent."""
        found = []
        for side in self.sides:
            asked = Counter([await self.origins.asked_by(side.ports["http"], domain) for _ in range(count)])
            found.append([asked[number] / count for number in range(HOSTS)])
        return found

    async def add_host(self) -> None:
        """The clusters that start slowly have one host more, on both sides."""
        made = world(self.origins.ports, self.origins.ports[:3])
        for cluster in made.clusters:
            if "starting" in cluster["name"]:
                write_endpoints(self._folder, cluster)
        self.agent._world = made
        await self.agent.change_routes(made.routes)

    async def share_over_time(self, domain: str) -> list[list[float]]:
        """Of the third host, in each third of the window."""
        return await asyncio.gather(*(self._over_time(side, domain) for side in self.sides))

    async def _over_time(self, side: EnvoySide | AgentSide, domain: str) -> list[float]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        asked: list[Counter[int]] = [Counter() for _ in range(4)]
        while (passed := loop.time() - started) < WINDOW_S * 4 / 3:
            asked[int(passed / WINDOW_S * 3)][await self.origins.asked_by(side.ports["http"], domain)] += 1
            await asyncio.sleep(0.002)
        return [counted[2] / counted.total() for counted in asked]

    async def pauses(self) -> list[list[list[float]]]:
        """Between the tries of many requests, by Envoy and by the agent."""
        self.origins.statuses[0] = 503
        found = []
        for number, side in enumerate(self.sides):
            paths = [f"/{number}/{turn}" for turn in range(40)]
            for path in paths:
                self.origins.send(side.ports["http"], "again", f"x: {path}", path)
            await self.origins.release_all()
            times = [self.origins.times[path] for path in paths]
            found.append([[later - before for before, later in pairwise(own)] for own in times])
        self.origins.statuses[0] = 200
        return found


@asynccontextmanager
async def both_sides(folder: Path) -> AsyncIterator[Both]:
    async with AsyncExitStack() as stack:
        origins = await stack.enter_async_context(numbered_origins(HOSTS))
        made = world(origins.ports, origins.ports[:2])
        envoy = WatchedEnvoy(folder, made)
        stack.callback(envoy.close)
        await envoy.start()
        worker = await stack.enter_async_context(running_worker(folder))
        agent = AgentSide(folder, made, worker)
        await agent.start(stack)
        yield Both(envoy, agent, origins, folder)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner) -> Iterator[Both]:
    context = both_sides(tmp_path_factory.mktemp("shares"))
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


@pytest.mark.envoy
@pytest.mark.parametrize("name", CASES)
def test_shares(name: str, both: Both, runner: asyncio.Runner) -> None:
    """Each host's share is the same on both sides, and the groups' is what the documentation says."""
    envoy, agent = runner.run(both.shares(domain_of(name)))
    for theirs, ours in zip(envoy, agent, strict=True):
        assert abs(theirs - ours) < CLOSE
    for shares in (envoy, agent):
        for expected, share in zip(CASES[name][2], (sum(shares[:4]), sum(shares[4:])), strict=True):
            assert abs(expected - share) < CLOSE


@pytest.mark.envoy
def test_a_new_host_starts_slowly(both: Both, runner: asyncio.Runner) -> None:
    """Its share grows through the window on both sides alike, and then it is one of three."""

    async def script() -> list[list[list[float]]]:
        await asyncio.sleep(WINDOW_S + 0.2)  # the hosts that were there from the beginning are through
        await both.add_host()
        return await asyncio.gather(*(both.share_over_time(f"starting-{policy}") for policy in POLICIES))

    for envoy, agent in runner.run(script()):
        for shares in (envoy, agent):
            assert shares[0] < 0.17 < shares[2]
            assert shares[0] < shares[1] < shares[2]
            assert abs(shares[3] - 1 / 3) < 0.08
        assert all(abs(theirs - ours) < 0.1 for theirs, ours in zip(envoy, agent, strict=True))


@pytest.mark.envoy
def test_pauses_before_tries_grow(both: Both, runner: asyncio.Runner) -> None:
    """They double on both sides, drawn anew for each."""
    for pauses in runner.run(both.pauses()):
        assert {len(own) for own in pauses} == {3}
        first, second, third = (sum(own[turn] for own in pauses) / len(pauses) for turn in range(3))
        assert 1.15 < second / first < 3.5
        assert 1.15 < third / second < 3.5
        assert len({round(own[2], 3) for own in pauses}) > 10
