"""The Gateway API's objects as those that proxies are given: attachment, precedence, translation, what is made anew."""

import pytest

from controlplane.model.gateway_rules import BackendRule, PathSegments
from controlplane.model.listener_objects import ListenerRoutes
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.policy.http_route import HTTPRedirect
from controlplane.policy.kinds import GATEWAY, VIRTUAL_SERVICE
from controlplane.policy.objects import PolicyObject
from mesh.vocabulary import ObjectRef
from tests.support.compiling import fold, mesh_of, parse

API = "gateway.networking.k8s.io"
HTTP = "name: http, port: 80, protocol: HTTP"
OPEN = "allowedRoutes: {namespaces: {from: All}}"
TO_A = "backendRefs: [{name: a, port: 80}]"


def made(kind: str, name: str, spec: str, namespace: str = "default", version: str = "v1", age: int = 0) -> str:
    stamp = f", creationTimestamp: '2026-01-0{age}T00:00:00Z'" if age else ""
    where = f"{{name: {name}, namespace: {namespace}{stamp}}}"
    return f"apiVersion: {API}/{version}\nkind: {kind}\nmetadata: {where}\nspec: {spec}\n"


def gateway(*listeners: str, class_: str = "gossamer", name: str = "g", more: str = "") -> str:
    listed = ", ".join(f"{{{own}}}" for own in listeners or (f"{HTTP}, {OPEN}",))
    return made("Gateway", name, f"{{gatewayClassName: {class_}, listeners: [{listed}]{more}}}")


def route(
    name: str = "r", rules: str = f"{{{TO_A}}}", hosts: str = "", *, parent: str = "name: g",
    namespace: str = "default", kind: str = "HTTPRoute", age: int = 0,
) -> str:  # fmt: skip
    spec = f"{{parentRefs: [{{{parent}}}], hostnames: [{hosts}], rules: [{rules}]}}"
    return made(kind, name, spec, namespace, age=age)


def mesh(*texts: str) -> MeshState:
    return mesh_of("---\n".join(texts))


def verdict(
    state: MeshState, name: str = "r", *, kind: str = "HTTPRoute", namespace: str = "default"
) -> tuple[str, str]:
    own = state.gateway_api.gateway(("default", "g"))
    assert own is not None
    found = own.attached.verdicts[(ObjectRef(API, kind, namespace, name), 0)]
    return found.reason, ",".join(found.listeners)


def objects(state: MeshState, name: str = "g") -> dict[str, PolicyObject]:
    own = state.gateway_api.gateway(("default", name))
    return {item.metadata.name: item for item in own.objects.values()} if own is not None else {}


def rules(state: MeshState, host: str = "*", listener: str = "http") -> list[BackendRule]:
    found = [item for item in objects(state)[f"g/{listener}/{host}"].spec_as(ListenerRoutes).http]
    assert all(isinstance(item, BackendRule) for item in found)
    return found  # type: ignore[return-value]


def names(state: MeshState, host: str = "*", listener: str = "http") -> list[str]:
    return [item.name for item in rules(state, host, listener)]


# --- which route belongs to which listener


@pytest.mark.parametrize(
    ("listeners", "own", "expected"),
    [
        ((f"{HTTP}, {OPEN}",), route(), ("Accepted", "http")),
        ((HTTP, "name: b, port: 81, protocol: HTTP"), route(), ("Accepted", "http,b")),
        ((HTTP, "name: b, port: 81, protocol: HTTP"), route(parent="name: g, sectionName: b"), ("Accepted", "b")),
        ((HTTP, "name: b, port: 81, protocol: HTTP"), route(parent="name: g, port: 80"), ("Accepted", "http")),
        ((HTTP,), route(parent="name: g, sectionName: x"), ("NoMatchingParent", "")),
        ((HTTP,), route(parent="name: g, port: 81"), ("NoMatchingParent", "")),
        (("name: t, port: 1, protocol: TCP",), route(), ("NoMatchingParent", "")),
        ((HTTP,), route(parent="name: g, namespace: default", namespace="shop"), ("NotAllowedByListeners", "")),
        ((f"{HTTP}, allowedRoutes: {{namespaces: {{from: None}}}}",), route(), ("NotAllowedByListeners", "")),
        ((f"{HTTP}, allowedRoutes: {{kinds: [{{kind: GRPCRoute}}]}}",), route(), ("NotAllowedByListeners", "")),
        ((f"{HTTP}, hostname: a.org",), route(hosts="b.org, '*.b.org'"), ("NoMatchingListenerHostname", "")),
        ((f"{HTTP}, hostname: '*.org'",), route(hosts="org"), ("NoMatchingListenerHostname", "")),
        ((f"{HTTP}, hostname: '*.org'",), route(hosts="b.a.org, c.net"), ("Accepted", "http")),
        ((f"{HTTP}, hostname: a.b.org",), route(hosts="'*.org'"), ("Accepted", "http")),
        (
            (HTTP,),
            route(rules="{backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {}}]}]}"),
            ("UnsupportedValue", ""),
        ),
    ],
)
def test_attachment(listeners: tuple[str, ...], own: str, expected: tuple[str, str]) -> None:
    namespace = "shop" if "namespace: shop" in own else "default"
    assert verdict(mesh(gateway(*listeners), own), namespace=namespace) == expected


