"""A thin client of etcd's v3 gRPC API: one call at a time, with failover, authentication and errors in our words.

Owns:   which member is asked, tokens, time-outs, the metadata that etcd reads.
Not:    what keys mean (store.py), watches (watch.py), lease keep-alives (leases.py).
Source: etcd v3 API; every maintained Python client lost events or hung when etcd was killed (docs/adr), hence this.

Invariants:
  A call that writes is sent at most once: only a connected channel is given it, and its failure is the caller's.
  Secrets (the password, tokens) are never logged and never in an error.
"""

import asyncio
import time
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from controlplane.store.etcd.endpoints import Endpoints
from controlplane.store.etcd.errors import is_stale_token, mesh_error, unreachable
from controlplane.store.etcd.methods import AUTHENTICATE, Method
from controlplane.store.etcd.options import EtcdOptions
from controlplane.store.etcd.wire import rpc_pb2 as wire
from mesh.errors import MeshError

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)
Metadata = tuple[tuple[str, str], ...]

# etcd ends a stream with this header when its member has lost the leader (clientv3.WithRequireLeader).
_REQUIRE_LEADER = ("hasleader", "true")
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class EtcdClient:
    """Calls to one cluster. Every method raises MeshError; the subject is the list of endpoints."""

    def __init__(self, options: EtcdOptions) -> None:
        self._options = options
        self._endpoints = Endpoints(options)
        self._subject = ", ".join(options.endpoints)
        self._token = ""
        self._authenticating = asyncio.Lock()

    async def close(self) -> None:
        await self._endpoints.close()

    @property
    def endpoint_count(self) -> int:
        return len(self._endpoints)

    async def call(self, method: Method[Req, Resp], request: Req, *, timeout_s: float = 0) -> Resp:
        """One unary call within `timeout_s` (0 = the configured one). Repeated on another member only when that is
        harmless, and once when etcd asks for a new token."""
        deadline = time.monotonic() + (timeout_s or self._options.timeout_s)
        fresh_token = False
        while True:
            token = await self._current_token(deadline)
            channel = await self._ready(deadline)
            try:
                return await self._send(channel, method, request, _auth(token), deadline)
            except grpc.aio.AioRpcError as error:
                if is_stale_token(error) and not fresh_token:
                    self.forget_token(token)
                    fresh_token = True
                    continue
                if error.code() in _AWAY:
                    self._endpoints.turn_from(channel)
                    if method.repeatable and deadline - time.monotonic() > 0.1:
                        continue
                raise mesh_error(error, subject=self._subject) from error

    async def stream(self, method: Method[Req, Resp]) -> "grpc.aio.StreamStreamCall[Req, Resp]":
        """Open a stream that etcd ends when its member loses the leader. The caller cancels it."""
        deadline = time.monotonic() + self._options.timeout_s
        token = await self._current_token(deadline)
        channel = await self._ready(deadline)
        open_stream = channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return open_stream(None, metadata=(*_auth(token), _REQUIRE_LEADER))

    def stream_failed(self, error: grpc.aio.AioRpcError) -> MeshError:
        """What the failure of a stream means; the next call goes to another member when this one is away."""
        if is_stale_token(error):
            self.forget_token(self._token)
        if error.code() in _AWAY:
            self._endpoints.turn()
        return mesh_error(error, subject=self._subject)

    def forget_token(self, token: str = "") -> None:
        """Authenticate again before the next call, unless a newer token than `token` is already there."""
        if not token or self._token == token:
            self._token = ""

    async def _ready(self, deadline: float) -> grpc.aio.Channel:
        channel = await self._endpoints.ready(max(deadline - time.monotonic(), 0.0))
        if channel is None:
            raise unreachable(self._options.endpoints, embedded=self._options.embedded)
        return channel

    async def _send(
        self,
        channel: grpc.aio.Channel,
        method: Method[Req, Resp],
        request: Req,
        metadata: Metadata,
        deadline: float,
    ) -> Resp:
        remaining = max(deadline - time.monotonic(), 0.05)
        # A member that hangs must leave time to ask another one.
        timeout = remaining / 2 if method.repeatable and len(self._endpoints) > 1 else remaining
        unary = channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        response: Resp = await unary(request, timeout=timeout, metadata=metadata)
        return response

    async def _current_token(self, deadline: float) -> str:
        """The token, made now if there is none; empty when no user is configured."""
        if not self._options.user or self._token:
            return self._token
        async with self._authenticating:
            if not self._token:
                request = wire.AuthenticateRequest(name=self._options.user, password=self._options.password.reveal())
                channel = await self._ready(deadline)
                try:
                    response = await self._send(channel, AUTHENTICATE, request, (), deadline)
                except grpc.aio.AioRpcError as error:
                    self._endpoints.turn_from(channel)
                    raise mesh_error(error, subject=self._subject) from error
                self._token = response.token
        return self._token


def _auth(token: str) -> Metadata:
    return (("token", token),) if token else ()
