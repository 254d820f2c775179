"""The state machine of one ADS stream, common to SotW and delta: what may be sent now, and in which order. Sans-io.

Owns:   push order, make before break, EDS after CDS, the 30 s cap on held removals, when TTLs are renewed.
Not:    reading the two protocols' requests and forming their responses (sotw, delta), when the first state is whole
        (first_state), bytes and tasks (server).
Source: control-plane.md 5, rules 6, 11, 17-20, 24; decision 20; xds_protocol.rst "eventual consistency".

One change travels through a stream that subscribes to all clusters so:

    view: cluster added, route moved to it, old cluster removed
      |
      v
    CDS+ -------> EDS+ -------> RDS/VHDS/LDS -------> CDS-
        CDS ACK       EDS ACK                route ACK, or 30 s

    referrer (Listener, RouteConfiguration, VirtualHost): HELD until each cluster that it names and the view has is
        accepted by this client, and its ClusterLoadAssignment too; no time-out. A Listener waits only for the answer,
        be it an ACK or a NACK: absence of a listener is worse than one that its client refuses.
    cluster removal: HELD until no referrer is due or unanswered or refused, at most `REMOVAL_HOLD_S`;
        its ClusterLoadAssignment stays as long.
    A client that brings what it has from an earlier stream: an Envoy that was warming a cluster asks for clusters last.
        Until then, at most `RESUME_CLUSTERS_S`, it gets no routes, and no endpoints are taken from it.
    Streams that name their clusters (gRPC) learn them from routes and make before break themselves: nothing is held.

Invariants: what is held stays `due`; each `flush` decides again. After a NACK the refused version counts as sent, so
        it is not sent again until the content changes (rule 6).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping

from controlplane.compiler.types import Resource
from controlplane.discovery.first_state import FirstState
from controlplane.discovery.response import Response
from controlplane.discovery.subscription import Subscription
from controlplane.distribution.stream_sync import Held, Rejection, Sent, Span, StreamSync
from controlplane.model.layered import names_of
from controlplane.snapshot.diff import ChangedNames
from controlplane.snapshot.references import (
    REFERRERS,
    clusters_named,
    eds_name,
    empty_load_assignment,
    secrets_named,
)
from controlplane.snapshot.view import View
from mesh.xds.type_url import CLUSTER, CLUSTER_LOAD_ASSIGNMENT, LISTENER, PUSH_ORDER, SECRET

REMOVAL_HOLD_S = 30.0  # decision 20: only removals have a limit
RESUME_CLUSTERS_S = 5.0
# So often within the shortest TTL of a type it is renewed: one lost heartbeat ends nothing.
HEARTBEATS_PER_TTL = 3
_MAX_UNANSWERED = 8  # then no heartbeat is added: the client does not read


class Session(ABC):
    """One stream. Every event gives the responses to send, in order; `deadline` says when to call `on_time`."""

    def __init__(self, view: View, sync: StreamSync, *, ttl: bool = False) -> None:
        """`ttl`: the client supports TTLs (its client features say so)."""
        self.view = view
        self.sync = sync
        self._ttl = ttl
        self.subscriptions: dict[str, Subscription] = {}
        self.expired_nonces = 0
        self.refused: list[Rejection] = []  # new ones, until the shell takes them
        self._nonces = 0
        self._recent = Span(0, view.revision)  # of the view's last change
        self._held_since: dict[str, float] = {}  # cluster removals
        self._beats: dict[str, float] = {}  # type: when its TTLs are renewed
        self._owed: set[str] = set()  # EDS names of clusters that were sent before any endpoints were asked for
        self._draining: set[str] = set()  # EDS names of clusters whose removal is held
        self._clusters_until: float | None = None  # what waits for the request for clusters
        self._usable: frozenset[str] = frozenset()  # clusters that need no look
        self._blocked: dict[Resource, tuple[str, str]] = {}  # referrer -> what it was last held for, and that cluster
        self._looked: dict[str, tuple[object, ...]] = {}  # type -> state in which all that is due of it was held
        self._resumed = False  # the client brought clusters from an earlier stream, so it has routes too
        self._first = FirstState(sync)

    def on_view(self, view: View, changed: ChangedNames, now: float) -> list[Response]:
        """A new view. `changed`: every name that differs from the present one. `now`: monotonic seconds."""
        self._recent = self.sync.take_queued(Span(self.view.revision, view.revision))
        self.view = view
        self._blocked.clear()
        for type_url, names in changed.items():
            subscription = self.subscriptions.get(type_url)
            if subscription is not None:
                for name in names:
                    subscription.mark(name, self._desired(type_url, subscription, name), self._recent)
        return self._flush(now)

    def on_time(self, now: float) -> list[Response]:
        """The deadline has passed."""
        return self._flush(now) + self._renew(now)

    @property
    def deadline(self) -> float | None:
        """When a held removal must go or a TTL must be renewed, or None."""
        times = list(self._beats.values())
        times += [until for until in (self._clusters_until, self._first.until) if until is not None]
        if self._held_since:
            times.append(min(self._held_since.values()) + REMOVAL_HOLD_S)
        return min(times, default=None)

    @abstractmethod
    def _respond(self, type_url: str, subscription: Subscription, ready: dict[str, Resource | None]) -> list[Response]:
        """Form the responses for what is ready (None = gone); may be called with nothing ready."""

    @abstractmethod
    def _heartbeat(self, type_url: str, subscription: Subscription) -> Response:
        """Form the response that renews the TTLs of the type."""

    # --- what is due, and what of it may go now

    def _desired(self, type_url: str, subscription: Subscription, name: str) -> Resource | None:
        if not subscription.wants(name):
            return None
        found = self.view.get(type_url, name)
        if found is None and type_url == CLUSTER_LOAD_ASSIGNMENT:
            return empty_load_assignment(name)  # rule 11
        return found

    def _flush(self, now: float) -> list[Response]:
        responses: list[Response] = []
        self._prepare(now)
        for type_url in PUSH_ORDER:
            subscription = self.subscriptions.get(type_url)
            if subscription is not None and self._is_open_question(type_url, subscription):
                ready = self._ready(type_url, subscription, now)
                responses += self._respond(type_url, subscription, ready)
        if self._ttl:
            self._plan_heartbeats(now)
        self._first.look(self.view, self.subscriptions, now)
        return responses

    def _awaits_clusters(self, now: float) -> None:
        """A type that is not CDS begins, and the client brings what it has of it."""
        if CLUSTER not in self.subscriptions:
            self._clusters_until = self._clusters_until or now + RESUME_CLUSTERS_S

    def _prepare(self, now: float) -> None:
        """What has to be known before anything is decided."""
        if CLUSTER in self.subscriptions or (self._clusters_until is not None and now >= self._clusters_until):
            self._clusters_until = None

    def _is_open_question(self, type_url: str, subscription: Subscription) -> bool:
        # What was held and is no longer due (the view went back) must leave the ledger too.
        sync = self.sync.types.get(type_url)
        held = sync.held if sync is not None else None
        if held and type_url in REFERRERS and self._looked.get(type_url) == self._state(subscription):
            return False  # nothing has happened since that could release one
        return bool(subscription.due or held) or not subscription.answered

    def _state(self, subscription: Subscription) -> tuple[object, ...]:
        """Equal as long as what referrers wait for is the same."""
        waited = (self.sync.types.get(url) for url in (CLUSTER, CLUSTER_LOAD_ASSIGNMENT, SECRET))
        changes = tuple((sync.changes, len(sync.accepted)) for sync in waited if sync is not None)
        return self.view, self._clusters_until, CLUSTER in self.subscriptions, subscription.changes, changes

    def _ready(self, type_url: str, subscription: Subscription, now: float) -> dict[str, Resource | None]:
        self._usable = self._usable_clusters() if type_url in REFERRERS else frozenset()
        ready: dict[str, Resource | None] = {}
        held: dict[str, Held] = {}
        for name, span in subscription.due.items():
            desired = self._desired(type_url, subscription, name)
            waits_for = self._waits_for(type_url, subscription, name, desired, now)
            if waits_for:
                held[name] = Held(span, waits_for)
            else:
                ready[name] = desired
        self.sync.of(type_url).held = held
        if held and not ready and type_url in REFERRERS:
            self._looked[type_url] = self._state(subscription)
        else:
            self._looked.pop(type_url, None)
        if type_url == CLUSTER:
            self._note_held_removals(subscription, held, now)
        return ready

    def _waits_for(
        self, type_url: str, subscription: Subscription, name: str, desired: Resource | None, now: float
    ) -> str:
        """What must happen before `name` may go, or nothing."""
        if self._clusters_until is not None and desired is not None and clusters_named(desired):
            return "clusters"
        if type_url in REFERRERS and desired is not None:
            return self._waits_for_clusters(desired)
        if type_url == CLUSTER and desired is None and subscription.wildcard and name in subscription.sent:
            since = self._held_since.get(name, now)
            return self._unsettled_referrer() if now < since + REMOVAL_HOLD_S else ""
        if type_url == CLUSTER_LOAD_ASSIGNMENT and name in self._draining and not self._has_assignment(name):
            return "removal of its cluster"
        return ""

    def _has_assignment(self, name: str) -> bool:
        return self.view.get(CLUSTER_LOAD_ASSIGNMENT, name) is not None

    def _note_held_removals(self, subscription: Subscription, held: Mapping[str, Held], now: float) -> None:
        removals = [name for name in held if self.view.get(CLUSTER, name) is None]
        self._held_since = {name: self._held_since.get(name, now) for name in removals}
        self._draining = {_eds_name_or(name, subscription.sent[name]) for name in removals}

    # --- make before break

    def _waits_for_clusters(self, referrer: Resource) -> str:
        clusters = self.subscriptions.get(CLUSTER)
        if clusters is None or not clusters.wildcard:
            return ""
        if self._usable and clusters_named(referrer) <= self._usable:
            self._blocked = {}
            return ""
        patient = referrer.type_url != LISTENER
        known = self._blocked.get(referrer)
        if known is not None and self._not_usable(known[1], patient=patient) == known[0]:
            return known[0]
        reasons = ((self._not_usable(cluster, patient=patient), cluster) for cluster in clusters_named(referrer))
        found = min((reason for reason in reasons if reason[0]), default=None)
        if found is None:
            self._blocked.pop(referrer, None)
            self._blocked = self._blocked or {}  # an empty one is as large as it ever was
            return ""
        self._blocked[referrer] = found
        return found[0]

    def _usable_clusters(self) -> frozenset[str]:
        """The clusters of the scope when all of them and their assignments are accepted, as they mostly are."""
        clusters, endpoints = (self.view.shared.resources.get(url) for url in (CLUSTER, CLUSTER_LOAD_ASSIGNMENT))
        if (
            clusters is None
            or endpoints is None
            or any(self._is_open(SECRET, one, patient=True) for one in self.view.names(SECRET))
        ):
            return frozenset()
        names = names_of(clusters)
        accepted = (self.sync.types.get(url) for url in (CLUSTER, CLUSTER_LOAD_ASSIGNMENT))
        all_accepted = all(sync is not None and sync.accepted.has_all(names) for sync in accepted)
        return names if names is names_of(endpoints) and all_accepted else frozenset()

    def _not_usable(self, cluster: str, *, patient: bool) -> str:
        """Why the client cannot send to `cluster` yet. A cluster that is nowhere is no reason: it will not come."""
        resource = self.view.get(CLUSTER, cluster)
        if resource is None:
            return ""
        if self._is_open(CLUSTER, cluster, patient=patient):
            return f"CDS {cluster}"
        endpoints = eds_name(resource)
        if endpoints is not None and self._is_open(CLUSTER_LOAD_ASSIGNMENT, endpoints, patient=patient):
            return f"EDS {endpoints}"
        for secret in secrets_named(resource):
            if self.view.get(SECRET, secret) is not None and self._is_open(SECRET, secret, patient=patient):
                return f"SDS {secret}"
        return ""

    def _is_open(self, type_url: str, name: str, *, patient: bool) -> bool:
        sync = self.sync.of(type_url)
        return name not in sync.accepted and (patient or name not in sync.rejected)

    def _unsettled_referrer(self) -> str:
        """A referrer that may still send to a cluster which shall go."""
        if self._resumed and not self._knows_referrers():
            return "listeners"
        for type_url in REFERRERS & self.subscriptions.keys():
            sync = self.sync.of(type_url)
            unsettled = next(
                iter((*self.subscriptions[type_url].due, *_names(sync.outstanding.values()), *sync.rejected)), None
            )
            if unsettled is not None:
                return f"route {unsettled}"
        return ""

    def _knows_referrers(self) -> bool:
        """Has a client that came from another stream said what it subscribes to? It sends all of that at once, so
        its answer to our first listeners comes after."""
        listeners = self.subscriptions.get(LISTENER)
        return listeners is not None and listeners.answered and not self.sync.of(LISTENER).outstanding

    # --- sending

    def _emit(
        self,
        type_url: str,
        subscription: Subscription,
        changed: Mapping[str, Resource | None],
        *,
        whole: Mapping[str, Resource] | None = None,
        version: str = "",
    ) -> Response:
        """Form one response and write it down. `whole`: all resources of a full-state response."""
        nonce = self._new_nonce()
        span = self._span(subscription, changed)
        fresh = [name for name in changed if name not in subscription.sent]
        for name, resource in changed.items():
            subscription.settle(name, resource)
        subscription.nonce, subscription.answered = nonce, True
        self.sync.sent(type_url, nonce, Sent(span, {**changed, **(whole or {})}, frozenset(changed)))
        if type_url == CLUSTER:
            self._endpoints_follow(changed, fresh, span)
        resources = tuple(whole.values()) if whole is not None else tuple(r for r in changed.values() if r is not None)
        removed = () if whole is not None else tuple(name for name, resource in changed.items() if resource is None)
        return Response(type_url, nonce, version, resources, removed, ttl=self._ttl)

    def _new_nonce(self) -> str:
        self._nonces += 1
        return str(self._nonces)

    def _span(self, subscription: Subscription, changed: Iterable[str]) -> Span:
        spans = [subscription.due[name] for name in changed if name in subscription.due]
        if not spans:
            return Span(self.view.revision, self.view.revision)
        return Span(min(span.after for span in spans), max(span.revision for span in spans))

    def _endpoints_follow(self, changed: Mapping[str, Resource | None], fresh: Iterable[str], span: Span) -> None:
        """A cluster that is sent warms only on a new ClusterLoadAssignment (rule 18): send it after, changed or not."""
        endpoints = self.subscriptions.get(CLUSTER_LOAD_ASSIGNMENT)
        accepted = self.sync.of(CLUSTER_LOAD_ASSIGNMENT).accepted
        fresh_names = set(fresh)
        for name, resource in changed.items():
            waits_for = eds_name(resource) if resource is not None else None
            if waits_for is None:
                continue
            if name in fresh_names:
                accepted.discard(waits_for)
            if endpoints is None:
                self._owed.add(waits_for)
            elif waits_for in endpoints.names:
                endpoints.force(waits_for, span)

    # --- TTL

    def _plan_heartbeats(self, now: float) -> None:
        for type_url, subscription in self.subscriptions.items():
            if subscription.mortal:
                at = now + min(subscription.mortal.values()) / HEARTBEATS_PER_TTL
                self._beats[type_url] = min(self._beats.get(type_url, at), at)
            else:
                self._beats.pop(type_url, None)

    def _renew(self, now: float) -> list[Response]:
        due = [type_url for type_url in PUSH_ORDER if self._beats.get(type_url, now + 1) <= now]
        for type_url in due:
            del self._beats[type_url]
        self._plan_heartbeats(now)
        answering = [url for url in due if len(self.sync.of(url).outstanding) < _MAX_UNANSWERED]
        return [self._heartbeat(url, self.subscriptions[url]) for url in answering]

    def _new_span(self, subscription: Subscription) -> Span:
        """The span of what the client asked for by itself: on a new type everything up to now."""
        return self._recent if subscription.answered else Span(0, self.view.revision)

    def _forget(self, type_url: str, subscription: Subscription, name: str) -> None:
        subscription.drop(name)
        self.sync.forget(type_url, name)


def _names(outstanding: Iterable[Sent]) -> Iterator[str]:
    for sent in outstanding:
        yield from sent.changed


def _eds_name_or(name: str, cluster: Resource) -> str:
    # A cluster that is known only from initial_resource_versions has no body; its EDS name is then its own.
    return (eds_name(cluster) if cluster.body else None) or name