@pytest.mark.parametrize(
    ("selector", "accepted"),
    [
        ("matchLabels: {kubernetes.io/metadata.name: shop}", True),
        ("matchLabels: {kubernetes.io/metadata.name: other}", False),
        ("matchLabels: {team: a}", True),
        ("matchExpressions: [{key: team, operator: In, values: [b, a]}, {key: x, operator: DoesNotExist}]", True),
        ("matchExpressions: [{key: team, operator: NotIn, values: [a]}]", False),
        ("matchExpressions: [{key: x, operator: NotIn, values: [a]}, {key: team, operator: Exists}]", True),
    ],
)
def test_namespaces_by_selector(selector: str, accepted: bool) -> None:
    """The labels are those of the Namespace object, and its name is a label whether it is one or not."""
    listener = f"{HTTP}, allowedRoutes: {{namespaces: {{from: Selector, selector: {{{selector}}}}}}}"
    shop = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n"
    state = mesh(gateway(listener), shop, route(parent="name: g, namespace: default", namespace="shop"))
    assert (verdict(state, namespace="shop")[0] == "Accepted") is accepted


def test_a_listener_has_one_kind_of_routes_for_a_host() -> None:
    """The older one decides; another host is free, and so is another listener."""
    grpc = route("grpc", f"{{{TO_A}}}", "a.org", kind="GRPCRoute", age=2)
    state = mesh(gateway(), route("old", hosts="'*.org'", age=1), grpc)
    assert verdict(state, "grpc", kind="GRPCRoute") == ("RouteConflict", "")
    assert verdict(state, "old") == ("Accepted", "http")
    state = mesh(gateway(), route("young", hosts="'*.org'", age=3), grpc)
    assert verdict(state, "grpc", kind="GRPCRoute") == ("Accepted", "http")
    assert verdict(state, "young") == ("RouteConflict", "")
    state = mesh(gateway(), route("old", hosts="b.org", age=1), grpc)
    assert verdict(state, "grpc", kind="GRPCRoute") == ("Accepted", "http")


@pytest.mark.parametrize(
    ("older", "younger", "conflict"),
    [
        ("a.org", "a.org", True),
        ("b.a.org", "'*.a.org'", True),
        ("'*.a.org'", "c.b.a.org", True),
        ("'*.b.a.org'", "'*.org'", True),
        ("'*.org'", "'*.b.a.org'", True),
        ("b.org, a.org", "c.org, '*.a.org', a.org", True),
        ("", "a.org", True),
        ("a.org", "", True),
        ("a.org", "b.a.org", False),
        ("a.org", "'*.a.org'", False),
        ("'*.a.org'", "'*.b.org', a.org", False),
        ("xa.org", "'*.a.org'", False),
    ],
)
def test_hosts_that_two_kinds_of_routes_share(older: str, younger: str, conflict: bool) -> None:
    state = mesh(gateway(), route("one", hosts=older, age=1), route("two", hosts=younger, age=2, kind="GRPCRoute"))
    assert verdict(state, "two", kind="GRPCRoute")[0] == ("RouteConflict" if conflict else "Accepted")


@pytest.mark.parametrize(
    ("class_", "extra", "problem"),
    [
        ("gossamer", "", None),
        ("istio", "", None),
        ("nginx", "", "Pending"),
        ("own", made("GatewayClass", "own", "{controllerName: gossamer.mesh/gateway-controller}"), None),
        ("istio", made("GatewayClass", "istio", "{controllerName: example.com/other}"), "Pending"),
    ],
)
def test_classes(class_: str, extra: str, problem: str | None) -> None:
    extra = extra.replace(", namespace: default", "")
    state = mesh(gateway(class_=class_), *([extra] if extra else []), route())
    own = state.gateway_api.gateway(("default", "g"))
    assert own is not None
    assert (own.problem and own.problem[0]) == problem
    assert bool(own.objects) is (problem is None)


