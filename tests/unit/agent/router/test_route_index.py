"""Which routes are asked for a path. That none is missed is for tests/property/test_routes.py."""

from agent.model.route import PathKind, RouteMatch
from agent.router.route_index import PathRoute, RouteIndex

MANY = 1000


def index(*matches: RouteMatch) -> RouteIndex[PathRoute]:
    return RouteIndex(tuple(PathRoute(match, place) for place, match in enumerate(matches)))


def prefix(path: str, **settings: bool) -> RouteMatch:
    return RouteMatch(path_kind=PathKind.PREFIX, path=path, **settings)


def exact(path: str, **settings: bool) -> RouteMatch:
    return RouteMatch(path_kind=PathKind.EXACT, path=path, **settings)


def separated(path: str) -> RouteMatch:
    return RouteMatch(path_kind=PathKind.SEPARATED_PREFIX, path=path)


def regex(pattern: str) -> RouteMatch:
    return RouteMatch(path_kind=PathKind.REGEX, path=pattern)


def asked(routes: RouteIndex[PathRoute], path: bytes) -> list[int]:
    return [route.place for route in routes.candidates(path)]


def test_of_many_prefixes_one_is_asked() -> None:
    routes = index(*(prefix(f"/part-{number}/") for number in range(MANY)))
    assert asked(routes, b"/part-999/x") == [999]
    assert asked(routes, b"/part-99/") == [99]
    assert asked(routes, b"/part-99") == []
    assert asked(routes, b"") == []


def test_of_many_paths_one_is_asked() -> None:
    routes = index(*(exact(f"/{number}") for number in range(MANY)))
    assert asked(routes, b"/7") == [7]
    assert asked(routes, b"/7/") == []


def test_what_fits_beside_each_other_is_asked_in_order() -> None:
    routes = index(
        prefix("/a/b"), exact("/a/b/c"), regex("/a/.*"), prefix("/"), separated("/a"), prefix("/x"), prefix("/a/b")
    )
    assert asked(routes, b"/a/b/c") == [0, 1, 2, 3, 4, 6]
    assert asked(routes, b"/ab") == [2, 3, 4]  # whether a separated prefix ends there is for the route to say


def test_without_regard_to_case_only_where_it_is_said() -> None:
    routes = index(exact("/A"), exact("/A", ignore_case=True), prefix("/a", ignore_case=True), prefix("/a"))
    assert asked(routes, b"/A") == [0, 1, 2]
    assert asked(routes, b"/a") == [1, 2, 3]


def test_routes_that_differ_in_their_conditions_are_all_asked_in_order() -> None:
    routes = index(*(prefix("/") if number % 2 else exact("/a") for number in range(MANY)))
    assert asked(routes, b"/a") == list(range(MANY))
    assert asked(routes, b"/b") == list(range(1, MANY, 2))


def test_a_regex_is_asked_every_time() -> None:
    assert asked(index(exact("/a"), regex("/b")), b"/c") == [1]
