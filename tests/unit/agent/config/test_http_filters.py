"""HTTP filters of a connection manager and of routes."""

from typing import Any

import pytest

from agent.model.cors import CorsPolicy
from agent.model.fault import Abort, Delay, Fault
from agent.model.http_filters import NO_CORS, NO_FAULT, HttpFilter, RouteFilter
from mesh.xds import type_url
from tests.support.decoding import (
    PREFIX,
    ROUTER,
    configuration,
    host_refusal,
    host_value,
    manager_refusal,
    manager_value,
    route,
    typed,
    value,
)

CORS = {"name": "cors", "typed_config": typed("filters.http.cors.v3.Cors")}
FAULT = {"name": "fault", "typed_config": typed("filters.http.fault.v3.HTTPFault")}
CODEC = {"name": "codec", "typed_config": typed("filters.http.upstream_codec.v3.UpstreamCodec")}
UNKNOWN = {"name": "u", "typed_config": {"@type": f"{PREFIX}google.protobuf.Struct", "value": {}}}
BEYOND = "expected it unset: the agent does not enforce it"
HALF = {"numerator": 50}
DELAYS = typed("filters.http.fault.v3.HTTPFault", delay={"fixed_delay": "2s", "percentage": HALF})
ORIGINS = typed("filters.http.cors.v3.CorsPolicy", allow_origin_string_match=[{"exact": "http://a"}])


def router(*upstream: Any, **fields: Any) -> Any:
    return {
        "name": "r",
        "typed_config": typed("filters.http.router.v3.Router", upstream_http_filters=upstream, **fields),
    }


def wrapped(**fields: Any) -> Any:
    return {"@type": f"{PREFIX}envoy.config.route.v3.FilterConfig", **fields}


@pytest.mark.parametrize(
    "filters",
    [
        [{**UNKNOWN, "is_optional": True}, ROUTER],
        [{**UNKNOWN, "disabled": True}, ROUTER],
        [{"name": "r", "typed_config": typed("filters.http.router.v3.Router", dynamic_stats=True)}],
        [router(CODEC)],
        [router({**UNKNOWN, "is_optional": True}, CODEC)],
    ],
    ids=lambda filters: str(len(filters)),
)
def test_what_does_nothing(filters: list[Any]) -> None:
    assert manager_value(http_filters=filters) == manager_value()


def test_filters_keep_their_order_and_names() -> None:
    found = manager_value(http_filters=[CORS, {**FAULT, "disabled": True}, {**CORS, "name": "again"}, ROUTER])
    assert found.filters == (
        HttpFilter(name="cors", config=NO_CORS),
        HttpFilter(name="fault", config=NO_FAULT, disabled=True),
        HttpFilter(name="again", config=NO_CORS),
    )
    assert found.upstream_filters == ()


def test_filters_of_each_try() -> None:
    found = manager_value(http_filters=[router({**FAULT, "name": "tries"}, CODEC)])
    assert found.filters == ()
    assert found.upstream_filters == (HttpFilter(name="tries", config=NO_FAULT),)


def test_a_filter_of_all_routes() -> None:
    [found] = manager_value(http_filters=[{"name": "fault", "typed_config": DELAYS}, ROUTER]).filters
    assert found.config == Fault(delay=Delay(seconds=2.0, per_million=500_000))


def test_what_routes_say() -> None:
    per_filter = {
        "f": DELAYS,
        "c": wrapped(config=ORIGINS),
        "x": wrapped(config=UNKNOWN["typed_config"], is_optional=True),
    }
    found = host_value(route(typed_per_filter_config=per_filter), typed_per_filter_config={"f": wrapped(disabled=True)})
    assert found.filters == (RouteFilter(name="f", config=None),)
    cors, fault = found.routes[0].filters
    assert (cors.name, fault.name) == ("c", "f")
    assert isinstance(cors.config, CorsPolicy)
    assert [own.value for own in cors.config.allow_origins] == ["http://a"]
    assert isinstance(fault.config, Fault)


def test_what_a_configuration_says() -> None:
    found = value(type_url.ROUTE_CONFIGURATION, configuration(typed_per_filter_config={"f": DELAYS}))
    assert [own.name for own in found.filters] == ["f"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Fault()),
        (
            {"delay": {"header_delay": {}, "percentage": {"numerator": 7, "denominator": "TEN_THOUSAND"}}},
            Fault(delay=Delay(by_header=True, per_million=700, unit=100)),
        ),
        (
            {"abort": {"http_status": 503, "percentage": {"numerator": 1, "denominator": "MILLION"}}},
            Fault(abort=Abort(status=503, per_million=1, unit=1)),
        ),
        ({"abort": {"grpc_status": 0}}, Fault(abort=Abort(grpc_status=0))),
        (
            {"abort": {"header_abort": {}, "percentage": {"numerator": 200}}},
            Fault(abort=Abort(by_header=True, per_million=1_000_000)),
        ),
        (
            {"upstream_cluster": "c", "downstream_nodes": ["n"], "max_active_faults": 0},
            Fault(cluster="c", nodes=frozenset({"n"}), max_active=0),
        ),
    ],
    ids=lambda found: str(found)[:50],
)
def test_faults(fields: Any, expected: Fault) -> None:
    filters = [{"name": "fault", "typed_config": typed("filters.http.fault.v3.HTTPFault", **fields)}, ROUTER]
    [found] = manager_value(http_filters=filters).filters
    assert found.config == expected


