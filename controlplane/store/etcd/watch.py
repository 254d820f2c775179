"""One reader's watch of a prefix: list, stream, resume, list again after a gap. It never ends by itself.

Owns:   the session with etcd and what happens when it breaks; back-off between tries.
Not:    the meaning of single messages (assembler.py), what a listing is (store.py hands it in).

    LIST --listed--> STREAM --events--> STREAM
      ^                 |--broken--> (back-off) --same store, not behind--> STREAM from next_revision
      |---compacted, another store, revision went back--|

Invariants:
  Nothing is buffered but the fragments of one revision: the stream is read when the reader asks for more, and gRPC's
  flow control holds etcd back meanwhile.
  A resumed watch asks for next_revision; a listed one for the listing's revision + 1: no gap, no repeat.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import grpc

from controlplane.store.etcd.assembler import Canceled, Compacted, WatchAssembler
from controlplane.store.etcd.client import EtcdClient
from controlplane.store.etcd.errors import text_is_stale_token
from controlplane.store.etcd.methods import RANGE, WATCH
from controlplane.store.etcd.wire import rpc_pb2 as wire
from controlplane.store.folding import relisting, track
from controlplane.store.keys import SCHEMA
from controlplane.store.protocol import Changes, Listing
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.resilience.backoff import Backoff, Rng

_log = get_logger(__name__)
_WatchCall = grpc.aio.StreamStreamCall[wire.WatchRequest, wire.WatchResponse]

_CREATE_TIMEOUT_S = 5.0
# etcd sends progress every 10 minutes; a stream that is silent for longer is made anew.
_SILENCE_TIMEOUT_S = 15 * 60.0
# A stream that lived this long was no failed try: the next back-off starts small again.
_SETTLED_S = 5.0


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys with this prefix; b"\\0" (= no end) for an empty prefix."""
    for i in range(len(prefix) - 1, -1, -1):
        if prefix[i] < 0xFF:
            return prefix[:i] + bytes([prefix[i] + 1])
    return b"\0"


class EtcdWatch:
    """Iterate over `changes()` once. `on_health(ok)` tells whether the stream is up."""

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        *,
        list_prefix: Callable[[str], Awaitable[Listing]],
        on_health: Callable[[bool], None],
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._list = list_prefix
        self._on_health = on_health
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(base_s=0.1, max_s=5.0)
        self._known: set[str] = set()
        self._next_revision = 0  # 0 = list first
        self._store_identity: tuple[int, bytes] | None = None

    async def changes(self) -> AsyncGenerator[Changes, None]:
        """The steps, for ever. Close the generator to end the watch."""
        while True:
            started = self._clock.monotonic()
            try:
                async with aclosing(self._session()) as session:
                    async for step in session:
                        yield step
            except MeshError as error:
                await self._pause(error, lived_s=self._clock.monotonic() - started)

    async def _pause(self, error: MeshError, *, lived_s: float) -> None:
        self._on_health(False)
        if lived_s >= _SETTLED_S:
            self._backoff.reset()
        delay = self._backoff.next_delay_s(self._rng)
        _log.warning("watch interrupted", prefix=self._prefix, error=str(error), retry_in_s=round(delay, 2))
        await asyncio.sleep(delay)

    async def _session(self) -> AsyncGenerator[Changes, None]:
        """List if need be, then stream until it breaks (MeshError) or must list again (returns)."""
        if self._next_revision:
            await self._check_resumable()
        if not self._next_revision:
            yield await self._relist()
        assembler = WatchAssembler(self._next_revision)
        call = await self._open(assembler)
        self._on_health(True)
        try:
            while True:
                outcome = assembler.feed(await self._read(call, _SILENCE_TIMEOUT_S))
                self._next_revision = assembler.next_revision
                match outcome:
                    case Changes():
                        track(self._known, outcome)
                        self._backoff.reset()
                        yield outcome
                    case Compacted(revision=revision):
                        _log.warning("watch fell behind compaction", prefix=self._prefix, compacted=revision)
                        self._next_revision = 0
                        return
                    case Canceled(reason=reason):
                        raise self._canceled(reason)
        finally:
            call.cancel()

    async def _relist(self) -> Changes:
        # The identity is read first: if the store is swapped between the two, the next resume will notice.
        self._store_identity = (await self._identity())[0]
        listing = await self._list(self._prefix)
        step = relisting(listing, self._known)
        self._known = {entry.key for entry in listing.entries}
        self._next_revision = listing.revision + 1
        return step

    async def _check_resumable(self) -> None:
        """Resume only in the same store, and only if it still has what this reader has seen."""
        identity, revision = await self._identity()
        if identity != self._store_identity or revision < self._next_revision - 1:
            _log.warning("store was replaced or restored, listing again", prefix=self._prefix, revision=revision)
            self._next_revision = 0

    async def _identity(self) -> tuple[tuple[int, bytes], int]:
        answer = await self._client.call(RANGE, wire.RangeRequest(key=SCHEMA.encode()))
        value = answer.kvs[0].value if answer.kvs else b""
        return (answer.header.cluster_id, value), answer.header.revision

    async def _open(self, assembler: WatchAssembler) -> _WatchCall:
        key = self._prefix.encode()
        create = wire.WatchCreateRequest(
            key=key,
            range_end=prefix_end(key),
            start_revision=assembler.next_revision,
            progress_notify=True,
            fragment=True,
        )
        call = await self._client.stream(WATCH)
        try:
            await call.write(wire.WatchRequest(create_request=create))
            first = await self._read(call, _CREATE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._client.stream_failed(error) from error
        except asyncio.InvalidStateError as error:
            # grpc.aio's word for a write to a stream that has ended already.
            raise MeshError(ErrorCode.UNAVAILABLE, "etcd ended the watch stream", subject=self._prefix) from error
        except BaseException:
            call.cancel()
            raise
        if first.canceled and not first.compact_revision:
            call.cancel()
            raise self._canceled(first.cancel_reason)
        return call

    async def _read(self, call: _WatchCall, timeout_s: float) -> wire.WatchResponse:
        try:
            async with asyncio.timeout(timeout_s):
                response = await call.read()
        except grpc.aio.AioRpcError as error:
            raise self._client.stream_failed(error) from error
        except TimeoutError as error:
            raise MeshError(
                ErrorCode.UNAVAILABLE, f"etcd sent nothing for {timeout_s:g} s", subject=self._prefix
            ) from error
        if not isinstance(response, wire.WatchResponse):
            raise MeshError(ErrorCode.UNAVAILABLE, "etcd ended the watch stream", subject=self._prefix)
        return response

    def _canceled(self, reason: str) -> MeshError:
        if text_is_stale_token(reason):
            self._client.forget_token()
        return MeshError(ErrorCode.UNAVAILABLE, f"etcd canceled the watch: {reason}", subject=self._prefix)
