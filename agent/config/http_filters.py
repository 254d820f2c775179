"""The HTTP filters of a connection manager, and what routes say for them by name.

Not:    what one filter's configuration means (fault, cors).
Source: envoy/extensions/filters/http; http_connection_manager.proto HttpFilter: one that is optional and unknown is
        passed over, one that is disabled waits for a route that configures it; router.proto upstream_http_filters;
        route_components.proto FilterConfig. The configuration of the CORS filter itself is empty.
"""

from collections.abc import Callable, Mapping, Sequence

from envoy.config.route.v3.route_components_pb2 import FilterConfig as WrapperMessage
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors
from envoy.extensions.filters.http.cors.v3.cors_pb2 import CorsPolicy as PolicyMessage
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz as ExtAuthzMessage
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthzPerRoute
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication as JwtMessage
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit as LocalLimitMessage
from envoy.extensions.filters.http.ratelimit.v3.rate_limit_pb2 import RateLimit as GlobalLimitMessage
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RbacMessage
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2 import UpstreamCodec
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter as Message,
)
from google.protobuf.any_pb2 import Any as AnyMessage

from agent.config import rules
from agent.config.bulkhead import bulkheads
from agent.config.circuit_breaker import circuit_breakers
from agent.config.cors import cors_policy
from agent.config.ext_authz import external_authorization, route_authorization
from agent.config.fault import fault
from agent.config.fields import M, Refused, beyond, item, only, type_of, unpacked, within
from agent.config.jwt import jwt_authentication
from agent.config.rate_limits import global_rate_limit, local_rate_limit
from agent.config.rbac import http_rbac
from agent.model.bulkhead import NO_BULKHEADS
from agent.model.circuit_breaker import NO_BREAKERS
from agent.model.http_filters import NO_CORS, FilterConfig, HttpFilter, RouteFilter
from mesh.api.v1.bulkhead_pb2 import BulkheadFilter, BulkheadPerRoute
from mesh.api.v1.circuit_breaker_pb2 import CircuitBreakerFilter, CircuitBreakerPerRoute

_FILTER = frozenset({"name", "typed_config", "is_optional", "disabled"})
_ROUTER_TYPE = Router.DESCRIPTOR.full_name
_CODEC_TYPE = UpstreamCodec.DESCRIPTOR.full_name
_FAULT_TYPE = HTTPFault.DESCRIPTOR.full_name
_WRAPPER_TYPE = WrapperMessage.DESCRIPTOR.full_name
_ROUTER = frozenset({"dynamic_stats", "suppress_grpc_request_failure_code_stats", "upstream_http_filters"})

Filters = tuple[HttpFilter, ...]
Decoder = Callable[[AnyMessage, str], FilterConfig]


def http_filters(messages: Sequence[Message], path: str) -> tuple[Filters, Filters]:
    """(those before the router, those at each try); the router is the last."""
    if not messages or type_of(messages[-1].typed_config) != _ROUTER_TYPE or messages[-1].disabled:
        raise Refused(within(path, "http_filters"), f"found no router at the end, expected {_ROUTER_TYPE}")
    found = [_before_router(one, item(path, "http_filters", index)) for index, one in enumerate(messages[:-1])]
    upstream = _router(messages[-1], item(path, "http_filters", len(messages) - 1))
    return tuple(one for one in found if one is not None), upstream


def _before_router(message: Message, path: str) -> HttpFilter | None:
    kind, own = type_of(message.typed_config), within(path, "typed_config")
    if kind == _ROUTER_TYPE:
        raise Refused(own, f"found {kind}, expected it only at the end")
    return _filter(message, path, _ROUTER_TYPE)


