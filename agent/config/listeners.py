"""Listeners and their filter chains.

Owns:   the address, which chain takes which connection, the identity of the caller.
Not:    network filters (http_manager, tcp_proxy), TLS (transport_sockets).
Source: envoy/config/listener/v3; decisions 10, 11.
Invariants: no two filter chains have a server name and a transport in common. Filter chains are in the order in which
        the worker may ask those that fit a server name alike: those that name a transport first, then
        those that take anything, the default chain last. Inline routes are stored under `listener/chain/name`, which no
        other RouteConfiguration has.

Not refused, since it cannot make a difference here: listener filters that detect TLS (the agent looks itself), the
limits on detection and handshakes (the agent has its own), how the kernel's queues are used.
"""

from collections.abc import Sequence
from typing import NamedTuple

from envoy.config.listener.v3.listener_components_pb2 import Filter as FilterMessage
from envoy.config.listener.v3.listener_components_pb2 import FilterChain as ChainMessage
from envoy.config.listener.v3.listener_components_pb2 import FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager as ManagerMessage,
)
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as RbacMessage
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy as ProxyMessage

from agent.config import rules
from agent.config.addresses import ip_and_port
from agent.config.fields import Refused, beyond, enum_name, item, only, refuse, type_of, unpacked, value_or, within
from agent.config.http_manager import http_manager, rds_name
from agent.config.rbac import network_rbac
from agent.config.tcp_proxy import tcp_proxy
from agent.config.transport_sockets import downstream_tls, spiffe_id
from agent.config.virtual_hosts import route_configuration
from agent.model.listener import Direction, FilterChain, HttpConnectionManager, Listener, TcpProxy
from agent.model.rbac import NetworkRbac
from agent.model.route import RouteConfiguration
from mesh.xds.workload_name import KEY, METADATA

_KNOWN = frozenset(
    {
        "name", "address", "filter_chains", "default_filter_chain", "per_connection_buffer_limit_bytes", "metadata",
        "listener_filters", "traffic_direction", "bind_to_port",
        # no effect here, see above
        "stat_prefix", "drain_type", "listener_filters_timeout", "tcp_fast_open_queue_length",
        "connection_balance_config", "reuse_port", "enable_reuse_port", "tcp_backlog_size",
        "max_connections_to_accept_per_socket_event", "enable_mptcp", "ignore_global_conn_limit",
        "bypass_overload_manager",
    }
)  # fmt: skip
_OFF = frozenset({"use_original_dst", "transparent", "freebind"})
_CHAIN = frozenset(
    {"filter_chain_match", "filters", "transport_socket", "name", "metadata", "transport_socket_connect_timeout"}
)
_CHAIN_OFF = frozenset({"use_proxy_proto"})
_TRANSPORTS = frozenset({"", "tls", "raw_buffer"})

Inline = tuple[RouteConfiguration, ...]


def listener(message: ListenerMessage, name: str) -> tuple[Listener, Inline]:
    """The listener, and the routes that its connection managers hold inline."""
    only(message, "", _KNOWN, _OFF)
    if not value_or(message, "bind_to_port", True):
        raise beyond("bind_to_port", "False", "True")
    _check_listener_filters(message.listener_filters)
    address, port = ip_and_port(message.address, "address")
    chains, inline = _chains(message, name)
    made = Listener(
        name=name,
        address=address,
        port=port,
        direction=Direction[enum_name(message, "traffic_direction", "")],
        filter_chains=chains,
        identity=_identity(message),
        workload=_workload(message),
        per_connection_buffer_limit_bytes=value_or(message, "per_connection_buffer_limit_bytes", 1024 * 1024),
    )
    return made, inline


def _check_listener_filters(messages: Sequence[ListenerFilter]) -> None:
    for index, message in enumerate(messages):
        path = item("", "listener_filters", index)
        only(message, path, frozenset({"name", "typed_config"}))
        if type_of(message.typed_config) != TlsInspector.DESCRIPTOR.full_name:
            found = type_of(message.typed_config) or message.name
            raise beyond(within(path, "typed_config"), found, TlsInspector.DESCRIPTOR.full_name)


def _identity(message: ListenerMessage) -> str:
    """Whose certificate carries what enters here, "" when the server does not say."""
    own = message.metadata.filter_metadata
    if METADATA not in own or "identity" not in own[METADATA].fields:
        return ""
    return spiffe_id(own[METADATA].fields["identity"].string_value, f'metadata.filter_metadata["{METADATA}"].identity')


def _workload(message: ListenerMessage) -> str | None:
    own = message.metadata.filter_metadata
    return own[METADATA].fields[KEY].string_value if METADATA in own and KEY in own[METADATA].fields else None


# --- filter chains


