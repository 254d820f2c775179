"""A cluster as this worker uses it: its hosts, their pools, who is picked, what is counted, what is tried again.

Owns:   the hosts across config changes, pools by (identity, host), outcomes of tries, retry slots.
Not:    the rules, which are pure (agent.cluster: load_balancing, outlier_monitor, thresholds, retries), ejections (the
        supervisor decides; `set_ejected` brings its verdicts), the routes.
Source: data-plane.md 1.1 to 1.5.
Invariants: one object per cluster name for as long as the config has it: `update` changes it in place, so counters,
        pools and hosts that stay are kept, and a request that is under way picks its next try from the hosts of now;
        hosts are known by `address:port`; a host that leaves loses its pools, those in use end with their request.

How a worker uses it
  on Commit    new name: UpstreamCluster(config, assignment, parts, stats, row, ejected); changed: update(config,
               assignment); gone: close(), after the snapshot without it is in place. An assignment of None = no hosts.
  on Cells     use_row(row), also for a cluster that is known already.
  on HashTables use_tables(tables); those of a cluster that is not here yet wait for it in agent.listener.clusters.
  on HostState set_ejected(host, ejected). Verdicts on clusters that are not here yet go in as `ejected` above.
  each second  take_host_rows() into StatsDelta.hosts; of a closed cluster too, until it is `settled`.
How a chain uses it
  before the first try   exchange.retry = book.rules_for(the route's RetryPolicy or None, head), where book is the
               worker's agent.cluster.retries.RetryBook.
  at the end   the exchange counts each answer of a host that goes on in `stats.codes`; an answer of our own for this
               cluster is counted by on_local_answer(status). RQ_TIME is added by the chain.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, Protocol

from agent.cluster.hash_tables import Table
from agent.cluster.hosts import LONG_AGO, Availability, Host
from agent.cluster.load_balancing import HASHED, Balancing, balance
from agent.cluster.outlier_monitor import Firing, OutlierMonitor
from agent.cluster.pickers import NoHost, Picker
from agent.cluster.retries import AT_ONCE, RetryRules
from agent.cluster.retry_priorities import RetryPriorities
from agent.cluster.thresholds import Limits
from agent.cluster.workloads import CallerIndex
from agent.codec.head import RequestHead, ResponseHead
from agent.ipc.messages import EjectRequest
from agent.ipc.shared import Row
from agent.model.cells import FIELDS, RETRIES, WIDTH
from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from agent.model.tls import UpstreamTls
from agent.stats import names
from agent.stats.groups import Group
from agent.upstream.pool import Pool
from agent.upstream.tls import TlsContexts
from agent.upstream.wheel import TimerWheel
from mesh.resilience.backoff import Rng, delay_s

HostRow = tuple[str, str, int, int, int, int]  # cluster, host, requests, successes, errors, active
LateRow = tuple[str, str, int]  # cluster, host, failures without an answer on a connection that was there
_UNAVAILABLE = 503  # what a failure without an answer counts as
_TIMED_OUT = 504


class Trying(Protocol):
    """A request (agent.proxy.exchange): `tried` hosts, `attempts` so far, its RetryRules, whether it holds a slot.

    `asked_s`: RetryRules.asked_delay_s of the last answer that is tried again; `back_offs`: pauses so far that no
    answer asked for.
    """

    head: RequestHead
    tried: list[Any]
    attempts: int
    retry: Any
    action: Any
    flags: str
    holds_retry: bool
    asked_s: float
    back_offs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all clusters of a worker share. `eject` sends a request to the supervisor; `callers` hears of all hosts;
    `wall`: seconds since the epoch."""

    wheel: TimerWheel
    tls_contexts: TlsContexts
    rng: Rng
    eject: Callable[[EjectRequest], None]
    callers: CallerIndex = field(default_factory=CallerIndex)
    wall: Callable[[], float] = time


def _own_row() -> Row:
    """Memory of this cluster alone."""
    return Row(memoryview(bytearray(WIDTH * 8)).cast("q"), 0, (0,))


