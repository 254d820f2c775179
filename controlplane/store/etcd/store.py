"""ConfigStore on etcd.

Owns:   the store's words in etcd's: paged lists, compare transactions, watches, leases, health, being full.
Not:    connections and authentication (client.py), starting an etcd (store/embedded.py).
Source: etcd v3 API; decisions 16-19.

Invariant: a transaction is sent at most once; a lost answer is UNAVAILABLE (store/applies.py resolves it).
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from controlplane.store.etcd import leases
from controlplane.store.etcd.assembler import entry_of
from controlplane.store.etcd.client import EtcdClient
from controlplane.store.etcd.errors import NO_SPACE_HINT
from controlplane.store.etcd.methods import COMPACT, MEMBER_LIST, RANGE, STATUS, TXN, Method, Req, Resp
from controlplane.store.etcd.options import EtcdOptions
from controlplane.store.etcd.versions import warning_for
from controlplane.store.etcd.watch import EtcdWatch, prefix_end
from controlplane.store.etcd.wire import rpc_pb2 as wire
from controlplane.store.limits import check_transaction
from controlplane.store.protocol import Changes, Check, Entry, Lease, Listing, ModRevisionIs, Op, Put, TxnResult
from mesh.clock import Clock, SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.resilience.backoff import Rng
from mesh.tasks import cancel_and_wait, spawn

_log = get_logger(__name__)

PAGE_KEYS = 500
# A list without a revision starts over when compaction overtakes its pages; only a storm of writes does that twice.
_LIST_TRIES = 3
_FULL_LOOK_S = 2.0  # how often a full etcd is asked whether its alarm is still on


class EtcdStore:
    """The store on one etcd cluster. Make it inside a running loop; `await close()` at the end."""

    def __init__(self, options: EtcdOptions, *, clock: Clock | None = None, rng: Rng = random.random) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._rng = rng
        self._client = EtcdClient(options)
        self._keep_aliver = leases.KeepAliver(self._client, timeout_s=options.timeout_s)
        self._reachable = True
        self._broken_watches: set[int] = set()
        self._watch_ids = itertools.count(1)
        self._full: asyncio.Task[None] | None = None  # runs as long as etcd is full

    @property
    def healthy(self) -> bool:
        """False while a watch is interrupted or the last call found no etcd."""
        return self._reachable and not self._broken_watches

    @property
    def problem(self) -> str:
        """Why etcd cannot be used, or not be written; empty when it can."""
        if not self.healthy:
            return "the store does not answer"
        full = self._full is not None and not self._full.done()
        return f"etcd's space quota is used up, writes are refused: {NO_SPACE_HINT}" if full else ""

    async def check(self) -> str:
        """Ask etcd for its version, warn of an affected one, and return it. Raises UNAVAILABLE with the remedy."""
        status = await self._call(STATUS, wire.StatusRequest())
        warning = warning_for(status.version, members=await self._member_count())
        if warning:
            _log.warning("etcd version is affected", version=status.version, problem=warning)
        for alarm in status.errors:
            _log.warning("etcd raises an alarm", alarm=alarm)
        if _is_full(status):
            self._note_full()
        return status.version

    async def get(self, key: str) -> Entry | None:
        answer = await self._call(RANGE, wire.RangeRequest(key=key.encode()))
        return entry_of(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str, *, at_revision: int = 0) -> Listing:
        for _ in range(_LIST_TRIES - 1):
            try:
                return await self._list_once(prefix, at_revision)
            except MeshError as error:
                if at_revision or error.code is not ErrorCode.COMPACTED:
                    raise
        return await self._list_once(prefix, at_revision)

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> TxnResult:
        check_transaction(checks, ops, self._options.limits)
        request = wire.TxnRequest(compare=[_compare(check) for check in checks], success=[_request(op) for op in ops])
        answer = await self._call(TXN, request)
        return TxnResult(answer.succeeded, answer.header.revision)

    async def watch(self, prefix: str) -> AsyncIterator[Changes]:
        watch_id = next(self._watch_ids)

        def on_health(ok: bool) -> None:
            (self._broken_watches.discard if ok else self._broken_watches.add)(watch_id)

        watch = EtcdWatch(
            self._client, prefix, list_prefix=self.list, on_health=on_health, clock=self._clock, rng=self._rng
        )
        try:
            async with aclosing(watch.changes()) as changes:
                async for step in changes:
                    yield step
        finally:
            self._broken_watches.discard(watch_id)

    async def grant(self, ttl_s: int) -> Lease:
        try:
            return await leases.grant(self._client, self._keep_aliver, self._clock, ttl_s)
        except MeshError as error:
            if error.code is ErrorCode.NO_SPACE:
                self._note_full()
            raise

    async def compact(self, revision: int) -> None:
        """Forget what was before `revision`."""
        await self._call(COMPACT, wire.CompactionRequest(revision=revision))

    async def close(self) -> None:
        await cancel_and_wait(self._full)
        await self._keep_aliver.close()
        await self._client.close()

    async def _list_once(self, prefix: str, at_revision: int) -> Listing:
        start, end = prefix.encode(), prefix_end(prefix.encode())
        entries: list[Entry] = []
        revision, limit = at_revision, PAGE_KEYS
        while True:
            request = wire.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
            try:
                page = await self._call(RANGE, request)
            except MeshError as error:
                # Large values: the page did not fit into one message.
                if error.code is ErrorCode.TOO_LARGE and limit > 1:
                    limit //= 2
                    continue
                raise
            # The first page's revision is the listing's: the other pages are read as of it.
            revision = revision or page.header.revision
            entries.extend(map(entry_of, page.kvs))
            if not page.more:
                return Listing(revision, tuple(entries))
            start = page.kvs[-1].key + b"\0"

    async def _call(self, method: Method[Req, Resp], request: Req) -> Resp:
        try:
            answer = await self._client.call(method, request)
        except MeshError as error:
            self._reachable = error.code is not ErrorCode.UNAVAILABLE
            if error.code is ErrorCode.NO_SPACE:
                self._note_full()
            raise
        self._reachable = True
        return answer

    def _note_full(self) -> None:
        """Writes are refused until somebody makes room and disarms the alarm."""
        if self._full is None or self._full.done():
            _log.error("etcd is full, writes are refused", hint=NO_SPACE_HINT)
            self._full = spawn("etcd is full", self._until_room())

    async def _until_room(self) -> None:
        while True:
            await asyncio.sleep(_FULL_LOOK_S)
            try:
                status = await self._call(STATUS, wire.StatusRequest())
            except MeshError as error:
                _log.debug("etcd does not tell whether it is full", error=str(error))
                continue
            if not _is_full(status):
                _log.info("etcd has room again")
                return

    async def _member_count(self) -> int:
        try:
            return len((await self._call(MEMBER_LIST, wire.MemberListRequest())).members)
        except MeshError as error:
            _log.debug("etcd does not tell its members", error=str(error))
            return self._client.endpoint_count


def _is_full(status: wire.StatusResponse) -> bool:
    return any("NOSPACE" in alarm for alarm in status.errors)


def _compare(check: Check) -> wire.Compare:
    # A key that does not exist has mod_revision 0 in a comparison.
    result = wire.Compare.EQUAL if isinstance(check, ModRevisionIs) else wire.Compare.LESS
    return wire.Compare(result=result, target=wire.Compare.MOD, key=check.key.encode(), mod_revision=check.revision)


def _request(op: Op) -> wire.RequestOp:
    key = op.key.encode()
    if isinstance(op, Put):
        return wire.RequestOp(request_put=wire.PutRequest(key=key, value=op.value, lease=op.lease))
    return wire.RequestOp(request_delete_range=wire.DeleteRangeRequest(key=key))
