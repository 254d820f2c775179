"""Which proxies have what: the answers that the API, reconcile and discovery all ask for. Pure.

Owns:   the connected streams and their sync state; per-revision counts.
Not:    what is on the wire (discovery), the other replicas' proxies (the API asks them and merges, decision 16).

    connect -> publish(R) ... -> disconnect
    revision R of a stream:  rejected when a refused name's span holds R
                             pending  while R > published, or the stream is fresh, or a span of it holds R
                             acked    otherwise (what R does not touch has it at once)
                             nothing  when the stream is idle
    (fresh and idle: stream_sync)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from controlplane.distribution.stream_sync import Rejection, StreamSync
from mesh.vocabulary import Dialect, Locality
from mesh.xds.type_url import PUSH_ORDER, SHORT_NAMES

# What is said about pending proxies is bounded; who they are is not.
_WAITING_NODES = 100
_WAITS_PER_NODE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeState:
    """One resource type of one proxy. `sync`: synced, pending or rejected; `waits_for`: why names are held back."""

    type_url: str
    short_name: str
    sync: str
    resources: int  # names that the client has accepted
    version: str
    revision: int
    error: str = ""
    rejected: tuple[tuple[str, str], ...] = ()  # (name, reason)
    waits_for: tuple[tuple[str, str], ...] = ()  # (name held back, what it waits for)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyState:
    """One connected proxy. `connected_since` in seconds since the epoch; `sync` is the worst of its types."""

    stream: int
    node: str
    dialect: Dialect
    user_agent: str
    address: str  # of the peer
    namespace: str
    locality: Locality
    delta: bool
    connected_since: float
    sync: str
    types: tuple[TypeState, ...]
    unasked: str = ""  # what its first state lacks and it has not asked for: CDS, EDS NAME, anything


@dataclass(frozen=True, slots=True)
class Refused:
    """A proxy that refused a revision: `reasons` = (resource name, reason)."""

    node: str
    reasons: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one pending proxy waits for. `type` (CDS) and `name` are empty when it has not been sent anything yet."""

    node: str
    type: str
    name: str
    waits_for: str