def _router(message: Message, path: str) -> Filters:
    only(message, path, _FILTER)
    own = within(path, "typed_config")
    router = _checked(message.typed_config, Router, own)
    only(router, own, _ROUTER)
    upstream = router.upstream_http_filters
    if not upstream:
        return ()
    if type_of(upstream[-1].typed_config) != _CODEC_TYPE:
        raise Refused(within(own, "upstream_http_filters"), f"found no codec at the end, expected {_CODEC_TYPE}")
    found = [_at_try(one, item(own, "upstream_http_filters", index)) for index, one in enumerate(upstream[:-1])]
    return tuple(one for one in found if one is not None)


def _at_try(message: Message, path: str) -> HttpFilter | None:
    made = _filter(message, path, _FAULT_TYPE)
    if made is not None and type_of(message.typed_config) != _FAULT_TYPE:
        raise beyond(within(path, "typed_config"), type_of(message.typed_config), _FAULT_TYPE)
    return made


def _filter(message: Message, path: str, expected: str) -> HttpFilter | None:
    """None for one that is passed over."""
    only(message, path, _FILTER)
    kind, own = type_of(message.typed_config), within(path, "typed_config")
    decode = _FILTERS.get(kind)
    if decode is not None:
        return HttpFilter(name=message.name, config=decode(message.typed_config, own), disabled=message.disabled)
    if message.is_optional or message.disabled:
        return None
    raise beyond(own, kind or "no filter", expected)


def route_filters(messages: Mapping[str, AnyMessage], path: str) -> tuple[RouteFilter, ...]:
    """What one level says, by name of the filter, sorted."""
    found = (
        _route_filter(name, messages[name], f'{within(path, "typed_per_filter_config")}["{name}"]')
        for name in sorted(messages)
    )
    return tuple(one for one in found if one is not None)


def _route_filter(name: str, packed: AnyMessage, path: str) -> RouteFilter | None:
    optional = False
    if type_of(packed) == _WRAPPER_TYPE:
        wrapper = _checked(packed, WrapperMessage, path)
        only(wrapper, path, frozenset({"config", "is_optional", "disabled"}))
        if wrapper.disabled:
            return RouteFilter(name=name, config=None)
        packed, path, optional = wrapper.config, within(path, "config"), wrapper.is_optional
    kind = type_of(packed)
    decode = _OF_ROUTES.get(kind)
    if decode is not None:
        return RouteFilter(name=name, config=decode(packed, path))
    if optional:
        return None
    raise beyond(path, kind or "no configuration", f"one of {', '.join(sorted(_OF_ROUTES))}")


def _checked(packed: AnyMessage, kind: type[M], path: str) -> M:
    message = unpacked(packed, kind, path)
    rules.check(message, path)
    return message


def _decoder(kind: type[M], decode: Callable[[M, str], FilterConfig]) -> tuple[str, Decoder]:
    """(type, what makes a configuration of it)."""
    return kind.DESCRIPTOR.full_name, lambda packed, path: decode(_checked(packed, kind, path), path)


def _nothing(message: Cors, path: str) -> FilterConfig:
    only(message, path, frozenset())
    return NO_CORS


_FILTERS: dict[str, Decoder] = dict(
    (
        _decoder(Cors, _nothing),
        _decoder(HTTPFault, fault),
        _decoder(LocalLimitMessage, local_rate_limit),
        _decoder(GlobalLimitMessage, global_rate_limit),
        _decoder(RbacMessage, http_rbac),
        _decoder(JwtMessage, jwt_authentication),
        _decoder(ExtAuthzMessage, external_authorization),
        # What these two carry is not looked at: routes say all.
        (CircuitBreakerFilter.DESCRIPTOR.full_name, lambda packed, path: NO_BREAKERS),
        (BulkheadFilter.DESCRIPTOR.full_name, lambda packed, path: NO_BULKHEADS),
    )
)
_OF_ROUTES: dict[str, Decoder] = dict(
    (
        _decoder(PolicyMessage, cors_policy),
        _decoder(BulkheadPerRoute, bulkheads),
        _decoder(CircuitBreakerPerRoute, circuit_breakers),
        _decoder(ExtAuthzPerRoute, route_authorization),
        _decoder(HTTPFault, fault),
    )
)
