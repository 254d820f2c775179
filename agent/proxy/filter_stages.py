"""From a filter's configuration to its stage.

Owns:   which filters there are, and how the levels of routes count for each.
Source: Envoy's filters: the connection manager's configuration holds where no route says anything; else the most
        specific level does, and of some filters all levels do.
"""

from dataclasses import replace

from agent.filters.cors import Cors
from agent.filters.fault import FaultInjector
from agent.model.bulkhead import Bulkheads
from agent.model.circuit_breaker import CircuitBreakers
from agent.model.cors import CorsPolicy
from agent.model.ext_authz import ExternalAuthorization, RouteAuthorization
from agent.model.fault import Fault
from agent.model.http_filters import FilterConfig, HttpFilter
from agent.model.jwt import JwtAuthentication
from agent.model.rate_limit import GlobalRateLimit, LocalRateLimit
from agent.model.rbac import Rbac
from agent.proxy.authentication import JwtStage
from agent.proxy.authorization import RbacStage
from agent.proxy.bulkhead import BulkheadStage
from agent.proxy.circuit_breaker import BreakerStage
from agent.proxy.cors import CorsStage
from agent.proxy.ext_authz import ExtAuthzStage
from agent.proxy.fault import FaultStage
from agent.proxy.global_rate_limit import GlobalRateLimitStage
from agent.proxy.local_rate_limit import LocalRateLimitStage
from agent.proxy.stages import Stage


def default_stage(own: HttpFilter) -> Stage | None:
    """What the filter does where no route says anything; None = nothing. Raises re2.error for a bad regex."""
    if own.disabled:
        return None
    match own.config:
        case Fault() as fault if fault.delay is not None or fault.abort is not None:
            return FaultStage(FaultInjector(fault))
        case LocalRateLimit() as limit if limit.enabled_per_million:
            return LocalRateLimitStage(limit, own.name)
        case GlobalRateLimit() as limits:
            return GlobalRateLimitStage(limits)
        case ExternalAuthorization() as asking:
            return ExtAuthzStage(asking)
        case JwtAuthentication() as tokens if tokens.rules:
            return JwtStage(tokens)
        case Rbac() as rbac if rbac.rules is not None or rbac.shadow is not None:
            return RbacStage(rbac)
    return None


def route_stage(own: HttpFilter, levels: tuple[FilterConfig | None, ...]) -> Stage | None:
    """What the filter does for a route. `levels`: from the most specific on, at least one; None = switched off."""
    if levels[0] is None:
        return None
    if isinstance(own.config, CorsPolicy):
        policies = tuple(one for one in levels if isinstance(one, CorsPolicy))
        return CorsStage(Cors(policies)) if policies else None
    if isinstance(own.config, ExternalAuthorization):
        return _ext_authz(own.config, tuple(one for one in levels if isinstance(one, RouteAuthorization)))
    match levels[0]:
        case Fault() as fault:
            return FaultStage(FaultInjector(fault))
        case CircuitBreakers() as breakers if breakers.breakers:
            return BreakerStage(breakers)
        case Bulkheads() as bulkheads if bulkheads.bulkheads:
            return BulkheadStage(bulkheads)
    return None


def _ext_authz(config: ExternalAuthorization, levels: tuple[RouteAuthorization, ...]) -> Stage | None:
    """The most specific level decides; what the service is told adds up, from the widest level on."""
    if not levels:
        return ExtAuthzStage(config)
    if levels[0].disabled:
        return None
    context = dict(pair for level in reversed(levels) for pair in level.context)
    body = None if levels[0].without_body else config.body
    return ExtAuthzStage(replace(config, body=body, context=tuple(sorted(context.items()))))
