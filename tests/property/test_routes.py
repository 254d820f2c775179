"""The route table against a dumb reading of the same configuration."""

import re
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.codec.head import Headers, RequestHead
from agent.model.matchers import HeaderMatcher, MatchKind, QueryMatcher, StringMatcher
from agent.model.route import DirectResponse, PathKind, Route, RouteConfiguration, RouteMatch, VirtualHost
from agent.router.route_index import MIN_ROUTES, PathRoute, RouteIndex
from agent.router.table import RouteTable
from tests.support.depth import examples

LABELS = st.sampled_from(["a", "b", "A", "ab", "x-y"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PORTS = st.sampled_from(["", ":80", ":8080"])
DOMAINS = st.one_of(
    st.tuples(NAMES, PORTS).map("".join),
    NAMES.map(lambda name: f"*.{name}"),
    NAMES.map(lambda name: f"*{name}"),
    NAMES.map(lambda name: f"{name}.*"),
    NAMES.map(lambda name: f"{name}*"),
    st.just("*"),
)
SEGMENTS = st.sampled_from(["a", "A", "b", "ab", "1", "12", ""])
PATHS = st.lists(SEGMENTS, max_size=3).map(lambda parts: "/" + "/".join(parts))
REGEXES = st.sampled_from(["/[0-9]+", "/a.*", "(?i)/a/b", "/[^/]*/?", ".*"])
VALUES = st.sampled_from(["", "v", "V", "vw", "7", "-7", "seven"])
TEXTS = st.builds(
    StringMatcher,
    kind=st.sampled_from([kind for kind in MatchKind if kind is not MatchKind.REGEX]),
    value=VALUES,
    ignore_case=st.booleans(),
    low=st.just(0),
    high=st.just(8),
)
FIELD_NAMES = st.sampled_from(["x-a", "x-b"])
MATCHES = st.builds(
    RouteMatch,
    path_kind=st.sampled_from([PathKind.PREFIX, PathKind.EXACT, PathKind.SEPARATED_PREFIX]),
    path=PATHS,
    ignore_case=st.booleans(),
    headers=st.lists(
        st.builds(HeaderMatcher, name=FIELD_NAMES, matcher=TEXTS, invert=st.booleans(), missing_as_empty=st.booleans()),
        max_size=2,
    ).map(tuple),
    query=st.lists(st.builds(QueryMatcher, name=FIELD_NAMES, matcher=TEXTS), max_size=1).map(tuple),
    runtime_per_million=st.sampled_from([0, 1, 500_000, 999_999, 1_000_000]),
) | st.builds(RouteMatch, path_kind=st.just(PathKind.REGEX), path=REGEXES)
ROUTES = st.lists(MATCHES, max_size=4)
HOSTS = st.lists(st.tuples(st.lists(DOMAINS, min_size=1, max_size=3), ROUTES), max_size=6)
FIELDS = st.dictionaries(FIELD_NAMES, VALUES)
QUERIES = st.lists(st.tuples(FIELD_NAMES, VALUES), max_size=3)


class Request(NamedTuple):
    """`share`: what chance says, 0.0 to 1.0."""

    name: str
    port: str
    path: str
    fields: dict[str, str]
    query: list[tuple[str, str]]
    share: float


REQUESTS = st.builds(Request, NAMES, PORTS, PATHS, FIELDS, QUERIES, st.sampled_from([0.0, 0.4999995, 0.5, 0.999999]))
MANY = st.lists(MATCHES, min_size=MIN_ROUTES + 1, max_size=MIN_ROUTES + 15)


@settings(max_examples=examples(400))
@given(hosts=HOSTS, request=REQUESTS, ignore_port=st.booleans(), split=st.integers(0, 6))
def test_the_table_agrees_with_the_model(
    hosts: list[tuple[list[str], list[RouteMatch]]], request: Request, ignore_port: bool, split: int
) -> None:
    """Whether its hosts come inline or as resources of their own."""
    check(hosts, request, ignore_port=ignore_port, split=split)


@settings(max_examples=examples(200))
@given(matches=MANY, request=REQUESTS)
def test_a_host_of_many_routes_agrees_with_the_model(matches: list[RouteMatch], request: Request) -> None:
    """It has an index."""
    check([(["*"], matches)], request)


@settings(max_examples=examples(200))
@given(matches=MANY, copies=st.integers(1, 5), path=PATHS)
def test_the_index_gives_all_routes_that_fit_in_their_order(matches: list[RouteMatch], copies: int, path: str) -> None:
    routes = tuple(PathRoute(match, place) for place, match in enumerate(matches * copies))
    target = path.encode()
    found = [route.place for route in RouteIndex(routes).candidates(target) if route.fits(target)]
    assert found == [route.place for route in routes if route.fits(target)]


def check(
    hosts: list[tuple[list[str], list[RouteMatch]]], request: Request, *, ignore_port: bool = False, split: int = 0
) -> None:
    name, port, path, fields, query, share = request
    made = tuple(
        VirtualHost(
            name=str(number),
            domains=tuple(domains),
            routes=tuple(
                Route(name=f"{number}.{place}", match=match, action=DirectResponse(status=200))
                for place, match in enumerate(matches)
            ),
        )
        for number, (domains, matches) in enumerate(hosts)
    )
    config = RouteConfiguration(name="r", virtual_hosts=made[:split], ignore_port_in_host=ignore_port)
    target = path + ("?" + "&".join(f"{key}={value}" for key, value in query) if query else "")
    headers = Headers()
    for key, value in fields.items():
        headers.append(key.encode(), value.encode())
    head = RequestHead(b"GET", target.encode(), (name + port).encode(), headers)
    found = RouteTable(config, made[split:]).match(head, lambda: share)
    expected = model(made, name if ignore_port else name + port, path, fields, query, share)
    assert (found.route.name if found is not None else None) == expected


def model(
    hosts: tuple[VirtualHost, ...],
    authority: str,
    path: str,
    fields: dict[str, str],
    query: list[tuple[str, str]],
    share: float,
) -> str | None:
    host = model_host(hosts, authority.lower())
    for route in host.routes if host is not None else ():
        match = route.match
        parameters = dict(reversed(query))
        if (
            fits_path(match, path)
            and int(share * 1_000_000) < match.runtime_per_million
            and all(fits_header(matcher, fields) for matcher in match.headers)
            and all(own.name in parameters and fits(own.matcher, parameters[own.name]) for own in match.query)
        ):
            return route.name
    return None


def model_host(hosts: tuple[VirtualHost, ...], authority: str) -> VirtualHost | None:
    """Ranked by (kind, length); of equals the first."""
    best: tuple[tuple[int, int], VirtualHost] | None = None
    for host in hosts:
        for domain in host.domains:
            rank = domain_rank(domain.lower(), authority)
            if rank is not None and (best is None or rank > best[0]):
                best = rank, host
    return best[1] if best is not None else None


def domain_rank(domain: str, authority: str) -> tuple[int, int] | None:
    if domain == "*":
        return 0, 0
    if domain.startswith("*"):
        return (2, len(domain)) if authority.endswith(domain[1:]) and len(authority) >= len(domain) else None
    if domain.endswith("*"):
        return (1, len(domain)) if authority.startswith(domain[:-1]) and len(authority) >= len(domain) else None
    return (3, 0) if domain == authority else None


def fits_path(match: RouteMatch, path: str) -> bool:
    if match.path_kind is PathKind.REGEX:
        return re.fullmatch(match.path, path) is not None
    wanted, given_path = (match.path.lower(), path.lower()) if match.ignore_case else (match.path, path)
    if match.path_kind is PathKind.PREFIX:
        return given_path.startswith(wanted)
    if match.path_kind is PathKind.EXACT:
        return given_path == wanted
    return given_path == wanted or given_path.startswith(wanted + "/")


def fits_header(matcher: HeaderMatcher, fields: dict[str, str]) -> bool:
    value = fields.get(matcher.name)
    if value is None and matcher.missing_as_empty:
        value = ""
    if matcher.matcher.kind is MatchKind.PRESENT:
        return (value is not None) != matcher.invert
    return value is not None and fits(matcher.matcher, value) != matcher.invert


def fits(matcher: StringMatcher, value: str) -> bool:
    wanted, own = (matcher.value.lower(), value.lower()) if matcher.ignore_case else (matcher.value, value)
    match matcher.kind:
        case MatchKind.EXACT:
            return own == wanted
        case MatchKind.PREFIX:
            return own.startswith(wanted)
        case MatchKind.SUFFIX:
            return own.endswith(wanted)
        case MatchKind.CONTAINS:
            return wanted in own
        case MatchKind.RANGE:
            return own.lstrip("-").isdigit() and matcher.low <= int(own) < matcher.high
        case _:
            return True
