"""VirtualServices that leave rules to others."""

import itertools

import pytest

from controlplane.compiler.delegation_findings import delegation_findings
from controlplane.model.delegation import joined_rule
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.policy.http_route import HTTPRoute
from controlplane.policy.objects import PolicyObject
from controlplane.policy.shape import parse_known
from controlplane.policy.virtual_service import VirtualService
from tests.support.compiling import SETTINGS, fold, mesh_of, parse

HOST = "shop.default.svc.cluster.local"
OTHER = "other.default.svc.cluster.local"
SERVICES = "".join(
    f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
    for name in ("shop", "other", "cart")
)


def virtual_service(name: str, spec: str, namespace: str = "default") -> str:
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


ROOT = virtual_service("root", "{hosts: [shop], http: [{delegate: {name: rules}}]}")
RULES = virtual_service("rules", "{http: [{route: [{destination: {host: cart}}]}]}")


def route(**fields: object) -> HTTPRoute:
    return parse_known(HTTPRoute, fields)


def seen(mesh: MeshState, host: str = HOST) -> list[PolicyObject]:
    view = mesh.views.get(host)
    assert view is not None
    return list(view.virtual_services)


def rules_of(mesh: MeshState) -> tuple[HTTPRoute, ...]:
    [rule] = seen(mesh)
    return rule.spec_as(VirtualService).http


def test_the_rules_of_the_delegate_stand_in_the_root() -> None:
    mesh = mesh_of(SERVICES + ROOT + RULES)
    [rule] = seen(mesh)
    assert [part.metadata.name for part in rule.parts] == ["root", "rules"]
    [http] = rules_of(mesh)
    assert (http.delegate, http.name) == (None, "default/rules.http[0]")
    assert http.route[0].destination is not None
    assert http.route[0].destination.host == "cart.default.svc.cluster.local"


def test_what_is_stored_stays_as_it_was_written() -> None:
    mesh = mesh_of(SERVICES + ROOT + RULES)
    [root] = [item for item in mesh.objects.values() if item.metadata.name == "root"]
    assert root.parts == ()
    assert root.spec_as(VirtualService).http[0].delegate is not None


@pytest.mark.parametrize("order", list(itertools.permutations((ROOT, RULES, SERVICES))))
def test_the_order_of_events_does_not_matter(order: tuple[str, ...]) -> None:
    mesh = mesh_of(*order)
    assert [http.name for http in rules_of(mesh)] == ["default/rules.http[0]"]
    view = mesh.views.get(HOST)
    assert view is not None
    assert "cart.default.svc.cluster.local" in view.targets


def test_a_change_of_the_delegate_changes_the_host_of_the_root_alone() -> None:
    before = mesh_of(SERVICES + ROOT + RULES)
    after = fold(before, virtual_service("rules", "{http: [{name: new, directResponse: {status: 410}}]}"))
    assert after.views.changed_since(before.views) >= {HOST}
    assert OTHER not in after.views.changed_since(before.views)
    assert [http.name for http in rules_of(after)] == ["new"]
    assert seen(before) != seen(after)


def test_a_delegate_goes_and_comes_again() -> None:
    mesh = mesh_of(SERVICES + ROOT + RULES)
    [rules] = [item for item in mesh.objects.values() if item.metadata.name == "rules"]
    without = mesh.with_changes(Changes(revision=9, deleted_objects=(rules.ref,)))
    assert rules_of(without) == ()
    again = without.with_changes(Changes(revision=10, objects=(rules,)))
    assert seen(again) == seen(mesh)


def test_a_root_goes() -> None:
    mesh = mesh_of(SERVICES + ROOT + RULES)
    [root] = [item for item in mesh.objects.values() if item.metadata.name == "root"]
    without = mesh.with_changes(Changes(revision=9, deleted_objects=(root.ref,)))
    assert seen(without) == []
    view = without.views.get("cart.default.svc.cluster.local")
    assert view is not None


def test_a_root_becomes_an_ordinary_rule() -> None:
    mesh = mesh_of(SERVICES + ROOT + RULES)
    plain = fold(mesh, virtual_service("root", "{hosts: [shop], http: [{directResponse: {status: 200}}]}"))
    [rule] = seen(plain)
    assert rule.parts == ()
    assert rule.spec_as(VirtualService).http[0].direct_response is not None


