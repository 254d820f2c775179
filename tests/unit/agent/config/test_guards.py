"""RBAC, JWT and external authorization on the wire: what is refused rather than passed over, with its place."""

from typing import Any

import pytest

from agent.model.ext_authz import RouteAuthorization, ShownBody
from agent.model.jwt import MayMiss, NeedsAll, NeedsAny, NeedsToken
from agent.model.matchers import MatchKind
from agent.model.rbac import Action
from mesh.xds import type_url
from tests.support.decoding import (
    ROUTER,
    Json,
    host_refusal,
    host_value,
    listener,
    manager_refusal,
    manager_value,
    refusal,
    tcp,
    typed,
    value,
)

JWKS = '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"}]}'
BEYOND = "the agent does not enforce it"


def _filter(kind: str, **fields: Any) -> Json:
    return {"name": "f", "typed_config": typed(f"filters.http.{kind}", **fields)}


def rbac(**rules: Any) -> Json:
    return _filter("rbac.v3.RBAC", rules=rules)


def rule(permission: Json | None = None, principal: Json | None = None) -> Json:
    found = {"permissions": [permission or {"any": True}], "principals": [principal or {"any": True}]}
    return rbac(action="DENY", policies={"p": found})


EVERYBODY = {"permissions": [{"any": True}], "principals": [{"any": True}]}


def jwt(requires: Json | None = None, provider: Json | None = None, **fields: Any) -> Json:
    own = {"issuer": "i", "local_jwks": {"inline_string": JWKS}, **(provider or {})}
    rules = [{"match": {"prefix": "/"}, "requires": requires or {"provider_name": "p"}}]
    return _filter("jwt_authn.v3.JwtAuthentication", **{"providers": {"p": own}, "rules": rules, **fields})


def asks(service: Json | None = None, **fields: Any) -> Json:
    server = {"uri": "http://a", "cluster": "c", "timeout": "1s"}
    return _filter("ext_authz.v3.ExtAuthz", http_service={"server_uri": server, **(service or {})}, **fields)


def asks_grpc(service: Json | None = None, **fields: Any) -> Json:
    service = {"envoy_grpc": {"cluster_name": "c"}, **(service or {})}
    if "google_grpc" in service:
        del service["envoy_grpc"]
    return _filter("ext_authz.v3.ExtAuthz", grpc_service=service, **fields)


def config(one: Json) -> Any:
    return manager_value(http_filters=[one, ROUTER]).filters[0].config


def test_what_is_read() -> None:
    rules = config(
        rbac(
            action="LOG",
            policies={
                "b": {"permissions": [{"any": True}], "principals": [{"any": True}]},
                "a": {"permissions": [{"any": True}], "principals": [{"any": True}]},
            },
        )
    ).rules
    assert rules.action is Action.LOG
    assert [own.name for own in rules.policies] == ["a", "b"]
    every = {"requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing": {}}]}}
    needs = config(jwt({"requires_all": {"requirements": [every, {"allow_missing_or_failed": {}}]}})).rules[0].requires
    assert needs == NeedsAll(
        requirements=(NeedsAny(requirements=(NeedsToken(provider="p"), MayMiss())), MayMiss(failed=True))
    )
    asking = config(
        asks(
            {"path_prefix": "/x", "authorization_response": {"allowed_client_headers": {"patterns": [{"exact": "a"}]}}}
        )
    )
    assert (asking.cluster, asking.timeout_s, asking.path_prefix, asking.status_on_error) == ("c", 1.0, "/x", 403)
    assert [own.kind for own in asking.to_client] == [MatchKind.EXACT]
    assert config(asks()).to_client is None


def test_asking_over_grpc() -> None:
    asking = config(
        asks_grpc(
            {
                "envoy_grpc": {"cluster_name": "c", "authority": "authz"},
                "timeout": "3s",
                "initial_metadata": [{"key": "X-From", "value": "mesh"}],
            },
            with_request_body={"max_request_bytes": 10, "allow_partial_message": True, "pack_as_bytes": True},
            failure_mode_allow=True,
            failure_mode_allow_header_add=True,
            include_peer_certificate=True,
            metadata_context_namespaces=["a"],
            validate_mutations=True,
            disallowed_headers={"patterns": [{"exact": "cookie"}]},
        )
    )
    assert (asking.grpc, asking.cluster, asking.authority, asking.timeout_s) == (True, "c", "authz", 3.0)
    assert asking.call_headers == (("x-from", "mesh"),)
    assert asking.body == ShownBody(max_bytes=10, partial=True, as_bytes=True)
    assert (asking.fail_open, asking.mark_failure, asking.certificate, asking.validates) == (True, True, True, True)
    assert asking.metadata == ("a",)
    assert asking.request_headers is None, "all"
    assert len(asking.disallowed_headers) == 1
    few = config(asks_grpc(allowed_headers={"patterns": [{"exact": "a"}]}))
    assert len(few.request_headers) == 1
    assert (few.timeout_s, few.body) == (0.2, None)


def test_what_routes_say_of_asking() -> None:
    name = "envoy.filters.http.ext_authz"
    settings = {"context_extensions": {"b": "2", "a": "1"}, "disable_request_body_buffering": True}
    said = typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", check_settings=settings)
    (found,) = host_value(typed_per_filter_config={name: said}).filters
    assert found.config == RouteAuthorization(without_body=True, context=(("a", "1"), ("b", "2")))
    off = typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", disabled=True)
    assert host_value(typed_per_filter_config={name: off}).filters[0].config == RouteAuthorization(disabled=True)
    more = typed(
        "filters.http.ext_authz.v3.ExtAuthzPerRoute", check_settings={"with_request_body": {"max_request_bytes": 1}}
    )
    assert "check_settings.with_request_body: found a value" in host_refusal(typed_per_filter_config={name: more})


