"""A worker's half of outlier detection: counts of failures in a row per host, and when they are worth a request.

Owns:   the consecutive counts of agent.cluster.hosts.Host, the moment at which a threshold is reached.
Not:    whether the host is ejected (agent.cluster.outlier_detection, in the supervisor), success rates.
Source: data-plane.md 1.1.
Differs: each worker counts for itself, so with N workers up to N times as many failures may pass before one fires.

An answer, and in the usual mode every failure without one (as 503, a timeout as 504):
  below 500       both counts of answers start anew
  502, 503, 504   5xx and gateway count up
  other 5xx       5xx counts up, gateway starts anew
With split_external_local_origin_errors a failure without an answer counts only as local, a try that gets a connection
starts that count anew, whatever becomes of it, and answers count as above.

Invariants: a threshold fires when its count becomes equal to it, so 0 never does; a count that fired starts anew at
        once, since the supervisor answers every detection; nothing fires for a host that is ejected already.
"""

from agent.cluster.hosts import Host
from agent.model.cluster import OutlierDetection

CONSECUTIVE_5XX = "consecutive_5xx"
CONSECUTIVE_GATEWAY_FAILURE = "consecutive_gateway_failure"
CONSECUTIVE_LOCAL_ORIGIN_FAILURE = "consecutive_local_origin_failure"

Firing = tuple[str, int]  # which threshold, how many failures in a row
_NOTHING: tuple[Firing, ...] = ()


class OutlierMonitor:
    """The thresholds of one cluster. `split`: failures without an answer are counted apart."""

    __slots__ = ("_max_5xx", "_max_gateway", "_max_local", "split")

    def __init__(self, config: OutlierDetection) -> None:
        self.split = config.split_external_local_origin_errors
        self._max_5xx = config.consecutive_5xx
        self._max_gateway = config.consecutive_gateway_failure
        self._max_local = config.consecutive_local_origin_failure

    def answer_failed(self, host: Host, status: int) -> tuple[Firing, ...]:
        """A host answered with `status` >= 500."""
        host.failing = True
        host.consecutive_local = 0
        fired = _NOTHING
        if 502 <= status <= 504:
            count = host.consecutive_gateway = host.consecutive_gateway + 1
            if count == self._max_gateway and not host.ejected:
                host.consecutive_gateway = 0
                fired = ((CONSECUTIVE_GATEWAY_FAILURE, count),)
        else:
            host.consecutive_gateway = 0
        count = host.consecutive_5xx = host.consecutive_5xx + 1
        if count == self._max_5xx and not host.ejected:
            host.consecutive_5xx = 0
            fired = (*fired, (CONSECUTIVE_5XX, count))
        return fired

    def local_failed(self, host: Host, status: int) -> tuple[Firing, ...]:
        """There was no answer; `status` is what it counts as when failures are not split.

        Of a try that had a connection say `connected` first.
        """
        if not self.split:
            return self.answer_failed(host, status)
        host.failing = True
        count = host.consecutive_local = host.consecutive_local + 1
        if count == self._max_local and not host.ejected:
            host.consecutive_local = 0
            return ((CONSECUTIVE_LOCAL_ORIGIN_FAILURE, count),)
        return _NOTHING

    def answer_succeeded(self, host: Host) -> None:
        """A host that was failing answered below 500."""
        host.forget_failures()

    def connected(self, host: Host) -> None:
        """A try of the host has got a connection."""
        if self.split:
            host.consecutive_local = 0
