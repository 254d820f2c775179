"""The token buckets that all workers share, by place: the layout of one worker's table in the shared memory.

Owns:   the places. A table is SETS sets of WAYS entries of FIELDS int64; a bucket is in the set `tag % SETS`.
Not:    the memory itself (agent.ipc.table_memory), what the numbers mean (agent.filters.token_buckets).
"""

from typing import Final

FIELDS: Final = 4
TAG: Final = 0  # of the bucket; 0 = the entry is free
SPENT: Final = 1  # ns that its worker has taken
WASTED: Final = 2  # ns that its worker has seen flow over
SEEN: Final = 3  # ns: when it was asked for
WAYS: Final = 8
SETS: Final = 8192
TABLE: Final = SETS * WAYS * FIELDS
