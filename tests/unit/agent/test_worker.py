"""The real worker process behind a real channel: what it serves, and that nobody notices when that changes."""

import asyncio
import json
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from socket import socket

import pytest

from agent.ipc import frames
from agent.ipc.messages import CheckAnswers, CheckQuestions, Commit, HostState, Identities, Put, Remove
from agent.ipc.shared import CONNECTIONS, PENDING, REQUESTS, SharedCells
from agent.model.cluster import LoadAssignment, OutlierDetection, Thresholds
from agent.model.ext_authz import CheckAnswer, CheckVerdict, ExternalAuthorization
from agent.model.http_filters import HttpFilter
from agent.model.listener import Direction
from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher
from agent.model.route import DirectResponse, PathKind, RetryPolicy, RouteMatch
from agent.model.tls import DownstreamTls, UpstreamTls
from agent.supervisor.handover import Orphans
from mesh.tasks import cancel_and_wait, spawn
from tests.support.identities import TestAuthority
from tests.support.origins import Connection, Origin, get, origin
from tests.support.workers import (
    Fed,
    cluster,
    forward,
    http,
    listen,
    listener,
    route,
    routes,
    running_worker,
    tcp,
)

pytestmark = pytest.mark.e2e
CALLER, SERVER, OTHER = (f"spiffe://td/ns/default/sa/{name}" for name in ("caller", "server", "other"))
ONCE = RetryPolicy(retry_on=frozenset({"5xx", "connect-failure"}), num_retries=1, back_off_base_s=0.001)


def port_of(sock: socket) -> int:
    return int(sock.getsockname()[1])


class Client:
    """Requests one after the other, each on its own connection or all on one, until it is stopped."""

    def __init__(self, port: int, *, keep: bool) -> None:
        self.answers: Counter[int] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.errors: Counter[str] = Counter()
        self._port, self._keep = port, keep
        self._stop = False
        self._task = spawn("client", self._run())

    async def stop(self) -> None:
        self._stop = True
        async with asyncio.timeout(20):
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        kept: Connection | None = None
        while not self._stop:
            try:
                connection = kept or await Connection.open(self._port)
                answer = await connection.ask("/")
                self.answers[answer.status] += 1
                self.bodies[answer.body] += 1
                again = self._keep and answer.fields.get("connection") != "close"
                kept = connection if again else None
                if not again:
                    connection.close()
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                kept = None
                self.errors[type(error).__name__] += 1
            await asyncio.sleep(0.001)
        if kept is not None:
            kept.close()


@asynccontextmanager
async def serving(tmp_path: Path, *chain_kinds: str) -> AsyncIterator[tuple[Fed, int]]:
    """A worker with one listening socket for the listener `out`."""
    async with running_worker(tmp_path) as worker:
        with listen() as sock:
            worker.add_listener("out", sock)
            yield worker, port_of(sock)


async def until(test: Callable[[], object], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not test():  # noqa: ASYNC110 - another process is watched
            await asyncio.sleep(0.01)


# --- what is served -------------------------------------------------------------------------------------------


async def test_get_through_an_outbound_listener(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin("users") as users:
        assert await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), cluster("c", users)) == ()
        answer = await get(port, "/x?y=1")
        assert (answer.status, answer.body, answer.fields["server"]) == (200, b"users", "envoy")
        assert users.requests == ["GET /x?y=1"]
        assert "x-request-id" in users.fields[0]
        answer = await get(port, "/echo", method="POST", body=b"a" * 100_000)
        assert answer.body == b"a" * 100_000
        answer = await get(port, "/chunks")
        assert answer.body == b"abcdef"


async def test_requests_share_upstream_connections(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin() as end:
        await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), cluster("c", end))
        for _ in range(10):
            assert (await get(port)).status == 200
        assert end.connections == 1


