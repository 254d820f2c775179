"""Leases in etcd: granting, one keep-alive stream for all of them, revoking.

Owns:   matching keep-alive answers to leases; saying when a lease is lost.
Not:    when to renew (the holder does), what hangs on a lease.
Source: etcdserverpb.Lease; a keep-alive answered with TTL 0 means that the lease is gone.

Invariants:
  A lease counts as lost no later than etcd may let it expire: its time runs from before the request was sent.
  One renewal of a lease is under way at a time; a second caller waits for the same answer.
"""

import asyncio

import grpc

from controlplane.store.etcd.client import EtcdClient
from controlplane.store.etcd.methods import LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE
from controlplane.store.etcd.wire import rpc_pb2 as wire
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn

_KeepAliveCall = grpc.aio.StreamStreamCall[wire.LeaseKeepAliveRequest, wire.LeaseKeepAliveResponse]


class KeepAliver:
    """One stream that renews any number of leases. It is opened at first use and again after it broke."""

    def __init__(self, client: EtcdClient, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._call: _KeepAliveCall | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[int]] = {}

    async def renew(self, lease_id: int) -> int:
        """The new time to live in seconds, 0 when the lease is gone. Raises UNAVAILABLE."""
        under_way = self._waiting.get(lease_id)
        if under_way is None:
            under_way = self._waiting[lease_id] = asyncio.get_running_loop().create_future()
            under_way.add_done_callback(_retrieve)
            try:
                await self._send(lease_id)
            except BaseException as error:
                self._answer(lease_id, error)
                raise
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(under_way)
        except TimeoutError as error:
            self._waiting.pop(lease_id, None)
            self._drop()
            raise _away(f"no answer to a lease renewal within {self._timeout_s:g} s") from error

    async def close(self) -> None:
        reader = self._reader
        self._drop()
        await cancel_and_wait(reader)

    async def _send(self, lease_id: int) -> None:
        # gRPC takes one write at a time on a stream.
        async with self._writing:
            if self._call is None:
                self._call = await self._client.stream(LEASE_KEEP_ALIVE)
                self._reader = spawn("etcd lease keep-alive", self._read(self._call))
            await self._write(self._call, wire.LeaseKeepAliveRequest(ID=lease_id))

    async def _write(self, call: _KeepAliveCall, request: wire.LeaseKeepAliveRequest) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await call.write(request)
        except grpc.aio.AioRpcError as error:
            self._drop()
            raise self._client.stream_failed(error) from error
        except (asyncio.InvalidStateError, TimeoutError) as error:
            self._drop()
            raise _away("the lease stream has ended") from error

    async def _read(self, call: _KeepAliveCall) -> None:
        """Hand out answers until the stream ends; then everyone who waits is told."""
        failure = _away("the lease stream has ended")
        try:
            while isinstance(response := await call.read(), wire.LeaseKeepAliveResponse):
                self._answer(response.ID, response.TTL)
        except grpc.aio.AioRpcError as error:
            failure = self._client.stream_failed(error)
        finally:
            call.cancel()
            if self._call is call:
                self._call = None
                for lease_id in tuple(self._waiting):
                    self._answer(lease_id, failure)

    def _answer(self, lease_id: int, answer: int | BaseException) -> None:
        waiting = self._waiting.pop(lease_id, None)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, int):
            waiting.set_result(answer)
        elif isinstance(answer, asyncio.CancelledError):
            waiting.cancel()
        else:
            waiting.set_exception(answer)

    def _drop(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        for lease_id in tuple(self._waiting):
            self._answer(lease_id, _away("the lease stream was dropped"))


class EtcdLease:
    """A lease in etcd; see the Lease protocol."""

    def __init__(
        self, client: EtcdClient, keep_aliver: KeepAliver, clock: Clock, *, lease_id: int, expires: float
    ) -> None:
        self._client = client
        self._keep_aliver = keep_aliver
        self._clock = clock
        self._id = lease_id
        self._expires = expires
        self._gone = False

    @property
    def id(self) -> int:
        return self._id

    @property
    def lost(self) -> bool:
        return self._gone or self._clock.monotonic() >= self._expires

    async def keep_alive(self) -> None:
        sent = self._clock.monotonic()
        ttl_s = await self._keep_aliver.renew(self._id)
        if ttl_s <= 0:
            self._gone = True
            raise MeshError(ErrorCode.NOT_FOUND, "the lease has run out", subject=f"lease {self._id:x}")
        self._expires = sent + ttl_s

    async def revoke(self) -> None:
        self._gone = True
        try:
            await self._client.call(LEASE_REVOKE, wire.LeaseRevokeRequest(ID=self._id))
        except MeshError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise


async def grant(client: EtcdClient, keep_aliver: KeepAliver, clock: Clock, ttl_s: int) -> EtcdLease:
    """A new lease of `ttl_s` seconds (etcd may choose a longer time)."""
    sent = clock.monotonic()
    answer = await client.call(LEASE_GRANT, wire.LeaseGrantRequest(TTL=ttl_s))
    if answer.error:
        raise MeshError(ErrorCode.UNAVAILABLE, f"etcd granted no lease: {answer.error}", subject="lease")
    return EtcdLease(client, keep_aliver, clock, lease_id=answer.ID, expires=sent + answer.TTL)


def _away(message: str) -> MeshError:
    return MeshError(ErrorCode.UNAVAILABLE, message, subject="etcd")


def _retrieve(future: "asyncio.Future[int]") -> None:
    """Look at the exception, so that asyncio does not complain when every waiter has given up."""
    if not future.cancelled():
        future.exception()