def _deep(levels: int) -> Json:
    found: Json = {"any": True}
    for _ in range(levels):
        found = {"not_rule": found}
    return found


_P = 'rules.policies["p"]'


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (rule({"any": False}), f"{_P}.permissions[0].any: found False, expected True"),
        (rule({"requested_server_name": {"exact": "a"}}), f"{_P}.permissions[0].requested_server_name"),
        (rule(None, {"source_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}), "source_ip: found source_ip"),
        (rule(None, {"filter_state": {"key": "a", "string_match": {"exact": "a"}}}), "filter_state: found filter_st"),
        (rule({"destination_ip": {"address_prefix": "x"}}), f"{_P}.permissions[0].destination_ip: found 'x/0'"),
        (rule({"header": {"name": "a", "string_match": {"safe_regex": {"regex": "("}}}}), "an RE2 pattern"),
        (rule({"metadata": {"filter": "f", "path": [{"key": "k"}], "value": {"double_match": {"exact": 1}}}}),
         "double_match: found double_match"),
        (rule(_deep(40)), "expected at most 32 levels"),
        (rule({"uri_template": {"name": "t", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "path_template": "/a/{b=*}"}}}), "expected literal characters, * or **"),
        (rbac(action="DENY", policies={"p": {"permissions": [{"any": True}], "principals": [{"any": True}],
                                             "condition": {}}}), "condition: found a value"),
        (_filter("rbac.v3.RBAC", matcher={}), "matcher: found a value"),
        (jwt({"provider_name": "q"}), "rules[0].requires.provider_name: found 'q', expected the name of a provider"),
        (jwt(provider={"local_jwks": {"inline_string": "nonsense"}}), "inline_string: found something that is no JSON"),
        (jwt(provider={"local_jwks": {"filename": "/x"}}), "local_jwks.filename: found '/x'"),
        (jwt(provider={"local_jwks": {"inline_string": '{"keys": [{"kty": "oct"}, {"kty": "RSA"}]}'}}),
         "found oct keys beside asymmetric ones"),
        (jwt(provider={"subjects": {"exact": "a"}}), "subjects: found a value"),
        (jwt(provider={"max_lifetime": "1s"}), "max_lifetime: found a value"),
        (jwt(filter_state_rules={"name": "a"}), "filter_state_rules: found a value"),
        (jwt(rules=[{"match": {"prefix": "/", "query_parameters": [{"name": "a"}]}}]), "query_parameters: found"),
        (asks(include_peer_certificate=True), "include_peer_certificate: found True"),
        (asks(metadata_context_namespaces=["a"]), "metadata_context_namespaces: found an entry"),
        (asks(with_request_body={"max_request_bytes": 4194305}),
         "with_request_body.max_request_bytes: found 4194305, expected at most 4194304"),
        (asks({"path_prefix": "x"}), "http_service.path_prefix: found 'x', expected a path that begins with /"),
        (asks({"retry_policy": {}}), "http_service.retry_policy: found a value"),
        (_filter("ext_authz.v3.ExtAuthz"), "services"),
        (asks_grpc({"google_grpc": {"target_uri": "a", "stat_prefix": "s"}}),
         "grpc_service.google_grpc: found a value"),
        (asks_grpc({"retry_policy": {"num_retries": 1}}), "grpc_service.retry_policy: found a value"),
        (asks_grpc({"envoy_grpc": {"cluster_name": "c", "skip_envoy_headers": True}}),
         "grpc_service.envoy_grpc.skip_envoy_headers: found True"),
        (asks_grpc({"initial_metadata": [{"key": "a", "value": "%DATE%"}]}), "initial_metadata[0]: found '%DATE%'"),
        (asks_grpc({"initial_metadata": [{"key": "x y", "value": "a"}]}), "initial_metadata[0]: found 'x y'"),
        (asks_grpc({"initial_metadata": [{"key": "x-bin", "value": "a"}]}), "initial_metadata[0]: found 'x-bin'"),
        (asks_grpc({"initial_metadata": [{"key": "x", "value": "\u00e4"}]}), "initial_metadata[0]: found 'x'"),
        (asks_grpc(include_tls_session=True), "include_tls_session: found True"),
        (asks_grpc(encode_raw_headers=True), "encode_raw_headers: found True"),
    ],
)  # fmt: skip
def test_refused(one: Json, said: str) -> None:
    assert said in manager_refusal(http_filters=[one, ROUTER])


def test_remote_keys_are_not_fetched() -> None:
    remote = {"http_uri": {"uri": "http://k", "cluster": "c", "timeout": "1s"}}
    rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]
    one = _filter("jwt_authn.v3.JwtAuthentication", providers={"p": {"remote_jwks": remote}}, rules=rules)
    assert BEYOND in manager_refusal(http_filters=[one, ROUTER])


def _network(**rules: Any) -> Json:
    return {"name": "r", "typed_config": typed("filters.network.rbac.v3.RBAC", stat_prefix="s", rules=rules)}


def test_guards_of_connections() -> None:
    any_one = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    made = value(type_url.LISTENER, listener({"filters": [_network(policies={"p": any_one}), tcp()]}))
    (chain,) = made.filter_chains
    assert [own.rbac.rules.policies[0].name for own in chain.guards] == ["p"]
    of_requests = {**any_one, "permissions": [{"url_path": {"path": {"exact": "/"}}}]}
    said = refusal(type_url.LISTENER, listener({"filters": [_network(policies={"p": of_requests}), tcp()]}))
    assert "expected conditions of connections" in said
