"""RequestAuthentications and AuthorizationPolicies: whom they guard, and what a port makes of what it cannot test."""

from typing import Any

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpRbac
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRbac

from controlplane.compiler.compile import Compiler
from controlplane.compiler.filters.rbac_rules import Site, rule_policy
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.proxy import Proxy
from controlplane.policy.authorization_policy import Rule
from controlplane.policy.jwks import NOBODYS_JWKS
from controlplane.settings import MeshSettings
from mesh.vocabulary import Dialect, ObjectRef
from mesh.xds import type_url
from tests.support.compiling import SETTINGS, agent, fold, instance, mesh_of, proxy_of, put

SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {selector: {app: cart}, ports: [{port: 80}]}\n---\n"
)
ANYBODY = "{rules: [{}]}"
_GUARDS = ("rbac", "jwt", "ext_authz")


def policy(name: str, spec: str, namespace: str = "default", kind: str = "AuthorizationPolicy") -> str:
    return (
        f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {spec}\n---\n"
    )


def guarded(text: str, *, protocol: str = "HTTP", settings: MeshSettings = SETTINGS) -> MeshState:
    """One instance of cart on node-1 and these policies."""
    ports = [{"name": "p", "port": 3001, "protocol": protocol, "inbound_port": 20000}]
    return put(mesh_of(SERVICE + text, settings=settings), instance("cart-1", service="cart", ports=ports))


def inbound(mesh: MeshState, proxy: Proxy | None = None) -> Listener:
    compiled = Compiler().compile_proxy(mesh, proxy or agent())
    found = compiled.resources[type_url.LISTENER]
    return Listener.FromString(next(item.body for name, item in found.items() if "20000" in name or "80" in name))


def http_filters(mesh: MeshState, proxy: Proxy | None = None) -> list[Any]:
    listener = inbound(mesh, proxy)
    managers = []
    for chain in listener.filter_chains:
        manager = HttpConnectionManager()
        assert chain.filters[-1].typed_config.Unpack(manager)
        managers.append([item for item in manager.http_filters if any(one in item.name for one in _GUARDS)])
    assert all(item == managers[0] for item in managers), "every chain of a port has the same guards"
    return managers[0]


def rules_of(mesh: MeshState, proxy: Proxy | None = None) -> dict[str, str]:
    """Name of each rule -> its action."""
    found: dict[str, str] = {}
    for item in http_filters(mesh, proxy):
        message = HttpRbac()
        if item.typed_config.Unpack(message):
            found |= {name: RBAC.Action.Name(message.rules.action) for name in message.rules.policies}
    return found


def names(mesh: MeshState) -> set[str]:
    return {name.partition("policy[")[2].partition("]")[0] for name in rules_of(mesh)}


def test_who_is_guarded_by_what() -> None:
    text = "".join(
        (
            policy("everywhere", ANYBODY, "istio-system"),
            policy("selected-everywhere", "{selector: {matchLabels: {app: cart}}, rules: [{}]}", "istio-system"),
            policy("others-everywhere", "{selector: {matchLabels: {app: x}}, rules: [{}]}", "istio-system"),
            policy("namespace", ANYBODY),
            policy("selected", "{selector: {matchLabels: {app: cart}}, rules: [{}]}"),
            policy("others", "{selector: {matchLabels: {app: x}}, rules: [{}]}"),
            policy("service", "{targetRefs: [{kind: Service, name: cart}], rules: [{}]}"),
            policy("other-service", "{targetRefs: [{kind: Service, name: orders}], rules: [{}]}"),
            policy("gateway", "{targetRefs: [{kind: Gateway, name: cart}], rules: [{}]}"),
            policy("elsewhere", ANYBODY, "shop"),
        )
    )
    assert names(guarded(text)) == {"everywhere", "selected-everywhere", "namespace", "selected", "service"}


def test_without_policies_nothing_stands_there() -> None:
    assert http_filters(guarded("")) == []


def test_a_policy_that_comes_and_goes_reaches_its_ports_alone() -> None:
    mesh = guarded("")
    mesh = put(mesh, instance("user-1", node="node-2", service="user"))
    compiler, proxies = Compiler(), {node: agent(node) for node in ("node-1", "node-2")}
    first = {node: compiler.compile_proxy(mesh, proxy) for node, proxy in proxies.items()}
    before = compiler.builds.copy()
    mesh = fold(mesh, policy("a", "{selector: {matchLabels: {app: cart}}, rules: [{}]}").removesuffix("---\n"))
    again = {node: compiler.compile_proxy(mesh, proxy) for node, proxy in proxies.items()}
    assert again["node-2"] is first["node-2"]
    assert again["node-1"] is not first["node-1"]
    assert (compiler.builds - before)["Listener"] == 1
    ref = ObjectRef("security.istio.io", "AuthorizationPolicy", "default", "a")
    gone = mesh.with_changes(Changes(revision=mesh.revision + 1, deleted_objects=(ref,)))
    assert http_filters(gone) == []


