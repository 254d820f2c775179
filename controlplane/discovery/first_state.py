"""When the first state of a stream is whole: the client has asked for all of it and has answered. Sans-io.

Owns:   what the client of a stream that has just begun is still to ask for, and for how long that is waited for.
Not:    what is unanswered or held back: that is in the nonce ledger, whose fresh streams are pending (stream_sync).
Source: design section 2 ("a proxy has revision R when nothing that R changes for it is unacknowledged"); Envoy's start
        (clusters, their endpoints, then listeners, then routes); A27 (Listener, then clusters, then endpoints).

A client asks type by type, and owes nothing between its answer to one and its request for the next. So at every moment
in which nothing is unanswered this follows what the client has accepted:

    listeners, and clusters unless nothing that it has by name leads to one (a gRPC server)
    Listener -> Secret, RouteConfiguration -> VirtualHosts
    Listener, RouteConfiguration -> clusters asked for by name
    Cluster  -> ClusterLoadAssignment, Secret

What a client brings from an earlier stream counts as accepted; where its versions are the present ones nothing is sent,
and the first state is whole with the last request. A resource that it refuses leads to nothing. A client that asks for
less than this, or for nothing, is waited for `FIRST_STATE_S` after its last request: then what it has asked for is its
first state; who has asked for nothing is idle.
"""

from collections.abc import Iterable, Iterator, Mapping

from controlplane.compiler.types import Resource
from controlplane.discovery.subscription import Subscription
from controlplane.distribution.stream_sync import UNKNOWN, StreamSync
from controlplane.model.layered import LayeredSet
from controlplane.snapshot.references import (
    clusters_named,
    eds_name,
    has_vhds,
    routes_named,
    secrets_named,
    secrets_shown,
)
from controlplane.snapshot.view import View
from mesh.xds.type_url import (
    CLUSTER,
    CLUSTER_LOAD_ASSIGNMENT,
    LISTENER,
    ROUTE_CONFIGURATION,
    SECRET,
    VIRTUAL_HOST,
)

FIRST_STATE_S = 15.0  # Envoy's initial_fetch_timeout, gRPC's resource timer: who waits for something asks within it

_LEADING = (CLUSTER, LISTENER, ROUTE_CONFIGURATION)

Subscriptions = Mapping[str, Subscription]
Named = tuple[str, str]  # (type URL, name); an empty name: all of the type


class FirstState:
    """Of one stream. `until`: when to look although nothing has happened."""

    __slots__ = ("_sync", "until")

    def __init__(self, sync: StreamSync) -> None:
        self._sync = sync
        self.until: float | None = None

    def heard(self, now: float) -> None:
        """A request has come. `now`: monotonic seconds."""
        if self._sync.unasked is not None:
            self.until = now + FIRST_STATE_S

    def look(self, view: View, subscriptions: Subscriptions, now: float) -> None:
        """Something may have changed."""
        if self._sync.unasked is None:
            return
        is_over = self.until is not None and now >= self.until
        if is_over:
            self.until = None  # the next request begins it anew
        if self._is_under_way(subscriptions):
            self._sync.begin(_unasked_type(subscriptions) or UNKNOWN)
            return
        unasked = _unasked_type(subscriptions) or _unasked_name(view, subscriptions, self._sync)
        if is_over and subscriptions:
            unasked = None
        self._sync.begin(unasked, idle=not subscriptions and (is_over or self._sync.idle))
        if unasked is None:
            self.until = None

    def _is_under_way(self, subscriptions: Subscriptions) -> bool:
        """Until it has answered nobody knows what it will ask for."""
        unanswered = any(sync.outstanding for sync in self._sync.types.values())
        return unanswered or any(one.wildcard and not one.answered for one in subscriptions.values())


def _unasked_type(subscriptions: Subscriptions) -> Named | None:
    """A type that the client needs in any case, and has not asked for."""
    if not subscriptions:
        return UNKNOWN
    if LISTENER not in subscriptions:
        return LISTENER, ""
    if CLUSTER not in subscriptions and subscriptions[LISTENER].wildcard:
        return CLUSTER, ""
    return None


def _unasked_name(view: View, subscriptions: Subscriptions, sync: StreamSync) -> Named | None:
    """The first that the client needs for what it has accepted, and has not asked for."""
    named = (item for url in _LEADING for item in _named(url, view, subscriptions, sync))
    return next((item for item in named if not _is_asked(subscriptions, item) and _exists(view, item)), None)


def _named(url: str, view: View, subscriptions: Subscriptions, sync: StreamSync) -> Iterator[Named]:
    """What the accepted resources of a type lead to."""
    types, clusters = sync.types.get(url), subscriptions.get(CLUSTER)
    if types is None:
        return
    names: Iterable[str] = types.accepted
    if url == CLUSTER and _asks_for_endpoints_of(types.accepted.base, subscriptions) and not _has_secrets(view):
        names = types.accepted.own
    for name in names:
        resource = view.get(url, name)
        if resource is not None:
            yield from _leads_to(resource, by_name=clusters is None or not clusters.wildcard)


def _leads_to(resource: Resource, *, by_name: bool) -> Iterator[Named]:
    """`by_name`: the client does not ask for all clusters."""
    if by_name:
        yield from ((CLUSTER, name) for name in sorted(clusters_named(resource)))
    if resource.type_url == CLUSTER:
        endpoints = eds_name(resource)
        if endpoints is not None:
            yield CLUSTER_LOAD_ASSIGNMENT, endpoints
        yield from ((SECRET, name) for name in sorted(secrets_named(resource)))
    elif resource.type_url == LISTENER:
        yield from ((ROUTE_CONFIGURATION, name) for name in sorted(routes_named(resource)))
        yield from ((SECRET, name) for name in sorted(secrets_shown(resource)))
    elif has_vhds(resource):
        yield VIRTUAL_HOST, ""


def _is_asked(subscriptions: Subscriptions, named: Named) -> bool:
    subscription = subscriptions.get(named[0])
    return subscription is not None and (not named[1] or subscription.wants(named[1]))


def _exists(view: View, named: Named) -> bool:
    # An assignment is sent for every name (rule 11).
    return not named[1] or named[0] == CLUSTER_LOAD_ASSIGNMENT or view.get(*named) is not None


def _asks_for_endpoints_of(clusters: frozenset[str], subscriptions: Subscriptions) -> bool:
    """The usual case: those that the scope shares, all of them."""
    endpoints = subscriptions.get(CLUSTER_LOAD_ASSIGNMENT)
    return endpoints is not None and isinstance(endpoints.names, LayeredSet) and endpoints.names.has_all(clusters)


def _has_secrets(view: View) -> bool:
    return next(view.names(SECRET), None) is not None