async def test_weighted_split(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin("v1") as one, origin("v2") as two:
        split = forward(("v1", 80), ("v2", 20))
        await worker.apply(listener(port), routes(route("all", split)), cluster("v1", one), cluster("v2", two))
        connection = await Connection.open(port)
        seen = Counter([(await connection.ask("/")).body for _ in range(1000)])
        connection.close()
        assert 130 < seen[b"v2"] < 280
        assert seen.total() == 1000


async def test_routes_match_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin() as end:
        header = HeaderMatcher(name="x-user", matcher=StringMatcher(kind=MatchKind.REGEX, value="t[0-9]+"))
        by_header = RouteMatch(path_kind=PathKind.PREFIX, path="/", headers=(header,))
        await worker.apply(
            listener(port),
            routes(
                route("teapot", DirectResponse(status=418, body=b"short"), "/tea"),
                replace(route("tests", DirectResponse(status=403)), match=by_header),
                route("rest", forward(("c", 1))),
            ),
            cluster("c", end),
        )
        assert (await get(port, "/tea/pot")).status == 418
        assert (await get(port, "/", x_user="t12")).status == 403
        assert (await get(port, "/", x_user="u12")).status == 200


async def test_answers_of_our_own(tmp_path: Path) -> None:
    """No route, no cluster, no host: Envoy's status, body and flag."""
    async with serving(tmp_path) as (worker, port):
        await worker.apply(
            listener(port),
            routes(route("lost", forward(("nowhere", 1)), "/lost"), route("empty", forward(("empty", 1)), "/empty")),
            cluster("empty"),
        )
        lost, empty, none = await get(port, "/lost"), await get(port, "/empty"), await get(port, "/none")
        assert (lost.status, lost.body) == (503, b"")
        assert (empty.status, empty.body) == (503, b"no healthy upstream")
        assert (none.status, none.body) == (404, b"")
        worker.drain(1.0)
        assert await worker.exit_code() == 0
        lines = [json.loads(line) for line in worker.log_lines()]
        assert [(line["path"], line["flags"]) for line in lines] == [("/lost", "NC"), ("/empty", "UH"), ("/none", "NR")]


async def test_retries_go_to_another_host(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin("good") as good:
        with socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
            both = cluster("c", good, port_of(closed))
            await worker.apply(listener(port), routes(route("all", forward(("c", 1), retry=ONCE))), both)
            for _ in range(20):
                assert (await get(port)).status == 200
        good.fail_next = 1
        await worker.apply(listener(port), routes(route("all", forward(("c", 1), retry=ONCE))), cluster("c", good))
        assert (await get(port)).status == 200
        good.fail_next = 2
        assert (await get(port)).status == 503, "one retry, not two"
        await until(lambda: worker.counters["cluster.c.upstream_rq_retry_limit_exceeded"] == 1)
        assert worker.counters["cluster.c.upstream_rq_retry"] >= 2


async def test_thresholds_count_in_the_shared_memory(tmp_path: Path) -> None:
    """A full bulkhead answers UO, also when another worker has filled it."""
    shared = SharedCells.create(8, 2)
    try:
        async with running_worker(tmp_path, shared=shared) as worker, origin() as end:
            with listen() as sock:
                worker.add_listener("out", sock)
                port = port_of(sock)
                small = cluster("c", end, thresholds=Thresholds(max_requests=2))
                await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), small)
                slow = spawn("slow", get(port, "/slow/2"))
                await until(lambda: shared.total(0, 0, REQUESTS) == 1)
                assert shared.total(0, 0, CONNECTIONS) == 1
                assert (await get(port)).status == 200
                shared.cells[shared.row(0, 1).own + REQUESTS] = 1  # the worker of slot 1 has a request too
                refused = await get(port)
                assert (refused.status, refused.fields["x-envoy-overloaded"]) == (503, "true")
                shared.cells[shared.row(0, 1).own + REQUESTS] = 0
                assert (await slow).status == 200
                await until(lambda: shared.total(0, 0, REQUESTS) == 0)
                assert shared.total(0, 0, PENDING) == 0
    finally:
        shared.close()


# --- ejection -------------------------------------------------------------------------------------------------