def test_two_roots_share_a_delegate() -> None:
    second = virtual_service("second", "{hosts: [other], http: [{timeout: 2s, delegate: {name: rules}}]}")
    mesh = mesh_of(SERVICES + ROOT + RULES + second)
    [other] = seen(mesh, OTHER)
    assert other.spec_as(VirtualService).http[0].timeout == 2
    assert rules_of(mesh)[0].timeout is None


def test_rules_are_named_by_where_they_stand() -> None:
    root = virtual_service(
        "root",
        "{hosts: [shop], http: [{match: [{uri: {exact: /a}}], delegate: {name: rules}}, {delegate: {name: rules}}, "
        "{match: [{uri: {exact: /b}}], directResponse: {status: 200}}]}",
    )
    rules = virtual_service("rules", "{http: [{match: [{method: {exact: PUT}}], directResponse: {status: 200}}]}")
    names = ["default/rules.http[0]", "default/rules.http[0]", "default/root.http[2]"]
    assert [http.name for http in rules_of(mesh_of(SERVICES + root + rules))] == names


def test_a_private_delegate_is_for_its_namespace_alone() -> None:
    root = virtual_service("root", "{hosts: [shop], http: [{delegate: {name: rules, namespace: team}}]}")
    rules = "{exportTo: ['%s'], http: [{route: [{destination: {host: cart}}]}]}"
    assert rules_of(mesh_of(SERVICES + root + virtual_service("rules", rules % ".", "team"))) == ()
    public = mesh_of(SERVICES + root + virtual_service("rules", rules % "default", "team"))
    [http] = rules_of(public)
    assert http.route[0].destination is not None
    assert http.route[0].destination.host == "cart.team.svc.cluster.local"


def test_a_mirror_of_the_root_is_of_its_namespace() -> None:
    root = virtual_service(
        "root", "{hosts: [shop], http: [{mirror: {host: cart}, delegate: {name: r, namespace: team}}]}"
    )
    mesh = mesh_of(SERVICES + root + virtual_service("r", "{http: [{route: [{destination: {host: cart}}]}]}", "team"))
    [http] = rules_of(mesh)
    assert http.mirror is not None
    assert http.mirror.host == "cart.default.svc.cluster.local"


def test_nothing_is_done_for_those_who_delegate_nothing() -> None:
    objects, _, _ = parse(virtual_service("plain", "{hosts: [shop], http: [{directResponse: {status: 200}}]}"))
    mesh = MeshState.empty(SETTINGS)
    delegation, came, went = mesh._delegation.updated(objects, [])
    assert delegation is mesh._delegation
    assert (came, went) == (objects, [])


DIRECT = {"directResponse": {"status": 200}}
TO = {"route": [{"destination": {"host": "a"}}]}


