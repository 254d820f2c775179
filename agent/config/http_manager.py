"""The HTTP connection manager.

Owns:   its own fields.
Not:    its routes (virtual_hosts), filters (http_filters), loggers (access_log).
Source: envoy/extensions/filters/network/http_connection_manager/v3; data-plane.md 1.6, 1.9.

Differs: paths are normalised unless the message says no (Envoy: only if it says yes). Of a
client's certificate subject, dns and uri are always told (agent.filters.client_certificate).
Not refused, since it cannot make a difference here: HTTP/2 options (the agent speaks HTTP/1.1), tracing without a
provider (there are no spans), TLVs of the PROXY protocol.
"""

from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager as ManagerMessage,
)

from agent.config.access_log import access_logs
from agent.config.config_sources import check_ads
from agent.config.durations import seconds_or
from agent.config.fields import Refused, beyond, enum_name, item, only, refuse, value_or, within
from agent.config.http_filters import http_filters
from agent.config.http_protocol import check_http1
from agent.config.upgrades import upgrade_type
from agent.model.listener import HttpConnectionManager

_KNOWN = frozenset(
    {
        "codec_type", "stat_prefix", "rds", "route_config", "http_filters", "common_http_protocol_options",
        "http_protocol_options", "server_name", "server_header_transformation", "max_request_headers_kb",
        "stream_idle_timeout", "request_timeout", "request_headers_timeout", "drain_timeout", "delayed_close_timeout",
        "access_log", "use_remote_address", "xff_num_trusted_hops", "generate_request_id",
        "preserve_external_request_id", "always_set_request_id_in_response", "forward_client_cert_details",
        "set_current_client_cert_details", "upgrade_configs", "normalize_path", "merge_slashes",
        "path_with_escaped_slashes_action", "internal_address_config", "tracing",
        # no effect here, see above
        "http2_protocol_options", "http1_safe_max_connection_duration", "add_proxy_protocol_connection_state",
    }
)  # fmt: skip
_OFF = frozenset({"add_user_agent", "stream_error_on_invalid_http_message"})
_CODECS = frozenset({ManagerMessage.AUTO, ManagerMessage.HTTP1})
_SLASHES = frozenset({ManagerMessage.IMPLEMENTATION_SPECIFIC_DEFAULT, ManagerMessage.KEEP_UNCHANGED})
_COMMON = frozenset({"idle_timeout", "max_headers_count", "max_requests_per_connection"})
_TRACING = frozenset(
    {
        "client_sampling", "random_sampling", "overall_sampling", "verbose", "max_path_tag_length", "custom_tags",
        "spawn_upstream_span",
    }
)  # fmt: skip
_KIBIBYTE = 1024


def http_manager(message: ManagerMessage, path: str, route_config: str) -> HttpConnectionManager:
    """The manager; `route_config` is the name that its routes are stored under."""
    only(message, path, _KNOWN, _OFF)
    _check_choices(message, path)
    filters, upstream_filters = http_filters(message.http_filters, path)
    if message.HasField("http_protocol_options"):
        check_http1(message.http_protocol_options, within(path, "http_protocol_options"))
    common, own = message.common_http_protocol_options, within(path, "common_http_protocol_options")
    only(common, own, _COMMON)
    return HttpConnectionManager(
        stat_prefix=message.stat_prefix,
        route_config=route_config,
        server_name=message.server_name or "envoy",
        server_header_pass_through=message.server_header_transformation == ManagerMessage.PASS_THROUGH,
        use_remote_address=value_or(message, "use_remote_address", False),
        xff_num_trusted_hops=message.xff_num_trusted_hops,
        generate_request_id=value_or(message, "generate_request_id", True),
        preserve_external_request_id=message.preserve_external_request_id,
        always_set_request_id_in_response=message.always_set_request_id_in_response,
        normalize_path=value_or(message, "normalize_path", True),
        merge_slashes=message.merge_slashes,
        stream_idle_timeout_s=seconds_or(message, "stream_idle_timeout", path, 300.0),
        request_timeout_s=seconds_or(message, "request_timeout", path, 0.0),
        request_headers_timeout_s=seconds_or(message, "request_headers_timeout", path, 0.0),
        idle_timeout_s=seconds_or(common, "idle_timeout", own, 3600.0),
        max_requests_per_connection=value_or(common, "max_requests_per_connection", 0),
        drain_timeout_s=seconds_or(message, "drain_timeout", path, 5.0),
        delayed_close_timeout_s=seconds_or(message, "delayed_close_timeout", path, 1.0),
        max_request_headers_bytes=value_or(message, "max_request_headers_kb", 60) * _KIBIBYTE,
        max_headers_count=_max_headers(common),
        forward_client_cert=enum_name(message, "forward_client_cert_details", path),
        access_logs=access_logs(message.access_log, path),
        tracing=message.HasField("tracing"),
        upgrades=_upgrades(message, path),
        filters=filters,
        upstream_filters=upstream_filters,
    )


def rds_name(message: ManagerMessage, path: str) -> str:
    """The RouteConfiguration that the manager asks for, "" when its routes are inline."""
    match message.WhichOneof("route_specifier"):
        case "rds":
            own = within(path, "rds")
            check_ads(message.rds.config_source, within(own, "config_source"))
            if not message.rds.route_config_name:
                raise refuse(within(own, "route_config_name"), "", "a name")
            return message.rds.route_config_name
        case "route_config":
            if message.route_config.HasField("vhds"):
                raise Refused(within(path, "route_config.vhds"), "found it set, expected rds for virtual hosts by name")
            return ""
        case other:
            raise beyond(within(path, str(other)), "a value", "rds or route_config")


def _max_headers(common: HttpProtocolOptions) -> int:
    return value_or(common, "max_headers_count", 100)


def _check_choices(message: ManagerMessage, path: str) -> None:
    """Refuse choices of which only some are enforced."""
    if message.codec_type not in _CODECS:
        name = enum_name(message, "codec_type", path)
        raise beyond(within(path, "codec_type"), name, "AUTO or HTTP1")
    if message.server_header_transformation == ManagerMessage.APPEND_IF_ABSENT:
        raise beyond(within(path, "server_header_transformation"), "APPEND_IF_ABSENT", "OVERWRITE or PASS_THROUGH")
    if message.path_with_escaped_slashes_action not in _SLASHES:
        name = enum_name(message, "path_with_escaped_slashes_action", path)
        raise beyond(within(path, "path_with_escaped_slashes_action"), name, "KEEP_UNCHANGED")
    details = within(path, "set_current_client_cert_details")
    only(message.set_current_client_cert_details, details, frozenset({"subject", "dns", "uri"}))
    # No range of addresses counts as internal here; neither does one for Envoy unless it is listed.
    only(message.internal_address_config, within(path, "internal_address_config"), frozenset({"unix_sockets"}))
    only(message.tracing, within(path, "tracing"), _TRACING)


def _upgrades(message: ManagerMessage, path: str) -> frozenset[str]:
    found = set()
    for index, config in enumerate(message.upgrade_configs):
        own = item(path, "upgrade_configs", index)
        only(config, own, frozenset({"upgrade_type", "enabled"}))
        name = upgrade_type(config.upgrade_type, within(own, "upgrade_type"))
        if value_or(config, "enabled", True):
            found.add(name)
    return frozenset(found)