def test_no_rules_match_nobody() -> None:
    """ALLOW without rules denies everything; an action of its own keeps its order."""
    mesh = guarded(
        policy("none", "{}") + policy("deny", "{action: DENY, rules: [{}]}") + policy("audit", "{action: AUDIT}")
    )
    found = rules_of(mesh)
    assert list(found.values()) == ["LOG", "DENY", "ALLOW"]


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    "written",
    [
        {"when": [{"key": "connection.sni", "values": ["a"]}]},
        {"from": [{"source": {"requestPrincipals": ["i/s"]}}]},
        {"from": [{"source": {"notRequestPrincipals": ["i/s"]}}]},
        {"to": [{"operation": {"hosts": ["a"], "ports": ["3001"]}}]},
        {"to": [{"operation": {"notPaths": ["/a/{*}"]}}]},
        {"to": [{"operation": {"methods": ["GET"]}}, {"operation": {"ports": ["3001"]}}]},
        {"when": [{"key": "request.headers[grpc-x]", "notValues": ["a"]}]},
        {"when": [{"key": "request.auth.claims[a]", "values": ["b"]}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("http", [False, True])
def test_what_cannot_be_tested_never_lets_in(dialect: Dialect, wide: bool, written: Any, http: bool) -> None:
    """ALLOW loses the rule, DENY the condition; never the other way round."""
    site = Site(dialect=dialect, port=3001, http=http)
    made = rule_policy(Rule.model_validate(written), "default", site, wide=wide)
    full = rule_policy(
        Rule.model_validate(written), "default", Site(dialect=Dialect.ENVOY, port=3001, http=True), wide=wide
    )
    assert full.problems == ()
    if not made.problems:
        assert made.policy == full.policy
    elif wide:
        assert made.policy is not None
        assert made.policy.ByteSize() < full.policy.ByteSize()  # type: ignore[union-attr]
    else:
        assert made.policy is None


def test_ports_are_those_of_the_workload() -> None:
    """On the wire the port is another; where the filter stands there is but one."""
    mesh = guarded(policy("a", '{action: DENY, rules: [{to: [{operation: {ports: ["3001"]}}]}]}'))
    message = HttpRbac()
    assert http_filters(mesh)[0].typed_config.Unpack(message)
    (found,) = message.rules.policies.values()
    assert found.permissions[0].any
    other = guarded(policy("a", '{action: DENY, rules: [{to: [{operation: {ports: ["20000"]}}]}]}'))
    assert http_filters(other)[0].typed_config.Unpack(message)
    (found,) = message.rules.policies.values()
    assert found.permissions[0].not_rule.any


def test_a_tcp_port_has_network_filters() -> None:
    text = policy("deny", "{action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}")
    text += policy(
        "allow", "{rules: [{to: [{operation: {paths: [/a]}}]}, {from: [{source: {namespaces: [default]}}]}]}"
    )
    listener = inbound(guarded(text, protocol="TCP"))
    for chain in listener.filter_chains:
        deny, allow = NetworkRbac(), NetworkRbac()
        assert chain.filters[0].typed_config.Unpack(deny)
        assert chain.filters[1].typed_config.Unpack(allow)
        (wider,) = deny.rules.policies.values()
        assert wider.permissions[0].any
        assert wider.principals[0].any
        assert [name[-2] for name in allow.rules.policies] == ["1"], "the rule of requests allows no connection"


def test_a_custom_policy_of_nobody_denies_everything() -> None:
    custom = "{action: CUSTOM, provider: {name: absent}, rules: [{to: [{operation: {paths: [/a]}}]}]}"
    assert rules_of(guarded(policy("a", custom))) == {"default-deny-all-due-to-bad-CUSTOM-action": "DENY"}


def test_two_providers_deny_everything() -> None:
    http = {"service": "s.default.svc.cluster.local", "port": 80}
    providers = [{"name": name, "envoyExtAuthzHttp": http} for name in ("one", "two")]
    settings = MeshSettings.model_validate({"extension_providers": providers})
    text = "".join(
        policy(name, f"{{action: CUSTOM, provider: {{name: {name}}}, rules: [{{}}]}}") for name in ("one", "two")
    )
    assert set(rules_of(guarded(text, settings=settings))) == {"default-deny-all-due-to-bad-CUSTOM-action"}


@pytest.mark.parametrize(
    ("protocol", "user_agent", "what"),
    [
        ("HTTP", "gossamer-agent", "everything is denied"),
        ("TCP", "gossamer-agent", "what it matches is denied"),
        ("TCP", "gRPC C-core", "everything is denied"),
    ],
)
def test_what_is_denied_without_a_provider_is_told(protocol: str, user_agent: str, what: str) -> None:
    """A bytes port denies what the rules match; a gRPC server's port carries calls, whatever is said of it."""
    proxy = proxy_of({"id": "node-1", "userAgentName": user_agent}, delta=False)
    mesh = guarded(
        policy("asked", "{action: CUSTOM, provider: {name: nobody}, rules: [{to: [{operation: {ports: ['80']}}]}]}"),
        protocol=protocol,
    )
    [condition] = Compiler().compile_proxy(mesh, proxy).conditions
    assert condition.message.endswith(f"no extension provider of that name: {what}")


@pytest.mark.parametrize("kind", ["envoyExtAuthzHttp", "envoyExtAuthzGrpc"])
@pytest.mark.parametrize(
    ("protocol", "user_agent", "told"),
    [
        ("HTTP", "gossamer-agent", ""),
        ("HTTP", "envoy", ""),
        ("TCP", "gossamer-agent", "extension providers are asked about HTTP requests only: what it matches is denied"),
        ("HTTP", "gRPC C-core", "gRPC servers ask no extension provider: what it matches is denied"),
    ],
)
def test_where_a_provider_is_asked(kind: str, protocol: str, user_agent: str, told: str) -> None:
    """Agents and Envoys ask over HTTP and gRPC, and show a body; what cannot be asked about is denied, and told."""
    body = {"maxRequestBytes": 64, "allowPartialMessage": True, "packAsBytes": True}
    own = {"service": "cart.default.svc.cluster.local", "port": 80, "includeRequestBodyInCheck": body}
    settings = MeshSettings.model_validate({"extension_providers": [{"name": "asker", kind: own}]})
    mesh = guarded(
        policy("asked", "{action: CUSTOM, provider: {name: asker}, rules: [{to: [{operation: {ports: ['80']}}]}]}"),
        protocol=protocol,
        settings=settings,
    )
    proxy = proxy_of({"id": "node-1", "userAgentName": user_agent}, delta=False)
    found = [item.message for item in Compiler().compile_proxy(mesh, proxy).conditions if item.type == "NotEnforced"]
    if told:
        assert len(found) == 1
        assert found[0].endswith(told)
        return
    assert found == []
    message = ExtAuthz()
    assert http_filters(mesh, proxy)[1].typed_config.Unpack(message)
    shown = message.with_request_body
    assert (shown.max_request_bytes, shown.allow_partial_message, shown.pack_as_bytes) == (64, True, True)
    assert message.WhichOneof("services") == ("grpc_service" if kind.endswith("Grpc") else "http_service")


def test_keys_come_when_they_are_fetched() -> None:
    text = policy("a", "{jwtRules: [{issuer: 'https://i', jwksUri: 'https://i/k'}]}", kind="RequestAuthentication")
    mesh = guarded(text)
    compiler = Compiler()

    def keys(state: MeshState) -> str:
        message = JwtAuthentication()
        assert http_filters(state)[0].typed_config.Unpack(message)
        return message.providers["origins-0"].local_jwks.inline_string

    assert keys(mesh) == NOBODYS_JWKS
    assert [item.reason for item in compiler.conditions(mesh)] == ["KeysNotFetched"]
    fetched = mesh.with_changes(Changes(revision=mesh.revision, jwks=(("https://i/k", "{}"),)))
    assert keys(fetched) == "{}"
    assert compiler.conditions(fetched) == ()


def test_gateways_are_guarded_by_name() -> None:
    text = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
"""
    text += policy("named", "{targetRefs: [{kind: Gateway, name: public}], rules: [{}]}")
    text += policy("other", "{targetRefs: [{kind: Gateway, name: other}], rules: [{}]}")
    text += policy("labelled", "{selector: {matchLabels: {istio: ingressgateway}}, rules: [{}]}")
    proxy = agent("edge", GATEWAY=True, GATEWAY_ADDRESS="0.0.0.0", LABELS={"istio": "ingressgateway"})
    assert {name.partition("policy[")[2].partition("]")[0] for name in rules_of(mesh_of(SERVICE + text), proxy)} == {
        "named",
        "labelled",
    }
