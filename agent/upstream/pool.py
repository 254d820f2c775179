"""Connections to one host for one identity, and the requests that wait for them.

Owns:   idle connections (last in, first out), connecting within connect_timeout and the TLS check of the peer,
        the pending queue, connection limits.
Not:    which host (agent.cluster), what is sent (agent.proxy).
Source: Envoy's HTTP/1 connection pool, data-plane.md 1.4: a request takes an idle connection, else it waits while a
        new connection is made if max_connections has room (a pool that has none may always make one), and it
        overflows when max_pending_requests is full. A failed connect fails the waiting requests.
Invariants: a connection belongs to one (identity, cluster, host) for life; every waiting request is told exactly once
        (ready or failed) unless it cancels; cells are released once per connection and per waiting request.
"""

import asyncio
import os
import ssl
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from agent.model.cells import CONNECTIONS, PENDING
from agent.model.cluster import Endpoint
from agent.model.resets import CONNECT_FAILURE, CONNECT_TIMEOUT
from agent.model.tls import UpstreamTls
from agent.stats import names
from agent.upstream.connection import UpstreamConnection
from agent.upstream.tls import TlsError, peer_allowed, peer_id, peer_names
from agent.upstream.tls_transport import connect_tls
from mesh.tasks import spawn

if TYPE_CHECKING:
    from agent.upstream.clusters import UpstreamCluster


class Waiter(Protocol):
    """A request that wants a connection."""

    def on_pool_ready(self, connection: UpstreamConnection) -> None: ...
    def on_pool_failure(self, reason: str, cause: str) -> None: ...


class Dialled(Protocol):
    """The protocol of a connection that is being made. `peer`: the host's SPIFFE id, set by the check of its name."""

    transport: Any
    peer: str


