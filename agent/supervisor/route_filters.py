"""What the routes that are served say for HTTP filters: a walk over what has changed.

Owns:   finding the configurations of one kind.
Invariant: a route configuration or virtual host that is the same object as before is not looked through again.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from agent.ipc.messages import ROUTE_CONFIGURATION, VIRTUAL_HOST, Config
from agent.model.http_filters import FilterConfig, RouteFilter
from agent.model.route import RouteConfiguration, VirtualHost

F = TypeVar("F")


class RouteFilters(Generic[F]):
    """Those whose configuration is a `kind`."""

    def __init__(self, kind: type[F]) -> None:
        self._kind = kind
        self._found: dict[int, tuple[Config, tuple[F, ...]]] = {}  # by the identity of what says it

    def of(self, tables: Mapping[str, Mapping[str, Config]]) -> Iterator[F]:
        """All of them, in all routes."""
        before, self._found = self._found, {}
        for table in (ROUTE_CONFIGURATION, VIRTUAL_HOST):
            for value in tables[table].values():
                known = before.get(id(value))
                if known is None or known[0] is not value:
                    known = (value, tuple(one for one in _configs(value) if isinstance(one, self._kind)))
                self._found[id(value)] = known
                yield from known[1]


def _configs(value: Config) -> Iterator[FilterConfig]:
    if isinstance(value, RouteConfiguration):
        yield from _said(value.filters)
        for host in value.virtual_hosts:
            yield from _configs(host)
    elif isinstance(value, VirtualHost):
        yield from _said(value.filters)
        for route in value.routes:
            yield from _said(route.filters)


def _said(filters: Iterable[RouteFilter]) -> Iterator[FilterConfig]:
    return (one.config for one in filters if one.config is not None)
