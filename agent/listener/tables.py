"""What the supervisor has said so far, and what the next Commit has to build from it.

Owns:   the five tables of agent.ipc.messages, sockets that came for listeners, what has changed since the last Commit.
Not:    building (agent.listener.serving), sockets in use (agent.listener.listeners).
Invariants: a `Change` holds values, never the tables, so that what is said after its Commit does not reach it; it names
        exactly what has to be built anew: a cluster for itself or its endpoints, a route configuration for itself or
        one of its virtual hosts.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from socket import socket

from agent.ipc import messages
from agent.ipc.messages import CLUSTER, LISTENER, ROUTE_CONFIGURATION, Config
from agent.model.cluster import Cluster, LoadAssignment
from agent.model.listener import Listener
from agent.model.route import RouteConfiguration, VirtualHost
from mesh.xds.names import split_virtual_host_resource


class NonsenseError(Exception):
    """The supervisor has said what the contract of agent.ipc.messages does not allow."""


ClusterParts = tuple[Cluster, LoadAssignment | None]
RouteParts = tuple[RouteConfiguration, tuple[VirtualHost, ...]]


@dataclass(slots=True)
class Change:
    """What one or several Commits change; None = it is gone. `sockets`: new ones, by listener."""

    versions: list[int]
    clusters: dict[str, ClusterParts | None] = field(default_factory=dict)
    routes: dict[str, RouteParts | None] = field(default_factory=dict)
    listeners: dict[str, Listener | None] = field(default_factory=dict)
    sockets: dict[str, socket] = field(default_factory=dict)

    def follow(self, later: "Change") -> None:
        """Take in what came after, before this one was begun."""
        self.versions += later.versions
        self.clusters.update(later.clusters)
        self.routes.update(later.routes)
        self.listeners.update(later.listeners)
        for name, sock in later.sockets.items():
            before = self.sockets.pop(name, None)
            if before is not None:
                before.close()
            self.sockets[name] = sock


class Tables:
    """Filled by Put and Remove; `take` gives what has changed."""

    def __init__(self) -> None:
        self._listeners: dict[str, Listener] = {}
        self._routes: dict[str, RouteConfiguration] = {}
        self._hosts: defaultdict[str, dict[str, VirtualHost]] = defaultdict(dict)  # by route configuration
        self._clusters: dict[str, Cluster] = {}
        self._assignments: dict[str, LoadAssignment] = {}
        self._users: defaultdict[str, set[str]] = defaultdict(set)  # clusters by eds_name
        self._changed: dict[str, set[str]] = {CLUSTER: set(), ROUTE_CONFIGURATION: set(), LISTENER: set()}
        self._sockets: dict[str, socket] = {}

    def put(self, kind: str, name: str, value: Config) -> None:
        """Raises NonsenseError when `kind` is unknown or `value` is of another kind."""
        match kind, value:
            case messages.CLUSTER, Cluster():
                self._drop_cluster(name)
                self._clusters[name] = value
                if value.static is None:
                    self._users[value.eds_name].add(name)
            case messages.LOAD_ASSIGNMENT, LoadAssignment():
                self._assignments[name] = value
                self._changed[CLUSTER] |= self._users.get(name, set())
            case messages.ROUTE_CONFIGURATION, RouteConfiguration():
                self._routes[name] = value
                self._changed[ROUTE_CONFIGURATION].add(name)
            case messages.VIRTUAL_HOST, VirtualHost():
                config = _route_configuration_of(name)
                self._hosts[config][name] = value
                self._changed[ROUTE_CONFIGURATION].add(config)
            case messages.LISTENER, Listener():
                self._listeners[name] = value
                self._changed[LISTENER].add(name)
            case _:
                raise NonsenseError(f"Put of a {type(value).__name__} as {kind}")

    def remove(self, kind: str, name: str) -> None:
        """Forget a value; one that is not there is not missed. Raises NonsenseError for an unknown kind."""
        match kind:
            case messages.CLUSTER:
                self._drop_cluster(name)
            case messages.LOAD_ASSIGNMENT:
                self._assignments.pop(name, None)
                self._changed[CLUSTER] |= self._users.get(name, set())
            case messages.ROUTE_CONFIGURATION:
                self._routes.pop(name, None)
                self._changed[ROUTE_CONFIGURATION].add(name)
            case messages.VIRTUAL_HOST:
                self._drop_host(name)
            case messages.LISTENER:
                self._listeners.pop(name, None)
                self._changed[LISTENER].add(name)
            case _:
                raise NonsenseError(f"Remove of a {kind}")

    def add_socket(self, listener: str, descriptor: int) -> None:
        """A listening socket has come; it is used from the next Commit on. Takes the descriptor over."""
        before = self._sockets.pop(listener, None)
        if before is not None:
            before.close()
        self._sockets[listener] = socket(fileno=descriptor)

    def take(self, version: int) -> Change:
        """What Commit `version` changes."""
        changed, self._changed = self._changed, {kind: set() for kind in self._changed}
        sockets, self._sockets = self._sockets, {}
        return Change(
            versions=[version],
            clusters={name: self._cluster_parts(name) for name in changed[CLUSTER]},
            routes={name: self._route_parts(name) for name in changed[ROUTE_CONFIGURATION]},
            listeners={name: self._listeners.get(name) for name in changed[LISTENER]},
            sockets=sockets,
        )

    def _cluster_parts(self, name: str) -> ClusterParts | None:
        cluster = self._clusters.get(name)
        if cluster is None:
            return None
        return cluster, cluster.static if cluster.static is not None else self._assignments.get(cluster.eds_name)

    def _route_parts(self, name: str) -> RouteParts | None:
        config = self._routes.get(name)
        return (config, tuple(self._hosts.get(name, {}).values())) if config is not None else None

    def _drop_cluster(self, name: str) -> None:
        self._changed[CLUSTER].add(name)
        before = self._clusters.pop(name, None)
        if before is not None and before.static is None:
            users = self._users[before.eds_name]
            users.discard(name)
            if not users:
                del self._users[before.eds_name]

    def _drop_host(self, name: str) -> None:
        config = _route_configuration_of(name)
        self._changed[ROUTE_CONFIGURATION].add(config)
        hosts = self._hosts.get(config)
        if hosts is not None:
            hosts.pop(name, None)
            if not hosts:
                del self._hosts[config]


def _route_configuration_of(name: str) -> str:
    try:
        return split_virtual_host_resource(name)[0]
    except ValueError as error:
        raise NonsenseError(str(error)) from error