async def test_the_monitor_asks_and_the_verdict_is_obeyed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin("good") as good, origin("bad") as bad:
        both = cluster("c", good, bad, outlier_detection=OutlierDetection(consecutive_5xx=3))
        await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), both)
        bad.fail_next = 1000
        for _ in range(12):
            await get(port)
        await until(lambda: worker.requests)
        request = worker.requests[0]
        assert (request.cluster, request.host, request.kind, request.last_status) == (
            "c",
            bad.key,
            "consecutive_5xx",
            503,
        )
        assert request.count >= 3
        worker.channel.send(HostState("c", bad.key, True))
        await worker.pong()
        before = len(bad.requests)
        for _ in range(10):
            assert (await get(port)).status == 200
        assert len(bad.requests) == before
        bad.fail_next = 0
        worker.channel.send(HostState("c", bad.key, False))
        await worker.pong()
        for _ in range(10):
            assert (await get(port)).status == 200
        assert len(bad.requests) > before


async def test_a_verdict_is_kept_over_configurations_and_may_come_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin("good") as good, origin("bad") as bad:
        worker.channel.send(HostState("c", bad.key, True))
        table = routes(route("all", forward(("c", 1))))
        await worker.apply(listener(port), table, cluster("c", good, bad))
        for change in ({}, {"connect_timeout_s": 3.0}):
            await worker.apply(listener(port), table, cluster("c", good, bad, **change))
            for _ in range(6):
                assert (await get(port)).body == b"good"
        assert bad.requests == []


# --- configurations that change -------------------------------------------------------------------------------


async def test_swaps_under_load_fail_nothing(tmp_path: Path) -> None:
    """Endpoints, weights, clusters and filter chains change 60 times while requests are under way."""
    async with serving(tmp_path) as (worker, port), origin("a") as a, origin("b") as b:
        clients: list[Client] = []
        for step in range(60):
            name = f"c{step % 3}"
            hosts = (a, b) if step % 2 else (b, a) if step % 5 else (a,)
            chain = http(server_name=f"s{step % 4}")
            table = routes(route("all", forward((name, 1 + step % 2), ("c9", 1))))
            await worker.apply(listener(port, chain), table, cluster(name, *hosts), cluster("c9", b))
            if not clients:
                clients = [Client(port, keep=keep) for keep in (True, True, False, False)]
            await asyncio.sleep(0.02)
        for client in clients:
            await client.stop()
        for client in clients:
            assert not client.errors, client.errors
            assert set(client.answers) == {200}
            assert client.answers[200] > 30


