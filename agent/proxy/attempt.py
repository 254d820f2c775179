"""One try of a request: a host, a connection to it, the bytes up, and what comes back or why nothing does.

Owns:   the wait in the pool, the place among max_requests, the host's requests under way and outcomes, giving the
        connection back.
Not:    whose try it is and what its answer is good for (TryOwner), how many tries there are (retrying), time limits
        (deadlines).
Source: data-plane.md 1.4.
Invariants: an owner may have several tries at once. Each tells one end, `on_try_refused`, `on_try_unconnected`,
        `on_try_reset` or the end of its answer, unless the owner leaves it before; what was counted when it was sent
        is given back once.
"""

from typing import TYPE_CHECKING, Any

from agent.cluster.hosts import Host
from agent.codec.head import RequestHead, ResponseHead
from agent.model.cells import REQUESTS
from agent.model.resets import PROTOCOL_ERROR
from agent.model.route import Forward
from agent.stats import names
from agent.upstream.clusters import UpstreamCluster
from agent.upstream.connection import UpstreamConnection
from agent.upstream.pool import Pool

if TYPE_CHECKING:
    from agent.proxy.chain import HttpChain


class TryOwner:
    """Whose tries they are, and whom they tell.

    `action`: the Forward; `cluster`: an UpstreamCluster; `identity`: the SPIFFE id in whose name they connect.
    """

    __slots__ = ("action", "chain", "cluster", "head", "identity")

    chain: "HttpChain"
    head: RequestHead
    identity: str
    action: Any
    cluster: Any

    def try_bytes(self, attempt: "Attempt") -> bytes:
        """The head as this try sends it, and as much of the body as has come."""
        raise NotImplementedError

    def on_try_waiting(self, attempt: "Attempt") -> None:
        """No connection is free: it waits for one."""
        raise NotImplementedError

    def on_try_sent(self, attempt: "Attempt", upstream: UpstreamConnection) -> None:
        """It has its connection, and what `try_bytes` gave is written."""
        raise NotImplementedError

    def on_try_refused(self, attempt: "Attempt") -> None:
        """A limit of the cluster has no room for it."""
        raise NotImplementedError

    def on_try_unconnected(self, attempt: "Attempt", reason: str, cause: str) -> None:
        """No connection could be made: a reason of agent.model.resets, and the system's words."""
        raise NotImplementedError

    def on_try_reset(self, attempt: "Attempt", reason: str, raced: bool) -> None:
        """It ended before its answer did. `raced`: on a connection that was used before, without one byte."""
        raise NotImplementedError

    def on_answer(self, attempt: "Attempt", head: ResponseHead, body: bytes, end_stream: bool) -> None:
        """The head of its answer, the first part of the body and whether that is all."""
        raise NotImplementedError

    def on_answer_body(self, attempt: "Attempt", data: bytes) -> None:
        raise NotImplementedError

    def on_answer_end(self, attempt: "Attempt") -> None:
        raise NotImplementedError

    def on_answer_raw(self, attempt: "Attempt", data: bytes) -> None:
        """Bytes after a 101."""
        raise NotImplementedError

    def on_try_writable(self, attempt: "Attempt") -> None:
        """Its connection takes bytes again, or takes none for now."""
        raise NotImplementedError


class Attempt:
    """Made per try, for a host that `cluster.pick` gave. `upstream`: its connection, None before and after.

    `started`: when it had its connection, in seconds of the chain's clock. `late`: it has taken too long and goes on,
    and its host knows.
    """

    __slots__ = ("_pool", "host", "late", "owner", "started", "upstream")

    def __init__(self, owner: TryOwner, host: Host) -> None:
        self.owner = owner
        self.host = host
        self.started = 0.0
        self.late = False
        self.upstream: UpstreamConnection | None = None
        self._pool: Pool | None = None  # where it waits

    @property
    def is_held(self) -> bool:
        """Something keeps it from its host, which has no part in how long it takes."""
        return False

    def begin(self, fresh: bool = False) -> None:
        """Get a connection and send the request. `fresh`: not a connection that has waited in the pool."""
        owner = self.owner
        identity = owner.identity
        pool: Pool | None = self.host.pools.get(identity)  # as `cluster.pool` does, but for a call less
        if pool is None:
            pool = owner.cluster.pool(self.host, identity)
        connection = None if fresh else pool.take_idle()
        if connection is not None:
            self.on_pool_ready(connection)
            return
        self._pool = pool
        action: Forward = owner.action
        if not pool.wait(self, action.priority_high):
            self._pool = None
            owner.on_try_refused(self)
        elif self._pool is not None:
            owner.on_try_waiting(self)

    # --- called by the pool -----------------------------------------------------------------------------------

    def on_pool_ready(self, connection: UpstreamConnection) -> None:
        self._pool = None
        owner = self.owner
        cluster: UpstreamCluster = owner.cluster
        action: Forward = owner.action
        counts = cluster.stats.counts
        if not cluster.limits[action.priority_high].admit(REQUESTS):
            counts[names.RQ_ACTIVE_OVERFLOW] += 1
            connection.owner.on_released(connection)
            owner.on_try_refused(self)
            return
        counts[names.RQ_TOTAL] += 1
        counts[names.RQ_ACTIVE] += 1
        self.host.active += 1
        self.upstream = connection
        self.started = owner.chain.clock()
        connection.start(self, owner.head.method, owner.try_bytes(self))
        owner.on_try_sent(self, connection)

    def on_pool_failure(self, reason: str, cause: str) -> None:
        self._pool = None
        owner = self.owner
        owner.cluster.on_connect_failure(self.host)
        owner.on_try_unconnected(self, reason, cause)

    # --- called by the connection -----------------------------------------------------------------------------

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        owner = self.owner
        if head.status == 101 and not owner.head.upgrade:
            self.on_upstream_reset(PROTOCOL_ERROR)  # nobody has asked for another protocol
            return
        cluster: UpstreamCluster = owner.cluster
        cluster.on_status(self.host, head.status)
        owner.on_answer(self, head, body, end_stream)

    def on_response_body(self, data: bytes) -> None:
        self.owner.on_answer_body(self, data)

    def on_response_end(self) -> None:
        self.owner.on_answer_end(self)

    def on_upstream_raw(self, data: bytes) -> None:
        self.owner.on_answer_raw(self, data)

    def on_upstream_writable(self, writable: bool) -> None:
        self.owner.on_try_writable(self)

    def on_upstream_reset(self, reason: str) -> None:
        upstream = self.upstream
        assert upstream is not None
        raced = upstream.requests > 1 and not upstream.answered
        self.leave(False)
        self.owner.on_try_reset(self, reason, raced)

    # --- used by the owner ------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """It has its connection, or waits for one."""
        return self.upstream is not None or self._pool is not None

    def leave(self, reusable: bool) -> None:
        """Give the connection back. `reusable`: the whole request was sent and the whole answer has come."""
        upstream, self.upstream = self.upstream, None
        if upstream is None:
            return
        owner = self.owner
        cluster: UpstreamCluster = owner.cluster
        action: Forward = owner.action
        cluster.stats.counts[names.RQ_ACTIVE] -= 1
        cluster.limits[action.priority_high].release(REQUESTS)
        self.host.active -= 1
        if reusable:
            upstream.release(True)
        else:
            upstream.abort()

    def drop(self) -> None:
        """Leave the connection, or the queue for one, in the middle."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.cancel(self)
            self.owner.cluster.stats.counts[names.RQ_CANCELLED] += 1
        self.leave(False)