def _chains(message: ListenerMessage, name: str) -> tuple[tuple[FilterChain, ...], Inline]:
    written = [(item("", "filter_chains", index), one) for index, one in enumerate(message.filter_chains)]
    if not written and not message.HasField("default_filter_chain"):
        raise Refused("filter_chains", "found none, expected at least one")
    matches: list[_Match] = []
    taken: set[tuple[str, str]] = set()
    for path, one in written:
        match = _match(one.filter_chain_match, within(path, "filter_chain_match"))
        for own in match.server_names or ("",):
            if (own, match.transport) in taken:
                what = own or match.transport
                raise refuse(within(path, "filter_chain_match"), what, "a match that no other filter chain has")
            taken.add((own, match.transport))
        matches.append(match)
    # The most specific is asked first, as in Envoy, whatever the order on the wire.
    order = sorted(range(len(written)), key=lambda index: not matches[index].transport)
    found = [_chain(*written[index], matches[index], f"{name}/{index}") for index in order]
    if message.HasField("default_filter_chain"):
        path = "default_filter_chain"
        _match(message.default_filter_chain.filter_chain_match, within(path, "filter_chain_match"))
        found.append(_chain(path, message.default_filter_chain, _Match("", ()), f"{name}/default"))
    return tuple(chain for chain, _ in found), tuple(routes for _, routes in found if routes is not None)


class _Match(NamedTuple):
    transport: str
    server_names: tuple[str, ...]


def _match(message: FilterChainMatch, path: str) -> _Match:
    only(message, path, frozenset({"transport_protocol", "server_names"}))
    if message.transport_protocol not in _TRANSPORTS:
        raise beyond(within(path, "transport_protocol"), message.transport_protocol, "tls or raw_buffer")
    return _Match(message.transport_protocol, _server_names(message.server_names, path))


def _server_names(names: Sequence[str], path: str) -> tuple[str, ...]:
    for index, name in enumerate(names):
        if not name or "*" in name.removeprefix("*."):
            raise refuse(item(path, "server_names", index), name, "a name, or *. and a name")
    return tuple(dict.fromkeys(name.lower() for name in names))


def _chain(
    path: str, message: ChainMessage, match: _Match, place: str
) -> tuple[FilterChain, RouteConfiguration | None]:
    only(message, path, _CHAIN, _CHAIN_OFF)
    network, routes = _network(message, path, place)
    guards = _guards(message, path)
    if guards and _is_http(network):
        raise beyond(item(path, "filters", 0), "an RBAC filter before a connection manager", "one before a TCP proxy")
    tls = downstream_tls(message.transport_socket, within(path, "transport_socket"), http=_is_http(network))
    made = FilterChain(
        name=message.name,
        transport=match.transport,
        server_names=match.server_names,
        tls=tls,
        guards=guards,
        network=network,
    )
    return made, routes


def _is_http(network: HttpConnectionManager | TcpProxy) -> bool:
    return isinstance(network, HttpConnectionManager)


def _network(
    message: ChainMessage, path: str, place: str
) -> tuple[HttpConnectionManager | TcpProxy, RouteConfiguration | None]:
    """The last network filter of a chain, and its inline routes; those before it are guards."""
    if not message.filters:
        raise beyond(within(path, "filters"), "0 filters", "one")
    last = len(message.filters) - 1
    only(message.filters[last], item(path, "filters", last), frozenset({"name", "typed_config"}))
    packed, own = message.filters[last].typed_config, within(item(path, "filters", last), "typed_config")
    match type_of(packed):
        case ProxyMessage.DESCRIPTOR.full_name:
            proxy = unpacked(packed, ProxyMessage, own)
            rules.check(proxy, own)
            return tcp_proxy(proxy, own), None
        case ManagerMessage.DESCRIPTOR.full_name:
            manager = unpacked(packed, ManagerMessage, own)
            rules.check(manager, own)
            return _manager(manager, own, place)
        case other:
            raise beyond(own, other or "no filter", "HttpConnectionManager or TcpProxy")


def _guards(message: ChainMessage, path: str) -> tuple[NetworkRbac, ...]:
    return tuple(_guard(one, item(path, "filters", index)) for index, one in enumerate(message.filters[:-1]))


def _guard(message: FilterMessage, path: str) -> NetworkRbac:
    only(message, path, frozenset({"name", "typed_config"}))
    own = within(path, "typed_config")
    if type_of(message.typed_config) != RbacMessage.DESCRIPTOR.full_name:
        expected = f"{RbacMessage.DESCRIPTOR.full_name}, or HttpConnectionManager or TcpProxy at the end"
        raise beyond(own, type_of(message.typed_config) or "no filter", expected)
    found = unpacked(message.typed_config, RbacMessage, own)
    rules.check(found, own)
    return network_rbac(found, own)


def _manager(message: ManagerMessage, path: str, place: str) -> tuple[HttpConnectionManager, RouteConfiguration | None]:
    asked = rds_name(message, path)
    if asked:
        return http_manager(message, path, asked), None
    routes = message.route_config
    own = route_configuration(routes, within(path, "route_config"), f"{place}/{routes.name}")
    return http_manager(message, path, own.name), own
