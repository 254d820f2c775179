"""The rate limit service: what it counts, for whom, and how several replicas share a limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from prometheus_client import CollectorRegistry

from controlplane.model.mesh_state import MeshState
from controlplane.ratelimit.service import SERVICE, LimitMetrics, RateLimitService
from controlplane.ratelimit.shares import PART, Shares
from controlplane.store.memory import MemoryStore
from mesh.errors import ErrorCode, MeshError
from mesh.xds.rate_limits import DOMAIN, LIMIT_KEY
from tests.support.clock import ManualClock
from tests.support.compiling import mesh_of

OK, OVER = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
INSTANCE = """
---
kind: Instance
id: a-1
node: node-1
namespace: default
service: a
service_account: a
labels: {app: a}
address: 10.0.0.1
ports: [{name: http, port: 3001, protocol: HTTP, inbound_port: 20000}]
"""


def rule(limits: str, more: str = "") -> str:
    return (
        "---\napiVersion: gossamer.mesh/v1\nkind: RateLimit\nmetadata: {name: rl}\n"
        f"spec: {{selector: {{matchLabels: {{app: a}}}}, scope: GLOBAL, {more} limits: [{limits}]}}\n"
    )


FIVE = rule("{name: all, rates: [{requests: 5, per: MINUTE}]}")


class Plane:
    """Replicas over one store, at one time."""

    def __init__(self, text: str, replicas: int = 1) -> None:
        self.clock = ManualClock()  # in the middle of a minute
        self.store = MemoryStore()
        self.alive = replicas
        self.mesh: MeshState = mesh_of(text + INSTANCE)
        self.registries = [CollectorRegistry() for _ in range(replicas)]
        self.replicas = [self._replica(registry) for registry in self.registries]

    def _replica(self, registry: CollectorRegistry, size: int = 100) -> RateLimitService:
        return RateLimitService(
            Shares(self.store),
            mesh=lambda: self.mesh,
            replicas=lambda: self.alive,
            metrics=LimitMetrics(registry),
            trust_domain="cluster.local",
            clock=self.clock,
            size=size,
        )

    async def ask(self, *descriptors: RateLimitRequest, replica: int = 0, node: str | None = None) -> RateLimitResponse:
        request = RateLimitRequest(domain=DOMAIN)
        for one in descriptors:
            request.descriptors.extend(one.descriptors)
        return await self.replicas[replica].decide(request, node)

    async def admitted(self, name: str, count: int, *keys: tuple[str, str], replica: int = 0) -> int:
        answers = [await self.ask(descriptor(name, *keys), replica=replica) for _ in range(count)]
        return sum(answer.overall_code == OK for answer in answers)


def descriptor(name: str, *keys: tuple[str, str]) -> RateLimitRequest:
    request = RateLimitRequest()
    made = request.descriptors.add()
    for key, value in ((LIMIT_KEY, name), *keys):
        made.entries.add(key=key, value=value)
    return request


def fields(answer: RateLimitResponse) -> dict[str, str]:
    return {item.key: item.value for item in answer.response_headers_to_add}


async def test_a_window_gives_its_limit_and_no_more() -> None:
    plane = Plane(FIVE)
    assert await plane.admitted("default/rl/all", 9) == 5
    plane.clock.advance(60)
    assert await plane.admitted("default/rl/all", 9) == 5


async def test_what_proxies_are_told() -> None:
    plane = Plane(FIVE)
    answer = await plane.ask(descriptor("default/rl/all"))
    (status,) = answer.statuses
    assert (status.code, status.limit_remaining) == (OK, 4)
    assert status.current_limit.requests_per_unit == 5
    assert status.current_limit.unit == RateLimitResponse.RateLimit.MINUTE
    left = 60 - plane.clock.wall() % 60
    assert status.duration_until_reset.seconds == left
    assert fields(answer) == {}
    await plane.admitted("default/rl/all", 4)
    answer = await plane.ask(descriptor("default/rl/all"))
    assert (answer.overall_code, answer.statuses[0].code, answer.statuses[0].limit_remaining) == (OVER, OVER, 0)
    assert fields(answer) == {"retry-after": str(int(left))}


async def test_clients_are_counted_apart() -> None:
    plane = Plane(rule("{name: all, keys: [{header: x-user}], rates: [{requests: 2, per: HOUR}]}"))
    for user in ("a", "b"):
        assert await plane.admitted("default/rl/all", 3, ("header.x-user", user)) == 2


async def test_several_windows_and_limits_count_together_or_not_at_all() -> None:
    """A request that one of them refuses is counted by none."""
    plane = Plane(
        rule("{name: a, rates: [{requests: 2, per: SECOND}, {requests: 3, per: HOUR}]}, "
             "{name: b, rates: [{requests: 100, per: HOUR}]}")
    )  # fmt: skip
    both = descriptor("default/rl/a"), descriptor("default/rl/b")
    codes = [(await plane.ask(*both)).overall_code for _ in range(4)]
    assert codes == [OK, OK, OVER, OVER]
    plane.clock.advance(1)
    assert (await plane.ask(*both)).overall_code == OK
    answer = await plane.ask(*both)
    assert [status.code for status in answer.statuses] == [OVER, OK]
    assert answer.statuses[1].limit_remaining == 97
    assert answer.statuses[0].current_limit.unit == RateLimitResponse.RateLimit.HOUR


async def test_shadow_lets_pass_and_counts() -> None:
    plane = Plane(rule("{name: all, rates: [{requests: 1, per: HOUR}]}", "shadow: true,"))
    answers = [await plane.ask(descriptor("default/rl/all")) for _ in range(3)]
    assert [answer.overall_code for answer in answers] == [OK] * 3
    assert fields(answers[-1]) == {}
    sample = plane.registries[0].get_sample_value
    told = {"limit": "default/rl/all", "verdict": "shadow"}
    assert sample("gossamer_rate_limit_decisions_total", told) == 2


async def test_ratelimit_fields() -> None:
    two = rule(
        "{name: all, rates: [{requests: 2, per: MINUTE}, {requests: 9, per: DAY}]}, "
        "{name: b, rates: [{requests: 7, per: HOUR}]}", "headers: RATELIMIT,"
    )  # fmt: skip
    plane = Plane(two)
    told = fields(await plane.ask(descriptor("default/rl/all"), descriptor("default/rl/b")))
    assert told["ratelimit-policy"] == '"all-minute";q=2;w=60, "all-day";q=9;w=86400, "b";q=7;w=3600'
    left = [int(window - plane.clock.wall() % window) for window in (60, 86400, 3600)]
    assert told["ratelimit"] == f'"all-minute";r=1;t={left[0]}, "all-day";r=8;t={left[1]}, "b";r=6;t={left[2]}'


async def test_hits_of_a_request_and_of_a_descriptor() -> None:
    plane = Plane(FIVE)
    request = descriptor("default/rl/all")
    request.domain, request.hits_addend = DOMAIN, 3
    assert (await plane.replicas[0].decide(request, None)).statuses[0].limit_remaining == 2
    assert (await plane.replicas[0].decide(request, None)).overall_code == OVER
    request.descriptors[0].hits_addend.value = 2
    assert (await plane.replicas[0].decide(request, None)).overall_code == OK


async def test_an_unknown_limit_lets_pass() -> None:
    """The proxy has not heard yet that it is gone, or that it counts for itself."""
    plane = Plane(FIVE + rule("{name: all, rates: [{requests: 1, per: HOUR}]}").replace("name: rl", "name: own")
                  .replace("scope: GLOBAL", "scope: LOCAL"))  # fmt: skip
    for name in ("default/gone/all", "default/rl/gone", "default/own/all", "nonsense"):
        assert await plane.admitted(name, 9) == 9


async def test_a_changed_rate_holds_at_once() -> None:
    plane = Plane(FIVE)
    assert await plane.admitted("default/rl/all", 5) == 5
    plane.mesh = mesh_of(FIVE.replace("5", "7") + INSTANCE)
    assert await plane.admitted("default/rl/all", 9) == 7


async def test_a_node_counts_for_its_own_limits_only() -> None:
    plane = Plane(FIVE)
    assert (await plane.ask(descriptor("default/rl/all"), node="node-1")).overall_code == OK
    with pytest.raises(MeshError, match="no workload of node node-2 is selected by RateLimit default/rl"):
        await plane.ask(descriptor("default/rl/all"), node="node-2")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (RateLimitRequest(domain="other"), "domain: found 'other', expected gossamer"),
        (RateLimitRequest(domain=DOMAIN, descriptors=[{}] * 65), "descriptors: found 65, expected at most 64"),
        (RateLimitRequest(domain=DOMAIN, descriptors=[{}] * 2), "descriptors: found a descriptor twice"),
        (
            RateLimitRequest(domain=DOMAIN, descriptors=[{"entries": [{"key": "a", "value": "x" * 5000}]}]),
            "descriptors: found a longer value, expected 4096",
        ),
    ],
)
async def test_bad_questions(request_: RateLimitRequest, reason: str) -> None:
    with pytest.raises(MeshError, match=reason):
        await Plane(FIVE).replicas[0].decide(request_, None)


async def test_counters_are_bounded() -> None:
    plane = Plane(rule("{name: all, keys: [{header: x-user}], rates: [{requests: 1, per: HOUR}]}"))
    replica = plane.replicas[0] = plane._replica(CollectorRegistry(), size=10)
    for number in range(100):
        assert await plane.admitted("default/rl/all", 1, ("header.x-user", str(number))) == 1
    assert len(replica._book) == 10
    assert await plane.admitted("default/rl/all", 1, ("header.x-user", "99")) == 0


# --- replicas


@pytest.mark.parametrize("limit", [1, 5, 200])
async def test_replicas_together_give_the_limit(limit: int) -> None:
    """Never more, wherever the requests come; all of it, where they come to one."""
    plane = Plane(rule(f"{{name: all, rates: [{{requests: {limit}, per: HOUR}}]}}"), replicas=3)
    answers = await asyncio.gather(
        *(plane.ask(descriptor("default/rl/all"), replica=number % 3) for number in range(3 * limit))
    )
    admitted = sum(answer.overall_code == OK for answer in answers)
    assert admitted <= limit
    assert admitted >= limit - 2 * (-(-limit // PART) - 1)
    plane.clock.advance(3600)
    assert await plane.admitted("default/rl/all", 2 * limit, replica=1) == limit
    assert await plane.admitted("default/rl/all", 2, replica=2) == 0


async def test_a_store_that_is_away_is_an_error_for_several_replicas_alone() -> None:
    plane = Plane(FIVE, replicas=2)
    await plane.store.close()
    with pytest.raises(MeshError) as refused:
        await plane.ask(descriptor("default/rl/all"))
    assert refused.value.code is ErrorCode.UNAVAILABLE
    plane.alive = 1
    assert await plane.admitted("default/rl/all", 9) == 5


async def test_a_question_that_is_given_up_reserves_for_the_next() -> None:
    plane = Plane(FIVE, replicas=2)
    asking = asyncio.ensure_future(plane.ask(descriptor("default/rl/all")))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert await plane.admitted("default/rl/all", 9) == 5


async def test_keys_in_the_store_end_with_their_window() -> None:
    plane = Plane(FIVE, replicas=2)
    await plane.admitted("default/rl/all", 1)
    (entry,) = (await plane.store.list("/gossamer/limits/")).entries
    assert entry.lease != 0
    assert entry.key.startswith(f"/gossamer/limits/v1/60/{int(plane.clock.wall() // 60)}/")


# --- gRPC


@asynccontextmanager
async def serving(plane: Plane, *, authenticated: bool) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((plane.replicas[0].handler(authenticated=authenticated),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.unary_unary(
            f"/{SERVICE}/ShouldRateLimit",
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )
    await server.stop(0)


async def test_over_grpc() -> None:
    request = descriptor("default/rl/all")
    request.domain = DOMAIN
    async with serving(Plane(FIVE), authenticated=False) as ask:
        assert (await ask(request)).statuses[0].limit_remaining == 4
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(RateLimitRequest(domain="x"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_joined_proxies_may_ask() -> None:
    async with serving(Plane(FIVE), authenticated=True) as ask:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(descriptor("default/rl/all"))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
