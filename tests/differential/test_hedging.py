"""Times of one try: hedging, idle tries, hosts that say when to come back, and what is tried again at once."""

from dataclasses import replace

import pytest

from tests.differential.case import OK, Case, Do, Script, answer, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, World, static_cluster
from tests.support import decoding
from tests.support.decoding import Json

BACK_OFF = {"base_interval": "0.005s", "max_interval": "0.01s"}
ONLY_GET = {"string_match": {"exact": "GET"}, "name": ":method"}
HEDGE = {"hedge_on_per_try_timeout": True}
# The second try is at 0.2 s, a third at 0.4 s. Nothing else happens near these times.
_LATE = {"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "0.2s"}
_IDLE = {"retry_on": "5xx", "num_retries": 1, "per_try_idle_timeout": "0.2s"}


def _host(name: str, policy: Json, cluster: str = "origin", **fields: object) -> Json:
    own = {"cluster": cluster, "retry_policy": {"retry_back_off": BACK_OFF, **policy}, **fields}
    made = decoding.host(decoding.route(own, name=name), name=name, domains=[name])
    return {**made, "include_request_attempt_count": True, "include_attempt_count_in_response": True}


_HOSTS = [
    _host("hedge", _LATE, hedge_policy=HEDGE),
    {**_host("hedge-host", _LATE), "hedge_policy": HEDGE},
    {**_host("hedge-off", _LATE, hedge_policy={}), "hedge_policy": HEDGE},
    _host("hedge-once", {**_LATE, "num_retries": 1}, hedge_policy=HEDGE),
    _host("hedge-never", {**_LATE, "num_retries": 0}, hedge_policy=HEDGE),
    _host("hedge-only", {**_LATE, "retry_on": "connect-failure"}, hedge_policy=HEDGE),
    _host("hedge-get", {**_LATE, "retriable_request_headers": [ONLY_GET]}, hedge_policy=HEDGE),
    _host("hedge-nothing", {"per_try_timeout": "0.2s"}, hedge_policy=HEDGE),
    _host("hedge-full", _LATE, "no-retries", hedge_policy=HEDGE),
    _host("hedge-short", _LATE, hedge_policy=HEDGE, timeout="0.5s"),
    _host("hedge-idle", _IDLE, hedge_policy=HEDGE, timeout="0.7s"),
    _host("idle", _IDLE),
    _host("idle-no-5xx", {**_IDLE, "retry_on": "connect-failure"}),
    _host("idle-and-late", {**_IDLE, "per_try_timeout": "0.6s"}),
    _host("only-get", {**_LATE, "retriable_request_headers": [ONLY_GET]}),
    _host("no-conditions", {"per_try_timeout": "0.2s"}),
    _host("early", {"retry_on": "retriable-status-codes", "retriable_status_codes": [425, 429]}),
    _host(
        "asked",
        {
            "retry_on": "5xx,retriable-status-codes",
            "retriable_status_codes": [429],
            "rate_limited_retry_back_off": {"reset_headers": [{"name": "Retry-After"}], "max_interval": "2s"},
        },
        timeout="0s",
    ),
]
_LEVELS = {
    f"levels-{every}-{retries}": {
        "retry_on": "connect-failure", "num_retries": retries,
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": decoding.typed(
                "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=every
            ),
        },
    }
    for every, retries in ((1, 1), (1, 0), (2, 1), (2, 2), (2, 3))
}  # fmt: skip
_HOSTS += [_host(name, policy, "levels", timeout="0s") for name, policy in _LEVELS.items()]
_HOSTS.append(_host("levels-as-ever", {"retry_on": "connect-failure", "num_retries": 3}, "levels", timeout="0s"))
_HOSTS.append(_host("levels-run-out", _LEVELS["levels-1-1"] | {"num_retries": 3}, "refused-levels", timeout="0s"))


def _levels(name: str, *ports: str) -> Json:
    """A cluster with one host in each level of priority."""
    made = static_cluster(name, *ports)
    (hosts,) = made["load_assignment"]["endpoints"]
    made["load_assignment"]["endpoints"] = [
        {"priority": priority, "lb_endpoints": [host]} for priority, host in enumerate(hosts["lb_endpoints"])
    ]
    return made


WORLD = World(
    routes={"r": decoding.configuration(*_HOSTS)},
    clusters=(
        ORIGIN,
        _levels("levels", "$REFUSED", "$ORIGIN"),
        _levels("refused-levels", "$REFUSED", "$REFUSED"),
        static_cluster("no-retries", "$ORIGIN", circuit_breakers={"thresholds": [{"max_retries": 0}]}),
    ),
)


