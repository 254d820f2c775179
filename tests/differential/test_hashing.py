"""One key, one host: rings and Maglev tables of both choose alike, by every kind of hash policy."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.differential.pair import AgentSide, EnvoySide, World
from tests.support import decoding
from tests.support.decoding import Json
from tests.support.numbered_origins import NumberedOrigins, numbered_origins
from tests.support.workers import running_worker

KEYS = [f"user-{number}" for number in range(220)]
PEER = {"connection_properties": {"source_ip": True}}
POLICIES: dict[str, list[Json]] = {
    "header": [{"header": {"header_name": "X-User"}}],
    "path": [{"header": {"header_name": ":path"}}],
    "cookie": [{"cookie": {"name": "user"}}],
    "crumbs": [{"header": {"header_name": "cookie"}}],
    "query": [{"query_parameter": {"name": "user"}}],
    "several": [{"header": {"header_name": "x-user"}}, {"query_parameter": {"name": "user"}}, PEER],
    "terminal": [{"header": {"header_name": "x-user"}, "terminal": True}, {"query_parameter": {"name": "other"}}],
    "source": [PEER],
    "made": [{"cookie": {"name": "made", "ttl": "10s", "path": "/p", "attributes": [{"name": "SameSite"}]}}],
    "session": [{"cookie": {"name": "made", "ttl": "0s"}}],
}
CLUSTERS: dict[str, Json] = {
    "ring": {"lb_policy": "RING_HASH"},
    "small ring": {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 7, "maximum_ring_size": 11}},
    "maglev": {"lb_policy": "MAGLEV"},
    "small maglev": {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 101}},
}
HOSTS = 7
AGAIN = {
    "retry_on": "5xx",
    "num_retries": 3,
    "retry_back_off": {"base_interval": "0.001s"},
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": decoding.typed("retry.host.previous_hosts.v3.PreviousHostsPredicate"),
        }
    ],
    "host_selection_retry_max_attempts": "4",
}


def endpoints(origins: NumberedOrigins, kind: str) -> list[Json]:
    """The hosts of a cluster of this kind."""
    found = [decoding.lb_endpoint("127.0.0.1", port) for port in origins.ports]
    if kind == "weights":
        for endpoint, weight in zip(found, (1, 2, 3, 1, 5, 1, 4), strict=True):
            endpoint["load_balancing_weight"] = weight
    elif kind == "names":
        for number, endpoint in enumerate(found):
            endpoint["metadata"] = {"filter_metadata": {"envoy.lb": {"hash_key": f"host-{number}"}}}
    elif kind == "unhealthy":
        found[2]["health_status"] = found[5]["health_status"] = "UNHEALTHY"
    elif kind == "degraded":
        for endpoint in found:
            endpoint["health_status"] = "DEGRADED"
    return found


def groups(origins: NumberedOrigins, kind: str) -> list[Json]:
    """The localities of a cluster of this kind."""
    found = endpoints(origins, kind)
    if kind == "priorities":
        for endpoint in found[:2]:
            endpoint["health_status"] = "UNHEALTHY"
        return [{"lb_endpoints": found[:4]}, {"priority": 1, "lb_endpoints": found[4:]}]
    if kind == "localities":
        return [
            {"locality": {"zone": "a"}, "load_balancing_weight": 1, "lb_endpoints": found[:3]},
            {"locality": {"zone": "b"}, "load_balancing_weight": 3, "lb_endpoints": found[3:]},
        ]
    return [{"lb_endpoints": found}]


KINDS = ("equal", "weights", "names", "unhealthy", "priorities", "localities")


def world(origins: NumberedOrigins) -> World:
    clusters, hosts = [], []
    for cluster, options in CLUSTERS.items():
        for kind in (*KINDS, "degraded"):
            name = f"{cluster} {kind}".replace(" ", "-")
            common: Json = {"locality_weighted_lb_config": {}} if kind == "localities" else {}
            assignment = {"cluster_name": name, "endpoints": groups(origins, kind)}
            clusters.append(
                {
                    "name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment,
                    "common_lb_config": common, **options,
                }
            )  # fmt: skip
            route = decoding.route({"cluster": name, "hash_policy": POLICIES["header"]})
            hosts.append(decoding.host(route, name=name, domains=[name]))
    for algorithm in ("RING_HASH", "MAGLEV"):
        name = f"bounded-{algorithm}"
        bounds = {"consistent_hashing_lb_config": {"hash_balance_factor": 120}}
        assignment = {"cluster_name": name, "endpoints": groups(origins, "weights")}
        clusters.append(
            {
                "name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment,
                "common_lb_config": bounds, "lb_policy": algorithm,
            }
        )  # fmt: skip
        route = decoding.route({"cluster": name, "hash_policy": POLICIES["header"]})
        hosts.append(decoding.host(route, name=name, domains=[name]))
    for name in ("ring-equal", "maglev-equal"):
        route = decoding.route({"cluster": name, "hash_policy": POLICIES["header"], "retry_policy": AGAIN})
        hosts.append(decoding.host(route, name=f"again-{name}", domains=[f"again-{name}"]))
    for policy, written in POLICIES.items():
        route = decoding.route({"cluster": "ring-equal", "hash_policy": written})
        hosts.append(decoding.host(route, name=f"policy-{policy}", domains=[f"policy-{policy}"]))
    return World(routes={"r": {"virtual_hosts": hosts}}, clusters=tuple(clusters))


@dataclass
class Both:
    envoy: EnvoySide
    agent: AgentSide
    origins: NumberedOrigins

    async def ask(self, host: str, *requests: tuple[str, tuple[str, ...]]) -> tuple[list[int], list[int]]:
        """Which host answers each request (path, fields), by Envoy and by the agent."""
        by_envoy, by_agent = [
            [await self.origins.asked_by(port, host, path, fields) for path, fields in requests]
            for port in (self.envoy.ports["http"], self.agent.ports["http"])
        ]
        return by_envoy, by_agent

    async def held(self, host: str, keys: list[str]) -> list[list[int]]:
        """To whom requests go, of which none is answered before the last one has come."""
        found = []
        self.origins.statuses = [-1] * HOSTS
        for side in (self.envoy, self.agent):
            self.origins.asked.clear()
            for number, key in enumerate(keys):
                self.origins.send(side.ports["http"], host, f"x-user: {key}")
                await self.origins.until_asked(number + 1)
            found.append(list(self.origins.asked))
            await self.origins.release_all()
        self.origins.statuses = [200] * HOSTS
        return found


@asynccontextmanager
async def both_sides(folder: Path) -> AsyncIterator[Both]:
    async with AsyncExitStack() as stack:
        origins = await stack.enter_async_context(numbered_origins(HOSTS))
        made = world(origins)
        envoy = EnvoySide(folder, made)
        stack.callback(envoy.close)
        await envoy.start()
        worker = await stack.enter_async_context(running_worker(folder))
        agent = AgentSide(folder, made, worker)
        await agent.start(stack)
        yield Both(envoy, agent, origins)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner) -> Iterator[Both]:
    context = both_sides(tmp_path_factory.mktemp("hashing"))
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


@pytest.mark.envoy
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_one_key_goes_to_the_same_host(cluster: str, kind: str, both: Both, runner: asyncio.Runner) -> None:
    name = f"{cluster} {kind}".replace(" ", "-")
    requests = [("/", (f"x-user: {key}",)) for key in KEYS]
    envoy, agent = runner.run(both.ask(name, *requests))
    assert agent == envoy
    assert len(set(envoy)) > 2, "the keys are spread"


@pytest.mark.envoy
@pytest.mark.parametrize("policy", ["header", "path", "cookie", "crumbs", "query", "several", "terminal", "source"])
def test_the_same_is_hashed(policy: str, both: Both, runner: asyncio.Runner) -> None:
    requests = []
    for key in KEYS[:60]:
        requests += [
            (f"/{key}?a=b&user={key}&user=other", (f"x-user: {key}", f"cookie: a=b; user={key}", 'Cookie: user="no"')),
            (f"/?user={key}%20x", (f"X-User: {key}, b", f'cookie: user="{key}"; x')),
            ("/?xuser=1&user=", (f"x-user: {key}", "x-user: other", f"cookie: {key}=user")),
        ]
    if policy in ("cookie", "query"):
        requests = [request for number, request in enumerate(requests) if number % 3 != 2]  # nothing to hash: random
    envoy, agent = runner.run(both.ask(f"policy-{policy}", *requests))
    assert agent == envoy
    assert len(set(envoy)) == (1 if policy == "source" else HOSTS)


@pytest.mark.envoy
@pytest.mark.parametrize("algorithm", ["RING_HASH", "MAGLEV"])
def test_loads_are_bounded_alike(algorithm: str, both: Both, runner: asyncio.Runner) -> None:
    """While nobody answers, the same requests go elsewhere, and to the same hosts."""
    envoy, agent = runner.run(both.held(f"bounded-{algorithm}", ["user-1"] * 25 + ["user-2", "user-3"] * 10))
    assert agent == envoy
    assert len(set(envoy[:25])) > 3, "the host of a key alone would have had them all"


@pytest.mark.envoy
@pytest.mark.parametrize("cluster", ["ring-equal", "maglev-equal"])
def test_a_retry_leaves_the_hosts_that_were_tried_for_the_same_one(
    cluster: str, both: Both, runner: asyncio.Runner
) -> None:
    both.origins.statuses = [503, 200, 503, 200, 503, 200, 503]
    envoy, agent = runner.run(both.ask(f"again-{cluster}", *[("/", (f"x-user: {key}",)) for key in KEYS[:80]]))
    both.origins.statuses = [200] * HOSTS
    assert agent == envoy


@pytest.mark.envoy
def test_nothing_to_hash_is_spread(both: Both, runner: asyncio.Runner) -> None:
    envoy, agent = runner.run(both.ask("policy-header", *[("/", ())] * 140))
    for counted in (Counter(envoy), Counter(agent)):
        assert len(counted) == HOSTS
        assert max(counted.values()) < 60


@pytest.mark.envoy
@pytest.mark.parametrize("cluster", ["ring", "maglev"])
def test_degraded_hosts_are_better_than_none(cluster: str, both: Both, runner: asyncio.Runner) -> None:
    """Difference `degraded-and-hashed`."""
    envoy, agent = runner.run(both.ask(f"{cluster}-degraded", *[("/", (f"x-user: {key}",)) for key in KEYS[:40]]))
    assert set(envoy) == {-1}
    assert len(set(agent) - {-1}) > 2
    assert agent == runner.run(both.ask(f"{cluster}-equal", *[("/", (f"x-user: {key}",)) for key in KEYS[:40]]))[0]


@pytest.mark.envoy
@pytest.mark.parametrize("policy", ["made", "session"])
def test_a_client_without_a_cookie_is_given_one(policy: str, both: Both, runner: asyncio.Runner) -> None:
    """In the same words, and whoever brings it back comes to the host that gave it."""
    found = []
    for side in (both.envoy, both.agent):
        port = side.ports["http"]
        first = runner.run(both.origins.answer_of(port, f"policy-{policy}", "/", ()))
        (line,) = first.lines("set-cookie")
        name, _, value = line.partition(";")[0].partition("=")
        found.append(line.replace(value, '"VALUE"'))
        assert len(value.strip('"')) == 16
        again = [
            runner.run(both.origins.answer_of(port, f"policy-{policy}", "/", (f"cookie: {name}={value}",)))
            for _ in range(3)
        ]
        assert [answer.host for answer in again] == [first.host] * 3
        assert [answer.lines("set-cookie") for answer in again] == [[]] * 3
    assert found[0] == found[1]
