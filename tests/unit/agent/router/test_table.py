"""Virtual hosts by authority, routes in order, what is in effect for a match."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.codec.head import Headers, RequestHead
from agent.model.matchers import HeaderMatcher, MatchKind, QueryMatcher, StringMatcher
from agent.model.route import (
    DirectResponse,
    Forward,
    HeaderAction,
    HeaderOps,
    PathKind,
    Redirect,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from agent.router.matchers import TextMatcher, compile_regex
from agent.router.table import Match, RouteTable


def head(authority: str = "a", path: str = "/", method: str = "GET", **fields: str) -> RequestHead:
    headers = Headers()
    for name, value in fields.items():
        headers.append(name.replace("_", "-").encode(), value.encode())
    return RequestHead(method.encode(), path.encode(), authority.encode(), headers)


def route(name: str, path: str = "/", kind: PathKind = PathKind.PREFIX, **match: object) -> Route:
    return Route(
        name=name,
        match=RouteMatch(path_kind=kind, path=path, **match),
        action=DirectResponse(status=200),  # type: ignore[arg-type]
    )


def host(*domains: str, routes: tuple[Route, ...] | None = None) -> VirtualHost:
    name = domains[0]
    return VirtualHost(name=name, domains=domains, routes=routes if routes is not None else (route(name),))


def table(*hosts: VirtualHost, **settings: object) -> RouteTable:
    return RouteTable(RouteConfiguration(name="r", **settings), hosts)  # type: ignore[arg-type]


def found(routes: RouteTable, request: RequestHead, rng: Callable[[], float] = lambda: 0.0) -> str | None:
    match = routes.match(request, rng)
    return match.route.name if match is not None else None


HOSTS = table(
    host("api.example.com"),
    host("api.example.com:8080"),
    host("*.example.com"),
    host("*.eu.example.com"),
    host("*-eu.example.com"),
    host("api.*"),
    host("api.example.*"),
    host("[::1]:80"),
    host("*"),
)


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM", "api.example.com"),
        ("api.example.com:8080", "api.example.com:8080"),
        ("api.example.com:81", "api.example.*"),
        ("x.example.com", "*.example.com"),
        ("x.y.EXAMPLE.com", "*.example.com"),
        ("x.eu.example.com", "*.eu.example.com"),
        ("x-eu.example.com", "*-eu.example.com"),
        (".example.com", "*"),  # a wildcard stands for something
        ("example.com", "*"),
        ("api.org", "api.*"),
        ("api.example.org", "api.example.*"),
        ("api.", "*"),
        ("[::1]:80", "[::1]:80"),
        ("", "*"),
        ("other", "*"),
    ],
)
def test_the_most_specific_domain_takes_the_request(authority: str, expected: str) -> None:
    """Exact before suffix before prefix before `*`; the longest wildcard first."""
    assert found(HOSTS, head(authority)) == expected


def test_without_a_domain_there_is_no_host() -> None:
    assert table(host("a")).match(head("b"), lambda: 0.0) is None
    assert table(host("a")).virtual_host(b"A") is not None


@pytest.mark.parametrize("authority", ["a:80", "a", "A:8080", "a:"])
def test_the_port_is_ignored_when_asked(authority: str) -> None:
    assert found(table(host("a"), ignore_port_in_host=True), head(authority)) == "a"


def test_a_bracketed_address_keeps_its_colons_without_port() -> None:
    routes = table(host("[::1]"), ignore_port_in_host=True)
    assert found(routes, head("[::1]")) == found(routes, head("[::1]:80")) == "[::1]"


def test_inline_hosts_come_before_those_of_their_own() -> None:
    config = RouteConfiguration(name="r", virtual_hosts=(host("a"),))
    assert found(RouteTable(config, (host("a", routes=()),)), head()) == "a"


ROUTES = table(
    host(
        "a",
        routes=(
            route("exact", "/exact", PathKind.EXACT),
            route("folded", "/Fold", PathKind.EXACT, ignore_case=True),
            route("separated", "/sep", PathKind.SEPARATED_PREFIX),
            route("regex", "/u/[0-9]+", PathKind.REGEX),
            route(
                "header",
                "/h",
                headers=(HeaderMatcher(name="x-a", matcher=StringMatcher(kind=MatchKind.PREFIX, value="v")),),
            ),
            route(
                "query", "/q", query=(QueryMatcher(name="q", matcher=StringMatcher(kind=MatchKind.EXACT, value="1")),)
            ),
            route("half", "/r", runtime_per_million=500_000),
            route("prefix", "/p"),
        ),
    )
)


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        (head(path="/exact"), "exact"),
        (head(path="/exact?x=/exact/"), "exact"),
        (head(path="/exact/"), None),
        (head(path="/Exact"), None),
        (head(path="/fOLD"), "folded"),
        (head(path="/sep"), "separated"),
        (head(path="/sep?x"), "separated"),
        (head(path="/sep/x"), "separated"),
        (head(path="/separate"), None),
        (head(path="/u/12"), "regex"),
        (head(path="/u/12/"), None),
        (head(path="/x/u/12"), None),
        (head(path="/h", x_a="v1"), "header"),
        (head(path="/h", x_a="w"), None),
        (head(path="/h"), None),
        (head(path="/q?a=b&q=1&q=2"), "query"),
        (head(path="/q?q=2&q=1"), None),
        (head(path="/prefixed"), "prefix"),
        (head(path="/"), None),
    ],
)
def test_the_first_route_that_matches(request_head: RequestHead, expected: str | None) -> None:
    assert found(ROUTES, request_head) == expected


def test_a_share_of_the_requests_by_one_random_number() -> None:
    drawn: list[float] = []

    def rng(value: float) -> Callable[[], float]:
        return lambda: drawn.append(value) or value  # type: ignore[func-returns-value]

    assert found(ROUTES, head(path="/r"), rng(0.4999)) == "half"
    assert found(ROUTES, head(path="/r"), rng(0.5)) is None
    thirds = table(host("a", routes=(route("1", runtime_per_million=1), route("2", runtime_per_million=1), route("3"))))
    drawn.clear()
    assert found(thirds, head(), rng(0.9)) == "3"
    assert drawn == [0.9]


def test_a_plain_first_route_costs_no_random_number_and_hides_the_others() -> None:
    def never() -> float:
        raise AssertionError("no number is needed")

    routes = table(host("a", routes=(route("all"), route("bad", "[", PathKind.EXACT))))
    assert found(routes, head(path="/x?y"), never) == "all"


# --- what is in effect ------------------------------------------------------------------------------------------------


def _ops(value: str) -> HeaderOps:
    return HeaderOps(add=(("x", value, HeaderAction.APPEND),))


def _match(**settings: object) -> Match:
    action = Forward(clusters=(WeightedCluster(cluster="c", weight=1),), total_weight=1)
    own = Route(
        name="r", match=RouteMatch(path_kind=PathKind.PREFIX, path="/"), action=action, request_headers=_ops("route")
    )
    virtual_host = VirtualHost(
        name="v",
        domains=("a",),
        routes=(own,),
        request_headers=_ops("host"),
        retry=RetryPolicy(retry_on=frozenset({"5xx"})),
    )
    match = table(virtual_host, request_headers=_ops("config"), **settings).match(head(), lambda: 0.0)
    assert match is not None
    return match


def test_levels_of_header_operations_in_their_order() -> None:
    assert [ops.add[0][1] for ops in _match().request_headers] == ["route", "host", "config"]
    reverse = _match(most_specific_header_mutations_wins=True)
    assert [ops.add[0][1] for ops in reverse.request_headers] == ["config", "host", "route"]
    assert _match().response_headers == ()


def test_a_route_without_retries_has_those_of_its_host() -> None:
    retry = _match().retry
    assert retry is not None
    assert retry.retry_on == {"5xx"}


def test_a_bad_part_is_named() -> None:
    with pytest.raises(ValueError, match="virtual host a, route broken: missing"):
        table(host("a", routes=(route("broken", "(", PathKind.REGEX),)))


def test_hosts_that_stay_are_not_compiled_again() -> None:
    stays, goes = host("a"), host("b")
    before = table(stays, goes)
    after = RouteTable(before.config, (stays, host("c")), before)
    assert after.match(head("a"), lambda: 0.0) is before.match(head("a"), lambda: 0.0)
    assert after.match(head("b"), lambda: 0.0) is None
    levels = RouteConfiguration(name="r", request_headers=_ops("new"))
    fresh = RouteTable(levels, (stays,), before).match(head("a"), lambda: 0.0)
    assert fresh is not None
    assert len(fresh.request_headers) == 1


class Lookups(dict[bytes, object]):
    """Counts what is asked of it."""

    count = 0

    def get(self, key: bytes, default: object = None) -> object:  # type: ignore[override]
        self.count += 1
        return super().get(key, default)


def test_many_hosts_cost_no_more_lookups_than_few() -> None:
    routes = table(*(host(f"host-{number}", f"*.wild-{number:04}.example") for number in range(2000)))
    exact = Lookups(routes._exact)
    suffix = Lookups(routes._suffixes[0][1])
    routes._exact = exact  # type: ignore[assignment]
    routes._suffixes = ((routes._suffixes[0][0], suffix),)  # type: ignore[assignment]
    assert found(routes, head("host-1999")) == "host-1999"
    assert found(routes, head("x.wild-1999.example")) == "host-1999"
    assert found(routes, head("nobody")) is None
    assert exact.count + suffix.count <= 9


def test_what_did_not_come_by_https_is_sent_there() -> None:
    """Before any route is asked, also where there is none; the others of the table are as they were."""
    secured = replace(host("a", routes=(route("all"),)), require_tls=True)
    bare = replace(host("b", routes=()), require_tls=True)
    routes = table(secured, bare, host("c"))
    for name in ("a", "b"):
        match = routes.match(head(name, "/x?y=z", x_forwarded_proto="http"), lambda: 0.0)
        assert match is not None
        action = match.route.action
        assert isinstance(action, Redirect)
        assert (action.status, action.https) == (301, True)
    assert found(routes, head("a", x_forwarded_proto="https")) == "all"
    assert found(routes, head("b", x_forwarded_proto="https")) is None
    assert found(routes, head("c", x_forwarded_proto="http")) == "c"


@pytest.mark.parametrize("text", [b"", b"a", b"a b", b"\n", b"a\nb", b"\0", "\u00e9".encode(), b"\xff", b"a\xffb"])
def test_a_regex_for_presence_says_what_re2_says(text: bytes) -> None:
    matcher = TextMatcher(StringMatcher(kind=MatchKind.REGEX, value=".+"))
    assert matcher.matches(text) is (compile_regex(".+").fullmatch(text) is not None)