def test_an_address_is_not_the_gateways_to_choose() -> None:
    state = mesh(gateway(more=", addresses: [{value: 192.0.2.1}]"))
    own = state.gateway_api.gateway(("default", "g"))
    assert own is not None
    assert own.problem is not None
    assert (own.problem[0], objects(state)) == ("UnsupportedAddress", {})


# --- hosts and precedence


def test_hosts_of_a_listener() -> None:
    """Its own, and those that routes share with it; not what another listener of the port names better."""
    listeners = (f"{HTTP}, hostname: '*.org'", "name: a, port: 80, protocol: HTTP, hostname: a.org")
    state = mesh(gateway(*listeners), route(hosts="'*.b.org', a.org, c.org, d.net"))
    hosts = {name.partition("/")[2] for name, item in objects(state).items() if item.kind is VIRTUAL_SERVICE}
    assert hosts == {"http/*.org", "http/*.b.org", "http/c.org", "a/a.org"}
    assert names(state, "*.org") == []
    assert names(state, "a.org", "a") == ["default/r.rules[0]"]


def test_narrower_hostnames_stand_before_wider_ones() -> None:
    """By the hostname as the route writes it: characters of a precise name, then all characters."""
    state = mesh(
        gateway(),
        route("none", "{name: none}"),
        route("wild", "{name: wild}", "'*.org'"),
        route("deep", "{name: deep}", "'*.a.org'"),
        route("exact", "{name: exact}", "b.a.org"),
    )
    assert names(state, "b.a.org") == ["exact", "deep", "wild", "none"]
    assert names(state, "*.a.org") == ["deep", "wild", "none"]
    assert names(state, "*.org") == ["wild", "none"]
    assert names(state) == ["none"]


def test_precedence_of_matches() -> None:
    def named(name: str, match: str) -> str:
        return f"{{name: {name}, matches: [{{{match}}}]}}"

    wanted = [
        ("exact", "path: {type: Exact, value: /a}"),
        ("regex-long", "path: {type: RegularExpression, value: '/a/[b]+'}"),
        ("regex", "path: {type: RegularExpression, value: '/a.*'}"),
        ("long", "path: {value: /a/b}"),
        ("method", "path: {value: /a}, method: GET"),
        ("two-headers", "path: {value: /a/}, headers: [{name: x, value: y}, {name: z, value: y}]"),
        ("header-and-query", "path: {value: /a}, headers: [{name: x, value: y}], queryParams: [{name: q, value: r}]"),
        ("header", "path: {value: /a}, headers: [{name: x, value: y}]"),
        ("query", "path: {value: /a}, queryParams: [{name: q, value: r}]"),
        ("plain", "path: {value: /a}"),
        ("first-of-equals", "headers: [{name: x, value: y}]"),
        ("second-of-equals", "headers: [{name: z, value: y}]"),
        ("all", ""),
    ]
    by_turns = [wanted[10], wanted[12], wanted[11], *wanted[9::-1]]
    state = mesh(gateway(), route(rules=", ".join(named(*item) for item in by_turns)))
    assert names(state) == [name for name, _ in wanted]


def test_ties_go_to_the_oldest_route_then_by_name() -> None:
    state = mesh(
        gateway(),
        route("a", "{name: young}", age=3),
        route("z", "{name: z}", age=2),
        route("b", "{name: b}", age=2),
        route("r", "{name: old}", age=1),
        route("c", "{name: narrow, matches: [{path: {value: /c}}]}", age=4),
    )
    assert names(state) == ["narrow", "old", "b", "z", "young"]


def test_precedence_of_grpc_methods() -> None:
    def named(name: str, match: str) -> str:
        return f"{{name: {name}, matches: [{{{match}}}]}}"

    wanted = [
        ("both", "method: {service: shop.Orders, method: Get}"),
        ("service-and-header", "method: {service: shop.Orders}, headers: [{name: x, value: y}]"),
        ("service", "method: {service: shop.Orders}"),
        ("short", "method: {service: shop.O}"),
        ("method", "method: {method: Get}"),
        ("all", ""),
    ]
    state = mesh(gateway(), route(rules=", ".join(named(*item) for item in reversed(wanted)), kind="GRPCRoute"))
    assert names(state) == [name for name, _ in wanted]
    found = [item.match[0].uri for item in rules(state)]
    assert [(uri.exact, uri.prefix, uri.regex) for uri in found if uri is not None] == [
        ("/shop.Orders/Get", None, None), (None, "/shop.Orders/", None), (None, "/shop.Orders/", None),
        (None, "/shop.O/", None), (None, None, "/[^/]+/Get"), (None, "/", None),
    ]  # fmt: skip
    assert {item.lost_status for item in rules(state)} == {503}, "what gRPC clients read as UNAVAILABLE"


