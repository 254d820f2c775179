"""The counters that all workers share, by place: the layout of one row of the shared memory.

Owns:   the places. Cell = row + priority * FIELDS + field.
Not:    the memory itself (agent.ipc.shared), who may admit what (agent.cluster.thresholds).
"""

from typing import Final

FIELDS: Final = 4
CONNECTIONS: Final = 0
PENDING: Final = 1
REQUESTS: Final = 2
RETRIES: Final = 3
PRIORITIES: Final = 2  # DEFAULT, HIGH
WIDTH: Final = FIELDS * PRIORITIES
