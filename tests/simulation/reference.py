"""A dumb reading of Envoy's route messages: domain, first route that matches, what it does. No speed, no surprises.

Source: route_components.proto. Written apart from the agent's router, so that the two can disagree.
"""

import re
from dataclasses import dataclass, field

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, Route, VirtualHost
from envoy.type.matcher.v3.string_pb2 import StringMatcher


@dataclass(frozen=True)
class Call:
    """One request; `share` in [0, 1) decides a weighted split."""

    host: str
    path: str = "/"
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    share: float = 0.0


def answer(hosts: list[VirtualHost], call: Call) -> str:
    """`cluster NAME`, `redirect STATUS`, `direct STATUS`, `no route` or `no host`."""
    host = _host(hosts, call.host.lower())
    if host is None:
        return "no host"
    route = next((own for own in host.routes if _matches(own, call)), None)
    if route is None:
        return "no route"
    if route.HasField("redirect"):
        return f"redirect {[301, 302, 303, 307, 308][route.redirect.response_code]}"
    if route.HasField("direct_response"):
        return f"direct {route.direct_response.status}"
    return f"cluster {_cluster(route, call.share)}"


def _host(hosts: list[VirtualHost], authority: str) -> VirtualHost | None:
    ranked: list[tuple[int, int, VirtualHost]] = []
    for host in hosts:
        for domain in host.domains:
            if domain == authority:
                ranked.append((2, 0, host))
            elif domain.startswith("*") and len(domain) > 1 and authority.endswith(domain[1:]):
                ranked.append((1, len(domain), host))
            elif domain == "*":
                ranked.append((0, 0, host))
    return max(ranked, key=lambda item: item[:2])[2] if ranked else None


def _cluster(route: Route, share: float) -> str:
    if route.route.cluster:
        return route.route.cluster
    clusters = route.route.weighted_clusters.clusters
    left = int(share * sum(item.weight.value for item in clusters))
    for item in clusters:
        left -= item.weight.value
        if left < 0:
            return item.name
    raise AssertionError("no cluster has weight")


def _matches(route: Route, call: Call) -> bool:
    match = route.match
    path, _, query = call.path.partition("?")
    fold = match.HasField("case_sensitive") and not match.case_sensitive.value
    plain = (lambda text: text.lower()) if fold else (lambda text: text)
    kind = match.WhichOneof("path_specifier")
    if kind == "prefix":
        fits = plain(path).startswith(plain(match.prefix))
    elif kind == "path":
        fits = plain(path) == plain(match.path)
    else:
        fits = re.fullmatch(match.safe_regex.regex, path) is not None
    pairs = dict(part.partition("=")[::2] for part in reversed(query.split("&")) if part)
    fits_query = all(
        own.name in pairs and (own.HasField("present_match") or _text(own.string_match, pairs[own.name]))
        for own in match.query_parameters
    )
    return fits and fits_query and all(_header(own, call) for own in match.headers)


def _header(matcher: HeaderMatcher, call: Call) -> bool:
    headers = {":method": call.method, ":authority": call.host, ":scheme": "http", **call.headers}
    value = headers.get(matcher.name)
    if matcher.HasField("present_match"):
        return (value is not None) != matcher.invert_match
    if value is None and not matcher.treat_missing_header_as_empty:
        return False
    return _text(matcher.string_match, value or "") != matcher.invert_match


def _text(matcher: StringMatcher, value: str) -> bool:
    match matcher.WhichOneof("match_pattern"):
        case "exact":
            return value == matcher.exact
        case "prefix":
            return value.startswith(matcher.prefix)
        case _:
            return re.fullmatch(matcher.safe_regex.regex, value) is not None
