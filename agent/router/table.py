"""From a request to its route: virtual host by authority, then the first route that matches.

Owns:   domains (exact, `*.suffix`, `prefix.*`, `*`), the order of routes, what is in effect for a matched request.
Not:    comparing fields (agent.router.matchers), weighted clusters (agent.router.weights), applying what was found.
Source: route_components.proto VirtualHost.domains and RouteMatch; Envoy's RouteMatcher: exact before suffix before
        prefix before `*`, the longest wildcard first, no regard to case; a wildcard stands for at least one character.
        The port is part of the authority unless `ignore_port_in_host`. One random number serves all runtime
        fractions of a request.
Invariants: finding the host costs one lookup per length of wildcard, however many hosts there are; a table never
        changes, so a request may keep its match; hosts that are the same object as in the table before are not
        compiled again.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import re2

from agent.codec.head import RequestHead
from agent.model.http_filters import FilterConfig, RouteFilter
from agent.model.route import (
    Action,
    Forward,
    HeaderOps,
    PathKind,
    Redirect,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from agent.router.matchers import CompiledHeader, CompiledQuery, query_parameters
from agent.router.rewrites import PathRewrite, path_rewrite
from agent.router.route_index import MIN_ROUTES, PathRoute, RouteIndex
from mesh.resilience.backoff import Rng

_PORT: Final = re.compile(rb":[0-9]*\Z")
_PREFIX: Final = int(PathKind.PREFIX)
_ALL: Final = 1_000_000
_FORWARDED_PROTO: Final = b"x-forwarded-proto"


class Match:
    """A route with what is in effect for its requests. One object per route, shared by all of them.

    `request_headers` and `response_headers`: the operations that do something, in the order in which they apply; those
    of the weighted cluster come before them in any case. `retry`: the route's, else its virtual host's,
    and so whether it hedges.
    `filters`: what is said for HTTP filters by name, from the most specific level on; None = nothing.
    `plan` and `working`: room for what the data path compiles from all this at the first request; nobody else's
    business.
    """

    __slots__ = (
        "filters",
        "plan",
        "request_headers",
        "response_headers",
        "retry",
        "rewrite",
        "route",
        "virtual_host",
        "working",
    )

    def __init__(self, config: RouteConfiguration, host: VirtualHost, route: Route) -> None:
        action = route.action
        self.route = route
        self.virtual_host = host
        last = config.most_specific_header_mutations_wins
        self.request_headers = _in_order(last, route.request_headers, host.request_headers, config.request_headers)
        self.response_headers = _in_order(last, route.response_headers, host.response_headers, config.response_headers)
        self.retry = _retry(action, host) if isinstance(action, Forward) else None
        self.rewrite: PathRewrite | None = _rewrite(route.match, action)
        self.filters = _filters(route.filters, host.filters, config.filters)
        self.plan: Any = None
        self.working: Any = {} if self.filters is not None else None


def _retry(action: Forward, host: VirtualHost) -> RetryPolicy | None:
    policy = action.retry or host.retry
    hedge = host.hedge if action.hedge is None else action.hedge
    return replace(policy, hedge=True) if policy is not None and hedge else policy


def _filters(*levels: tuple[RouteFilter, ...]) -> dict[str, tuple[FilterConfig | None, ...]] | None:
    found: dict[str, tuple[FilterConfig | None, ...]] = {}
    for level in levels:
        for own in level:
            found[own.name] = (*found.get(own.name, ()), own.config)
    return found or None


def _in_order(route_last: bool, *levels: HeaderOps) -> tuple[HeaderOps, ...]:
    used = tuple(ops for ops in levels if ops.add or ops.remove)
    return used[::-1] if route_last else used


def _rewrite(match: RouteMatch, action: Action) -> PathRewrite | None:
    return path_rewrite(match, action) if isinstance(action, Forward | Redirect) else None


class _CompiledRoute(PathRoute):
    """A route, ready to be asked. `conditional`: more than the path has to match."""

    __slots__ = ("conditional", "headers", "match", "query", "runtime")

    def __init__(self, config: RouteConfiguration, host: VirtualHost, place: int) -> None:
        route = host.routes[place]
        wanted = route.match
        super().__init__(wanted, place)
        self.headers = tuple(CompiledHeader(matcher) for matcher in wanted.headers)
        self.query = tuple(CompiledQuery(matcher) for matcher in wanted.query)
        self.runtime = wanted.runtime_per_million
        self.conditional = bool(self.headers or self.query) or self.runtime < _ALL
        self.match = Match(config, host, route)

    @property
    def takes_all(self) -> bool:
        """It matches whatever comes."""
        return self.kind == _PREFIX and self.path == b"/" and not self.conditional


class _CompiledHost:
    """A virtual host, ready to be asked. `first`: the match of every request, when the first route takes all."""

    __slots__ = ("_index", "_routes", "config", "first")

    def __init__(self, config: RouteConfiguration, host: VirtualHost) -> None:
        """Raises ValueError that names the route."""
        self.config = host
        routes: list[_CompiledRoute] = []
        for place, route in enumerate(host.routes):
            try:
                routes.append(_CompiledRoute(config, host, place))
            except (re2.error, ValueError) as error:
                name = route.name or f"number {place}"
                raise ValueError(f"virtual host {host.name}, route {name}: {_text(error)}") from error
            if routes[-1].takes_all:
                break  # nothing behind it is ever reached
        self._routes = tuple(routes)
        self._index: RouteIndex[_CompiledRoute] | None = RouteIndex(self._routes) if len(routes) > MIN_ROUTES else None
        self.first = routes[0].match if routes and routes[0].takes_all else None

    def match(self, head: RequestHead, rng: Rng) -> Match | None:
        path = head.path.partition(b"?")[0]
        parameters: dict[bytes, bytes] | None = None
        share = -1
        routes: Iterable[_CompiledRoute] = self._routes if self._index is None else self._index.candidates(path)
        for route in routes:
            if not route.fits(path):
                continue
            if route.conditional:
                if route.runtime < _ALL:
                    if share < 0:
                        share = int(rng() * _ALL)
                    if share >= route.runtime:
                        continue
                if not _all_match(route.headers, head):
                    continue
                if route.query:
                    if parameters is None:
                        parameters = query_parameters(head.path)
                    if not all(matcher.matches(parameters) for matcher in route.query):
                        continue
            return route.match
        return None


class _SecuredHost(_CompiledHost):
    """One that sends what did not come by https there, before any of its routes is asked (Envoy's SslRedirector)."""

    __slots__ = ("_inside", "_redirect")

    def __init__(self, config: RouteConfiguration, host: VirtualHost) -> None:
        super().__init__(config, host)
        self._inside, self.first = self.first, None
        bare = VirtualHost(name=host.name, domains=(), routes=())
        route = Route(name="", match=RouteMatch(path_kind=PathKind.PREFIX, path="/"), action=Redirect(https=True))
        self._redirect = Match(RouteConfiguration(name=config.name), bare, route)

    def match(self, head: RequestHead, rng: Rng) -> Match | None:
        if head.headers.index.get(_FORWARDED_PROTO) != b"https":
            return self._redirect
        return self._inside or super().match(head, rng)


def _compiled(config: RouteConfiguration, host: VirtualHost) -> _CompiledHost:
    return _SecuredHost(config, host) if host.require_tls else _CompiledHost(config, host)


def _all_match(matchers: tuple[CompiledHeader, ...], head: RequestHead) -> bool:
    for matcher in matchers:  # noqa: SIM110 - a generator would be made for every route
        if not matcher.matches(head):
            return False
    return True


def _text(error: Exception) -> str:
    """re2 puts the bytes of its message into the exception."""
    reason = error.args[0] if error.args else error
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


_ByLength = tuple[tuple[int, dict[bytes, _CompiledHost]], ...]


class RouteTable:
    """A RouteConfiguration with all its virtual hosts."""

    __slots__ = (
        "_any",
        "_compiled",
        "_exact",
        "_ignore_port",
        "_prefixes",
        "_suffixes",
        "config",
        "internal_only_headers",
    )

    def __init__(
        self, config: RouteConfiguration, hosts: tuple[VirtualHost, ...] = (), before: "RouteTable | None" = None
    ) -> None:
        """`hosts`: those that came as resources of their own (VHDS); `before`: the table that this one replaces.

        Of two hosts that claim one domain the first has it. Raises ValueError that names the host and route which
        cannot be used.
        """
        self.config = config
        self.internal_only_headers = frozenset(name.lower().encode() for name in config.internal_only_headers)
        self._ignore_port = config.ignore_port_in_host
        known = before._compiled if before is not None and _same_levels(before.config, config) else {}
        self._compiled: dict[int, _CompiledHost] = {}
        self._exact: dict[bytes, _CompiledHost] = {}
        self._any: _CompiledHost | None = None
        suffixes: dict[int, dict[bytes, _CompiledHost]] = {}
        prefixes: dict[int, dict[bytes, _CompiledHost]] = {}
        for host in (*config.virtual_hosts, *hosts):
            compiled = known.get(id(host)) or _compiled(config, host)
            self._compiled[id(host)] = compiled
            for domain in host.domains:
                self._claim(domain.lower().encode(), compiled, suffixes, prefixes)
        self._suffixes: _ByLength = tuple(sorted(suffixes.items(), reverse=True))
        self._prefixes: _ByLength = tuple(sorted(prefixes.items(), reverse=True))

    def _claim(
        self,
        domain: bytes,
        host: _CompiledHost,
        suffixes: dict[int, dict[bytes, _CompiledHost]],
        prefixes: dict[int, dict[bytes, _CompiledHost]],
    ) -> None:
        if domain == b"*":
            self._any = self._any or host
        elif domain[:1] == b"*":
            suffixes.setdefault(len(domain) - 1, {}).setdefault(domain[1:], host)
        elif domain[-1:] == b"*":
            prefixes.setdefault(len(domain) - 1, {}).setdefault(domain[:-1], host)
        else:
            self._exact.setdefault(domain, host)

    def match(self, head: RequestHead, rng: Rng) -> Match | None:
        """What the request matches, None when no host or no route takes it."""
        authority = head.authority
        if self._ignore_port:
            authority = _PORT.sub(b"", authority)
        host = self._exact.get(authority) or self._host(authority.lower())
        if host is None:
            return None
        return host.first or host.match(head, rng)

    def virtual_host(self, authority: bytes) -> VirtualHost | None:
        """The virtual host that serves an authority."""
        name = authority.lower()
        host = self._host(_PORT.sub(b"", name) if self._ignore_port else name)
        return host.config if host is not None else None

    def _host(self, authority: bytes) -> _CompiledHost | None:
        """`authority` in lower case."""
        host = self._exact.get(authority)
        if host is not None:
            return host
        for length, hosts in self._suffixes:
            if length < len(authority):
                host = hosts.get(authority[-length:])
                if host is not None:
                    return host
        for length, hosts in self._prefixes:
            if length < len(authority):
                host = hosts.get(authority[:length])
                if host is not None:
                    return host
        return self._any


def _same_levels(one: RouteConfiguration, other: RouteConfiguration) -> bool:
    """What a host takes from its configuration is the same in both."""
    return (
        one.most_specific_header_mutations_wins == other.most_specific_header_mutations_wins
        and one.request_headers == other.request_headers
        and one.response_headers == other.response_headers
        and one.filters == other.filters
    )