# --- what is made of a rule


def only(rule: str, listener: str = f"{HTTP}, {OPEN}") -> BackendRule:
    name = listener.partition("name: ")[2].partition(",")[0]
    (found,) = rules(mesh(gateway(listener), route(rules=f"{{{rule}}}")), listener=name)
    return found


def test_a_prefix_is_of_whole_segments() -> None:
    assert only("matches: [{path: {value: /a/b/}}]").match[0].uri == PathSegments(prefix="/a/b")
    assert only("").match[0].uri != PathSegments(prefix="/")


@pytest.mark.parametrize(
    ("listener", "settings", "expected"),
    [
        ("port: 8080", "scheme: https", {"scheme": "https", "port": 443}),
        ("port: 80", "scheme: https", {"scheme": "https", "port": None}),
        ("port: 8080", "scheme: https, hostname: b", {"scheme": "https", "authority": "b", "port": None}),
        ("port: 8080", "hostname: b", {"authority": "b", "port": 8080}),
        ("port: 80", "hostname: b", {"authority": "b", "port": None}),
        ("port: 80", "port: 81", {"port": 81}),
        ("port: 80", "port: 443, scheme: https, hostname: b", {"scheme": "https", "authority": "b", "port": None}),
        ("port: 80", "port: 443, hostname: b", {"authority": "b", "port": 443}),
    ],
)
def test_the_port_of_a_redirect(listener: str, settings: str, expected: dict[str, object]) -> None:
    """That of the scheme, which nobody writes; without scheme the listener's."""
    rule = only(
        f"filters: [{{type: RequestRedirect, requestRedirect: {{{settings}}}}}]",
        f"name: http, {listener}, protocol: HTTP",
    )
    found = rule.redirect
    assert isinstance(found, HTTPRedirect)
    assert found.code == 302
    assert {name: value for name, value in found if value not in ("", None, 302)} == {
        name: value for name, value in expected.items() if value is not None
    }


def test_where_the_host_is_known_a_redirect_to_a_default_port_names_none() -> None:
    to_tls = "{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}"
    state = mesh(gateway("name: http, port: 8080, protocol: HTTP"), route(rules=to_tls, hosts="a.org, '*.b.org'"))
    found = {host: rules(state, host)[0].redirect for host in ("a.org", "*.b.org")}
    assert {host: (own.authority, own.port) for host, own in found.items() if own is not None} == {
        "a.org": ("a.org", None), "*.b.org": ("", 443)
    }  # fmt: skip


def test_timeouts_and_retries() -> None:
    plain = only(TO_A)
    assert (plain.timeout_s, plain.retries) == (None, None)
    both = only(f"{TO_A}, timeouts: {{request: 10s, backendRequest: 2s}}")
    assert both.timeout_s == 10
    assert both.retry_settings is not None
    assert (both.retry_settings.attempts, both.retry_settings.per_try_timeout_s) == (2, 2)
    assert only(f"{TO_A}, timeouts: {{request: 0s, backendRequest: 0s}}").timeout_s is None
    own = only(f"{TO_A}, retry: {{codes: [503, 429], attempts: 4, backoff: 100ms}}").retry_settings
    assert own is not None
    assert (own.attempts, own.retriable_status_codes, own.backoff_base_s) == (4, (503, 429), 0.1)
    assert "connect-failure" in own.retry_on
    assert own.per_try_timeout_s is None
    off = only(f"{TO_A}, retry: {{attempts: 0}}, timeouts: {{request: 5s, backendRequest: 2s}}")
    assert (off.retry_settings, off.timeout_s) == (None, 2), "the only try has its own time"


def test_values_are_literal() -> None:
    """`%` is no command, and a header may have any name."""
    rule = only(
        "matches: [{headers: [{name: Method, value: a}, {name: Host, value: b}]}], filters: "
        "[{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x, value: '100%'}]}}, "
        r"{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /a$1}}}]"
    )
    assert set(rule.match[0].headers) == {"method", ":authority"}
    assert rule.headers is not None
    assert rule.headers.response is not None
    assert rule.headers.response.set["x"] == "100%%"
    assert rule.rewrite is not None
    assert rule.rewrite.uri_regex_rewrite is not None
    assert rule.rewrite.uri_regex_rewrite.rewrite == "/a$1"


