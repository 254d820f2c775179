"""What supervisor and workers say to each other, and what each message obliges the receiver to do.

Owns:   the vocabulary. `agent.ipc.frames` turns it into bounded, length-prefixed frames and back.
Not:    sockets, processes.

Supervisor to worker: Welcome, then Put*/Commit at any time, AddListener (with one descriptor by SCM_RIGHTS),
Identities, HostState, HashTables, TokenMemory and BreakerState (with one descriptor), LimitAnswers, CheckAnswers, Ping,
Drain.
Worker to supervisor: Ready, Committed, Pong, EjectRequest, BreakerNews, LimitQuestions, CheckQuestions, StatsDelta,
Drained.
Invariant: between two Commits a worker serves exactly the config of the first;
  a request keeps the config it began with.
"""

from dataclasses import dataclass

from agent.model.circuit_breaker import Phase
from agent.model.cluster import Cluster, HashTable, LoadAssignment
from agent.model.ext_authz import CheckAnswer, CheckQuestion
from agent.model.listener import Listener
from agent.model.rate_limit import LimitAnswer, LimitQuestion
from agent.model.route import RouteConfiguration, VirtualHost
from agent.model.tls import KeyPair

Config = Listener | RouteConfiguration | VirtualHost | Cluster | LoadAssignment

# The table that a Put or Remove goes to.
LISTENER = "listener"
ROUTE_CONFIGURATION = "route_configuration"
VIRTUAL_HOST = "virtual_host"  # name = <route configuration>/<virtual host>
CLUSTER = "cluster"
LOAD_ASSIGNMENT = "load_assignment"
KINDS = (LISTENER, ROUTE_CONFIGURATION, VIRTUAL_HOST, CLUSTER, LOAD_ASSIGNMENT)


# --- supervisor to worker -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The first message. `slot` of `slots`; `shared_bytes`: size of the mmap whose descriptor comes with it."""

    slot: int
    slots: int
    node: str
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Put:
    kind: str
    name: str
    value: Config


@dataclass(frozen=True, slots=True)
class Remove:
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Serve what was Put since the last Commit. `version` counts up from 1 per worker."""

    version: int


@dataclass(frozen=True, slots=True)
class AddListener:
    """A listening SO_REUSEPORT socket for this slot; its descriptor comes with the frame. Closed on Remove + Commit."""

    name: str


@dataclass(frozen=True, slots=True)
class Identities:
    """All certificates and the trust roots, replacing those before; new connections use them at once.

    `roots`: the user's, (name of the secret, PEM); a user's certificate is a pair whose identity is the secret's name.
    """

    key_pairs: tuple[KeyPair, ...]
    trust_pem: bytes
    roots: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class HostState:
    """The supervisor's verdict on one host: ejected or back. Key = (cluster, address:port)."""

    cluster: str
    host: str
    ejected: bool


@dataclass(frozen=True, slots=True)
class HashTables:
    """The tables by which a cluster with RING_HASH or MAGLEV chooses, replacing those before.

    The descriptor of the memory that holds them comes with the frame; agent.cluster.hash_tables has the layout. They
    may come before the Commit that brings their hosts, or a moment after it. No tables and no descriptor: forget them.
    """

    cluster: str
    tables: tuple[HashTable, ...]


@dataclass(frozen=True, slots=True)
class Cells:
    """Which block of the shared memory counts this cluster's connections, pending, requests and retries.

    Comes before the Commit that brings it.
    Layout: agent.ipc.shared.
    """

    cluster: str
    index: int


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The state of a circuit breaker from now on, for one `caller` ("" = for all); before the first it is CLOSED.

    With HALF_OPEN comes a descriptor of agent.ipc.permits: each probe takes one of what it holds.
    """

    breaker: str
    caller: str
    phase: Phase
    epoch: int


@dataclass(frozen=True, slots=True)
class BreakerGone:
    """No route names this circuit breaker any more."""

    breaker: str


@dataclass(frozen=True, slots=True)
class TokenMemory:
    """The token buckets that all `slots` share, this worker as `slot`; the descriptor of their memory comes with it.

    Layout: agent.model.token_cells.
    """

    slot: int
    slots: int


@dataclass(frozen=True, slots=True)
class CountMemory:
    """What all `slots` count together under names, this worker as `slot`; the descriptor of their memory comes with it.

    Comes before the first Commit. Layout: agent.model.count_cells.
    """

    slot: int
    slots: int


@dataclass(frozen=True, slots=True)
class LimitAnswers:
    """What the rate limit service says to questions of this worker."""

    answers: tuple[LimitAnswer, ...]


@dataclass(frozen=True, slots=True)
class CheckAnswers:
    """What authorization services say to questions of this worker."""

    answers: tuple[CheckAnswer, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    token: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop accepting, answer what is in flight with `connection: close`, then exit; at most `timeout_s`."""

    timeout_s: float


# --- worker to supervisor -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    pid: int


@dataclass(frozen=True, slots=True)
class Committed:
    version: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pong:
    token: int
    loop_lag_ms: float


@dataclass(frozen=True, slots=True)
class EjectRequest:
    """A worker's monitor fired.

    `kind`: consecutive_5xx, consecutive_gateway_failure or consecutive_local_origin_failure.
    """

    cluster: str
    host: str
    kind: str
    count: int
    last_status: int


@dataclass(frozen=True, slots=True)
class BreakerNews:
    """What has become of requests that a circuit breaker let pass in `epoch`.

    `outcomes`: a byte each, in their order (agent.model.circuit_breaker GOOD, or a sum of the others); `begun`: a probe
    has been sent; `refused`: requests that it did not let pass; `fallbacks`: those of its requests that a fallback
    answered.
    """

    breaker: str
    caller: str
    epoch: int
    outcomes: bytes
    begun: bool = False
    refused: int = 0
    fallbacks: int = 0


@dataclass(frozen=True, slots=True)
class LimitQuestions:
    """Ask the rate limit service; the answers come as LimitAnswers, in any order, each once, or never."""

    questions: tuple[LimitQuestion, ...]


@dataclass(frozen=True, slots=True)
class CheckQuestions:
    """Ask authorization services over gRPC; the answers come as CheckAnswers, in any order, each once, or never.

    `dropped`: numbers of questions of before for whose answers nobody waits any more.
    """

    questions: tuple[CheckQuestion, ...]
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StatsDelta:
    """What happened since the last one, at most once a second.

    `counters`: {name: increase}; `gauges`: {name: this worker's present value}; `histograms`: {name: increase per
    bucket, agent.stats.histograms.BUCKETS_MS}; `hosts`: per (cluster, host) increases of requests, successes, errors
    and this worker's active requests, for LRS and for success-rate detection; the host without a name stands for
    requests that no host got (no cluster, no healthy host, no room). `late`: per (cluster, host) the increase of
    failures without an answer that came when there was a connection, where local-origin failures are split off.
    """

    counters: dict[str, int]
    gauges: dict[str, int]
    histograms: dict[str, tuple[int, ...]]
    sums: dict[str, float]
    hosts: tuple[tuple[str, str, int, int, int, int], ...]
    late: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Drained:
    pass


ToWorker = (
    Welcome | Put | Remove | Commit | AddListener | Identities | HostState | HashTables | BreakerState | BreakerGone
    | Cells | TokenMemory | CountMemory | LimitAnswers | CheckAnswers | Ping | Drain
)  # fmt: skip
ToSupervisor = (
    Ready | Committed | Pong | EjectRequest | BreakerNews | LimitQuestions | CheckQuestions | StatsDelta | Drained
)  # fmt: skip
