"""RouteConfigurations and virtual hosts.

Owns:   domains, the order of routes, header operations at each level.
Not:    what a route matches and does (route_match, route_action).
Source: envoy/config/route/v3/{route,route_components}.proto; Envoy's RouteMatcher for what it checks by hand.
Invariant: in one RouteConfiguration every domain occurs once. Between VirtualHost resources the worker decides.

Not refused, since it cannot make a difference here: virtual_clusters and stat_prefix (statistics), rate_limits
(a filter goes by its own alone, see rate_limits), decorator and tracing (there are no spans), validate_clusters (the
agent does not look at clusters when it takes routes: a missing one answers 503 NC).
"""

from collections.abc import Sequence

from envoy.config.route.v3.route_components_pb2 import Route as RouteMessage
from envoy.config.route.v3.route_components_pb2 import VirtualHost as HostMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration as ConfigurationMessage

from agent.config.config_sources import check_ads
from agent.config.fields import Refused, beyond, item, only, refuse, value_or, within
from agent.config.header_operations import FIELDS as HEADER_FIELDS
from agent.config.header_operations import request_operations, response_operations
from agent.config.http_filters import route_filters
from agent.config.retries import hedge_policy, retry_policy
from agent.config.route_action import action
from agent.config.route_match import route_match
from agent.model.route import DirectResponse, Route, RouteConfiguration, VirtualHost

MAX_BODY_BYTES = 4096
_CONFIGURATION = HEADER_FIELDS | {
    "name", "virtual_hosts", "vhds", "internal_only_headers", "most_specific_header_mutations_wins",
    "validate_clusters", "max_direct_response_body_size_bytes", "ignore_port_in_host_matching", "metadata",
    "typed_per_filter_config",
}  # fmt: skip
_HOST = HEADER_FIELDS | {
    "name", "domains", "routes", "include_request_attempt_count", "include_attempt_count_in_response", "retry_policy",
    "virtual_clusters", "rate_limits", "metadata", "typed_per_filter_config", "require_tls",
    "hedge_policy",
}  # fmt: skip
_ROUTE = HEADER_FIELDS | {
    "name", "match", "route", "redirect", "direct_response", "decorator", "tracing", "stat_prefix", "metadata",
    "typed_per_filter_config",
}  # fmt: skip


def route_configuration(message: ConfigurationMessage, path: str, name: str) -> RouteConfiguration:
    """The configuration, stored under `name`."""
    only(message, path, _CONFIGURATION)
    if message.HasField("vhds"):
        check_ads(message.vhds.config_source, within(path, "vhds.config_source"))
    hosts = tuple(
        virtual_host(host, item(path, "virtual_hosts", index)) for index, host in enumerate(message.virtual_hosts)
    )
    _check_domains(hosts, path)
    _check_bodies(hosts, path, value_or(message, "max_direct_response_body_size_bytes", MAX_BODY_BYTES))
    return RouteConfiguration(
        name=name,
        virtual_hosts=hosts,
        vhds=message.HasField("vhds"),
        request_headers=request_operations(message, path),
        response_headers=response_operations(message, path),
        most_specific_header_mutations_wins=message.most_specific_header_mutations_wins,
        ignore_port_in_host=message.ignore_port_in_host_matching,
        internal_only_headers=tuple(name.lower() for name in message.internal_only_headers),
        filters=route_filters(message.typed_per_filter_config, path),
    )


def virtual_host(message: HostMessage, path: str) -> VirtualHost:
    """The virtual host."""
    only(message, path, _HOST)
    _check_own_domains(message.domains, path)
    if message.require_tls == HostMessage.EXTERNAL_ONLY:
        raise beyond(within(path, "require_tls"), "EXTERNAL_ONLY", "NONE or ALL")
    return VirtualHost(
        name=message.name,
        domains=tuple(message.domains),
        routes=tuple(_route(route, item(path, "routes", index)) for index, route in enumerate(message.routes)),
        request_headers=request_operations(message, path),
        response_headers=response_operations(message, path),
        retry=retry_policy(message.retry_policy, within(path, "retry_policy"))
        if message.HasField("retry_policy")
        else None,
        hedge=hedge_policy(message.hedge_policy, within(path, "hedge_policy")),
        include_attempt_count=message.include_request_attempt_count,
        include_attempt_count_in_response=message.include_attempt_count_in_response,
        require_tls=message.require_tls == HostMessage.ALL,
        filters=route_filters(message.typed_per_filter_config, path),
    )


def _route(message: RouteMessage, path: str) -> Route:
    only(message, path, _ROUTE)
    match = route_match(message.match, within(path, "match"))
    return Route(
        name=message.name,
        match=match,
        action=action(message, match, path),
        request_headers=request_operations(message, path),
        response_headers=response_operations(message, path),
        filters=route_filters(message.typed_per_filter_config, path),
    )


def _check_domains(hosts: tuple[VirtualHost, ...], path: str) -> None:
    owners: dict[str, int] = {}
    for index, host in enumerate(hosts):
        for number, domain in enumerate(host.domains):
            if domain.lower() in owners:
                own = item(item(path, "virtual_hosts", index), "domains", number)
                raise refuse(own, domain, f"a domain that virtual_hosts[{owners[domain.lower()]}] does not have")
        owners |= dict.fromkeys((domain.lower() for domain in host.domains), index)


def _check_own_domains(domains: Sequence[str], path: str) -> None:
    seen: set[str] = set()
    for number, domain in enumerate(domains):
        if domain.lower() in seen:
            raise refuse(item(path, "domains", number), domain, "each domain once")
        seen.add(domain.lower())


def _check_bodies(hosts: tuple[VirtualHost, ...], path: str, most: int) -> None:
    for index, host in enumerate(hosts):
        for number, route in enumerate(host.routes):
            if isinstance(route.action, DirectResponse) and len(route.action.body) > most:
                own = within(item(item(path, "virtual_hosts", index), "routes", number), "direct_response.body")
                raise Refused(own, f"found {len(route.action.body)} bytes, expected at most {most}")
