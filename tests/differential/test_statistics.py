"""What is counted: each scenario has a cluster and a listener of its own, and both are compared when all is quiet."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from agent.stats.names import CLUSTER, HTTP
from tests.differential.case import Case, Do, answer, get, post
from tests.differential.pair import Pair, World, static_cluster
from tests.support import decoding
from tests.support.decoding import Json

BACK_OFF = {"base_interval": "0.001s", "max_interval": "0.002s"}
RETRY = {"retry_policy": {"retry_on": "5xx,connect-failure", "num_retries": 2, "retry_back_off": BACK_OFF}}
ASKED = {"reset_headers": [{"name": "retry-after"}]}
HEDGED = {
    "retry_policy": {**RETRY["retry_policy"], "per_try_timeout": "0.2s"},
    "hedge_policy": {"hedge_on_per_try_timeout": True},
}
# scenario -> (fields of the route's action, fields of the cluster, cases)
SCENARIOS: dict[str, tuple[Json, Json, tuple[Case, ...]]] = {
    "plain": ({}, {}, (Case(name="", send=(get(),)), Case(name="", send=(post(),)))),
    "statuses": (
        {}, {}, tuple(Case(name="", send=(get(),), origin=(answer(status),)) for status in (200, 302, 404, 503)),
    ),
    "kept": ({}, {}, (Case(name="", send=(get(), Do.AWAIT, get()), origin=(answer(keep=True),), answers=2, logs=2),)),
    "closes": ({}, {}, (Case(name="", send=(get(),), origin=((Do.CLOSE,),)),)),
    "garbage": ({}, {}, (Case(name="", send=(get(),), origin=((b"garbage\r\n\r\n", Do.CLOSE),)),)),
    "retried": (RETRY, {}, (Case(name="", send=(get(),), origin=(answer(503), answer(200))),)),
    "exhausted": (RETRY, {}, (Case(name="", send=(get(),), origin=(answer(503),)),)),
    "timeout": ({"timeout": "0.1s"}, {}, (Case(name="", send=(get(),), origin=((Do.HANG,),)),)),
    "timeout-in-the-pause": (
        {"timeout": "0.2s", "retry_policy": {"retry_on": "5xx", "retry_back_off": {"base_interval": "30s"}}}, {},
        (Case(name="", send=(get(),), origin=(answer(503),)),),
    ),
    "late": (
        {"retry_policy": {**RETRY["retry_policy"], "per_try_timeout": "0.1s"}}, {},
        (Case(name="", send=(get(),), origin=((Do.HANG,), answer(200))),),
    ),
    "idle": (
        {"retry_policy": {**RETRY["retry_policy"], "per_try_idle_timeout": "0.1s"}}, {},
        (Case(name="", send=(get(),), origin=((Do.HANG,), answer(200))),),
    ),
    "asked": (
        {"timeout": "0s", "retry_policy": {**RETRY["retry_policy"], "rate_limited_retry_back_off": ASKED}}, {},
        (
            Case(
                name="", send=(get(),),
                origin=(answer(503), answer(503, b"", b"retry-after: 1"), answer(200)),
            ),
        ),
    ),
    "hedged": (
        HEDGED, {},
        (
            Case(name="", send=(get(),), origin=((0.3, *answer(200)), (Do.HANG,))),
            Case(name="", send=(get(),), origin=((Do.HANG,), answer(200))),
            Case(name="", send=(get(),), origin=((0.26, *answer(502)), (0.13, Do.CLOSE), answer(200))),
            Case(name="", send=(get(),), origin=((0.26, Do.CLOSE), (0.13, *answer(200)))),
        ),
    ),
    "hedged-timeout": ({**HEDGED, "timeout": "0.5s"}, {}, (Case(name="", send=(get(),), origin=((Do.HANG,),)),)),
    "refused": ({}, {"port": "$REFUSED"}, (Case(name="", send=(get(),)),)),
    "refused-retried": (RETRY, {"port": "$REFUSED"}, (Case(name="", send=(get(),)),)),
    "empty": ({}, {"port": ""}, (Case(name="", send=(get(),)),)),
    "no-requests": ({}, {"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}, (Case(name="", send=(get(),)),)),
    "no-retries": (
        RETRY, {"circuit_breakers": {"thresholds": [{"max_retries": 0}]}},
        (Case(name="", send=(get(),), origin=(answer(503),)),),
    ),
    "no-route": ({}, {}, (Case(name="", send=(get(host=b"nobody"),)),)),
    "malformed": ({}, {}, (Case(name="", send=(b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n",)),)),
    "too-large": ({}, {}, (Case(name="", send=(get(b"/", b"x: " + b"y" * 70_000),)),)),
    "client-leaves": ({}, {}, (Case(name="", send=(get(), 0.1, Do.CLOSE), origin=((Do.HANG,),), answers=0),)),
    "head": ({}, {}, (Case(name="", send=(get(method=b"HEAD"),), origin=(answer(200, b""),)),)),
}  # fmt: skip
# Bytes depend on how names are spelled; what is active is over.
_LEFT_OUT = {"upstream_cx_rx_bytes_total", "upstream_cx_tx_bytes_total", "downstream_cx_rx_bytes_total",
             "downstream_cx_tx_bytes_total"}  # fmt: skip


def _cluster(name: str, fields: Json) -> Json:
    port = fields.get("port", "$ORIGIN")
    more = {key: item for key, item in fields.items() if key != "port"}
    return static_cluster(name, *([port] if port else []), **more)


def _routes(name: str, action: Json) -> Json:
    return decoding.configuration(decoding.host(decoding.route({"cluster": name, **action}), domains=["a"]))


WORLD = World(
    routes={name: _routes(name, action) for name, (action, _, _) in SCENARIOS.items()},
    clusters=tuple(_cluster(name, fields) for name, (_, fields, _) in SCENARIOS.items()),
    listeners={name: {"routes": name} for name in SCENARIOS},
)
Counts = Mapping[str, int]
_PAUSED = "cluster.timeout-in-the-pause.upstream_rq"
_DIFFER = {
    # An empty cluster has nobody to panic about: Envoy counts one, the agent none.
    "cluster.empty.lb_healthy_panic": (1, 0),
    # Envoy counts a retry when it is sent, and no answer for a cluster that has nothing to do.
    f"{_PAUSED}_retry": (0, 1),
    f"{_PAUSED}_retry_backoff_exponential": (0, 1),
    f"{_PAUSED}_completed": (0, 1),
}


@pytest.fixture(scope="module")
def counted(pair: Pair, runner: asyncio.Runner) -> tuple[Counts, Counts]:
    """(Envoy's, the agent's) after all scenarios."""

    async def run() -> tuple[Counts, Counts]:
        for name, (_, _, cases) in SCENARIOS.items():
            for case in cases:
                await pair.run(replace(case, listener=name))
        before = pair.agent.worker.counters["worker.access_log.written"]
        await pair.agent.worker.until(lambda: pair.agent.worker.counters["worker.access_log.written"] > before)
        return pair.envoy.stats("(cluster|http)."), pair.agent.stats("")

    return runner.run(run())


def _differing(found: tuple[Counts, Counts], prefix: str, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    places = {f"{prefix}.{name}" for name in names if name not in _LEFT_OUT}
    pairs = {place: (found[0].get(place, 0), found[1].get(place, 0)) for place in places if place in found[0]}
    return {place: pair for place, pair in pairs.items() if pair[0] != pair[1] or place in _DIFFER}


@pytest.mark.envoy
@pytest.mark.parametrize("name", SCENARIOS)
def test_clusters_count_the_same(counted: tuple[Counts, Counts], name: str) -> None:
    codes = tuple(f"upstream_rq_{code}" for code in (200, 302, 404, 503, 504, "2xx", "3xx", "4xx", "5xx", "completed"))
    found = _differing(counted, f"cluster.{name}", CLUSTER.names + codes)
    assert found == {place: pair for place, pair in _DIFFER.items() if place.startswith(f"cluster.{name}.")}


@pytest.mark.envoy
@pytest.mark.parametrize("name", SCENARIOS)
def test_listeners_count_the_same(counted: tuple[Counts, Counts], name: str) -> None:
    codes = tuple(f"downstream_rq_{code}" for code in ("2xx", "3xx", "4xx", "5xx", "completed"))
    assert _differing(counted, f"http.{name}", HTTP.names + codes) == {}
