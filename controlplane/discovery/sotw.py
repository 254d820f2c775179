"""State-of-the-world ADS: the rules of DiscoveryRequest and DiscoveryResponse. Sans-io.

Owns:   stale nonces, the legacy wildcard, grown name sets, full-state answers, saying which names do not exist.
Not:    make before break and push order (session).
Source: control-plane.md 5, rules 3, 4, 6-12, 25; xds_protocol.rst.

    request of a type           state of the type on this stream
    first                       made, whatever nonce or version it carries; always answered
    nonce = newest response     ACK or NACK by error_detail; the names replace the subscription
    any other nonce             stale: its ACK or NACK is noted, its names are ignored (a newer request will come)

A client that brings clusters from another stream (its first request shows another version than ours) has routes to
them, and a full state without one deletes it at once. SotW does not say which they are, but the request for endpoints
names them: the first answer waits for that, at most `RESUME_S`. For a subset that is no more it then holds a stand-in,
the service's own cluster under that name: mostly that is what the client has, which therefore stays as it is until the
routes have gone elsewhere and its removal is sent as any other. An Envoy that warms a cluster asks for no clusters and
acknowledges none: after `RESUME_S` it is lent the service's endpoints. Until it has asked for clusters, at most
`RESUME_CLUSTERS_S`, it gets no routes. (Other clusters that are no more go at once.)

Invariants: LDS and CDS answers are the full state of what the client asked for; the first one waits until nothing of
        it is held, because absence is deletion. Other types carry only the names that changed.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import replace

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from controlplane.compiler.types import Resource
from controlplane.discovery.nack import named_in
from controlplane.discovery.response import Response, split
from controlplane.discovery.session import Session
from controlplane.discovery.subscription import Subscription
from controlplane.distribution.stream_sync import StreamSync
from controlplane.snapshot.references import (
    renamed_assignment,
    renamed_cluster,
    whole_service,
)
from controlplane.snapshot.view import View
from mesh.xds.type_url import CLUSTER, CLUSTER_LOAD_ASSIGNMENT, FULL_STATE_TYPES, SHORT_NAMES

RESUME_S = 1.0


class SotwSession(Session):
    """One StreamAggregatedResources stream."""

    def __init__(self, view: View, sync: StreamSync, *, ttl: bool = False) -> None:
        super().__init__(view, sync, ttl=ttl)
        self._names_until: float | None = None  # the first clusters wait for the names of endpoints
        self._stand_ins: dict[str, str] = {}  # name -> that of the service's own cluster
        self._lend_at: float | None = None
        self._lent: set[str] = set()

    def on_request(self, request: DiscoveryRequest, now: float) -> list[Response]:
        """A request; types that are not served here are not answered."""
        type_url = request.type_url
        self._first.heard(now)
        if type_url not in SHORT_NAMES:
            return []
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            subscription = self.subscriptions[type_url] = Subscription()
            self._begin_type(type_url, request, now)
        else:
            self._answered(type_url, request)
            if request.response_nonce != subscription.nonce:
                self.expired_nonces += 1
                return self._flush(now)
        self._subscribe(type_url, subscription, request.resource_names)
        return self._flush(now)

    # --- clusters of an earlier stream

    def _begin_type(self, type_url: str, request: DiscoveryRequest, now: float) -> None:
        if type_url == CLUSTER:
            present = _version(resource for _, resource in self.view.items(CLUSTER))
            if request.version_info not in ("", present) and not request.resource_names:
                self._resumed = True
                self._names_until = now + RESUME_S
        elif request.version_info and CLUSTER not in self.subscriptions:
            self._awaits_clusters(now)
            if type_url == CLUSTER_LOAD_ASSIGNMENT:
                self._note_stand_ins(request.resource_names, now)

    def _note_stand_ins(self, names: Iterable[str], now: float) -> None:
        for name in names:
            whole = whole_service(name)
            if whole and self.view.get(CLUSTER, name) is None and self.view.get(CLUSTER, whole) is not None:
                self._stand_ins[name] = whole
                self._lend_at = now + RESUME_S

    def _prepare(self, now: float) -> None:
        endpoints = self.subscriptions.get(CLUSTER_LOAD_ASSIGNMENT)
        if self._names_until is not None and (endpoints is not None or now >= self._names_until):
            self._names_until = None
            self._note_stand_ins(endpoints.names if endpoints is not None else (), now)
            self._hold_stand_ins(self.subscriptions[CLUSTER])
        if self._lend_at is not None and now >= self._lend_at:
            self._lend_at = None
            if CLUSTER not in self.subscriptions or self.sync.of(CLUSTER).outstanding:
                self._lend(self._stand_ins.keys() - self._lent)
        waited = self._clusters_until is not None
        super()._prepare(now)
        if waited and self._clusters_until is None and CLUSTER not in self.subscriptions:
            self._lend(self._stand_ins)  # it has no clusters of ours: their endpoints are none again

    def _hold_stand_ins(self, clusters: Subscription) -> None:
        for name, whole in self._stand_ins.items():
            base = self.view.get(CLUSTER, whole)
            if base is not None and self.view.get(CLUSTER, name) is None:
                clusters.holds(name, renamed_cluster(base, name))
                self.sync.of(CLUSTER).accepted.add(name)
                clusters.mark(name, None, self._new_span(clusters))

    def _lend(self, names: Iterable[str]) -> None:
        endpoints = self.subscriptions.get(CLUSTER_LOAD_ASSIGNMENT)
        for name in tuple(names):
            if endpoints is not None and name in endpoints.names:
                self._lent.add(name)
                endpoints.force(name, self._recent)

    def _stands_in(self, name: str) -> bool:
        """Does the client have a cluster of that name which is no more, but must not go yet?"""
        if name not in self._stand_ins or self.view.get(CLUSTER, name) is not None:
            return False
        clusters = self.subscriptions.get(CLUSTER)
        return name in clusters.sent if clusters is not None else self._clusters_until is not None

    def _desired(self, type_url: str, subscription: Subscription, name: str) -> Resource | None:
        if type_url == CLUSTER_LOAD_ASSIGNMENT and name in self._lent and self._stands_in(name):
            lent = self.view.get(type_url, self._stand_ins[name])
            if lent is not None:
                return renamed_assignment(lent, name)
        return super()._desired(type_url, subscription, name)

    def _waits_for(
        self, type_url: str, subscription: Subscription, name: str, desired: Resource | None, now: float
    ) -> str:
        if type_url == CLUSTER_LOAD_ASSIGNMENT and self._stands_in(name):
            return "" if name in self._lent else "removal of its cluster"
        return super()._waits_for(type_url, subscription, name, desired, now)

    def _is_open_question(self, type_url: str, subscription: Subscription) -> bool:
        if type_url == CLUSTER and self._names_until is not None:
            return False
        return super()._is_open_question(type_url, subscription)

    @property
    def deadline(self) -> float | None:
        times = (super().deadline, self._names_until, self._lend_at)
        return min((time for time in times if time is not None), default=None)

    # --- requests and responses

    def _answered(self, type_url: str, request: DiscoveryRequest) -> None:
        nonce, outstanding = request.response_nonce, self.sync.of(type_url).outstanding
        sent = outstanding.get(nonce)
        if sent is None:
            return
        # A client that answers this response has worked through those before it; it may have merged its answers.
        for earlier in tuple(itertools.takewhile(lambda other: other != nonce, outstanding)):
            self.sync.ack(type_url, earlier, request.version_info)
        if request.HasField("error_detail"):
            named = named_in(request.error_detail, sent.resources)
            self.refused += self.sync.nack(type_url, nonce, request.error_detail.message, named)
        else:
            self.sync.ack(type_url, nonce, request.version_info)
        if type_url not in FULL_STATE_TYPES:
            # It keeps nothing of what it does not want any more, also where its names are too old to be a subscription.
            for name in sent.resources.keys() - set(request.resource_names):
                self.sync.of(type_url).settle(name, None)

    def _subscribe(self, type_url: str, subscription: Subscription, resource_names: Iterable[str]) -> None:
        asked = set(resource_names)
        subscription.named |= bool(asked)
        legacy = not subscription.named and type_url in FULL_STATE_TYPES
        wildcard, names = legacy or "*" in asked, asked - {"*"}
        grown = names - subscription.names
        grown.update(self.view.names(type_url) if wildcard and not subscription.wildcard else ())
        subscription.wildcard, subscription.names = wildcard, names
        span = self._new_span(subscription)
        for name in grown:
            desired = self._desired(type_url, subscription, name)
            if desired is None and type_url in FULL_STATE_TYPES:
                subscription.force(name, span)  # the full answer without it says that it does not exist
            else:
                subscription.mark(name, desired, span)
        for name in [name for name in (*subscription.sent, *subscription.due) if not subscription.wants(name)]:
            self._forget(type_url, subscription, name)

    def _respond(self, type_url: str, subscription: Subscription, ready: dict[str, Resource | None]) -> list[Response]:
        if type_url in FULL_STATE_TYPES:
            return self._respond_whole(type_url, subscription, ready)
        return self._respond_changed(type_url, subscription, ready)

    def _respond_whole(
        self, type_url: str, subscription: Subscription, ready: dict[str, Resource | None]
    ) -> list[Response]:
        if subscription.answered and not ready:
            return []
        # Of clusters only removals are held, and what is not removed is there.
        absent = type_url != CLUSTER and bool(self.sync.of(type_url).held)
        if not subscription.answered and (absent or not _asks(subscription)):
            return []
        whole = {name: resource for name, resource in subscription.sent.items() if name not in ready}
        whole.update((name, resource) for name, resource in ready.items() if resource is not None)
        version = _version(whole.values())
        response = self._emit(type_url, subscription, ready, whole=whole, version=version)
        missing = sorted(subscription.names - whole.keys())
        return [replace(response, missing=tuple(missing)) if missing else response]

    def _respond_changed(
        self, type_url: str, subscription: Subscription, ready: dict[str, Resource | None]
    ) -> list[Response]:
        for name in [name for name, resource in ready.items() if resource is None]:
            del ready[name]  # SotW has no word for it: the client keeps what it has until it asks no more
            self._forget(type_url, subscription, name)
        parts = list(split(ready))
        if not parts and not subscription.answered and _asks(subscription) and not self.sync.of(type_url).held:
            parts = [{}]  # nothing of it exists: say so instead of leaving the client to its timer
        return [
            self._emit(type_url, subscription, part, version=_version(r for r in part.values() if r is not None))
            for part in parts
        ]

    def _heartbeat(self, type_url: str, subscription: Subscription) -> Response:
        """The full state again: what would a body-less entry mean where absence is deletion?"""
        whole = dict(subscription.sent)
        return self._emit(type_url, subscription, {}, whole=whole, version=_version(whole.values()))


def _asks(subscription: Subscription) -> bool:
    return subscription.wildcard or bool(subscription.names)


def _version(resources: Iterable[Resource]) -> str:
    """The same for the same content on every replica: a hash over names and versions."""
    digest = hashlib.blake2b(digest_size=8)
    for name, version in sorted((resource.name, resource.version) for resource in resources):
        digest.update(f"{name}\0{version}\0".encode())
    return digest.hexdigest()
