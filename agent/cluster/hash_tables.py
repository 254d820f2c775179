"""The tables of consistent hashing: how they are built, how they lie in memory, how they are read.

Owns:   Ketama rings and Maglev tables, entry for entry as Envoy has them for the same hosts.
Not:    who stands in them (agent.cluster.hash_levels), who chooses by them (agent.cluster.hashing), who carries them
        (agent.supervisor.hash_tables builds, agent.upstream.clusters reads).
Source: Envoy's ring_hash_lb.cc and maglev_lb.cc; the Maglev paper, listing 1.
Differs: a ring has RING_LIMIT entries at most, whatever maximum_ring_size allows.
Invariants: building yields at least every STEP entries, so that a loop can serve in between; reading never copies.

Memory of one table, tables of several levels follow each other:
  ring    entries x uint64: hashes, ascending;  entries x number of the host;  zeros to a multiple of 8 bytes
  maglev  entries x number of the host;  zeros to a multiple of 8 bytes
A number takes 1, 2 or 4 bytes, as few as the hosts allow (`number_bytes`).
"""

from array import array
from bisect import bisect_left
from collections.abc import Generator, Iterable, Sequence
from math import ceil
from typing import Literal

from agent.cluster.hash_levels import HashLevel
from agent.model.cluster import Hashing, HashTable, LbPolicy
from agent.router.xxhash64 import xxh64

RING_LIMIT = 1_048_576
STEP = 256
_BUCKETS = 256  # of a ring that is sorted, by the first byte of the hash
_ALL = 1 << 64
_TYPES: dict[int, Literal["B", "H", "I"]] = {1: "B", 2: "H", 4: "I"}
Building = Generator[None, None, tuple[HashTable, bytes]]


def number_bytes(hosts: int) -> int:
    """How many bytes the number of one of so many hosts takes."""
    return 1 if hosts <= 1 << 8 else 2 if hosts <= 1 << 16 else 4


def build(level: HashLevel, policy: LbPolicy, config: Hashing) -> Building:
    """Build the table of a level that has members; it is what the generator returns."""
    keys = [_hash_key(level, place, config) for place in range(len(level.members))]
    ring = policy == LbPolicy.RING_HASH
    if ring:
        hashes, numbers = yield from _ring(keys, level.weights, config)
    else:
        hashes, numbers = [], (yield from _maglev(keys, level.weights, config.maglev_table_size))
    table = HashTable(
        priority=level.priority,
        hosts=tuple(host.key for host in level.members),
        ring=ring,
        entries=len(numbers),
    )
    data = array("Q", hashes).tobytes() + array(_TYPES[number_bytes(len(keys))], numbers).tobytes()
    return table, data + bytes(-len(data) % 8)


def _hash_key(level: HashLevel, place: int, config: Hashing) -> str:
    endpoint = level.members[place].endpoint
    return endpoint.hash_key or (endpoint.hostname if config.use_hostname else "") or endpoint.key


# --- ring -------------------------------------------------------------------------------------------------------------


def _ring(
    keys: Sequence[str], weights: Sequence[float], config: Hashing
) -> Generator[None, None, tuple[list[int], list[int]]]:
    """(hashes, numbers). As many entries per host as its weight says, at least a whole number for the lightest."""
    lightest = min(weights)
    limit = min(config.maximum_ring_size, RING_LIMIT)
    scale = min(ceil(lightest * config.minimum_ring_size) / lightest, float(limit))
    buckets: list[list[tuple[int, int]]] = [[] for _ in range(_BUCKETS)]
    made, wanted = 0, 0.0
    for number, (key, weight) in enumerate(zip(keys, weights, strict=True)):
        wanted += scale * weight
        prefix = key.encode() + b"_"
        turn = 0
        while made < wanted:
            found = xxh64(prefix + b"%d" % turn)
            buckets[found >> 56].append((found, number))
            turn += 1
            made += 1
            if made % STEP == 0:
                yield
    hashes: list[int] = []
    numbers: list[int] = []
    for bucket in buckets:
        bucket.sort()
        hashes += [found for found, _ in bucket]
        numbers += [number for _, number in bucket]
        if made > STEP:
            yield
    return hashes, numbers


# --- maglev -----------------------------------------------------------------------------------------------------------


def _maglev(keys: Sequence[str], weights: Sequence[float], size: int) -> Generator[None, None, list[int]]:
    """Each host in turn takes the next free entry of its own permutation; a lighter one misses turns."""
    order = sorted(range(len(keys)), key=lambda number: keys[number].encode())
    hashed = [keys[number].encode() for number in order]
    skips = [xxh64(key, 1) % (size - 1) + 1 for key in hashed]
    nexts = [xxh64(key) % size for key in hashed]
    own = [weights[number] for number in order]
    heaviest = max(own)
    targets = [0.0] * len(order)
    table = [-1] * size
    filled = turn = looked = 0
    while filled < size:
        turn += 1
        for place, number in enumerate(order):
            if turn * own[place] < targets[place]:
                continue
            targets[place] += heaviest
            at, skip = nexts[place], skips[place]
            while table[at] >= 0:
                at = (at + skip) % size
                looked += 1
            table[at] = number
            nexts[place] = (at + skip) % size
            filled += 1
            if filled == size:
                break
            if filled + looked >= STEP * 4:
                looked = -filled
                yield
    return table


# --- reading ----------------------------------------------------------------------------------------------------------


class Table:
    """A table that lies in memory."""

    __slots__ = ("hosts", "priority")

    def __init__(self, table: HashTable) -> None:
        self.priority = table.priority
        self.hosts = table.hosts

    def number(self, key: int, attempt: int) -> int:
        """Which host a hash leads to; `attempt` 0 is the first choice, each further one another place."""
        raise NotImplementedError


class Ring(Table):
    __slots__ = ("_hashes", "_numbers")

    def __init__(self, table: HashTable, hashes: memoryview, numbers: memoryview) -> None:
        super().__init__(table)
        self._hashes = hashes
        self._numbers = numbers

    def number(self, key: int, attempt: int) -> int:
        """The first entry at or after the hash, round and round."""
        return int(self._numbers[(bisect_left(self._hashes, key) + attempt) % len(self._hashes)])


class Maglev(Table):
    __slots__ = ("_numbers",)

    def __init__(self, table: HashTable, numbers: memoryview) -> None:
        super().__init__(table)
        self._numbers = numbers

    def number(self, key: int, attempt: int) -> int:
        if attempt:
            key ^= _ALL - attempt
        return int(self._numbers[key % len(self._numbers)])


def read(tables: Iterable[HashTable], memory: memoryview) -> tuple[Table, ...]:
    """The tables in this memory. Raises ValueError when it is too small for them, or one of them is empty."""
    found: list[Table] = []
    at = 0
    for table in tables:
        width = number_bytes(len(table.hosts))
        hashes_end = at + (table.entries * 8 if table.ring else 0)
        end = hashes_end + table.entries * width
        if not table.entries or not table.hosts or end > len(memory):
            raise ValueError(f"a table of {table.entries} entries in {len(memory) - at} bytes")
        numbers = memory[hashes_end:end].cast(_TYPES[width])
        if table.ring:
            found.append(Ring(table, memory[at:hashes_end].cast("Q"), numbers))
        else:
            found.append(Maglev(table, numbers))
        at = end + -end % 8
    return tuple(found)