@pytest.mark.parametrize(
    ("root", "own", "expected"),
    [
        # no match in one of them
        ([], [{"uri": {"exact": "/a"}}], [{"uri": {"exact": "/a"}}]),
        ([{"uri": {"prefix": "/a"}}], [], [{"uri": {"prefix": "/a"}}]),
        # narrower, in each way
        ([{"uri": {"prefix": "/a"}}], [{"uri": {"prefix": "/a/b"}}], [{"uri": {"prefix": "/a/b"}}]),
        ([{"uri": {"prefix": "/a"}}], [{"uri": {"exact": "/a/b"}}], [{"uri": {"exact": "/a/b"}}]),
        ([{"uri": {"exact": "/a"}}], [{"uri": {"exact": "/a"}}], [{"uri": {"exact": "/a"}}]),
        ([{"uri": {"regex": "/a.*"}}], [{"method": {"exact": "GET"}}],
         [{"uri": {"regex": "/a.*"}, "method": {"exact": "GET"}}]),
        ([{"uri": {"regex": "/a.*"}}], [{"uri": {"regex": "/a.*"}}], [{"uri": {"regex": "/a.*"}}]),
        # conditions of both
        ([{"headers": {"x": {"exact": "1"}}}], [{"headers": {"y": {}}, "queryParams": {"q": {"exact": "2"}}}],
         [{"headers": {"x": {"exact": "1"}, "y": {}}, "queryParams": {"q": {"exact": "2"}}}]),
        ([{"headers": {"x": {"prefix": "a"}}}], [{"headers": {"x": {"exact": "ab"}}}],
         [{"headers": {"x": {"exact": "ab"}}}]),
        ([{"headers": {"x": {}}}], [{"headers": {"x": {"exact": "ab"}}}], [{"headers": {"x": {"exact": "ab"}}}]),
        ([{"port": 80}], [{"uri": {"prefix": "/a"}}], [{"uri": {"prefix": "/a"}, "port": 80}]),
        ([{"uri": {"prefix": "/a"}, "ignoreUriCase": True}], [{"method": {"exact": "GET"}}],
         [{"uri": {"prefix": "/a"}, "ignoreUriCase": True, "method": {"exact": "GET"}}]),
        ([{"withoutHeaders": {"x": {"exact": "1"}}}], [{"withoutHeaders": {"y": {"exact": "2"}}}],
         [{"withoutHeaders": {"x": {"exact": "1"}, "y": {"exact": "2"}}}]),
        ([{"withoutHeaders": {"x": {"exact": "ab"}}}], [{"withoutHeaders": {"x": {"prefix": "a"}}}],
         [{"withoutHeaders": {"x": {"prefix": "a"}}}]),
        ([{"withoutHeaders": {"x": {"exact": "1"}}}], [{"withoutHeaders": {"x": {}}}], [{"withoutHeaders": {"x": {}}}]),
        ([{"sourceLabels": {"app": "a"}}], [{"sourceLabels": {"v": "1"}}], [{"sourceLabels": {"app": "a", "v": "1"}}]),
        ([{"sourceLabels": {"app": "a"}}], [{"sourceLabels": {"app": "a"}}], [{"sourceLabels": {"app": "a"}}]),
        ([{"sourceNamespace": "a"}], [{"port": 80}], [{"sourceNamespace": "a", "port": 80}]),
        ([{"port": 80}], [{"sourceNamespace": "a"}], [{"sourceNamespace": "a", "port": 80}]),
        ([{"gateways": ["n/a", "mesh"]}], [{"gateways": ["mesh"]}], [{"gateways": ["mesh"]}]),
        ([{"gateways": ["n/a"]}], [{"port": 80}], [{"gateways": ["n/a"], "port": 80}]),
        ([{"port": 80}], [{"gateways": ["n/a"]}], [{"gateways": ["n/a"], "port": 80}]),
        # each with each
        ([{"uri": {"prefix": "/a"}}, {"method": {"exact": "GET"}}], [{"uri": {"prefix": "/a/b"}}],
         [{"uri": {"prefix": "/a/b"}}, {"uri": {"prefix": "/a/b"}, "method": {"exact": "GET"}}]),
        # wider, or beside
        ([{"uri": {"prefix": "/a/b"}}], [{"uri": {"prefix": "/a"}}], None),
        ([{"uri": {"exact": "/a"}}], [{"uri": {"prefix": "/a"}}], None),
        ([{"uri": {"exact": "/a"}}], [{"uri": {"exact": "/b"}}], None),
        ([{"uri": {"regex": "/a.*"}}], [{"uri": {"exact": "/ab"}}], None),
        ([{"uri": {"prefix": "/a"}}], [{"uri": {"regex": "/a.*"}}], None),
        ([{"uri": {"prefix": "/a"}, "ignoreUriCase": True}], [{"uri": {"prefix": "/a"}}], None),
        ([{"method": {"exact": "GET"}}], [{"method": {"exact": "POST"}}], None),
        ([{"headers": {"x": {"exact": "1"}}}], [{"headers": {"x": {"exact": "2"}}}], None),
        ([{"headers": {"x": {"exact": "1"}}}], [{"withoutHeaders": {"x": {"exact": "2"}}}], None),
        ([{"queryParams": {"q": {"exact": "1"}}}], [{"queryParams": {"q": {"exact": "2"}}}], None),
        ([{"port": 80}], [{"port": 81}], None),
        ([{"withoutHeaders": {"x": {"exact": "1"}}}], [{"withoutHeaders": {"x": {"exact": "2"}}}], None),
        ([{"withoutHeaders": {"x": {"prefix": "a"}}}], [{"withoutHeaders": {"x": {"exact": "ab"}}}], None),
        ([{"withoutHeaders": {"x": {}}}], [{"withoutHeaders": {"x": {"exact": "1"}}}], None),
        ([{"sourceLabels": {"app": "a"}}], [{"sourceLabels": {"app": "b"}}], None),
        ([{"sourceNamespace": "a"}], [{"sourceNamespace": "b"}], None),
        ([{"gateways": ["n/a"]}], [{"gateways": ["mesh"]}], None),
        ([{"gateways": ["n/a"]}], [{"gateways": ["n/a", "n/b"]}], None),
        # one of its matches is enough to leave the rule out
        ([{"uri": {"prefix": "/a"}}], [{"uri": {"prefix": "/a/b"}}, {"uri": {"prefix": "/c"}}], None),
    ],
)  # fmt: skip
def test_matches(root: list[object], own: list[object], expected: list[object] | None) -> None:
    found = joined_rule(route(match=root, delegate={"name": "d"}), route(match=own, **TO))
    assert (found.match if found is not None else None) == (
        route(match=expected, **TO).match if expected is not None else None
    )