@dataclass(frozen=True, slots=True)
class RevisionStatus:
    """How far a revision has come among the proxies of this replica: node names, sorted. `waits`: bounded."""

    revision: int
    acked: tuple[str, ...]
    pending: tuple[str, ...]
    rejected: tuple[Refused, ...]
    waits: tuple[Waiting, ...] = ()

    @property
    def settled(self) -> bool:
        """True when no proxy is still to answer."""
        return not self.pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Who is on a stream, as known when it opened."""

    stream: int
    node: str
    dialect: Dialect
    user_agent: str
    address: str
    namespace: str
    locality: Locality
    delta: bool
    connected_since: float


class DistributionLedger:
    """The streams of this replica."""

    def __init__(self) -> None:
        self._streams: dict[int, tuple[Connection, StreamSync]] = {}
        self.published = 0  # every stream that this revision touches has been told
        self._late = 0  # the stream that was last found pending: it is asked first

    def connect(self, connection: Connection) -> StreamSync:
        """Register a stream and give its nonce ledger."""
        sync = StreamSync()
        self._streams[connection.stream] = (connection, sync)
        return sync

    def disconnect(self, stream: int) -> None:
        self._streams.pop(stream, None)

    def publish(self, revision: int) -> None:
        """Every stream that a revision up to this one touches now has it queued."""
        self.published = max(self.published, revision)

    def proxies(self) -> tuple[ProxyState, ...]:
        """All connected proxies, by node name, then stream."""
        states = [_proxy_state(connection, sync) for connection, sync in self._streams.values()]
        return tuple(sorted(states, key=lambda state: (state.node, state.stream)))

    def rejections(self) -> tuple[tuple[str, Rejection], ...]:
        """(node, what it refuses at present), sorted: the status writer maps them to the objects (decision 21)."""
        found = [
            (connection.node, rejection)
            for connection, sync in self._streams.values()
            for rejection in sync.rejections()
        ]
        return tuple(sorted(found, key=lambda item: (item[0], item[1].type_url, item[1].name)))

    def settled(self, revision: int) -> bool:
        """Whether it is published and no proxy is still to answer: mostly at the cost of one look."""
        if revision > self.published:
            return False
        late = self._streams.get(self._late)
        if late is None or not late[1].pending_for(revision):
            streams = self._streams.items()
            self._late = next((key for key, (_, sync) in streams if sync.pending_for(revision)), 0)
            late = self._streams.get(self._late)
        if late is None:
            return True
        # A node that refuses is not waited for, whatever else is unanswered on its streams.
        node = late[0].node
        refused = any(
            item.span.holds(revision)
            for connection, sync in self._streams.values()
            if connection.node == node
            for item in sync.rejections()
        )
        return self.revision_status(revision).settled if refused else False

    def revision_status(self, revision: int) -> RevisionStatus:
        """How far `revision` has come. A node with several streams is acked when all of them are."""
        acked: set[str] = set()
        pending: dict[str, StreamSync] = {}
        rejected: dict[str, tuple[tuple[str, str], ...]] = {}
        for connection, sync in self._streams.values():
            refused = [rejection for rejection in sync.rejections() if rejection.span.holds(revision)]
            if refused:
                rejected[connection.node] = tuple((rejection.name, rejection.reason) for rejection in refused)
            elif sync.idle:
                continue
            elif revision > self.published or sync.pending_for(revision):
                pending[connection.node] = sync
            else:
                acked.add(connection.node)
        return RevisionStatus(
            revision,
            tuple(sorted(acked - pending.keys() - rejected.keys())),
            tuple(sorted(pending.keys() - rejected.keys())),
            tuple(Refused(node, reasons) for node, reasons in sorted(rejected.items())),
            tuple(_waits(revision, {node: pending[node] for node in sorted(pending.keys() - rejected.keys())})),
        )

    def streams(self) -> tuple[tuple["Connection", StreamSync], ...]:
        """Every connected stream with its nonce ledger."""
        return tuple(self._streams.values())

    def fingerprint(self) -> tuple[int, ...]:
        """Equal as long as nothing happened: no stream came or went, nothing was sent or answered."""
        events = sum(sync.events for _, sync in self._streams.values())
        return self.published, len(self._streams), max(self._streams, default=0), events


def _waits(revision: int, pending: Mapping[str, StreamSync]) -> Iterator[Waiting]:
    for node, sync in islice(pending.items(), _WAITING_NODES):
        found = islice(sync.waiting_for(revision), _WAITS_PER_NODE)
        waits = [Waiting(node, SHORT_NAMES.get(type_url, ""), name, what) for type_url, name, what in found]
        yield from waits or [Waiting(node, "", "", "publication")]


def _proxy_state(connection: Connection, sync: StreamSync) -> ProxyState:
    types = tuple(_type_state(type_url, sync) for type_url in PUSH_ORDER if type_url in sync.types)
    found = {state.sync for state in types}
    if sync.queued is not None or sync.unasked is not None or not types:
        found.add("pending")
    return ProxyState(
        stream=connection.stream,
        node=connection.node,
        dialect=connection.dialect,
        user_agent=connection.user_agent,
        address=connection.address,
        namespace=connection.namespace,
        locality=connection.locality,
        delta=connection.delta,
        connected_since=connection.connected_since,
        sync=next((word for word in ("rejected", "pending") if word in found), "synced"),
        types=types,
        unasked=_unasked(sync),
    )


def _unasked(sync: StreamSync) -> str:
    if sync.unasked is None:
        return ""
    type_url, name = sync.unasked
    return f"{SHORT_NAMES.get(type_url, '')} {name}".strip() or ("" if sync.types else "anything")


def _type_state(type_url: str, stream: StreamSync) -> TypeState:
    sync = stream.types[type_url]
    return TypeState(
        type_url=type_url,
        short_name=SHORT_NAMES[type_url],
        sync=sync.state(),
        resources=len(sync.accepted),
        version=sync.version,
        revision=sync.revision,
        error=sync.error,
        rejected=tuple((rejection.name, rejection.reason) for rejection in sync.rejected.values()),
        waits_for=tuple((name, held.waits_for) for name, held in sorted(sync.held.items())),
    )
