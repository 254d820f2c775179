"""The difference between what a worker has and what it should have, as the frames that bring it there. Pure.

Owns:   the order of frames: endpoints and clusters, routes, listeners; then removals, the other way round.
Not:    sending (worker_link), what should be served (agent.xds.warming).
Invariant: applying the frames to `before` gives exactly `after`; a value that is the same object makes no frame.
"""

from collections.abc import Iterator

from agent.ipc.messages import CLUSTER, LISTENER, LOAD_ASSIGNMENT, ROUTE_CONFIGURATION, VIRTUAL_HOST, Put, Remove
from agent.xds.warming import Tables

_ORDER = (LOAD_ASSIGNMENT, CLUSTER, ROUTE_CONFIGURATION, VIRTUAL_HOST, LISTENER)


def changes(before: Tables, after: Tables) -> Iterator[Put | Remove]:
    """The frames from `before` to `after`."""
    for kind in _ORDER:
        old = before[kind]
        for name, value in after[kind].items():
            if old.get(name) is not value:
                yield Put(kind, name, value)
    for kind in reversed(_ORDER):
        for name in before[kind]:
            if name not in after[kind]:
                yield Remove(kind, name)
