"""What all workers count together under names that come and go, by place: the layout of one worker's table.

Owns:   the places. A table is SETS sets of WAYS entries of FIELDS int64; a name is in the set `tag % SETS`.
Not:    the memory itself (agent.ipc.table_memory), what the numbers mean (agent.cluster.shared_counts).
"""

from typing import Final

FIELDS: Final = 2
TAG: Final = 0  # of the name; 0 = the entry was never used, nor was one behind it in its set
UNDER_WAY: Final = 1  # so many in this worker; at 0 another name may have the entry
WAYS: Final = 8
SETS: Final = 2048
TABLE: Final = SETS * WAYS * FIELDS
