"""The front of the decoder: a resource's bytes in, the agent's value or the reason for a refusal out.

Owns:   which type is read by which module, the checks of a resource's name.
Source: design section 5; decision 21 (the reason reaches the policy that caused it).
Invariants: no bytes raise; the same bytes give the same answer; a resource is taken whole or not at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.config.route.v3.route_components_pb2 import VirtualHost as HostMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration as ConfigurationMessage

from agent.config import rules
from agent.config.clusters import cluster
from agent.config.endpoints import load_assignment
from agent.config.fields import M, Refused, Rejected, parsed, refuse
from agent.config.listeners import listener
from agent.config.virtual_hosts import route_configuration, virtual_host
from agent.model.cluster import Cluster, LoadAssignment
from agent.model.listener import Listener
from agent.model.route import RouteConfiguration, VirtualHost
from mesh.xds import type_url
from mesh.xds.names import split_virtual_host_resource

Value = Listener | RouteConfiguration | VirtualHost | Cluster | LoadAssignment


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a resource says; `inline`: the routes that a listener holds itself, under names of its own."""

    value: Value
    inline: tuple[RouteConfiguration, ...] = ()


def decode(type_url: str, name: str, body: bytes) -> Value | Rejected:
    """The value of resource `name`, whose message of type `type_url` is `body`."""
    found = decode_whole(type_url, name, body)
    return found if isinstance(found, Rejected) else found.value


def decode_whole(type_url: str, name: str, body: bytes) -> Meaning | Rejected:
    """The value, and what came inline with it."""
    reader = _READERS.get(type_url)
    if reader is None:
        return Rejected(name=name, path="", reason=f"found type {type_url}, expected one of {', '.join(_READERS)}")
    try:
        return reader(name, body)
    except Refused as refusal:
        return Rejected(name=name, path=refusal.path, reason=refusal.reason)


def _checked(body: bytes, kind: type[M]) -> M:
    message = parsed(body, kind, "")
    rules.check(message)
    return message


def _check_name(found: str, path: str, name: str) -> None:
    if found != name:
        raise refuse(path, found, f"the resource's name, {name!r}")


def _listener(name: str, body: bytes) -> Meaning:
    message = _checked(body, ListenerMessage)
    _check_name(message.name, "name", name)
    value, inline = listener(message, name)
    return Meaning(value=value, inline=inline)


def _route_configuration(name: str, body: bytes) -> Meaning:
    message = _checked(body, ConfigurationMessage)
    _check_name(message.name, "name", name)
    return Meaning(value=route_configuration(message, "", name))


def _virtual_host(name: str, body: bytes) -> Meaning:
    try:
        split_virtual_host_resource(name)
    except ValueError as error:
        raise Refused("", f"the resource's name: {error}") from error
    return Meaning(value=virtual_host(_checked(body, HostMessage), ""))


def _cluster(name: str, body: bytes) -> Meaning:
    message = _checked(body, ClusterMessage)
    _check_name(message.name, "name", name)
    return Meaning(value=cluster(message))


def _load_assignment(name: str, body: bytes) -> Meaning:
    message = _checked(body, ClusterLoadAssignment)
    _check_name(message.cluster_name, "cluster_name", name)
    return Meaning(value=load_assignment(message, "", name))


_READERS: Mapping[str, Callable[[str, bytes], Meaning]] = {
    type_url.LISTENER: _listener,
    type_url.ROUTE_CONFIGURATION: _route_configuration,
    type_url.VIRTUAL_HOST: _virtual_host,
    type_url.CLUSTER: _cluster,
    type_url.CLUSTER_LOAD_ASSIGNMENT: _load_assignment,
}
