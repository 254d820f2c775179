"""Connections to one host against a real server on loopback. Source: data-plane.md 1.4."""

import socket

from agent.model.cells import CONNECTIONS, PENDING
from agent.model.cluster import Endpoint, Thresholds
from agent.stats import names
from agent.upstream.pool import Pool
from tests.support.upstream import ClusterUnderTest, Peer, Request, assignment, on_both_loops, peer, until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def pool_to(under_test: ClusterUnderTest, identity: str = "") -> Pool:
    host = under_test.cluster.pick(Request())
    assert host is not None
    return under_test.cluster.pool(host, identity)


def start(request: Request) -> None:
    assert request.connection is not None
    request.connection.start(request, b"GET", GET)


async def sent(pool: Pool, *, priority: int = 0) -> Request:
    """A request that is on its way, on a connection that waited or on a new one."""
    request = Request()
    request.connection = pool.take_idle()
    if request.connection is None:
        assert pool.wait(request, priority)
        await until(lambda: request.connection)
    start(request)
    return request


def in_use(under_test: ClusterUnderTest) -> tuple[int, int]:
    limits = under_test.cluster.limits[0]
    return limits.under_way(CONNECTIONS), limits.under_way(PENDING)


@on_both_loops
async def test_a_connection_carries_one_request_after_the_other() -> None:
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint])
        pool = pool_to(under_test)
        for number in range(3):
            request = await sent(pool)
            connection = await server.connection()
            await connection.request()
            connection.answer(b"%d" % number)
            await until(lambda request=request: request.connection is None)
            assert (request.status, request.body) == (200, b"%d" % number)
        assert len(server.connections) == 1
        assert in_use(under_test) == (1, 0)
        assert under_test.counts[names.CX_TOTAL] == 1
        assert under_test.counts[names.RQ_PENDING_TOTAL] == 1
        pool.close()


@on_both_loops
async def test_limits_as_recorded_from_envoy() -> None:
    """One connection, one pending, four at once: two are served in turn, two overflow. Source: golden_t5."""
    async with peer() as server:
        under_test = ClusterUnderTest(
            [server.endpoint], thresholds=Thresholds(max_connections=1, max_pending_requests=1)
        )  # fmt: skip
        pool = pool_to(under_test)
        first = await sent(pool)
        others = [Request() for _ in range(3)]
        assert [pool.wait(request, 0) for request in others] == [True, False, False]
        counts = under_test.counts
        assert counts[names.CX_OVERFLOW] == 1
        assert counts[names.RQ_PENDING_OVERFLOW] == 2
        assert counts[names.RQ_PENDING_ACTIVE] == 1
        assert in_use(under_test) == (1, 1)
        connection = await server.connection()
        for request in (first, others[0]):
            if request is not first:
                await until(lambda: others[0].connection)
                start(request)
            await connection.request()
            connection.answer()
            await until(lambda request=request: request.connection is None)
        assert len(server.connections) == 1
        assert counts[names.RQ_PENDING_TOTAL] == 2
        assert in_use(under_test) == (1, 0)
        pool.close()


@on_both_loops
async def test_a_pool_without_a_connection_may_always_make_one() -> None:
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint], thresholds=Thresholds(max_connections=0))
        pool = pool_to(under_test)
        await sent(pool)
        assert under_test.counts[names.CX_OVERFLOW] == 1
        assert in_use(under_test) == (1, 0)
        pool.close()


@on_both_loops
async def test_priorities_have_limits_of_their_own() -> None:
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint], thresholds=Thresholds(max_pending_requests=0))
        pool = pool_to(under_test)
        assert not pool.wait(Request(), 0)
        await sent(pool, priority=1)
        assert in_use(under_test) == (0, 0)
        assert under_test.cluster.limits[1].under_way(CONNECTIONS) == 1
        pool.close()


def refusing() -> Endpoint:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Endpoint(address="127.0.0.1", port=probe.getsockname()[1])


@on_both_loops
async def test_a_refused_connection_fails_all_that_wait() -> None:
    """Each is told why, and nothing stays counted."""
    under_test = ClusterUnderTest([refusing()])
    pool = pool_to(under_test)
    waiting = [Request(), Request()]
    assert all(pool.wait(request, 0) for request in waiting)
    await until(lambda: all(request.failure for request in waiting) and pool.empty)
    assert {request.failure for request in waiting} == {
        ("remote_connection_failure", "delayed_connect_error:_Connection_refused")
    }
    assert in_use(under_test) == (0, 0)
    assert under_test.counts[names.CX_CONNECT_FAIL] >= 1
    assert under_test.counts[names.RQ_PENDING_FAILURE_EJECT] == 2
    assert under_test.counts[names.RQ_PENDING_ACTIVE] == 0


@on_both_loops
async def test_a_client_that_leaves_the_queue_frees_its_place() -> None:
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint], thresholds=Thresholds(max_pending_requests=1))
        pool = pool_to(under_test)
        request = Request()
        assert pool.wait(request, 0)
        pool.cancel(request)
        assert in_use(under_test)[1] == 0
        await server.connection()
        await until(lambda: pool.idle)
        assert request.connection is None
        assert request.failure is None
        pool.close()


@on_both_loops
async def test_idle_connections_are_closed_in_time() -> None:
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint], idle_timeout_s=0.02)
        pool = pool_to(under_test)
        await sent(pool)
        connection = await server.connection()
        await connection.request()
        connection.answer()
        assert await connection.ended()
        await until(lambda: pool.empty)
        assert under_test.counts[names.CX_IDLE_TIMEOUT] == 1
        assert in_use(under_test) == (0, 0)


