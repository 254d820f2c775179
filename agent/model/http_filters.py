"""HTTP filters of a connection manager, and what routes configure for them by name.

Source: http_connection_manager.proto HttpFilter, route_components.proto typed_per_filter_config; router.proto
        upstream_http_filters: those run at each try, below retries and timeouts.
"""

from dataclasses import dataclass

from agent.model.bulkhead import Bulkheads
from agent.model.circuit_breaker import CircuitBreakers
from agent.model.cors import CorsPolicy
from agent.model.ext_authz import ExternalAuthorization, RouteAuthorization
from agent.model.fault import Fault
from agent.model.jwt import JwtAuthentication
from agent.model.rate_limit import GlobalRateLimit, LocalRateLimit
from agent.model.rbac import Rbac

FilterConfig = (
    CorsPolicy
    | Fault
    | CircuitBreakers
    | Bulkheads
    | LocalRateLimit
    | GlobalRateLimit
    | Rbac
    | JwtAuthentication
    | ExternalAuthorization
    | RouteAuthorization
)
NO_FAULT = Fault()
NO_CORS = CorsPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFilter:
    """`config`: what holds where a route says nothing; `disabled`: nothing at all holds there."""

    name: str
    config: FilterConfig
    disabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFilter:
    """What one level of routes says for the filter `name`; None = the filter is off."""

    name: str
    config: FilterConfig | None
