"""Shares of backends that are not there: of a rule of the Gateway API their requests are answered, not sent.

Owns:   which of its targets take part, the route that answers the others' share.
Source: HTTPRouteRule.backendRefs and GRPCRouteRule.backendRefs: 500, or UNAVAILABLE, for the share of what is invalid;
        Envoy's RouteMatch.runtime_fraction. Its random number chooses among weighted clusters too, 64 bits of which
        both take their own part.
"""

from collections.abc import Iterable, Sequence

from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, Route
from envoy.type.v3.percent_pb2 import FractionalPercent

from controlplane.compiler.route_action import Forwarding, ResolvedDestination
from controlplane.model.gateway_rules import BackendRule
from controlplane.policy.http_route import HTTPRouteDestination

_MILLION = 1_000_000
Targets = tuple[tuple[HTTPRouteDestination, ResolvedDestination], ...]


def present(targets: Iterable[tuple[HTTPRouteDestination, ResolvedDestination]]) -> Targets:
    """Those that take part."""
    return tuple((own, target) for own, target in targets if own.weight > 0 and not target.missing)


def lost_per_million(rule: BackendRule, kept: Sequence[tuple[HTTPRouteDestination, ResolvedDestination]]) -> int:
    """Of the requests that the rule forwards. All of them when no weight is above 0; none when it forwards nothing."""
    if rule.redirect is not None or rule.direct_response is not None:
        return 0
    total = sum(own.weight for own in rule.route)
    if not kept or not total:
        return _MILLION
    return round(_MILLION * (total - sum(own.weight for own, _ in kept)) / total)


def lost_route(route: Route, rule: BackendRule, forwarding: Forwarding) -> tuple[Route | None, bool]:
    """(what answers the share of backends that are not there, whether that is all). `route`: with name and match."""
    lost = lost_per_million(rule, forwarding.targets)
    if not lost:
        return None, False
    made = Route(name=route.name, match=route.match, direct_response=DirectResponseAction(status=rule.lost_status))
    if lost < _MILLION:
        share = FractionalPercent(numerator=lost, denominator=FractionalPercent.MILLION)
        made.match.runtime_fraction.default_value.CopyFrom(share)
    return made, lost == _MILLION