def test_what_may_not_be_referred_to_has_no_destination() -> None:
    refs = "backendRefs: [{name: a, namespace: other, port: 80}, {group: x.io, kind: Y, name: a, port: 1}, {name: a, port: 2}]"  # noqa: E501
    state = mesh(gateway(), route(rules=f"{{{refs}}}"))
    assert [item.destination is not None for item in rules(state)[0].route] == [False, False, True]
    grant = "{from: [{group: %s, kind: %s, namespace: %s}], to: [{group: '', kind: Service%s}]}"
    for wrong in (
        (API, "GRPCRoute", "default", ""),
        (API, "HTTPRoute", "x", ""),
        (API, "HTTPRoute", "default", ", name: b"),
    ):
        after = fold(state, made("ReferenceGrant", "g", grant % wrong, "other"))
        assert rules(after)[0].route[0].destination is None, wrong
    elsewhere = fold(state, made("ReferenceGrant", "g", grant % (API, "HTTPRoute", "default", ""), "default"))
    assert rules(elsewhere)[0].route[0].destination is None
    granted = fold(state, made("ReferenceGrant", "g", grant % (API, "HTTPRoute", "default", ""), "other", "v1beta1"))
    (first, second, _) = rules(granted)[0].route
    assert first.destination is not None
    assert (first.destination.host, first.destination.port_number) == ("a.other.svc.cluster.local", 80)
    assert second.destination is None


def test_an_unknown_filter_is_not_skipped() -> None:
    rule = only(f"filters: [{{type: ExtensionRef, extensionRef: {{group: a, kind: B, name: c}}}}], {TO_A}")
    assert rule.direct_response is not None
    assert (rule.direct_response.status, rule.route) == (500, ())


def test_certificates() -> None:
    """Of the Gateway's namespace by name; of another one when it is granted, else the listener is not made."""
    listener = (
        "name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a}, {name: b, namespace: other}]}"
    )
    state = mesh(gateway(listener))
    assert objects(state) == {}
    grant = (
        f"{{from: [{{group: {API}, kind: Gateway, namespace: default}}], to: [{{group: '', kind: Secret, name: b}}]}}"
    )
    state = fold(state, made("ReferenceGrant", "g", grant, "other"))
    (server,) = objects(state)["g/https"].spec.servers  # type: ignore[attr-defined]
    assert server.tls.credentials == ("a", "other/b")
    state = mesh(
        gateway("name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{kind: ConfigMap, name: a}]}")
    )
    assert objects(state) == {}


# --- what a change makes anew


def test_a_change_of_one_route_makes_its_hosts_anew_and_nothing_else() -> None:
    state = mesh(gateway(), gateway(name="other"), route("a", hosts="a.org"), route("b", hosts="b.org"),
                 route("o", hosts="a.org", parent="name: other"))  # fmt: skip
    before, others = objects(state), objects(state, "other")
    after = fold(state, route("a", "{name: new}", "a.org"))
    now = objects(after)
    assert {name for name, item in now.items() if before.get(name) is not item} == {"g/http/a.org"}
    assert all(item is others[name] for name, item in objects(after, "other").items())
    assert names(after, "a.org") == ["new"]


def test_what_is_not_of_the_api_touches_nothing() -> None:
    state = mesh(gateway(), route())
    after = fold(state, "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n")
    assert after.gateway_api is state.gateway_api
    assert after.gateways is state.gateways
    again = fold(state, made("ReferenceGrant", "g", "{from: [{kind: A, namespace: b}], to: [{kind: C}]}", "x"))
    assert again.gateways is state.gateways, "a grant that nobody needs"


def test_what_is_deleted_is_unmade() -> None:
    state = mesh(gateway(), route(hosts="a.org"))
    assert {item.kind for item in state.gateways.all()} == {GATEWAY}
    (own,) = parse(route(hosts="a.org"))[0]
    state = state.with_changes(Changes(revision=9, deleted_objects=(own.ref,)))
    assert set(objects(state)) == {"g/http", "g/http/*"}
    (own,) = parse(gateway())[0]
    state = state.with_changes(Changes(revision=10, deleted_objects=(own.ref,)))
    assert (state.gateways.all(), state.gateway_api.gateways()) == ((), ())
    state = fold(state, route(hosts="a.org"))
    assert state.gateway_api.gateways() == ()
    assert set(objects(fold(state, gateway()))) == {"g/http", "g/http/*", "g/http/a.org"}


def test_routes_move_with_their_parents() -> None:
    state = mesh(gateway(), gateway(name="other"), route(hosts="a.org"))
    state = fold(state, route(hosts="a.org", parent="name: other"))
    assert "g/http/a.org" not in objects(state)
    assert "other/http/a.org" in objects(state, "other")