class UpstreamCluster:
    """`stats`: agent.stats.names.cluster_group of the name (or its alt_stat_name), from the worker's Registry.

    `limits` is indexed by routing priority: 0 DEFAULT, 1 HIGH.
    """

    __slots__ = (
        "_balancing",
        "_closed",
        "_ejected",
        "_hosts",
        "_leaving",
        "_monitor",
        "_overprovisioning_factor",
        "_parts",
        "_picker",
        "_retry_priorities",
        "_tables",
        "config",
        "limits",
        "stats",
        "tls_contexts",
        "wheel",
    )

    def __init__(
        self,
        config: Cluster,
        assignment: LoadAssignment | None,
        parts: Parts,
        stats: Group,
        row: Row | None = None,
        ejected: Collection[str] = (),
    ) -> None:
        """`row` None: the limits hold for this worker alone until `use_row`."""
        self.config = config
        self.stats = stats
        self.wheel = parts.wheel
        self.tls_contexts = parts.tls_contexts
        self._parts = parts
        self._hosts: dict[str, Host] = {}
        self._leaving: list[Host] = []  # gone from the config, with something to report
        self._ejected = set(ejected)
        self._closed = False
        self._picker: Picker = NoHost()
        self._balancing: Balancing | None = None
        self._retry_priorities: RetryPriorities | None = None  # made when a retry asks for it
        self._tables: tuple[Table, ...] = ()
        self._overprovisioning_factor = 140
        detection = config.outlier_detection
        self._monitor = OutlierMonitor(detection) if detection is not None else None
        cells = row or _own_row()
        self.limits = tuple(
            Limits(thresholds, *_priority_cells(cells, priority))
            for priority, thresholds in enumerate((config.thresholds, config.thresholds_high))
        )
        self._place(assignment)

    # --- configuration ------------------------------------------------------------------------------------------

    def update(self, config: Cluster, assignment: LoadAssignment | None) -> None:
        """Serve this from now on."""
        before, self.config = self.config, config
        self.limits[0].configure(config.thresholds)
        self.limits[1].configure(config.thresholds_high)
        if config.outlier_detection != before.outlier_detection:
            detection = config.outlier_detection
            self._monitor = OutlierMonitor(detection) if detection is not None else None
            for host in self._hosts.values():
                host.forget_failures()
        if (config.tls, config.transport_sockets) != (before.tls, before.transport_sockets):
            pools = [pool for host in self._hosts.values() for pool in _taken_pools(host)]
        else:
            pools = []
        self._place(assignment)
        _close(pools)

    def use_row(self, row: Row) -> None:
        """Count in this row of the shared memory; what is counted now moves with it."""
        for priority, limits in enumerate(self.limits):
            limits.move(*_priority_cells(row, priority))

    def set_ejected(self, host: str, ejected: bool) -> None:
        """The supervisor's verdict on `address:port`; kept also for a host that is not here yet."""
        if ejected:
            self._ejected.add(host)
        else:
            self._ejected.discard(host)
        found = self._hosts.get(host)
        if found is None or found.ejected == ejected:
            return
        found.ejected = ejected
        found.forget_failures()
        self._balance()
        if ejected:
            for pool in found.pools.values():
                pool.close_idle()

    def use_tables(self, tables: tuple[Table, ...]) -> None:
        """Choose by these from now on (lb_policy RING_HASH and MAGLEV)."""
        self._tables = tables
        self._balance()

    def close(self) -> None:
        """The cluster is gone from the config: nobody is picked any more, requests in flight go on."""
        self._closed = True
        self._place(None)
        self.use_row(_own_row())  # its block of the shared memory goes to another cluster

    @property
    def settled(self) -> bool:
        """It is closed and has nothing more to report."""
        return self._closed and not self._leaving

    def _place(self, assignment: LoadAssignment | None) -> None:
        """Have exactly these hosts. The first of several with one address counts."""
        endpoints: dict[str, Endpoint] = {}
        for endpoint in assignment.endpoints if assignment is not None else ():
            endpoints.setdefault(endpoint.key, endpoint)
        if assignment is not None:
            self._overprovisioning_factor = assignment.overprovisioning_factor
        before = self._hosts
        pools: list[Pool] = []
        for key in before.keys() - endpoints.keys():
            pools += _taken_pools(before[key])
            self._leaving.append(before[key])
            self._forget(before[key].endpoint)
        self._hosts = {key: self._host(before.get(key), endpoint, pools) for key, endpoint in endpoints.items()}
        self._balance()
        _close(pools)  # last: requests that wait there may pick again at once

    def _host(self, host: Host | None, endpoint: Endpoint, pools: list[Pool]) -> Host:
        if host is None:
            host = Host(endpoint)
            host.ejected = host.key in self._ejected
            self._parts.callers.add(endpoint.address, endpoint.workload)
        elif host.endpoint != endpoint:
            if host.endpoint.transport != endpoint.transport:
                pools += _taken_pools(host)
            if host.endpoint.workload != endpoint.workload:
                self._forget(host.endpoint)
                self._parts.callers.add(endpoint.address, endpoint.workload)
            host.replace_endpoint(endpoint)
        return host

    def _forget(self, endpoint: Endpoint) -> None:
        self._parts.callers.remove(endpoint.address, endpoint.workload)

    def _balance(self) -> None:
        config = self.config
        if config.slow_start is not None:
            self._note_fit()
        how = Balancing(
            policy=config.lb_policy,
            choice_count=config.choice_count,
            panic_threshold_percent=config.healthy_panic_threshold_percent,
            overprovisioning_factor=self._overprovisioning_factor,
            rng=self._parts.rng,
            counts=self.stats.counts,
            locality_weighted=config.locality_weighted,
            slow_start=config.slow_start,
            clock=monotonic,
            hash_of=_hash_of,
            tables=self._tables,
            balance_factor_percent=config.hashing.balance_factor_percent,
        )
        self._picker = balance(list(self._hosts.values()), how) if not self._closed else NoHost()
        self._balancing = how
        self._retry_priorities = None

    def _note_fit(self) -> None:
        """Hosts that are healthy for the first time begin their slow start."""
        now = monotonic()
        for host in self._hosts.values():
            if host.fit_since == LONG_AGO and host.availability == Availability.HEALTHY:
                host.fit_since = now

    # --- reports ------------------------------------------------------------------------------------------------

    def take_host_rows(self) -> list[HostRow]:
        """Increases per host since the last call, hosts without any left out; `active` is the present number."""
        rows: list[HostRow] = []
        for host in (*self._hosts.values(), *self._leaving):
            now = (host.requests, host.successes, host.errors, host.active)
            before = host.reported
            if now != before:
                host.reported = now
                requests, successes, errors = now[0] - before[0], now[1] - before[1], now[2] - before[2]
                rows.append((self.config.name, host.key, requests, successes, errors, now[3]))
        self._leaving = [host for host in self._leaving if host.active]
        return rows

    def take_late_rows(self) -> list[LateRow]:
        """Increases of late failures per host since the last call, where they are counted apart. Hosts without any are
        left out."""
        rows: list[LateRow] = []
        if self._monitor is not None and self._monitor.split:
            for host in self._hosts.values():
                late = host.late_errors - host.reported_late
                if late:
                    host.reported_late = host.late_errors
                    rows.append((self.config.name, host.key, late))
        return rows

    # --- picking ------------------------------------------------------------------------------------------------

    def pick(self, exchange: Trying) -> Host | None:
        """The host of the next try; None when there is none.

        A retry with the previous_hosts predicate picks again, so many times at most, while the host was tried before.
        """
        return self._pick_again(exchange) if exchange.tried else self._picker.pick(exchange)

    def _pick_again(self, exchange: Trying) -> Host | None:
        rules: RetryRules = exchange.retry
        picker = self._picker
        if rules.priority_updates:
            picker = self._retry_picker(exchange.tried, rules.priority_updates) or picker
        host = picker.pick(exchange)
        for refused in range(rules.attempts_to_pick):
            if host is None or host not in exchange.tried:
                break
            host = picker.pick(exchange, refused + 1)
        return host

    def _retry_picker(self, tried: list[Any], every: int) -> Picker | None:
        how = self._balancing
        if how is None or how.policy in HASHED or self._closed:
            return None
        if self._retry_priorities is None:
            self._retry_priorities = RetryPriorities(list(self._hosts.values()), how)
        return self._retry_priorities.picker(tried, every)

    def pick_host(self) -> Host | None:
        """The host of a connection that is not tried again (TCP)."""
        return self._picker.pick()

    def pool(self, host: Host, identity: str) -> Pool:
        """The connections to a host that `pick` gave, in the name of `identity` (the caller's SPIFFE id)."""
        pool: Pool | None = host.pools.get(identity)
        if pool is None:
            pool = host.pools[identity] = Pool(self, host.endpoint, identity, self.tls_for(host.endpoint))
        return pool

    def tls_for(self, endpoint: Endpoint) -> UpstreamTls | None:
        """How to connect to an endpoint, None = plaintext."""
        return self.config.tls_for(endpoint)

    # --- outcomes -----------------------------------------------------------------------------------------------

    def on_status(self, host: Host, status: int) -> None:
        """A host has answered."""
        if status < 500:
            host.successes += 1
            if host.failing and self._monitor is not None:
                self._monitor.answer_succeeded(host)
            return
        host.errors += 1
        if self._monitor is not None:
            self._request_ejections(host, self._monitor.answer_failed(host, status), status)

    def on_local_answer(self, status: int) -> None:
        """We answered a request for this cluster ourselves."""
        codes = self.stats.codes
        codes[status] = codes.get(status, 0) + 1

    def on_connect(self, host: str, connected: bool) -> None:
        """The pool has made a connection to `address:port`."""
        found = self._hosts.get(host)
        if connected and found is not None and found.failing and self._monitor is not None:
            self._monitor.connected(found)

    def on_connect_failure(self, host: Host) -> None:
        """A request got no connection."""
        self._failed(host, _UNAVAILABLE, connected=False)

    def on_reset(self, host: Host) -> None:
        """A host ended a request without an answer."""
        self._failed(host, _UNAVAILABLE, connected=True)

    def on_timeout(self, host: Host, connected: bool = True) -> None:
        """A host has not answered in time, for the route or for one try. `connected`: it was asked."""
        self._failed(host, _TIMED_OUT, connected)

    def _failed(self, host: Host, status: int, connected: bool) -> None:
        host.errors += 1
        monitor = self._monitor
        if monitor is not None:
            if monitor.split:
                host.local_errors += 1
                if connected:
                    host.late_errors += 1
                    monitor.connected(host)
            self._request_ejections(host, monitor.local_failed(host, status), status)

    def _request_ejections(self, host: Host, fired: tuple[Firing, ...], status: int) -> None:
        for kind, count in fired:
            self._parts.eject(EjectRequest(self.config.name, host.key, kind, count, status))

    # --- retries ------------------------------------------------------------------------------------------------

    def retry_after_status(self, exchange: Trying, head: ResponseHead) -> bool:
        """Whether another try follows on this answer; then a retry is under way until its own verdict."""
        rules: RetryRules = exchange.retry
        wanted = (head.status in rules.statuses or rules.looks_further) and rules.wants_answer(head, exchange.head)
        if wanted and rules.tells_when:
            exchange.asked_s = rules.asked_delay_s(head, self._parts.wall())
        return (wanted or exchange.holds_retry) and self._retry(exchange, rules, wanted)

    def retry_beside(self, exchange: Trying) -> bool:
        """The same for a try that takes too long and goes on."""
        return self._retry(exchange, exchange.retry, True)

    def retry_after_reset(self, exchange: Trying, reason: str) -> bool:
        """The same for a try that ended without an answer (agent.model.resets)."""
        rules: RetryRules = exchange.retry
        return self._retry(exchange, rules, rules.wants_reset(reason))

    def _retry(self, exchange: Trying, rules: RetryRules, wanted: bool) -> bool:
        counts = self.stats.counts
        if exchange.holds_retry:
            self.end_retry(exchange)
            if not wanted:
                counts[names.RQ_RETRY_SUCCESS] += 1
        if not wanted:
            return False
        if exchange.attempts > rules.num_retries:
            counts[names.RQ_RETRY_LIMIT_EXCEEDED] += 1
            _flag(exchange, "URX")
            return False
        if not self.limits[exchange.action.priority_high].admit_retry():
            counts[names.RQ_RETRY_OVERFLOW] += 1
            _flag(exchange, "UO")
            return False
        exchange.holds_retry = True
        counts[names.RQ_RETRY] += 1
        return True

    def end_retry(self, exchange: Trying) -> None:
        """The retry that `exchange` holds is over."""
        exchange.holds_retry = False
        self.limits[exchange.action.priority_high].release(RETRIES)

    def retry_delay_s(self, exchange: Trying) -> float:
        """The pause before the try that was just allowed."""
        rules: RetryRules = exchange.retry
        asked_s, exchange.asked_s = exchange.asked_s, 0.0
        rng, counts = self._parts.rng, self.stats.counts
        if asked_s > 0:
            counts[names.RQ_RETRY_BACKOFF_RATELIMITED] += 1
            return asked_s * (1 + rng() / 2)
        if asked_s == AT_ONCE:
            return 0.0
        counts[names.RQ_RETRY_BACKOFF] += 1
        exchange.back_offs += 1
        return delay_s(exchange.back_offs, base_s=rules.base_s, max_s=rules.max_s, rng=rng)


def _hash_of(request: Any) -> int | None:
    """What the request's route has hashed (agent.proxy.plan); nothing for what has no route."""
    match = getattr(request, "match", None)
    return match.plan.hash_of(request) if match is not None else None


def _flag(exchange: Trying, flag: str) -> None:
    if flag not in exchange.flags.split(","):
        exchange.flags = f"{exchange.flags},{flag}" if exchange.flags else flag


def _priority_cells(row: Row, priority: int) -> tuple[memoryview, int, tuple[int, ...]]:
    """What Limits wants: the memory, the own first cell, and all workers'."""
    first = priority * FIELDS
    return row.cells, row.own + first, tuple(other + first for other in row.rows)


def _taken_pools(host: Host) -> list[Pool]:
    """The pools of a host, which has none then."""
    pools = list(host.pools.values())
    host.pools.clear()
    return pools


def _close(pools: list[Pool]) -> None:
    for pool in pools:
        pool.close()