class Pool:
    """`host_key` = address:port; `identity` = the caller's SPIFFE id."""

    __slots__ = (
        "_active",
        "_closed",
        "_cluster",
        "_connecting",
        "_endpoint",
        "_identity",
        "_pending",
        "_tasks",
        "_tls",
        "idle",
    )

    def __init__(self, cluster: "UpstreamCluster", endpoint: Endpoint, identity: str, tls: UpstreamTls | None) -> None:
        self._cluster = cluster
        self._endpoint = endpoint
        self._identity = identity
        self._tls = tls
        self.idle: list[UpstreamConnection] = []
        self._active: set[UpstreamConnection] = set()  # connected, idle ones included
        self._connecting = 0
        self._pending: deque[tuple[Waiter, int]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    # --- requests ---------------------------------------------------------------------------------------------

    def take_idle(self) -> UpstreamConnection | None:
        """A connection that is ready now."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.keep_alive and not connection.retired and not connection.transport.is_closing():
                return connection
        return None

    def wait(self, waiter: Waiter, priority: int) -> bool:
        """Queue a request that found no idle connection. False: overflow, the waiter will not be called."""
        counts = self._cluster.stats.counts
        limits = self._cluster.limits[priority]
        if not limits.admit(PENDING):
            counts[names.RQ_PENDING_OVERFLOW] += 1
            return False
        counts[names.RQ_PENDING_TOTAL] += 1
        counts[names.RQ_PENDING_ACTIVE] += 1
        self._pending.append((waiter, priority))
        if self._connecting < len(self._pending):
            self._connect_within_limits(priority)
        return True

    def cancel(self, waiter: Waiter) -> None:
        """The request does not want a connection any more."""
        for entry in self._pending:
            if entry[0] is waiter:
                self._pending.remove(entry)
                self._leave_pending(entry[1])
                return

    def _leave_pending(self, priority: int) -> None:
        self._cluster.limits[priority].release(PENDING)
        self._cluster.stats.counts[names.RQ_PENDING_ACTIVE] -= 1

    def _connect_within_limits(self, priority: int) -> None:
        if self._cluster.limits[priority].admit(CONNECTIONS):
            self._connect(priority)
            return
        self._cluster.stats.counts[names.CX_OVERFLOW] += 1
        if not self._active and not self._connecting:
            self._cluster.limits[priority].force(CONNECTIONS)
            self._connect(priority)

    # --- connecting -------------------------------------------------------------------------------------------

    def _connect(self, priority: int) -> None:
        self._connecting += 1
        connection = UpstreamConnection(self, self._cluster.stats.counts, priority)
        task = spawn(f"connect {self._endpoint.key}", self._establish(connection))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._connect_ended(done, connection))

    def _connect_ended(self, task: asyncio.Task[None], connection: UpstreamConnection) -> None:
        """A task that was cancelled may never have begun, so what it held is given back here."""
        self._tasks.discard(task)
        if task.cancelled():
            self._connecting -= 1
            self._give_up(connection)

    async def _establish(self, connection: UpstreamConnection) -> None:
        started = monotonic()
        reason, cause = await self.dial(connection)
        self._connecting -= 1
        if reason:
            self._give_up(connection)
            self._fail(reason, cause)
            return
        self._connected(connection, (monotonic() - started) * 1000)

    async def dial(self, protocol: Dialled) -> tuple[str, str]:
        """Connect `protocol` to the host, with TLS and the check of its name where the endpoint says so.

        Returns why it could not be done: (reason of agent.model.resets, cause), ("", "") when it could. The protocol
        may be connected also then (a wrong name): abort it.
        """
        counts = self._cluster.stats.counts
        try:
            async with asyncio.timeout(self._cluster.config.connect_timeout_s):
                await self._open(protocol)
        except TimeoutError:
            counts[names.CX_CONNECT_TIMEOUT] += 1
            return CONNECT_TIMEOUT, ""
        except TlsError as refused:  # a name of its own for each: mypyc gives a name one type
            return CONNECT_FAILURE, f"TLS_error:_{refused}".replace(" ", "_")
        except ssl.SSLError as failed:
            counts[names.SSL_CONNECTION_ERROR] += 1
            return CONNECT_FAILURE, f"TLS_error:_{failed.reason or failed}".replace(" ", "_")
        except OSError as error:
            return CONNECT_FAILURE, f"delayed_connect_error:_{_text(error)}".replace(" ", "_")
        return "", ""

    async def _open(self, connection: Dialled) -> None:
        endpoint, tls = self._endpoint, self._tls
        if tls is not None:
            context = self._cluster.tls_contexts.client(tls, self._identity)
            await connect_tls(connection, endpoint.address, endpoint.port, context, tls.sni)
            self._check_peer(connection, tls)
            return
        protocol: Any = connection  # duck-typed: a base of asyncio would be a second one
        await asyncio.get_running_loop().create_connection(lambda: protocol, endpoint.address, endpoint.port)

    def _check_peer(self, connection: Dialled, tls: UpstreamTls) -> None:
        uris, dns = peer_names(connection.transport)
        connection.peer = peer_id(uris)
        self._cluster.stats.counts[names.SSL_HANDSHAKE] += 1
        if not peer_allowed(uris, dns, tls.peer_ids, tls.peer_dns):
            self._cluster.stats.counts[names.SSL_FAIL_VERIFY_SAN] += 1
            found = ", ".join(sorted(uris | dns)) or "no name"
            raise TlsError(f"the peer shows {found}, expected {', '.join(sorted(tls.peer_ids | tls.peer_dns))}")

    def _give_up(self, connection: UpstreamConnection) -> None:
        """A connection that never came into use."""
        self._cluster.limits[connection.priority].release(CONNECTIONS)
        connection.abort()

    def _connected(self, connection: UpstreamConnection, took_ms: float) -> None:
        stats = self._cluster.stats
        stats.counts[names.CX_TOTAL] += 1
        stats.counts[names.CX_ACTIVE] += 1
        stats.histograms[names.CX_CONNECT_MS].add(took_ms)
        self._active.add(connection)
        self._cluster.on_connect(self._endpoint.key, True)
        if connection.transport.is_closing():
            self.on_lost(connection)
        else:
            self._serve(connection)

    def _fail(self, reason: str, cause: str) -> None:
        counts = self._cluster.stats.counts
        for place in (names.CX_TOTAL, names.CX_CONNECT_FAIL, names.CX_DESTROY):
            counts[place] += 1
        waiting = list(self._pending)
        self._pending.clear()
        self._cluster.stats.counts[names.RQ_PENDING_FAILURE_EJECT] += len(waiting)
        for waiter, priority in waiting:
            self._leave_pending(priority)
            waiter.on_pool_failure(reason, cause)

    # --- connections ------------------------------------------------------------------------------------------

    def on_released(self, connection: UpstreamConnection) -> None:
        """A connection has finished a request and can take another."""
        limit = self._cluster.config.max_requests_per_connection
        usable = connection.keep_alive and not connection.retired and not connection.transport.is_closing()
        if self._closed or not usable:
            connection.close()
        elif limit and connection.requests >= limit:
            self._cluster.stats.counts[names.CX_MAX_REQUESTS] += 1
            connection.close()
        else:
            self._serve(connection)

    def _serve(self, connection: UpstreamConnection) -> None:
        if self._pending:
            waiter, priority = self._pending.popleft()
            self._leave_pending(priority)
            waiter.on_pool_ready(connection)
            return
        if self._closed:
            connection.close()
            return
        self.idle.append(connection)
        timeout_s = self._cluster.config.idle_timeout_s
        if timeout_s:
            self._cluster.wheel.arm(connection, monotonic() + timeout_s)

    def on_lost(self, connection: UpstreamConnection) -> None:
        if connection not in self._active:
            return
        self._active.discard(connection)
        self._cluster.wheel.disarm(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        self._cluster.limits[connection.priority].release(CONNECTIONS)
        counts = self._cluster.stats.counts
        counts[names.CX_ACTIVE] -= 1
        counts[names.CX_DESTROY] += 1
        if self._connecting < len(self._pending):
            self._connect_within_limits(self._pending[0][1])

    def on_idle_timeout(self, connection: UpstreamConnection) -> None:
        self._cluster.stats.counts[names.CX_IDLE_TIMEOUT] += 1
        connection.close()

    def close_idle(self) -> None:
        """The host is ejected: connections that wait are closed, those in use end with their request."""
        for connection in list(self.idle):
            connection.close()
        self.idle.clear()
        for connection in self._active:
            connection.retired = True

    def close(self) -> None:
        """The host or its transport is gone from the config. Requests that are here go on, none comes in any more."""
        self._closed = True
        self.close_idle()
        if not self._pending:
            for task in self._tasks:
                task.cancel()

    @property
    def empty(self) -> bool:
        """Nothing is connected, connecting or waiting."""
        return not (self._active or self._connecting or self._pending)


def _text(error: OSError) -> str:
    """The system's words; loops add theirs to them."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