def test_a_cors_policy() -> None:
    policy = typed(
        "filters.http.cors.v3.CorsPolicy", allow_methods="GET", allow_headers="x", expose_headers="y", max_age="7",
        allow_credentials=False, allow_private_network_access=True, forward_not_matching_preflights=False,
        filter_enabled={"default_value": {"numerator": 10}}, shadow_enabled={"default_value": HALF},
    )  # fmt: skip
    [found] = host_value(route(typed_per_filter_config={"cors": policy})).routes[0].filters
    assert found.config == CorsPolicy(
        allow_methods="GET",
        allow_headers="x",
        expose_headers="y",
        max_age="7",
        allow_credentials=False,
        allow_private_network=True,
        forward_unmatched=False,
        enabled_per_million=100_000,
        counted_per_million=500_000,
    )


_ROUTER_TYPE = "envoy.extensions.filters.http.router.v3.Router"
_FAULT_TYPE = "envoy.extensions.filters.http.fault.v3.HTTPFault"
_OF_ROUTES = (
    "one of envoy.extensions.filters.http.cors.v3.CorsPolicy, "
    f"envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, {_FAULT_TYPE}, "
    "mesh.api.v1.BulkheadPerRoute, mesh.api.v1.CircuitBreakerPerRoute"
)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], f"http_filters: found no router at the end, expected {_ROUTER_TYPE}"),
        ([ROUTER, CORS], f"http_filters: found no router at the end, expected {_ROUTER_TYPE}"),
        ([{**ROUTER, "disabled": True}], f"http_filters: found no router at the end, expected {_ROUTER_TYPE}"),
        ([ROUTER, ROUTER], f"http_filters[0].typed_config: found {_ROUTER_TYPE}, expected it only at the end"),
        (
            [UNKNOWN, ROUTER],
            f"http_filters[0].typed_config: found google.protobuf.Struct, expected {_ROUTER_TYPE}: "
            "the agent does not enforce it",
        ),
        (
            [
                {
                    "name": "fault",
                    "typed_config": typed(
                        "filters.http.fault.v3.HTTPFault", response_rate_limit={"fixed_limit": {"limit_kbps": 1}}
                    ),
                },
                ROUTER,
            ],
            f"http_filters[0].typed_config.response_rate_limit: found a value, {BEYOND}",
        ),
        (
            [
                {"name": "fault", "typed_config": typed("filters.http.fault.v3.HTTPFault", abort={"http_status": 99})},
                ROUTER,
            ],
            "http_filters[0].typed_config.abort.http_status: found 99, expected at least 200",
        ),
        (
            [router(FAULT)],
            "http_filters[0].typed_config.upstream_http_filters: found no codec at the end, expected "
            "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        ),
        (
            [router(CORS, CODEC)],
            "http_filters[0].typed_config.upstream_http_filters[0].typed_config: found "
            f"envoy.extensions.filters.http.cors.v3.Cors, expected {_FAULT_TYPE}: the agent does not enforce it",
        ),
        (
            [router(suppress_envoy_headers=True)],
            f"http_filters[0].typed_config.suppress_envoy_headers: found True, {BEYOND}",
        ),
        (
            [{"name": "f", "config_discovery": {"config_source": {"ads": {}}, "type_urls": ["a"]}}, ROUTER],
            f"http_filters[0].config_discovery: found a value, {BEYOND}",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(filters: list[Any], expected: str) -> None:
    assert manager_refusal(http_filters=filters) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {**ORIGINS, "allow_origin_string_match": [{"safe_regex": {"regex": "("}}]},
            "[\"f\"].allow_origin_string_match[0].safe_regex.regex: found '(', expected an RE2 pattern (missing ): ()",
        ),
        (
            {**DELAYS, "delay": {"percentage": HALF}},
            '["f"].delay.fault_delay_secifier: found none, expected one of fixed_delay, header_delay',
        ),
        (
            wrapped(config=UNKNOWN["typed_config"]),
            f'["f"].config: found google.protobuf.Struct, expected {_OF_ROUTES}: the agent does not enforce it',
        ),
        (
            wrapped(),
            f'["f"].config: found no configuration, expected {_OF_ROUTES}: the agent does not enforce it',
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_of_routes(config: Any, expected: str) -> None:
    found = host_refusal(route(typed_per_filter_config={"f": config}))
    assert found == f"routes[0].typed_per_filter_config{expected}"