def _after(pause_s: float, script: Script) -> Script:
    return (pause_s, *script)


def _case(name: str, host: str, *origin: Script, method: bytes = b"GET") -> Case:
    own = host.encode()
    return Case(name=name, send=(get(host=own) if method == b"GET" else post(host=own),), origin=origin)


FIRST, SECOND, BAD = answer(200, b"first"), answer(200, b"second"), answer(503, b"bad")
HALF: Script = (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", Do.HANG)
_AT_LEVELS = [*_LEVELS, "levels-as-ever", "levels-run-out"]
_DIFFER = {
    "conditions on the request matter": "hedge-as-conditioned",
    **dict.fromkeys(_AT_LEVELS, "log-hosts-attempted"),
}
CASES = [
    _case("the late one answers first", "hedge", _after(0.3, FIRST), (Do.HANG,)),
    _case("the second answers first", "hedge", (Do.HANG,), SECOND),
    _case("a POST", "hedge", (Do.HANG,), SECOND, method=b"POST"),
    _case("by the virtual host", "hedge-host", (Do.HANG,), SECOND),
    _case("the route's own policy counts", "hedge-off", _after(0.3, FIRST), SECOND),
    _case("the late one is bad", "hedge", _after(0.26, BAD), _after(0.13, SECOND)),
    _case("the late one closes", "hedge", _after(0.26, (Do.CLOSE,)), _after(0.13, SECOND)),
    _case("the late one is not to be tried again", "hedge", _after(0.3, answer(404, b"no")), (Do.HANG,)),
    _case("the second is bad, a third is good", "hedge", (Do.HANG,), BAD, SECOND),
    _case("three at once", "hedge", (Do.HANG,), (Do.HANG,), SECOND),
    _case("the second is bad, the late one good", "hedge-once", _after(0.3, FIRST), BAD),
    _case("the second closes, the late one is good", "hedge-once", _after(0.3, FIRST), (Do.CLOSE,)),
    _case("the second is bad, then the late one", "hedge-once", _after(0.3, answer(502, b"late")), BAD),
    _case("the second closes, then the late one", "hedge-once", _after(0.3, (Do.CLOSE,)), (Do.CLOSE,)),
    _case("the late one closes, then the second", "hedge-once", _after(0.26, (Do.CLOSE,)), _after(0.13, BAD)),
    _case("both are late", "hedge-once", _after(0.5, FIRST), (Do.HANG,)),
    _case("no retries left", "hedge-never", _after(0.3, FIRST), SECOND),
    _case("no retries left, bad", "hedge-never", _after(0.3, BAD), SECOND),
    _case("no room for retries", "hedge-full", _after(0.3, FIRST), SECOND),
    _case("conditions do not matter", "hedge-only", (Do.HANG,), SECOND),
    _case("conditions on the request matter", "hedge-get", _after(0.3, FIRST), SECOND, method=b"POST"),
    _case("but there must be some", "hedge-nothing", _after(0.3, FIRST), SECOND),
    _case("all hang", "hedge-short", (Do.HANG,)),
    _case("an idle one", "hedge-idle", (Do.HANG,), SECOND),
    _case("idle in the answer, hedging", "hedge-idle", HALF),
    _case("idle", "idle", (Do.HANG,), OK),
    _case("always idle", "idle", (Do.HANG,)),
    _case("idle, not retried", "idle-no-5xx", (Do.HANG,)),
    _case("idle in the answer", "idle", HALF),
    _case(
        "slow, but not idle",
        "idle",
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", 0.12, b"def", 0.12, b"ghi", Do.CLOSE),
    ),
    _case("idle before it is late", "idle-and-late", (Do.HANG,), OK),
    _case("late without conditions", "no-conditions", (Do.HANG,)),
    _case("late, and not to be tried again", "only-get", (Do.HANG,), method=b"POST"),
    _case("too early", "early", answer(425, b"early"), OK),
    Case(
        name="too early for early data",
        send=(get(b"/", b"Early-Data: 1", host=b"early"),),
        origin=(answer(425, b"early"), OK),
    ),
    _case("asked to wait", "asked", answer(429, b"wait", b"retry-after: 1"), OK),
    *(_case(name, name, OK) for name in _AT_LEVELS),
    _case("asked to wait for too long", "asked", answer(503, b"wait", b"retry-after: 3"), OK),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same(case: Case, check: Check) -> None:
    check(replace(case, differs=_DIFFER.get(case.name, "")))
