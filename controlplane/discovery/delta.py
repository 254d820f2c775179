"""Delta (incremental) ADS: the rules of DeltaDiscoveryRequest and DeltaDiscoveryResponse. Sans-io.

Owns:   subscribe and unsubscribe, the wildcard's life cycle, initial_resource_versions, removals, heartbeats without
        bodies.
Not:    make before break and push order (session).
Source: control-plane.md 5, rules 5, 8, 13-15, 24; xds_protocol.rst "incremental xDS".

    request of a type           effect
    first, names nothing        legacy wildcard, for the types that have one
    subscribe NAME              sent even if held by the client at that version (rule 14), also with a stale nonce
    subscribe *                 wildcard; asked for again: everything is sent again
    unsubscribe NAME            no reply; while the wildcard is on, NAME is sent again or listed as removed
    unsubscribe *               names stay, the rest is forgotten by both
    initial_resource_versions   what the client has: equal versions are skipped, what is gone is listed as removed

Invariants: the first request of a wildcard type is answered even when there is nothing to send, so that the client
        knows that it is complete.
"""

from collections.abc import Iterable, Mapping

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from controlplane.compiler.types import Resource
from controlplane.discovery.nack import named_in
from controlplane.discovery.response import Response, split
from controlplane.discovery.session import Session
from controlplane.discovery.subscription import Subscription
from controlplane.distribution.stream_sync import Sent, Span
from controlplane.model.layered import names_of, versions_of
from mesh.xds.type_url import CLUSTER, CLUSTER_LOAD_ASSIGNMENT, SHORT_NAMES, WILDCARD_TYPES