@on_both_loops
async def test_a_connection_carries_so_many_requests_at_most() -> None:
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint], max_requests_per_connection=2)
        pool = pool_to(under_test)
        await sent_and_answered(pool, server, 0)
        await sent_and_answered(pool, server, 0)
        assert await server.connections[0].ended()
        await sent_and_answered(pool, server, 1)
        assert under_test.counts[names.CX_MAX_REQUESTS] == 1
        assert under_test.counts[names.CX_TOTAL] == 2
        pool.close()


async def sent_and_answered(pool: Pool, server: Peer, number: int) -> Request:
    """A request that comes on the server's connection of this number."""
    request = await sent(pool)
    connection = await server.connection(number)
    await connection.request()
    connection.answer()
    await until(lambda: request.connection is None)
    return request


@on_both_loops
async def test_a_connection_that_the_host_ends_is_not_used_again() -> None:
    """`connection: close`, bytes that nobody asked for, and an end while idle."""
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint])
        pool = pool_to(under_test)
        request = await sent(pool)
        first = await server.connection(0)
        await first.request()
        first.answer(close=True)
        await until(lambda: request.connection is None)
        assert await first.ended()
        await sent_and_answered(pool, server, 1)
        server.connections[1].send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert await server.connections[1].ended()
        await sent_and_answered(pool, server, 2)
        server.connections[2].close()
        await until(lambda: pool.empty)
        assert under_test.counts[names.CX_DESTROY] == 3
        assert under_test.counts[names.CX_ACTIVE] == 0
        assert in_use(under_test) == (0, 0)


@on_both_loops
async def test_resets_say_what_the_host_did() -> None:
    """An end before the answer is a termination, nonsense breaks the protocol, and so does an end in the middle."""
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint])
        pool = pool_to(under_test)
        for number, (data, reason) in enumerate(
            [
                (b"", "connection_termination"),
                (b"what?\r\n\r\n", "protocol_error"),
                (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", "protocol_error"),
            ]
        ):
            request = await sent(pool)
            connection = await server.connection(number)
            await connection.request()
            connection.send(data)
            connection.close()
            await until(lambda request=request: request.reset)
            assert request.reset == reason
        await until(lambda: pool.empty)
        assert under_test.counts[names.CX_PROTOCOL_ERROR] == 1
        assert in_use(under_test) == (0, 0)


@on_both_loops
async def test_a_lost_connection_is_replaced_for_who_waits() -> None:
    """With one connection allowed, its end makes room for the next."""
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint], thresholds=Thresholds(max_connections=1))
        pool = pool_to(under_test)
        first = await sent(pool)
        waiting = Request()
        assert pool.wait(waiting, 0)
        connection = await server.connection(0)
        await connection.request()
        connection.close()
        await until(lambda: first.reset)
        await until(lambda: waiting.connection)
        await server.connection(1)
        assert in_use(under_test) == (1, 0)
        pool.close()


@on_both_loops
async def test_an_ejected_host_keeps_only_what_is_in_use() -> None:
    """Idle connections are closed at once, the others after their request."""
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint], healthy_panic_threshold_percent=50.0)
        pool = pool_to(under_test)
        done = await sent(pool)
        busy = await sent(pool)
        for number in (0, 1):
            await (await server.connection(number)).request()
        server.connections[0].answer()
        await until(lambda: done.connection is None)
        under_test.cluster.set_ejected(server.endpoint.key, True)
        assert await server.connections[0].ended()
        server.connections[1].answer(b"late")
        await until(lambda: busy.connection is None)
        assert busy.body == b"late"
        assert await server.connections[1].ended()
        await until(lambda: pool.empty)


@on_both_loops
async def test_a_pool_that_is_closed_serves_who_is_here() -> None:
    """The host has left the config: what is in flight or waits ends in peace, then every connection is closed."""
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint], thresholds=Thresholds(max_connections=1))
        pool = pool_to(under_test)
        busy, waiting = await sent(pool), Request()
        assert pool.wait(waiting, 0)
        under_test.cluster.update(under_test.config, assignment())
        connection = await server.connection()
        await connection.request()
        connection.answer(b"still")
        await until(lambda: busy.connection is None)
        assert busy.body == b"still"
        assert await connection.ended()
        await until(lambda: waiting.connection)
        start(waiting)
        later = await server.connection(1)
        await later.request()
        later.answer(b"too")
        await until(lambda: waiting.body == b"too")
        assert await later.ended()
        await until(lambda: pool.empty)
        assert in_use(under_test) == (0, 0)


@on_both_loops
async def test_a_pool_that_is_closed_while_connecting_leaves_nothing() -> None:
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint])
        pool = pool_to(under_test)
        request = Request()
        assert pool.wait(request, 0)
        pool.cancel(request)
        pool.close()
        await until(lambda: pool.empty)
        assert in_use(under_test) == (0, 0)


@on_both_loops
async def test_identities_do_not_share_connections() -> None:
    """Decision 10."""
    async with peer() as server:
        under_test = ClusterUnderTest([server.endpoint])
        one, other = pool_to(under_test, "spiffe://td/a"), pool_to(under_test, "spiffe://td/b")
        assert one is not other
        assert one is pool_to(under_test, "spiffe://td/a")
        await sent_and_answered(one, server, 0)
        assert other.take_idle() is None
        await sent_and_answered(other, server, 1)
        one.close()
        other.close()
