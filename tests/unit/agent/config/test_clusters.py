"""Clusters."""

from typing import Any

import pytest

from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from mesh.xds import type_url
from tests.support.decoding import (
    ADS,
    HTTP_OPTIONS,
    assignment,
    cluster_refusal,
    cluster_value,
    http_cluster,
    lb_endpoint,
    refusal,
    typed,
    value,
)

BEYOND = "expected it unset: the agent does not enforce it"
OPTIONS = f'typed_extension_protocol_options["{HTTP_OPTIONS}"]'


def test_defaults_are_envoys() -> None:
    assert cluster_value() == Cluster(
        name="c",
        eds_name="c",
        connect_timeout_s=5.0,
        idle_timeout_s=3600.0,
        healthy_panic_threshold_percent=50.0,
    )


def test_endpoints_by_another_name() -> None:
    eds = {"eds_config": ADS, "service_name": "other"}
    assert cluster_value(eds_cluster_config=eds).eds_name == "other"


def test_static_endpoints() -> None:
    """They belong to the cluster, whatever name the message gives them."""
    found = cluster_value(type="STATIC", load_assignment={**assignment(lb_endpoint()), "cluster_name": "x"})
    expected = LoadAssignment(cluster="c", endpoints=(Endpoint(address="10.0.0.1", port=80),))
    assert (found.eds_name, found.static) == ("", expected)


def test_no_static_endpoints() -> None:
    assert cluster_value(type="STATIC").static == LoadAssignment(cluster="c", endpoints=())


def test_options_of_http() -> None:
    common = {"idle_timeout": "30s", "max_requests_per_connection": 5, "max_connection_duration": "3600s"}
    found = value(type_url.CLUSTER, http_cluster({"common_http_protocol_options": common}))
    assert (found.idle_timeout_s, found.max_requests_per_connection, found.http2) == (30.0, 5, False)


@pytest.mark.parametrize(
    ("options", "http2"),
    [
        ({"explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 5}}}, True),
        ({"explicit_http_config": {"http_protocol_options": {"accept_http_10": True}}}, False),
        ({"explicit_http_config": None, "use_downstream_protocol_config": {"http2_protocol_options": {}}}, False),
    ],
    ids=str,
)
def test_protocols(options: dict[str, Any], http2: bool) -> None:
    assert value(type_url.CLUSTER, http_cluster(options)).http2 is http2


def test_what_makes_no_difference() -> None:
    found = cluster_value(
        alt_stat_name="",
        dns_lookup_family="V4_ONLY",
        upstream_connection_options={"tcp_keepalive": {"keepalive_time": 60}},
        metadata={},
        cleanup_interval="5s",
        preconnect_policy={"per_upstream_preconnect_ratio": 2},
        per_connection_buffer_limit_bytes=5,
    )
    assert found == cluster_value()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": ""}, "name: found '', expected at least 1 characters"),
        ({"type": "STRICT_DNS"}, "type: found STRICT_DNS, expected EDS or STATIC: the agent does not enforce it"),
        ({"type": "ORIGINAL_DST"}, "type: found ORIGINAL_DST, expected EDS or STATIC: the agent does not enforce it"),
        ({"eds_cluster_config": None}, "eds_cluster_config: found unset, expected a value for type EDS"),
        (
            {"eds_cluster_config": {"eds_config": {"path": "/x"}}},
            "eds_cluster_config.eds_config: found path, expected ads: the agent does not enforce it",
        ),
        (
            {"eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V2"}}},
            "eds_cluster_config.eds_config.resource_api_version: found V2, expected V3: the agent does not enforce it",
        ),
        (
            {"type": "STATIC", "eds_cluster_config": {"eds_config": ADS}},
            "eds_cluster_config: found it set, expected it for type EDS only",
        ),
        ({"load_assignment": assignment()}, "load_assignment: found it set, expected it for type STATIC only"),
        (
            {"type": "STATIC", "load_assignment": assignment(lb_endpoint("localhost"))},
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: "
            "found 'localhost', expected an IP address",
        ),
        ({"connect_timeout": "0s"}, "connect_timeout: found 0s, expected more than 0s"),
        ({"health_checks": [{"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
                             "tcp_health_check": {}}]},
         f"health_checks: found an entry, {BEYOND}"),
        ({"upstream_bind_config": {}}, f"upstream_bind_config: found a value, {BEYOND}"),
        ({"filters": [{"name": "f"}]}, f"filters: found an entry, {BEYOND}"),
        ({"cluster_type": {"name": "t"}, "type": None}, f"cluster_type: found a value, {BEYOND}"),
        ({"max_requests_per_connection": 3}, f"max_requests_per_connection: found 3, {BEYOND}"),
        ({"connection_pool_per_downstream_connection": True},
         f"connection_pool_per_downstream_connection: found True, {BEYOND}"),
        (
            {"typed_extension_protocol_options": {"x": typed("filters.http.router.v3.Router")}},
            f'typed_extension_protocol_options["x"]: found a value, {BEYOND}',
        ),
        (
            {"typed_extension_protocol_options": {HTTP_OPTIONS: typed("filters.http.router.v3.Router")}},
            f"{OPTIONS}: found 'envoy.extensions.filters.http.router.v3.Router', expected {HTTP_OPTIONS}",
        ),
    ],
    ids=lambda value: str(value)[:70],
)  # fmt: skip
def test_refused(fields: dict[str, Any], expected: str) -> None:
    assert cluster_refusal(**fields) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"explicit_http_config": None},
            "upstream_protocol_options: found none, "
            "expected one of explicit_http_config, use_downstream_protocol_config, auto_config",
        ),
        ({"explicit_http_config": None, "auto_config": {}}, f"auto_config: found a value, {BEYOND}"),
        (
            {"explicit_http_config": {"http3_protocol_options": {}}},
            f"explicit_http_config.http3_protocol_options: found a value, {BEYOND}",
        ),
        (
            {"explicit_http_config": {"http_protocol_options": {"enable_trailers": True}}},
            f"explicit_http_config.http_protocol_options.enable_trailers: found True, {BEYOND}",
        ),
        (
            {"common_http_protocol_options": {"max_stream_duration": "1s"}},
            f"common_http_protocol_options.max_stream_duration: found a value, {BEYOND}",
        ),
        (
            {"upstream_http_protocol_options": {"auto_sni": True}},
            f"upstream_http_protocol_options.auto_sni: found True, {BEYOND}",
        ),
        ({"http_filters": [{"name": "f"}]}, f"http_filters: found an entry, {BEYOND}"),
        (
            {"common_http_protocol_options": {"idle_timeout": "-1s"}},
            "common_http_protocol_options.idle_timeout: found -1s, expected at least 0s",
        ),
    ],
    ids=lambda value: str(value)[:70],
)
def test_refused_options(options: dict[str, Any], expected: str) -> None:
    assert refusal(type_url.CLUSTER, http_cluster(options)) == f"{OPTIONS}.{expected}"