def test_gateways_are_compared_by_their_full_names() -> None:
    root = virtual_service(
        "root",
        "{hosts: [shop], gateways: [mesh, edge], "
        "http: [{match: [{gateways: [edge, mesh]}], delegate: {name: r, namespace: team}}]}",
    )
    rule = "{match: [{gateways: [%s]}], directResponse: {status: 200}}"
    rules = ", ".join(rule % gateway for gateway in ("edge", "default/edge", "edge.default", "mesh"))
    mesh = mesh_of(SERVICES + root + virtual_service("r", f"{{http: [{rules}]}}", "team"))
    found = [(http.name, *(match.gateways for match in http.match)) for http in rules_of(mesh)]
    assert found == [
        ("team/r.http[1]", ("default/edge",)),
        ("team/r.http[2]", ("default/edge",)),
        ("team/r.http[3]", ("mesh",)),
    ]
    [rule_of_host] = seen(mesh)
    assert [item.path for item in delegation_findings(rule_of_host)] == ["spec.http[0].match"]


def test_names_are_joined() -> None:
    found = joined_rule(
        route(name="root", match=[{"name": "m", "uri": {"prefix": "/"}}]),
        route(name="own", match=[{"name": "n", "uri": {"prefix": "/a"}}], **TO),
    )
    assert found is not None
    assert (found.name, found.match[0].name) == ("root-own", "m-n")


def test_what_the_delegate_leaves_open_the_root_says() -> None:
    root = route(
        delegate={"name": "d"}, timeout="3s", retries={"attempts": 1}, rewrite={"uri": "/x"}, mirror={"host": "m"},
        fault={"abort": {"httpStatus": 500}}, corsPolicy={"allowMethods": ["GET"]},
        headers={"request": {"remove": ["x"]}}, mirrorPercentage={"value": 10},
    )  # fmt: skip
    found = joined_rule(root, route(**TO))
    assert found is not None
    taken = ("timeout", "retries", "rewrite", "fault", "cors_policy", "headers", "mirror", "mirror_percentage")
    assert all(getattr(found, name) == getattr(root, name) for name in taken)
    own = route(
        timeout="1s",
        retries={"attempts": 0},
        rewrite={"authority": "b"},
        mirrors=[{"destination": {"host": "o"}}],
        **TO,
    )
    found = joined_rule(root, own)
    assert found is not None
    assert (found.timeout, found.retries, found.rewrite) == (own.timeout, own.retries, own.rewrite)
    assert (found.mirror, found.mirrors, found.mirror_percentage) == (None, own.mirrors, None)


def test_a_rule_that_answers_itself_takes_over_what_answers_can_have() -> None:
    found = joined_rule(route(timeout="3s", rewrite={"uri": "/x"}, fault={}, mirror={"host": "m"}), route(**DIRECT))
    assert found is not None
    assert (found.rewrite, found.fault, found.mirror, found.timeout) == (None, None, None, 3)
