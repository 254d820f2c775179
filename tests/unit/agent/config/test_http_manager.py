"""The HTTP connection manager."""

from typing import Any

import pytest

from agent.model.listener import HttpConnectionManager
from tests.support.decoding import ADS, configuration, manager_refusal, manager_value

BEYOND = "expected it unset: the agent does not enforce it"


def test_defaults() -> None:
    """Envoy's, but for the normalisation of paths."""
    assert manager_value() == HttpConnectionManager(
        stat_prefix="s",
        route_config="r",
        server_name="envoy",
        generate_request_id=True,
        normalize_path=True,
        stream_idle_timeout_s=300.0,
        idle_timeout_s=3600.0,
        drain_timeout_s=5.0,
        delayed_close_timeout_s=1.0,
        max_request_headers_bytes=60 * 1024,
        max_headers_count=100,
    )


def test_everything() -> None:
    found = manager_value(
        codec_type="HTTP1",
        server_name="own",
        server_header_transformation="PASS_THROUGH",
        use_remote_address=True,
        xff_num_trusted_hops=2,
        generate_request_id=False,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        normalize_path=False,
        merge_slashes=True,
        stream_idle_timeout="1s",
        request_timeout="2s",
        request_headers_timeout="3s",
        drain_timeout="4s",
        delayed_close_timeout="0s",
        max_request_headers_kb=8,
        common_http_protocol_options={
            "idle_timeout": "5s", "max_requests_per_connection": 6, "max_headers_count": 7
        },
        forward_client_cert_details="APPEND_FORWARD",
        set_current_client_cert_details={"subject": True, "dns": True, "uri": True},
        upgrade_configs=[{"upgrade_type": "WebSocket"}, {"upgrade_type": "other", "enabled": False}],
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        tracing={"random_sampling": {"value": 1}},
        internal_address_config={},
        http2_protocol_options={"max_concurrent_streams": 5},
    )  # fmt: skip
    assert found == HttpConnectionManager(
        stat_prefix="s",
        route_config="r",
        server_name="own",
        server_header_pass_through=True,
        use_remote_address=True,
        xff_num_trusted_hops=2,
        generate_request_id=False,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        normalize_path=False,
        merge_slashes=True,
        stream_idle_timeout_s=1.0,
        request_timeout_s=2.0,
        request_headers_timeout_s=3.0,
        idle_timeout_s=5.0,
        max_requests_per_connection=6,
        drain_timeout_s=4.0,
        delayed_close_timeout_s=0.0,
        max_request_headers_bytes=8 * 1024,
        max_headers_count=7,
        forward_client_cert="APPEND_FORWARD",
        tracing=True,
        upgrades=frozenset({"websocket"}),
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"codec_type": "HTTP2"}, "codec_type: found HTTP2, expected AUTO or HTTP1: the agent does not enforce it"),
        (
            {"server_header_transformation": "APPEND_IF_ABSENT"},
            "server_header_transformation: found APPEND_IF_ABSENT, expected OVERWRITE or PASS_THROUGH: "
            "the agent does not enforce it",
        ),
        (
            {"path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"},
            "path_with_escaped_slashes_action: found UNESCAPE_AND_REDIRECT, expected KEEP_UNCHANGED: "
            "the agent does not enforce it",
        ),
        ({"set_current_client_cert_details": {"cert": True}}, "set_current_client_cert_details.cert: found True, "),
        (
            {"internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}},
            f"internal_address_config.cidr_ranges: found an entry, {BEYOND}",
        ),
        (
            {"tracing": {"provider": {"name": "p"}}},
            f"tracing.provider: found a value, {BEYOND}",
        ),
        ({"skip_xff_append": True}, f"skip_xff_append: found True, {BEYOND}"),
        ({"via": "v"}, f"via: found 'v', {BEYOND}"),
        ({"local_reply_config": {}}, f"local_reply_config: found a value, {BEYOND}"),
        ({"strip_any_host_port": True}, f"strip_any_host_port: found True, {BEYOND}"),
        ({"add_user_agent": True}, f"add_user_agent: found True, {BEYOND}"),
        (
            {"common_http_protocol_options": {"max_connection_duration": "5s"}},
            f"common_http_protocol_options.max_connection_duration: found a value, {BEYOND}",
        ),
        (
            {"common_http_protocol_options": {"max_headers_count": 0}},
            "common_http_protocol_options.max_headers_count: found 0, expected at least 1",
        ),
        ({"max_request_headers_kb": 8193}, "max_request_headers_kb: found 8193, expected at most 8192"),
        ({"stream_idle_timeout": "-1s"}, "stream_idle_timeout: found -1s, expected at least 0s"),
        (
            {"upgrade_configs": [{"upgrade_type": "CONNECT"}]},
            "upgrade_configs[0].upgrade_type: found CONNECT, expected another protocol: the agent does not enforce it",
        ),
        (
            {"upgrade_configs": [{"upgrade_type": "a", "filters": [{"name": "f"}]}]},
            f"upgrade_configs[0].filters: found an entry, {BEYOND}",
        ),
        ({"stat_prefix": ""}, "stat_prefix: found '', expected at least 1 characters"),
        (
            {"rds": {"config_source": ADS}},
            "rds.route_config_name: found '', expected a name",
        ),
        (
            {"rds": {"config_source": {"api_config_source": {"api_type": "GRPC"}}, "route_config_name": "r"}},
            "rds.config_source: found api_config_source, expected ads: the agent does not enforce it",
        ),
        (
            {"route_config": configuration(vhds={"config_source": ADS})},
            "route_config.vhds: found it set, expected rds for virtual hosts by name",
        ),
        (
            {"route_config": configuration({"name": "h", "domains": ["*"], "routes": [{"match": {"prefix": "/"}}]})},
            "route_config.virtual_hosts[0].routes[0].action: found none, expected one of route, redirect, ",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(fields: dict[str, Any], expected: str) -> None:
    text = manager_refusal(**fields)
    assert text == expected or (expected.endswith(", ") and text.startswith(expected))


def test_routes_from_elsewhere() -> None:
    assert manager_refusal(route_config=None) == (
        "route_specifier: found none, expected one of rds, route_config, scoped_routes"
    )
