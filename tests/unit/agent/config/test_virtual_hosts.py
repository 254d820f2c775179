"""RouteConfigurations and virtual hosts."""

from typing import Any

import pytest

from mesh.xds import type_url
from tests.support.decoding import ADS, configuration, host, host_refusal, host_value, refusal, route, value

BEYOND = "expected it unset: the agent does not enforce it"


def test_a_virtual_host() -> None:
    found = host_value(
        route(name="first", stat_prefix="s", decorator={"operation": "o"}, metadata={}),
        route(name="second"),
        domains=["A.example.com", "*.b", "c.*"],
        include_request_attempt_count=True,
        include_attempt_count_in_response=True,
        virtual_clusters=[{"name": "v"}],
    )
    assert found.name == "r/h"
    assert found.domains == ("A.example.com", "*.b", "c.*")
    assert [one.name for one in found.routes] == ["first", "second"]
    assert found.include_attempt_count
    assert found.include_attempt_count_in_response


def test_no_routes_are_good() -> None:
    assert value(type_url.VIRTUAL_HOST, {"name": "r/h", "domains": ["a"]}).routes == ()


def test_a_configuration() -> None:
    made = configuration(
        host(domains=["a"]),
        host(domains=["b"]),
        internal_only_headers=["X-Own"],
        most_specific_header_mutations_wins=True,
        ignore_port_in_host_matching=True,
        validate_clusters=True,
        max_direct_response_body_size_bytes=1,
    )
    found = value(type_url.ROUTE_CONFIGURATION, made)
    assert [one.domains for one in found.virtual_hosts] == [("a",), ("b",)]
    assert not found.vhds
    assert found.internal_only_headers == ("x-own",)
    assert found.most_specific_header_mutations_wins
    assert found.ignore_port_in_host


def test_virtual_hosts_by_name() -> None:
    found = value(type_url.ROUTE_CONFIGURATION, configuration(vhds={"config_source": ADS}))
    assert found.vhds
    assert found.virtual_hosts == ()


def answer(body: str) -> dict[str, Any]:
    return {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": body}}}


def test_the_limit_on_bodies_is_4096_bytes() -> None:
    value(type_url.ROUTE_CONFIGURATION, configuration(host(answer("x" * 4096))))
    assert refusal(type_url.ROUTE_CONFIGURATION, configuration(host(route(), answer("x" * 4097)))) == (
        "virtual_hosts[0].routes[1].direct_response.body: found 4097 bytes, expected at most 4096"
    )


def test_the_limit_on_bodies_can_be_set() -> None:
    made = configuration(host(answer("xx")), max_direct_response_body_size_bytes=1)
    assert refusal(type_url.ROUTE_CONFIGURATION, made) == (
        "virtual_hosts[0].routes[0].direct_response.body: found 2 bytes, expected at most 1"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"require_tls": "EXTERNAL_ONLY"},
            "require_tls: found EXTERNAL_ONLY, expected NONE or ALL: the agent does not enforce it",
        ),
        ({"require_tls": 99}, "require_tls: found 99, expected a TlsRequirementType"),
        ({"cors": {}}, f"cors: found a value, {BEYOND}"),
        ({"hedge_policy": {"initial_requests": 2}}, f"hedge_policy.initial_requests: found 2, {BEYOND}"),
        ({"include_is_timeout_retry_header": True}, f"include_is_timeout_retry_header: found True, {BEYOND}"),
        ({"per_request_buffer_limit_bytes": 5}, f"per_request_buffer_limit_bytes: found 5, {BEYOND}"),
        ({"domains": ["a", "A"]}, "domains[1]: found 'A', expected each domain once"),
        ({"domains": []}, "domains: found 0 entries, expected at least 1"),
        ({"name": ""}, "name: found '', expected at least 1 characters"),
        (
            {"typed_per_filter_config": {"f": {"@type": "type.googleapis.com/google.protobuf.Empty"}}},
            'typed_per_filter_config["f"]: found google.protobuf.Empty, expected one of '
            "envoy.extensions.filters.http.cors.v3.CorsPolicy, "
            "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, "
            "envoy.extensions.filters.http.fault.v3.HTTPFault, "
            "mesh.api.v1.BulkheadPerRoute, mesh.api.v1.CircuitBreakerPerRoute: the agent does not enforce it",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_hosts(fields: dict[str, Any], expected: str) -> None:
    assert refusal(type_url.VIRTUAL_HOST, host(**fields), "r/h") == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"request_body_buffer_limit": 7}, f"request_body_buffer_limit: found 7, {BEYOND}"),
        (
            {"typed_per_filter_config": {"f": {"@type": "type.googleapis.com/google.protobuf.Empty"}}},
            'typed_per_filter_config["f"]: found google.protobuf.Empty, expected one of '
            "envoy.extensions.filters.http.cors.v3.CorsPolicy, "
            "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, "
            "envoy.extensions.filters.http.fault.v3.HTTPFault, "
            "mesh.api.v1.BulkheadPerRoute, mesh.api.v1.CircuitBreakerPerRoute: the agent does not enforce it",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_routes(fields: dict[str, Any], expected: str) -> None:
    assert host_refusal(route(), route(**fields)) == f"routes[1].{expected}"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            configuration(host(domains=["a"]), host(domains=["b", "A"])),
            "virtual_hosts[1].domains[1]: found 'A', expected a domain that virtual_hosts[0] does not have",
        ),
        (
            configuration(vhds={"config_source": {"path": "/x"}}),
            "vhds.config_source: found path, expected ads: the agent does not enforce it",
        ),
        (configuration(vhds={}), "vhds.config_source: found unset, expected a value"),
        (configuration(vhost_header="x"), f"vhost_header: found 'x', {BEYOND}"),
        (
            configuration(request_mirror_policies=[{"cluster": "m"}]),
            f"request_mirror_policies: found an entry, {BEYOND}",
        ),
        (
            configuration(ignore_path_parameters_in_path_matching=True),
            f"ignore_path_parameters_in_path_matching: found True, {BEYOND}",
        ),
    ],
    ids=lambda value: str(value)[:80],
)
def test_refused_configurations(made: dict[str, Any], expected: str) -> None:
    assert refusal(type_url.ROUTE_CONFIGURATION, made) == expected