class DeltaSession(Session):
    """One DeltaAggregatedResources stream."""

    def on_request(self, request: DeltaDiscoveryRequest, now: float) -> list[Response]:
        """A request; types that are not served here are not answered."""
        type_url = request.type_url
        self._first.heard(now)
        if type_url not in SHORT_NAMES:
            return []
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            subscription = self.subscriptions[type_url] = Subscription()
            if request.initial_resource_versions:
                self._awaits_clusters(now)
            self._begin(type_url, subscription, request)
            if type_url == CLUSTER_LOAD_ASSIGNMENT:
                self._owed = set()  # from now on they follow their clusters
        else:
            self._answered(type_url, subscription, request)
            self._subscribe(type_url, subscription, request.resource_names_subscribe)
        self._unsubscribe(type_url, subscription, request.resource_names_unsubscribe)
        self._share(type_url, subscription)
        return self._flush(now)

    def _share(self, type_url: str, subscription: Subscription) -> None:
        """When all is said about the type: keep what this stream has as the difference to what its scope has."""
        sync = self.sync.of(type_url)
        if subscription.due or sync.outstanding or sync.held or sync.rejected:
            return
        base = self.view.shared.resources.get(type_url)
        if base is not None and subscription.sent.base is not base:
            subscription.share(base)
            if subscription.sent.base is base:
                sync.accepted.rebase(names_of(base))

    def _waits_for(
        self, type_url: str, subscription: Subscription, name: str, desired: Resource | None, now: float
    ) -> str:
        leaves = type_url == CLUSTER_LOAD_ASSIGNMENT and name in subscription.sent and not self._has_assignment(name)
        if leaves and self._clusters_until is not None:
            return "clusters"
        return super()._waits_for(type_url, subscription, name, desired, now)

    def _answered(self, type_url: str, subscription: Subscription, request: DeltaDiscoveryRequest) -> None:
        nonce = request.response_nonce
        if not nonce:
            return
        sent = self.sync.of(type_url).outstanding.get(nonce)
        self.expired_nonces += sent is None
        if request.HasField("error_detail"):
            named = named_in(request.error_detail, sent.resources if sent else ())
            self.refused += self.sync.nack(type_url, nonce, request.error_detail.message, named)
        else:
            self.sync.ack(type_url, nonce, str(sent.span.revision) if sent else "")

    def _begin(self, type_url: str, subscription: Subscription, request: DeltaDiscoveryRequest) -> None:
        asked = set(request.resource_names_subscribe)
        subscription.wildcard = "*" in asked or (not asked and type_url in WILDCARD_TYPES)
        subscription.names = asked - {"*"}
        if self._adopt_whole(type_url, subscription, request.initial_resource_versions):
            return
        self._adopt(type_url, subscription, request.initial_resource_versions)
        span = self._new_span(subscription)
        names = set(self.view.names(type_url)) if subscription.wildcard else set()
        for name in names | subscription.names:
            desired = self._desired(type_url, subscription, name)
            if desired is None and name not in subscription.sent:
                subscription.force(name, span)  # asked for and does not exist: say so (rule 15)
            subscription.mark(name, desired, span)

    def _adopt_whole(self, type_url: str, subscription: Subscription, versions: Mapping[str, str]) -> bool:
        """The usual case of a fleet that comes back: the client has exactly what it shall have."""
        base = self.view.shared.resources.get(type_url)
        warming = type_url == CLUSTER_LOAD_ASSIGNMENT and (bool(self._owed) or self._clusters_until is not None)
        if base is None or not versions or self._ttl or warming:
            return False
        own = self.view.own.resources.get(type_url, {})
        wanted = {**versions_of(base), **{name: resource.version for name, resource in own.items()}}
        if dict(versions) != wanted or not (subscription.wildcard or subscription.names == wanted.keys()):
            return False
        self._resumed |= type_url == CLUSTER
        subscription.share(base)
        subscription.sent.holds_all(base, own)
        sync = self.sync.of(type_url)
        sync.accepted.holds_all(names_of(base), own)
        sync.changes += 1
        return True

    def _adopt(self, type_url: str, subscription: Subscription, versions: Mapping[str, str]) -> None:
        """Take over what the client has from an earlier stream. This is its cache, not a subscription (rule 13)."""
        self.sync.of(type_url).changes += 1
        accepted = self.sync.of(type_url).accepted
        self._resumed |= type_url == CLUSTER and bool(versions)
        for name, version in versions.items():
            present = self.view.get(type_url, name)
            if present is not None and not subscription.wants(name):
                continue
            desired = self._desired(type_url, subscription, name)
            same = desired is not None and desired.version == version
            subscription.holds(name, desired if desired and same else Resource(type_url, name, version, b"", b""))
            accepted.add(name)
            if self._ttl and same and name in subscription.mortal:
                self._beats[type_url] = 0.0  # nobody knows how much of it is left
            subscription.mark(name, desired, self._new_span(subscription))
            if type_url == CLUSTER_LOAD_ASSIGNMENT and subscription.wants(name) and self._may_warm(name):
                subscription.force(name, self._new_span(subscription))  # rule 18, though the client has it

    def _may_warm(self, name: str) -> bool:
        """Its cluster was sent on this stream, or the client was warming some when the stream before ended."""
        return name in self._owed or (self._clusters_until is not None and self._has_assignment(name))

    def _subscribe(self, type_url: str, subscription: Subscription, names: Iterable[str]) -> None:
        span = self._new_span(subscription)
        for name in names:
            if name == "*":
                subscription.wildcard = True
                for every in self.view.names(type_url):
                    subscription.force(every, span)
            else:
                subscription.names.add(name)
                subscription.force(name, span)

    def _unsubscribe(self, type_url: str, subscription: Subscription, names: Iterable[str]) -> None:
        for name in names:
            if name == "*" and subscription.wildcard:
                subscription.wildcard = False
                for other in {*subscription.sent, *subscription.due} - subscription.names:
                    self._forget(type_url, subscription, other)
            elif name in subscription.names:  # others were never subscribed: nothing to do
                subscription.names.discard(name)
                if subscription.wildcard:
                    subscription.force(name, self._new_span(subscription))
                else:
                    self._forget(type_url, subscription, name)

    def _respond(self, type_url: str, subscription: Subscription, ready: dict[str, Resource | None]) -> list[Response]:
        parts = list(split(ready))
        if not parts and subscription.wildcard and not subscription.answered and not self.sync.of(type_url).held:
            parts = [{}]
        return [self._emit(type_url, subscription, part, version=str(self.view.revision)) for part in parts]

    def _heartbeat(self, type_url: str, subscription: Subscription) -> Response:
        rejected, revision = self.sync.of(type_url).rejected, self.view.revision
        names = [name for name in subscription.mortal if name not in rejected]
        renewed = {name: subscription.sent[name] for name in names}
        nonce = self._new_nonce()
        self.sync.sent(type_url, nonce, Sent(Span(revision, revision), {**renewed}, frozenset()))
        return Response(type_url, nonce, str(revision), tuple(renewed.values()), ttl=True, heartbeat=True)
