"""Which of a virtual host's many routes can match a path, found without asking them all.

Owns:   what a route demands of the path, the index over the paths of routes.
Not:    what else a route demands (agent.router.table).
Source: route_components.proto RouteMatch: the first route that matches counts.
Invariants: routes come in their order; the index leaves out only routes whose path does not fit, so the first of its
        candidates that matches is the first of all; a look-up costs one slice per length of prefix that is not longer
        than the path, however many routes there are. Routes by regex, and those that differ in other than the path,
        are candidates every time: of these the work grows with their number.
"""

from collections.abc import Iterable
from heapq import merge
from typing import Final, Generic, TypeVar

from agent.model.route import PathKind, RouteMatch
from agent.router.matchers import compile_regex

# With fewer routes asking each of them is cheaper than asking the index.
MIN_ROUTES: Final = 16
_FEW: Final = 64  # so many candidates are sorted at once, of more the first come first
_PREFIX: Final = int(PathKind.PREFIX)
_EXACT: Final = int(PathKind.EXACT)
_REGEX: Final = int(PathKind.REGEX)


class PathRoute:
    """What a route demands of the path. `place`: its place among the routes of its host."""

    __slots__ = ("fold", "kind", "path", "place", "regex")

    def __init__(self, wanted: RouteMatch, place: int) -> None:
        """Raises re2.error for a bad regex."""
        self.place = place
        self.kind = int(wanted.path_kind)
        self.fold = wanted.ignore_case and wanted.path_kind != PathKind.REGEX
        self.path = (wanted.path.lower() if self.fold else wanted.path).encode()
        self.regex = compile_regex(wanted.path) if wanted.path_kind == PathKind.REGEX else None

    def fits(self, path: bytes) -> bool:
        """Does the path, without its query, match?"""
        kind = self.kind
        if self.fold:
            path = path.lower()
        if kind == _PREFIX:
            return path.startswith(self.path)
        if kind == _EXACT:
            return path == self.path
        if kind == _REGEX:
            assert self.regex is not None
            return self.regex.fullmatch(path) is not None
        return path.startswith(self.path) and path[len(self.path) : len(self.path) + 1] in (b"", b"/")


R = TypeVar("R", bound=PathRoute)
_Routes = tuple[R, ...]


class _Literals(Generic[R]):
    """Routes by the text that their path is, or begins with; `lengths`: of the prefixes, ascending."""

    __slots__ = ("_exact", "_lengths", "_prefixes")

    def __init__(self, routes: Iterable[R]) -> None:
        exact: dict[bytes, list[R]] = {}
        prefixes: dict[bytes, list[R]] = {}
        for route in routes:
            (exact if route.kind == _EXACT else prefixes).setdefault(route.path, []).append(route)
        self._exact = {path: tuple(own) for path, own in exact.items()}
        self._prefixes = {path: tuple(own) for path, own in prefixes.items()}
        self._lengths = tuple(sorted({len(path) for path in prefixes}))

    def find(self, path: bytes, found: list[_Routes[R]]) -> None:
        """Add the routes whose text fits, those of one text together."""
        own = self._exact.get(path)
        if own is not None:
            found.append(own)
        prefixes = self._prefixes
        for length in self._lengths:
            if length > len(path):
                break
            own = prefixes.get(path[:length])
            if own is not None:
                found.append(own)


class RouteIndex(Generic[R]):
    """The routes of one virtual host."""

    __slots__ = ("_always", "_as_they_are", "_folded")

    def __init__(self, routes: _Routes[R]) -> None:
        """`routes`: in their order, each at its place."""
        literal = [route for route in routes if route.kind != _REGEX]
        self._always: _Routes[R] = tuple(route for route in routes if route.kind == _REGEX)
        self._as_they_are: _Literals[R] = _Literals(route for route in literal if not route.fold)
        folded = [route for route in literal if route.fold]
        self._folded: _Literals[R] | None = _Literals(folded) if folded else None

    def candidates(self, path: bytes) -> Iterable[R]:
        """All routes that the path can fit, in their order. `path`: without its query."""
        found: list[_Routes[R]] = []
        self._as_they_are.find(path, found)
        if self._folded is not None:
            self._folded.find(path.lower(), found)
        if self._always:
            found.append(self._always)
        if len(found) == 1:
            return found[0]
        if sum(map(len, found)) > _FEW:
            return merge(*found, key=_place)
        return sorted((route for own in found for route in own), key=_place)


def _place(route: PathRoute) -> int:
    return route.place
