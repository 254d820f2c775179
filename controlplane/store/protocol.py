"""What the control plane asks of its store: a small, revisioned, watchable key-value contract.

Owns:   the words (Entry, Check, Put, Delete, Changes) and the promises. `etcd` is the real thing, `memory` is a
        verified fake: tests/contract runs one suite on both.
Source: etcd v3 API guarantees (revision, transactions, leases, watch); decisions 16-19.

Promises:
  A revision is one number for the whole store and grows with every successful transaction that writes.
  `transact` is all or nothing. An answer that got lost raises UNAVAILABLE: the caller cannot know the outcome and
  must look (it is never retried here).
  `watch` first yields the whole prefix, then every change in order, none lost or doubled; after a compaction or a
  gap it yields a relisting (`full=True`) so that the reader's view is again exactly the store's.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One key. `create_revision` and `mod_revision` as in etcd; `lease` is 0 when there is none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries below a prefix, sorted by key, as of `revision`."""

    revision: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class ModRevisionIs:
    """Holds when the key's mod_revision equals `revision`; 0 means that the key does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class ModRevisionBelow:
    """Holds when the key exists or not and its mod_revision is < `revision` (decision 17)."""

    key: str
    revision: int


Check = ModRevisionIs | ModRevisionBelow


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key; `lease` 0 = lives until deleted."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key; no error when it does not exist."""

    key: str


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`succeeded` is False when a check did not hold; then nothing was written."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """One step of a watch.

    `full`: `puts` is the whole prefix and every other key that the reader holds is gone (they are also listed in
    `deletes`, synthesised). Otherwise the step holds the changes of one or more whole revisions, in order; a key
    stands at most once, with its last value; one that came and went within the step is among the `deletes`.
    `revision`: the reader's view is the store's as of this revision.
    """

    revision: int
    puts: tuple[Entry, ...]
    deletes: tuple[str, ...]
    full: bool = False


class Lease(Protocol):
    """A lease. Its holder renews it with `keep_alive`, well within its time to live, until it revokes it."""

    @property
    def id(self) -> int: ...
    @property
    def lost(self) -> bool:
        """True once the store says that it expired, or it was not renewed within its time to live."""
        ...

    async def keep_alive(self) -> None:
        """Renew once. Raises MeshError(NOT_FOUND) when it is gone, UNAVAILABLE when the store is away."""
        ...

    async def revoke(self) -> None:
        """End it and delete its keys. Never raises when it is gone already."""
        ...


class ConfigStore(Protocol):
    """The store. Every call has a time-out inside (5 s unless configured) and raises MeshError on failure."""

    async def get(self, key: str) -> Entry | None: ...

    async def list(self, prefix: str, *, at_revision: int = 0) -> Listing:
        """Pages inside (500 keys at the first page's revision). COMPACTED when `at_revision` is no longer kept."""
        ...

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> TxnResult:
        """TOO_LARGE names the limits (operations, bytes) and how to raise them; NO_SPACE: the store is full."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[Changes]:
        """Never ends by itself; outages are bridged with back-off and `healthy` goes False meanwhile."""
        ...

    async def grant(self, ttl_s: int) -> Lease:
        """A new lease; the caller renews it (`keep_alive`), or lets it run out."""
        ...

    @property
    def healthy(self) -> bool: ...

    @property
    def problem(self) -> str:
        """Why the store cannot do its work, with what helps; empty when it can. A full one is healthy: it is read."""
        ...

    async def close(self) -> None: ...
