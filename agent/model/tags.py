"""By what number a name is known in the tables that all workers share (agent.ipc.table_memory)."""

from collections.abc import Sequence
from hashlib import blake2b


def tag_of(parts: Sequence[str]) -> int:
    """The same in all workers; never 0."""
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1
