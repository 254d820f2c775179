"""The counters that all workers share, by place: the layout of one row of the shared memory.

Owns:   the places. Cell = row + priority * FIELDS + field.
Not:    the memory itself (agent.ipc.shared), who may admit what (agent.cluster.thresholds).
"""

FIELDS = 4
CONNECTIONS, PENDING, REQUESTS, RETRIES = range(FIELDS)
PRIORITIES = 2  # DEFAULT, HIGH
WIDTH = FIELDS * PRIORITIES
