"""A host of a cluster as one worker sees it: its endpoint, whether it may be picked, what its tries came to.

Owns:   the plain state that load balancing and outlier detection share.
Not:    connections: `pools` belongs to agent.upstream.clusters, `active` to whoever sends requests.
Invariant: a host keeps its object, and so its counts, for as long as its address stays in the cluster.
"""

from enum import IntEnum
from typing import Any

from agent.model.cluster import Endpoint
from mesh.vocabulary import HealthStatus


class Availability(IntEnum):
    """Envoy's coarse health: a degraded host gets only what healthy ones cannot carry."""

    UNHEALTHY = 0
    DEGRADED = 1
    HEALTHY = 2


_BY_HEALTH = {
    HealthStatus.UNKNOWN: Availability.HEALTHY,
    HealthStatus.HEALTHY: Availability.HEALTHY,
    HealthStatus.DEGRADED: Availability.DEGRADED,
    HealthStatus.UNHEALTHY: Availability.UNHEALTHY,
    HealthStatus.DRAINING: Availability.UNHEALTHY,
    HealthStatus.TIMEOUT: Availability.UNHEALTHY,
}


LONG_AGO = -1e9  # long enough ago for every window of slow start to be over


class Host:
    """`key` = `address:port`. `active`: requests on their way now; the other counts only grow."""

    __slots__ = (
        "active",
        "consecutive_5xx",
        "consecutive_gateway",
        "consecutive_local",
        "ejected",
        "endpoint",
        "errors",
        "failing",
        "fit_since",
        "key",
        "late_errors",
        "local_errors",
        "pools",
        "reported",
        "reported_late",
        "successes",
        "weight",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.key = endpoint.key
        self.endpoint = endpoint
        self.weight = max(endpoint.weight, 1)
        self.ejected = False
        self.active = 0
        self.successes = 0  # answers below 500
        self.errors = 0  # all other outcomes
        self.local_errors = 0  # those of `errors` that are no answers, when they are counted apart
        self.late_errors = 0  # those of `local_errors` that came when there was a connection
        self.reported = (0, 0, 0, 0)  # requests, successes, errors, active at the last report
        self.reported_late = 0
        self.fit_since = LONG_AGO  # monotonic: when it was healthy for the first time, for slow start
        self.pools: dict[str, Any] = {}  # by identity
        self.failing = False  # one of the counts below is not 0
        self.consecutive_5xx = 0
        self.consecutive_gateway = 0
        self.consecutive_local = 0

    def replace_endpoint(self, endpoint: Endpoint) -> None:
        """The same address with other properties."""
        self.endpoint = endpoint
        self.weight = max(endpoint.weight, 1)

    @property
    def availability(self) -> Availability:
        """Health as the control plane tells it, and outlier detection's verdict."""
        return Availability.UNHEALTHY if self.ejected else _BY_HEALTH[self.endpoint.health]

    @property
    def requests(self) -> int:
        """Tries that an answer, or a failure that counts as one, has ended."""
        return self.successes + self.errors - self.local_errors

    def forget_failures(self) -> None:
        """Start all consecutive counts anew."""
        self.failing = False
        self.consecutive_5xx = self.consecutive_gateway = self.consecutive_local = 0
