"""State-of-the-world ADS: the rules of DiscoveryRequest and DiscoveryResponse. Sans-io.

Owns:   stale nonces, the legacy wildcard, grown name sets, full-state answers.
Not:    make before break and push order (session).
Source: control-plane.md 5, rules 3, 4, 6-12; xds_protocol.rst.

    request of a type           state of the type on this stream
    first                       made, whatever nonce or version it carries; always answered
    nonce = newest response     ACK or NACK by error_detail; the names replace the subscription
    any other nonce             stale: its ACK or NACK is noted, its names are ignored (a newer request will come)

Invariants: LDS and CDS answers are the full state of what the client asked for; the first one waits until nothing of
        it is held, because absence is deletion. Other types carry only the names that changed.
"""

import hashlib
import itertools
from collections.abc import Iterable

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from controlplane.compiler.types import Resource
from controlplane.discovery.nack import named_in
from controlplane.discovery.session import Response, Session, split
from controlplane.discovery.subscription import Subscription
from mesh.xds.type_url import FULL_STATE_TYPES, SHORT_NAMES


class SotwSession(Session):
    """One StreamAggregatedResources stream."""

    def on_request(self, request: DiscoveryRequest, now: float) -> list[Response]:
        """A request; types that are not served here are not answered."""
        type_url = request.type_url
        if type_url not in SHORT_NAMES:
            return []
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            subscription = self.subscriptions[type_url] = Subscription()
        else:
            self._answered(type_url, request)
            if request.response_nonce != subscription.nonce:
                self.expired_nonces += 1
                return self._flush(now)
        self._subscribe(type_url, subscription, request.resource_names)
        return self._flush(now)

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
        if not subscription.answered and (self.sync.of(type_url).held or not _asks(subscription)):
            return []
        whole = {name: resource for name, resource in subscription.sent.items() if name not in ready}
        whole.update((name, resource) for name, resource in ready.items() if resource is not None)
        version = _version(whole.values())
        return [self._emit(type_url, subscription, ready, whole=whole, version=version)]

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


def _asks(subscription: Subscription) -> bool:
    return subscription.wildcard or bool(subscription.names)


def _version(resources: Iterable[Resource]) -> str:
    """The same for the same content on every replica: a hash over names and versions."""
    digest = hashlib.blake2b(digest_size=8)
    for name, version in sorted((resource.name, resource.version) for resource in resources):
        digest.update(f"{name}\0{version}\0".encode())
    return digest.hexdigest()