async def test_requests_keep_what_they_started_with(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin("old") as old, origin("new") as new:
        await worker.apply(listener(port), routes(route("all", forward(("old", 1)))), cluster("old", old))
        under_way = spawn("slow", get(port, "/slow/0.5"))
        await until(lambda: old.requests)
        await worker.apply(listener(port), routes(route("all", forward(("new", 1)))), cluster("new", new))
        assert (await get(port)).body == b"new"
        answer = await under_way
        assert (answer.status, answer.body) == (200, b"old"), "its cluster is gone and it goes on"
        await until(lambda: worker.hosts["old", old.key, "successes"] == 1)
        await until(lambda: worker.gauges.get("cluster.old.upstream_cx_active", 0) == 0)


async def test_a_listener_that_changes_drains_its_old_chain_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin() as end:
        table, target = routes(route("all", forward(("c", 1)))), cluster("c", end)
        await worker.apply(listener(port), table, target)
        kept = await Connection.open(port)
        assert (await kept.ask("/")).status == 200
        await worker.apply(listener(port, name="out"), table, target)
        assert "connection" not in (await kept.ask("/")).fields, "nothing has changed for it"
        busy = await Connection.open(port)
        busy.send("/slow/0.3")
        await until(lambda: len(end.requests) == 3)
        await worker.apply(listener(port, http(server_name="other")), table, target)
        answer = await busy.answer()
        assert (answer.fields["server"], answer.fields["connection"]) == ("envoy", "close")
        assert await busy.ended()
        answer = await kept.ask("/")
        assert (answer.fields["server"], answer.fields["connection"]) == ("envoy", "close"), "it was idle"
        assert await kept.ended()
        assert (await get(port)).fields["server"] == "other"


async def test_a_removed_listener_accepts_no_more(tmp_path: Path) -> None:
    """The worker lets go; the supervisor's socket keeps the queue until it closes it too."""
    async with running_worker(tmp_path) as worker, origin() as end:
        with listen() as sock:
            worker.add_listener("out", sock)
            port = port_of(sock)
            table, target = routes(route("all", forward(("c", 1)))), cluster("c", end)
            await worker.apply(listener(port), table, target)
            kept = await Connection.open(port)
            await kept.ask("/")
            await worker.apply(table, target)
            assert (await kept.ask("/")).fields["connection"] == "close"
            assert await kept.ended()
            waiting = await Connection.open(port)  # the kernel takes it into the queue
            waiting.send("/")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await waiting.reader.read(1)
            worker.add_listener("out", sock)
            await worker.apply(listener(port), table, target)
            assert (await waiting.answer()).status == 200, "it was served by what came next"
        await worker.apply(table, target)
        with pytest.raises(ConnectionRefusedError):
            await get(port)


async def test_a_listener_without_a_socket_is_a_problem(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker, origin() as end:
        with listen() as sock:
            parts = (listener(port_of(sock)), routes(route("all", forward(("c", 1)))), cluster("c", end))
            assert await worker.apply(*parts) == ("listener out: no socket has come for it",)
            worker.add_listener("out", sock)
            assert await worker.commit() == ()
            assert (await get(port_of(sock))).status == 200


async def test_an_unusable_part_is_named_and_the_last_good_one_stays(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin() as end:
        good = routes(route("all", forward(("c", 1))))
        await worker.apply(listener(port), good, cluster("c", end))
        broken = RouteMatch(path_kind=PathKind.REGEX, path="(unclosed")
        bad = routes(replace(route("broken", forward(("c", 1))), match=broken))
        (problem,) = await worker.apply(listener(port), bad, cluster("c", end))
        assert problem.startswith("route configuration r: ")
        assert "broken" in problem
        assert (await get(port)).status == 200
        (same,) = await worker.commit()
        assert same == problem, "it is said until it is repaired"
        assert await worker.apply(listener(port), good, cluster("c", end)) == ()


async def test_a_large_configuration_does_not_stop_the_loop(tmp_path: Path) -> None:
    """2000 clusters come in slices: requests go on meanwhile, and every Commit is answered."""
    async with serving(tmp_path) as (worker, port), origin() as end:
        table, target = routes(route("all", forward(("c", 1)))), cluster("c", end)
        await worker.apply(listener(port), table, target)
        client = Client(port, keep=True)
        await until(lambda: client.answers[200] > 5)
        many = [cluster(f"m{number}", 1000 + number % 60000) for number in range(63)]
        more = [Put("cluster", f"x{number}", cluster(f"x{number}", 1 + number)) for number in range(2000)]
        for put in more:
            worker.channel.send(put)
        worker.channel.send(Commit(worker.version + 1))
        worker.channel.send(Remove("cluster", "x0"))
        worker.version += 1
        await worker.apply(listener(port), table, target, *many)
        assert sorted(worker.committed) == [1, 2, 3]
        await client.stop()
        assert not client.errors
        assert set(client.answers) == {200}


async def test_endpoints_of_their_own_follow(tmp_path: Path) -> None:
    """EDS: a LoadAssignment alone changes the hosts of the clusters that name it."""
    async with serving(tmp_path) as (worker, port), origin("a") as a, origin("b") as b:
        eds = replace(cluster("c", a), static=None, eds_name="hosts")
        await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), eds)
        assert (await get(port)).status == 503
        for end, body in ((a, b"a"), (b, b"b")):
            hosts = cluster("hosts", end).static
            assert isinstance(hosts, LoadAssignment)
            worker.channel.send(Put("load_assignment", "hosts", hosts))
            await worker.commit()
            assert (await get(port)).body == body
        worker.channel.send(Remove("load_assignment", "hosts"))
        await worker.commit()
        assert (await get(port)).status == 503


# --- TLS ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def mesh(worker: Fed, *inbound: str) -> AsyncIterator[tuple[int, int, Origin, TestAuthority]]:
    """Outbound (in the name of CALLER) and inbound (as SERVER, for CALLER) in one worker, with these inbound chains.

    (outbound port, inbound port, origin, authority)
    """
    authority = TestAuthority()
    pairs = tuple(authority.issue(name) for name in (CALLER, SERVER))
    worker.set_identities(Identities(pairs, authority.trust_pem))
    inside = DownstreamTls(identity=SERVER, peer_ids=frozenset({CALLER}))
    chains = {
        "tls": http("mtls", config="in", transport="tls", tls=inside),
        "raw": http("plain", config="in", transport="raw_buffer"),
        "strict": http("strict", config="in", tls=inside),
    }
    with ExitStack() as stack:
        out, into = stack.enter_context(listen()), stack.enter_context(listen())
        worker.add_listener("out", out)
        worker.add_listener("in", into)
        async with origin("app") as app:
            problems = await worker.apply(
                listener(port_of(out), identity=CALLER),
                listener(port_of(into), *[chains[name] for name in inbound], name="in", direction=Direction.INBOUND),
                routes(route("to-mesh", forward(("mesh", 1)))),
                routes(route("to-app", forward(("app", 1))), name="in"),
                cluster("mesh", port_of(into), tls=UpstreamTls(peer_ids=frozenset({SERVER}))),
                cluster("app", app),
            )
            assert problems == ()
            yield port_of(out), port_of(into), app, authority


def client_context(authority: TestAuthority, tmp_path: Path, spiffe_id: str) -> ssl.SSLContext:
    pair = authority.issue(spiffe_id)
    path = tmp_path / "client.pem"
    path.write_bytes(pair.key_pem + pair.chain_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.trust_pem.decode())
    context.load_cert_chain(path)
    return context


async def test_mtls_both_ways_and_plaintext_refused(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker, mesh(worker, "strict") as (out, into, app, _):
        assert (await get(out)).body == b"app"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await get(into)
        assert len(app.requests) == 1
        await until(lambda: worker.counters["cluster.mesh.ssl.handshake"] == 1)
        await until(lambda: worker.counters[f"listener.127.0.0.1_{into}.ssl.handshake"] == 1)


async def test_permissive_looks_at_the_first_byte(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker, mesh(worker, "tls", "raw") as (out, into, _, _):
        assert (await get(out)).body == b"app"
        assert (await get(into)).body == b"app", "in plain text on the same port"
        slow = await Connection.open(into)
        slow.writer.write(b"G")
        await asyncio.sleep(0.05)
        slow.writer.write(b"ET /split HTTP/1.1\r\nhost: web\r\n\r\n")
        assert (await slow.answer()).status == 200, "the byte that was looked at is not lost"
        slow.close()


async def test_a_caller_that_is_not_admitted_is_refused(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker, mesh(worker, "strict") as (_, into, app, authority):
        allowed = client_context(authority, tmp_path, CALLER)
        assert (await get(into, tls=allowed)).status == 200
        for stranger in (client_context(authority, tmp_path, OTHER), client_context(TestAuthority(), tmp_path, CALLER)):
            stranger.verify_mode = ssl.CERT_NONE
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await get(into, tls=stranger)
        assert len(app.requests) == 1
        await until(lambda: worker.counters[f"listener.127.0.0.1_{into}.ssl.fail_verify_san"] == 1)
        await until(lambda: worker.counters[f"listener.127.0.0.1_{into}.ssl.fail_verify_error"] == 1)


async def test_a_server_with_another_name_is_refused(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker, mesh(worker, "strict") as (out, into, _, _):
        wrong = UpstreamTls(peer_ids=frozenset({OTHER}))
        worker.channel.send(Put("cluster", "mesh", cluster("mesh", into, tls=wrong)))
        await worker.commit()
        answer = await get(out)
        assert answer.status == 503
        await until(lambda: worker.counters["cluster.mesh.ssl.fail_verify_san"] >= 1)


async def test_new_identities_serve_new_connections(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker, mesh(worker, "strict") as (out, into, _, old):
        kept = await Connection.open(out)
        assert (await kept.ask("/")).status == 200
        new = TestAuthority()
        pairs = tuple(new.issue(name) for name in (CALLER, SERVER))
        worker.set_identities(Identities(pairs, new.trust_pem))
        await worker.pong()
        assert (await kept.ask("/")).status == 200, "what is open goes on"
        kept.close()
        assert (await get(into, tls=client_context(new, tmp_path, CALLER))).status == 200
        stranger = client_context(old, tmp_path, CALLER)
        stranger.verify_mode = ssl.CERT_NONE
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await get(into, tls=stranger)


# --- TCP ------------------------------------------------------------------------------------------------------


async def test_tcp_proxy(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin("tcp") as end:
        assert await worker.apply(listener(port, tcp("c")), cluster("c", end)) == ()
        connection = await Connection.open(port)
        assert (await connection.ask("/a")).body == b"tcp"
        assert (await connection.ask("/echo", method="POST", body=b"x" * 300_000)).body == b"x" * 300_000
        await until(lambda: worker.gauges.get("cluster.c.upstream_cx_active") == 1)
        connection.close()
        await until(lambda: worker.gauges.get("cluster.c.upstream_cx_active") == 0)
        assert worker.counters["tcp.tcp.downstream_cx_total"] == 1


# --- statistics and logs --------------------------------------------------------------------------------------


async def test_deltas_add_up(tmp_path: Path) -> None:
    """Every request is in exactly one delta, whatever the configuration does meanwhile."""
    async with serving(tmp_path) as (worker, port), origin() as end:
        table, target = routes(route("all", forward(("c", 1)))), cluster("c", end)
        for number in range(40):
            await worker.apply(listener(port, http(server_name=f"s{number % 2}")), table, target)
            assert (await get(port, "/status/404" if number % 4 == 0 else "/")).status == (200 if number % 4 else 404)
            await asyncio.sleep(0.05)
        worker.drain(1.0)
        assert await worker.exit_code() == 0
        await until(lambda: worker.drained)
        assert worker.counters["http.test.downstream_rq_total"] == 40
        assert worker.counters["http.test.downstream_rq_2xx"] == 30
        assert worker.counters["http.test.downstream_rq_4xx"] == 10
        assert worker.counters["cluster.c.upstream_rq_200"] == 30
        assert worker.counters["cluster.c.upstream_rq_total"] == 40
        assert worker.hosts["c", end.key, "requests"] == 40
        assert worker.hosts["c", end.key, "successes"] == 40
        assert worker.gauges["c " + end.key] == 0
        assert worker.gauges.get("http.test.downstream_cx_active", 0) == 0
        assert len(worker.log_lines()) == 40


COUNTING = """
import gc, sys, agent.worker as w
from agent.proxy.http_connection import HttpConnection
from agent.upstream.connection import UpstreamConnection
w.Worker._freeze = lambda self: gc.disable()
code = w.main(sys.argv[1:-1])
alive = [value for value in gc.get_objects() if isinstance(value, HttpConnection | UpstreamConnection)]
open(sys.argv[-1], "w").write(str(len(alive)))
sys.exit(code)
"""


async def test_closed_connections_leave_nothing(tmp_path: Path) -> None:
    """Neither the timer wheel nor a cycle holds them: they are gone without the collector."""
    told = tmp_path / "alive"
    async with running_worker(tmp_path, program=("-c", COUNTING), last=(str(told),)) as worker, origin() as end:
        with listen() as sock:
            worker.add_listener("out", sock)
            port = port_of(sock)
            await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), cluster("c", end))
            for number in range(40):
                await get(port, ("/", "/cut", "/chunks", "/status/503")[number % 4])
            worker.drain(1.0)
            assert await worker.exit_code() == 0
    assert int(told.read_text()) <= 2, "at most the last ones, which the loop still closes"


async def test_access_log_lines_and_rotation(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin() as end:
        await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), cluster("c", end))
        await get(port, "/one")
        await until(lambda: len(worker.log_lines()) == 1, timeout_s=5)
        line = json.loads(worker.log_lines()[0])
        assert line == {
            "path": "/one", "status": 200, "flags": "-", "details": "via_upstream", "cluster": "c", "host": end.key,
            "attempts": 1, "route": "all",
        }  # fmt: skip
        worker.access_log.rename(tmp_path / "access.log.1")
        worker.signal(signal.SIGUSR1)
        await worker.pong()
        await get(port, "/two")
        await until(lambda: len(worker.log_lines()) == 1, timeout_s=5)
        assert json.loads(worker.log_lines()[0])["path"] == "/two"


async def test_pongs_tell_the_loops_lag(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        assert 0 <= (await worker.pong()).loop_lag_ms < 1000


# --- the end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["message", "signal"])
async def test_drain_ends_what_is_under_way(tmp_path: Path, how: str) -> None:
    async with serving(tmp_path) as (worker, port), origin() as end:
        await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), cluster("c", end))
        idle = await Connection.open(port)
        await idle.ask("/")
        busy = await Connection.open(port)
        busy.send("/slow/0.4")
        await until(lambda: len(end.requests) == 2)
        if how == "message":
            worker.drain(5.0)
        else:
            worker.signal(signal.SIGTERM)
        assert await idle.ended()
        answer = await busy.answer()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        assert await worker.exit_code() == 0
        await until(lambda: worker.drained)


async def test_drain_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with serving(tmp_path) as (worker, port), origin() as end:
        await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), cluster("c", end))
        busy = await Connection.open(port)
        busy.send("/slow/60")
        await until(lambda: end.requests)
        worker.drain(0.2)
        assert await worker.exit_code(timeout_s=10) == 0
        assert await busy.ended()
        await until(lambda: worker.drained)
        assert json.loads(worker.log_lines()[0])["path"] == "/slow/60", "it is logged all the same"


async def test_kill_and_replacement_on_the_same_socket(tmp_path: Path) -> None:
    """Only what was in flight may fail: who connects meanwhile waits in the queue."""
    async with origin() as end:
        with listen() as sock:
            port = port_of(sock)
            parts = (listener(port), routes(route("all", forward(("c", 1)))), cluster("c", end))
            async with running_worker(tmp_path) as first:
                first.add_listener("out", sock)
                await first.apply(*parts)
                clients = [Client(port, keep=False) for _ in range(2)]
                await until(lambda: all(client.answers[200] > 5 for client in clients))
                first.signal(signal.SIGKILL)
                await first.exit_code()
                async with running_worker(tmp_path) as second:
                    second.add_listener("out", sock)
                    await second.apply(*parts)
                    before = [client.answers[200] for client in clients]
                    await until(lambda: all(c.answers[200] > n + 5 for c, n in zip(clients, before, strict=True)))
                    for client in clients:
                        await client.stop()
            for client in clients:
                assert client.errors["ConnectionRefusedError"] == 0
                assert sum(client.errors.values()) <= 1, client.errors
                assert set(client.answers) == {200}


async def test_nonsense_ends_the_worker(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        worker.channel.send(Remove("weather", "x"))
        assert await worker.exit_code() == 1
    async with running_worker(tmp_path) as worker:
        worker.channel._sock.send(b"\x00" * frames.HEADER.size)
        assert await worker.exit_code() == 1


# --- the supervisor's end -------------------------------------------------------------------------------------

SHORT_LIVED = "import sys, agent.worker as w; w.ORPHAN_S, w.ORPHAN_DRAIN_S = 1.0, 0.5; sys.exit(w.main())"


async def test_an_orphan_serves_on_and_then_ends(tmp_path: Path) -> None:
    async with running_worker(tmp_path, program=("-c", SHORT_LIVED)) as worker, origin() as end:
        with listen() as sock:
            worker.add_listener("out", sock)
            port = port_of(sock)
            await worker.apply(listener(port), routes(route("all", forward(("c", 1)))), cluster("c", end))
            worker.channel.close()
            assert (await get(port)).status == 200
            assert await worker.exit_code() == 0


async def test_a_successor_takes_the_sockets_and_drains_the_orphan(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as orphan, origin() as end:
        with listen() as sock:
            orphan.add_listener("out", sock)
            port = port_of(sock)
            parts = (listener(port), routes(route("all", forward(("c", 1)))), cluster("c", end))
            await orphan.apply(*parts)
        client = Client(port, keep=False)
        await until(lambda: client.answers[200] > 5)
        orphan.channel.close()  # and with it the supervisor's own socket is gone
        orphans = Orphans(tmp_path)
        (taken,) = await orphans.find()
        assert taken.getsockname() == ("127.0.0.1", port)
        async with running_worker(tmp_path) as successor:
            successor.add_listener("out", taken)
            await successor.apply(*parts)
            orphans.drain(5.0)
            assert await orphan.exit_code() == 0
            await until(lambda: orphans.alive == 0)
            before = client.answers[200]
            await until(lambda: client.answers[200] > before + 5)
            await client.stop()
            taken.close()
        assert not client.errors, client.errors
        assert set(client.answers) == {200}


CHECKED = http(filters=(HttpFilter(name="a", config=ExternalAuthorization(cluster="z", grpc=True, timeout_s=20.0)),))


async def test_questions_follow_the_successors(tmp_path: Path) -> None:
    """One may come before the end of its predecessor is seen, and one of before may end after it."""
    asked: list[tuple[int, CheckQuestions, Callable[[CheckAnswers], None]]] = []
    unheard: list[CheckQuestions] = []
    async with running_worker(tmp_path) as worker, origin() as end:
        with listen() as sock:
            worker.on_check = unheard.append
            worker.add_listener("out", sock)
            port = port_of(sock)
            await worker.apply(listener(port, CHECKED), routes(route("all", forward(("c", 1)))), cluster("c", end))
            waiting = asyncio.ensure_future(get(port))
            await until(lambda: unheard)
            successors = [Orphans(tmp_path, lambda *said: asked.append(said)) for _ in range(2)]
            for own in successors:
                for taken in await own.find():
                    taken.close()
            assert not asked
            worker.channel.close()
            await until(lambda: asked)
            pid, questions, reply = asked.pop()
            assert (pid, questions.questions) == (worker.pid, unheard[0].questions)
            reply(CheckAnswers((CheckAnswer(number=questions.questions[0].number, verdict=CheckVerdict.OK),)))
            assert (await waiting).status == 200
            successors[0]._orphans[0].channel.close()
            again = asyncio.ensure_future(get(port))
            await until(lambda: asked)
            _, questions, reply = asked.pop()
            reply(
                CheckAnswers(
                    (CheckAnswer(number=questions.questions[0].number, verdict=CheckVerdict.DENIED, status=403),)
                )
            )
            assert (await again).status == 403
            successors[1]._orphans[0].channel.close()


async def test_a_second_crash_does_not_stop_the_orphans_clock(tmp_path: Path) -> None:
    async with running_worker(tmp_path, program=("-c", SHORT_LIVED)) as orphan:
        await orphan.apply()
        orphan.channel.close()
        orphans = Orphans(tmp_path)
        assert await orphans.find() == []
        assert orphans.alive == 1
        orphans._orphans[0].channel.close()
        assert await orphan.exit_code() == 0


async def test_without_a_configuration_there_is_nothing_to_serve_on(tmp_path: Path) -> None:
    """The supervisor died before it had said Welcome."""
    task = spawn("never", asyncio.sleep(3600))
    try:
        async with running_worker(tmp_path) as worker:
            worker.channel.close()
            worker.signal(signal.SIGTERM)
            assert await worker.exit_code() == 0
    finally:
        await cancel_and_wait(task)
