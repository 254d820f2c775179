"""From accepted resources to what workers serve: nothing is served before everything that it needs is there.

Owns:   which accepted resources are published, and which old ones stay until their successors are usable.
Not:    the stream (session), sending to workers (agent.supervisor).
Source: Envoy's cluster and listener warming; control-plane.md 5, rules 17-20.

A cluster is warm when its endpoints are known (an empty list is known too). A route configuration or virtual host waits
for the clusters that it names and that exist; a listener for the secrets that it names and for its route configuration,
which with vhds waits for its first virtual host. What waits is served in its old form, if it has one. WARM_WITHIN_S, or
the server's word that there are none, ends a wait for endpoints, secrets, virtual hosts and for the routes of a new
listener: then the cluster or listener is served without them, as Envoy does.
Differs: a listener that is served already keeps its old form as long as its new routes do not come.
A cluster goes only when nothing that is served names it.
Invariants: each result is closed: all that it names is in it, or was nowhere in the accepted resources when it was
        first served. With one Commit per result no request meets a missing piece.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from agent.ipc.messages import CLUSTER, KINDS, LISTENER, LOAD_ASSIGNMENT, ROUTE_CONFIGURATION, VIRTUAL_HOST, Config
from agent.model.cluster import Cluster, LoadAssignment
from agent.model.listener import HttpConnectionManager, Listener
from agent.model.route import Forward, RouteConfiguration, VirtualHost
from agent.xds.resources import Held
from mesh.xds import type_url
from mesh.xds.names import split_virtual_host_resource

WARM_WITHIN_S = 15.0  # Envoy's initial_fetch_timeout

Absent = Collection[tuple[str, str]]  # (type URL, name) that the server does not have
Tables = Mapping[str, Mapping[str, Config]]  # kind -> name -> value
_Tables = dict[str, dict[str, Config]]
EMPTY: Tables = {kind: {} for kind in KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """`waiting`: what is accepted and not yet served, with what it waits for."""

    tables: Tables
    waiting: tuple[str, ...] = ()


class Warming:
    """Turns the accepted resources into what is served, step by step."""

    def __init__(self) -> None:
        self._served: _Tables = {kind: {} for kind in KINDS}
        self._cold_since: dict[tuple[str, str], float] = {}

    def step(self, held: Iterable[Held], now: float, absent: Absent = ()) -> Published:
        """What to serve now; `now`: monotonic seconds."""
        everything = tuple(held)
        secrets = {item.name for item in everything if item.type_url == type_url.SECRET}
        step = _Step(_tables(everything), self._served, self._cold_since, now, absent, secrets)
        step.clusters()
        step.routes()
        step.listeners()
        step.close()
        self._served, self._cold_since = step.fresh, step.cold
        return Published(tables=step.fresh, waiting=tuple(step.waiting))


class _Step:
    """One computation of what is served."""

    def __init__(
        self,
        desired: _Tables,
        served: _Tables,
        cold_since: dict[tuple[str, str], float],
        now: float,
        absent: Absent,
        secrets: Collection[str] = (),
    ) -> None:
        self._desired = desired
        self._served = served
        self._cold_since = cold_since
        self._now = now
        self._absent = absent
        self._secrets = secrets
        self.fresh: _Tables = {kind: {} for kind in KINDS}
        self.cold: dict[tuple[str, str], float] = {}
        self.waiting: list[str] = []

    def clusters(self) -> None:
        known = self._desired[LOAD_ASSIGNMENT]
        self.fresh[LOAD_ASSIGNMENT].update(known)
        for name, value in self._desired[CLUSTER].items():
            assert isinstance(value, Cluster)
            if value.static is not None or value.eds_name in known:
                self.fresh[CLUSTER][name] = value
            elif self._has_no_endpoints(value.eds_name) or self._overdue(CLUSTER, name):
                self.fresh[CLUSTER][name] = value
                self.fresh[LOAD_ASSIGNMENT][value.eds_name] = self._empty_assignment(value.eds_name)
            else:
                self._wait(CLUSTER, name, "its endpoints")

    def routes(self) -> None:
        for kind in (ROUTE_CONFIGURATION, VIRTUAL_HOST):
            for name, value in self._desired[kind].items():
                missing = self._missing_cluster(value)
                if missing:
                    self._wait(kind, name, f"cluster {missing}")
                else:
                    self.fresh[kind][name] = value

    def listeners(self) -> None:
        with_hosts = {split_virtual_host_resource(name)[0] for name in self.fresh[VIRTUAL_HOST]}
        for name, value in self._desired[LISTENER].items():
            secret = self._missing_secret(name, value)
            missing = self._missing_routes(name, value, with_hosts)
            if secret:
                self._wait(LISTENER, name, f"secret {secret}")
            elif missing:
                self._wait(LISTENER, name, f"route configuration {missing}")
            else:
                self.fresh[LISTENER][name] = value

    def close(self) -> None:
        """Keep from what was served everything that something still served names."""
        for listener in self.fresh[LISTENER].values():
            for name in route_configurations_of(listener):
                self._keep(ROUTE_CONFIGURATION, name)
        referrers = (ROUTE_CONFIGURATION, VIRTUAL_HOST, LISTENER)
        for name in {name for kind in referrers for value in self.fresh[kind].values() for name in clusters_of(value)}:
            self._keep(CLUSTER, name)
        for cluster in self.fresh[CLUSTER].values():
            assert isinstance(cluster, Cluster)
            if cluster.static is None:
                self._keep(LOAD_ASSIGNMENT, cluster.eds_name)

    def _missing_cluster(self, value: Config) -> str:
        """A cluster that exists, is named by `value`, and is not served yet."""
        ready, existing = self.fresh[CLUSTER], self._desired[CLUSTER]
        return next((name for name in clusters_of(value) if name not in ready and name in existing), "")

    def _missing_routes(self, listener: str, value: Config, with_hosts: set[str]) -> str:
        for name in route_configurations_of(value):
            found = self.fresh[ROUTE_CONFIGURATION].get(name)
            if not isinstance(found, RouteConfiguration):
                if not self._is_without_routes(listener, name):
                    return name
                self.fresh[ROUTE_CONFIGURATION][name] = RouteConfiguration(name=name)
                continue
            if found.vhds and name not in with_hosts and not self._overdue(ROUTE_CONFIGURATION, name):
                return name
        return ""

    def _missing_secret(self, listener: str, value: Config) -> str:
        for name in secrets_of(value):
            known = name in self._secrets or (type_url.SECRET, name) in self._absent
            if not known and not self._overdue(LISTENER, listener):
                return name
        return ""

    def _has_no_endpoints(self, name: str) -> bool:
        """The server says so, or has said so before. What has endpoints keeps them through a wait."""
        served = self._served[LOAD_ASSIGNMENT].get(name)
        is_empty = not (isinstance(served, LoadAssignment) and served.endpoints)
        return is_empty and (type_url.CLUSTER_LOAD_ASSIGNMENT, name) in self._absent

    def _empty_assignment(self, name: str) -> Config:
        served = self._served[LOAD_ASSIGNMENT].get(name)
        is_empty = isinstance(served, LoadAssignment) and not served.endpoints
        return served if served is not None and is_empty else LoadAssignment(cluster=name, endpoints=())

    def _is_without_routes(self, listener: str, routes: str) -> bool:
        """A new listener whose route configuration does not come, and is not merely waiting for clusters."""
        if listener in self._served[LISTENER] or routes in self._desired[ROUTE_CONFIGURATION]:
            return False
        return (type_url.ROUTE_CONFIGURATION, routes) in self._absent or self._overdue(LISTENER, listener)

    def _overdue(self, kind: str, name: str) -> bool:
        """Has `name` waited for WARM_WITHIN_S? Its wait begins with the first question."""
        since = self.cold[kind, name] = self._cold_since.get((kind, name), self._now)
        return self._now - since >= WARM_WITHIN_S

    def _wait(self, kind: str, name: str, what: str) -> None:
        self.waiting.append(f"{kind} {name} waits for {what}")
        self._keep(kind, name)

    def _keep(self, kind: str, name: str) -> None:
        """Serve the old form of `name` on, if there is one and no new one."""
        if name not in self.fresh[kind] and name in self._served[kind]:
            self.fresh[kind][name] = self._served[kind][name]


def _tables(held: Iterable[Held]) -> _Tables:
    tables: _Tables = {kind: {} for kind in KINDS}
    for item in held:
        for kind, name, value in item.decoded.values:
            tables[kind][name] = value
    return tables


def clusters_of(value: Config) -> tuple[str, ...]:
    """The clusters that a route configuration, virtual host or listener (tcp_proxy) names."""
    match value:
        case RouteConfiguration(virtual_hosts=hosts):
            return tuple(name for host in hosts for name in clusters_of(host))
        case VirtualHost(routes=routes):
            actions = [route.action for route in routes]
            return tuple(part.cluster for action in actions if isinstance(action, Forward) for part in action.clusters)
        case Listener(filter_chains=chains):
            networks = [chain.network for chain in chains]
            proxies = [net for net in networks if not isinstance(net, HttpConnectionManager)]
            return tuple(name for net in proxies for name in (net.cluster, *dict(net.weighted)) if name)
    return ()


def secrets_of(value: Config) -> tuple[str, ...]:
    """The user's secrets that a listener's filter chains need."""
    if not isinstance(value, Listener):
        return ()
    sockets = [chain.tls for chain in value.filter_chains if chain.tls is not None]
    return tuple(dict.fromkeys(name for tls in sockets for name in tls.secrets))


def route_configurations_of(value: Config) -> tuple[str, ...]:
    """The route configurations that a listener's HTTP connection managers use."""
    if not isinstance(value, Listener):
        return ()
    networks = [chain.network for chain in value.filter_chains]
    return tuple(net.route_config for net in networks if isinstance(net, HttpConnectionManager))
