"""The external authorization filter, asking over HTTP or gRPC, and what routes say for it.

Source: envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto; envoy/config/core/v3/grpc_service.proto.
Differs: only Envoy's own gRPC client, without retries; changes by the service are always validated; a body is shown up
        to MAX_BODY_BYTES. What is not told to a service is not taken (an HTTP service: certificates and metadata; any:
        TLS sessions, typed and route metadata, raw headers): it must not be thought to have been.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz as Message
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthzPerRoute, HttpService
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher

from agent.config.durations import seconds_or
from agent.config.fields import beyond, item, only, refuse, within
from agent.config.matchers import string_matcher
from agent.config.rbac import metadata_matcher
from agent.model.ext_authz import FORBIDDEN, ExternalAuthorization, Pairs, RouteAuthorization, ShownBody
from agent.model.matchers import StringMatcher

MAX_BODY_BYTES = 4 * 1024 * 1024
_KNOWN = frozenset(
    {
        "transport_api_version", "failure_mode_allow", "failure_mode_allow_header_add", "status_on_error",
        "validate_mutations", "filter_enabled_metadata", "stat_prefix", "allowed_headers", "disallowed_headers",
        "with_request_body",
    }
)  # fmt: skip
_KNOWN_HTTP = _KNOWN | {"http_service"}
_KNOWN_GRPC = _KNOWN | {"grpc_service", "metadata_context_namespaces", "include_peer_certificate"}
_SERVICE = frozenset({"server_uri", "path_prefix", "authorization_request", "authorization_response"})
_ANSWER = frozenset(
    {
        "allowed_upstream_headers", "allowed_upstream_headers_to_append", "allowed_client_headers",
        "allowed_client_headers_on_success",
    }
)  # fmt: skip
_DEFAULT_TIMEOUT_S = 0.2
_CALL_HEADER = re.compile(r"(?!grpc-)[a-z0-9_.-]+")  # gRPC over HTTP/2, "Custom-Metadata"


def external_authorization(message: Message, path: str) -> ExternalAuthorization:
    """The filter."""
    match message.WhichOneof("services"):
        case "http_service":
            made = _asking_http(message, path)
        case "grpc_service":
            made = _asking_grpc(message, path)
        case _:
            raise refuse(within(path, "services"), "none", "http_service or grpc_service")
    enabled = (
        metadata_matcher(message.filter_enabled_metadata, within(path, "filter_enabled_metadata"))
        if message.HasField("filter_enabled_metadata")
        else None
    )
    return replace(
        made,
        disallowed_headers=_matchers(message.disallowed_headers, within(path, "disallowed_headers")),
        body=_body(message, path),
        fail_open=message.failure_mode_allow,
        mark_failure=message.failure_mode_allow_header_add,
        status_on_error=message.status_on_error.code or FORBIDDEN,
        enabled_by=enabled,
        validates=message.validate_mutations,
        stat_prefix=message.stat_prefix,
    )


def route_authorization(message: ExtAuthzPerRoute, path: str) -> RouteAuthorization:
    """What one level of routes says."""
    only(message, path, frozenset({"disabled", "check_settings"}))
    settings = message.check_settings
    only(
        settings,
        within(path, "check_settings"),
        frozenset({"context_extensions", "disable_request_body_buffering"}),
    )
    return RouteAuthorization(
        disabled=message.disabled,
        without_body=settings.disable_request_body_buffering,
        context=tuple(sorted(settings.context_extensions.items())),
    )


def _body(message: Message, path: str) -> ShownBody | None:
    if not message.HasField("with_request_body"):
        return None
    body, own = message.with_request_body, within(path, "with_request_body")
    only(body, own, frozenset({"max_request_bytes", "allow_partial_message", "pack_as_bytes"}))
    if body.max_request_bytes > MAX_BODY_BYTES:
        raise beyond(within(own, "max_request_bytes"), str(body.max_request_bytes), f"at most {MAX_BODY_BYTES}")
    return ShownBody(
        max_bytes=body.max_request_bytes, partial=body.allow_partial_message, as_bytes=body.pack_as_bytes
    )  # fmt: skip


# --- over HTTP


def _asking_http(message: Message, path: str) -> ExternalAuthorization:
    only(message, path, _KNOWN_HTTP)
    service, own = message.http_service, within(path, "http_service")
    only(service, own, _SERVICE)
    answer, where = service.authorization_response, within(own, "authorization_response")
    only(answer, where, _ANSWER)
    limited = answer.HasField("allowed_client_headers")
    denied = _matchers(answer.allowed_client_headers, within(where, "allowed_client_headers"))
    return ExternalAuthorization(
        cluster=_cluster(service, own),
        timeout_s=seconds_or(service.server_uri, "timeout", within(own, "server_uri"), _DEFAULT_TIMEOUT_S),
        path_prefix=_prefix(service, own),
        added_headers=_added(service, own),
        request_headers=_request_headers(message, path),
        to_upstream=_matchers(answer.allowed_upstream_headers, within(where, "allowed_upstream_headers")),
        appended_upstream=_matchers(
            answer.allowed_upstream_headers_to_append, within(where, "allowed_upstream_headers_to_append")
        ),
        to_client=denied if limited else None,
        to_client_allowed=_matchers(
            answer.allowed_client_headers_on_success, within(where, "allowed_client_headers_on_success")
        ),
    )


def _cluster(service: HttpService, path: str) -> str:
    own = within(path, "server_uri")
    only(service.server_uri, own, frozenset({"uri", "cluster", "timeout"}))
    if not service.server_uri.cluster:
        raise refuse(within(own, "cluster"), "", "a name")
    return service.server_uri.cluster


def _prefix(service: HttpService, path: str) -> str:
    text = service.path_prefix
    if text and (not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text):
        raise refuse(within(path, "path_prefix"), text, "a path that begins with /")
    return text


def _added(service: HttpService, path: str) -> Pairs:
    request, own = service.authorization_request, within(path, "authorization_request")
    only(request, own, frozenset({"headers_to_add", "allowed_headers"}))
    return _literals(request.headers_to_add, own, "headers_to_add")


def _request_headers(message: Message, path: str) -> tuple[StringMatcher, ...]:
    """The newer field; the older one counts where that is not set."""
    if message.HasField("allowed_headers"):
        return _matchers(message.allowed_headers, within(path, "allowed_headers"))
    request = message.http_service.authorization_request
    return _matchers(request.allowed_headers, within(path, "http_service.authorization_request.allowed_headers"))


# --- over gRPC


def _asking_grpc(message: Message, path: str) -> ExternalAuthorization:
    only(message, path, _KNOWN_GRPC)
    service, own = message.grpc_service, within(path, "grpc_service")
    only(service, own, frozenset({"envoy_grpc", "timeout", "initial_metadata"}))
    target = within(own, "envoy_grpc")
    only(service.envoy_grpc, target, frozenset({"cluster_name", "authority"}))
    if not service.envoy_grpc.cluster_name:
        raise refuse(within(target, "cluster_name"), "", "a name")
    allowed = _matchers(message.allowed_headers, within(path, "allowed_headers"))
    return ExternalAuthorization(
        grpc=True,
        cluster=service.envoy_grpc.cluster_name,
        timeout_s=seconds_or(service, "timeout", own, _DEFAULT_TIMEOUT_S),
        authority=service.envoy_grpc.authority,
        call_headers=_call_headers(service, own),
        request_headers=allowed if message.HasField("allowed_headers") else None,
        certificate=message.include_peer_certificate,
        metadata=tuple(message.metadata_context_namespaces),
    )


def _call_headers(service: GrpcService, path: str) -> Pairs:
    found = _literals(service.initial_metadata, path, "initial_metadata")
    for index, (name, value) in enumerate(found):
        if not _CALL_HEADER.fullmatch(name) or name.endswith("-bin") or not (value.isascii() and value.isprintable()):
            raise refuse(item(path, "initial_metadata", index), name, "a name and a value that gRPC takes for text")
    return found


# --- shared


def _literals(messages: Iterable[HeaderValue], path: str, name: str) -> Pairs:
    return tuple(_header(one, item(path, name, index)) for index, one in enumerate(messages))


def _header(message: HeaderValue, path: str) -> tuple[str, str]:
    only(message, path, frozenset({"key", "value"}))
    if any(sign in message.key + message.value for sign in "\r\n\0") or "%" in message.value:
        raise refuse(path, message.value, "a name and a literal value")
    return message.key.lower(), message.value


def _matchers(message: ListStringMatcher, path: str) -> tuple[StringMatcher, ...]:
    return tuple(string_matcher(one, item(path, "patterns", index)) for index, one in enumerate(message.patterns))
