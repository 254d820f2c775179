"""The external authorization filter, asking over HTTP.

Source: envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto.
Differs: gRPC services, requests' bodies, peer certificates and metadata are not taken: what is not told to the service
        must not be thought to have been.
"""

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz as Message
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import HttpService
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher

from agent.config.durations import seconds_or
from agent.config.fields import beyond, item, only, refuse, within
from agent.config.matchers import string_matcher
from agent.config.rbac import metadata_matcher
from agent.model.ext_authz import ExternalAuthorization
from agent.model.matchers import StringMatcher

_KNOWN = frozenset(
    {
        "http_service", "transport_api_version", "failure_mode_allow", "status_on_error", "validate_mutations",
        "filter_enabled_metadata", "stat_prefix", "allowed_headers", "disallowed_headers",
    }
)  # fmt: skip
_SERVICE = frozenset({"server_uri", "path_prefix", "authorization_request", "authorization_response"})
_ANSWER = frozenset(
    {
        "allowed_upstream_headers", "allowed_upstream_headers_to_append", "allowed_client_headers",
        "allowed_client_headers_on_success",
    }
)  # fmt: skip
_FORBIDDEN = 403
_DEFAULT_TIMEOUT_S = 0.2


def external_authorization(message: Message, path: str) -> ExternalAuthorization:
    """The filter."""
    only(message, path, _KNOWN)
    if message.WhichOneof("services") != "http_service":
        raise beyond(within(path, "grpc_service"), "a value", "http_service")
    service, own = message.http_service, within(path, "http_service")
    only(service, own, _SERVICE)
    answer, where = service.authorization_response, within(own, "authorization_response")
    only(answer, where, _ANSWER)
    enabled = (
        metadata_matcher(message.filter_enabled_metadata, within(path, "filter_enabled_metadata"))
        if message.HasField("filter_enabled_metadata")
        else None
    )
    limited = answer.HasField("allowed_client_headers")
    denied = _matchers(answer.allowed_client_headers, within(where, "allowed_client_headers"))
    return ExternalAuthorization(
        cluster=_cluster(service, own),
        timeout_s=seconds_or(service.server_uri, "timeout", within(own, "server_uri"), _DEFAULT_TIMEOUT_S),
        path_prefix=_prefix(service, own),
        added_headers=_added(service, own),
        request_headers=_request_headers(message, path),
        disallowed_headers=_matchers(message.disallowed_headers, within(path, "disallowed_headers")),
        to_upstream=_matchers(answer.allowed_upstream_headers, within(where, "allowed_upstream_headers")),
        appended_upstream=_matchers(
            answer.allowed_upstream_headers_to_append, within(where, "allowed_upstream_headers_to_append")
        ),
        to_client=denied if limited else None,
        to_client_allowed=_matchers(
            answer.allowed_client_headers_on_success, within(where, "allowed_client_headers_on_success")
        ),
        fail_open=message.failure_mode_allow,
        status_on_error=message.status_on_error.code or _FORBIDDEN,
        enabled_by=enabled,
        stat_prefix=message.stat_prefix,
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


def _added(service: HttpService, path: str) -> tuple[tuple[str, str], ...]:
    request, own = service.authorization_request, within(path, "authorization_request")
    only(request, own, frozenset({"headers_to_add", "allowed_headers"}))
    return tuple(
        _header(one, item(own, "headers_to_add", index)) for index, one in enumerate(request.headers_to_add)
    )  # fmt: skip


def _header(message: HeaderValue, path: str) -> tuple[str, str]:
    only(message, path, frozenset({"key", "value"}))
    if any(sign in message.key + message.value for sign in "\r\n\0") or "%" in message.value:
        raise refuse(path, message.value, "a name and a literal value")
    return message.key.lower(), message.value


def _request_headers(message: Message, path: str) -> tuple[StringMatcher, ...]:
    """The newer field; the older one counts where that is not set."""
    if message.HasField("allowed_headers"):
        return _matchers(message.allowed_headers, within(path, "allowed_headers"))
    request = message.http_service.authorization_request
    return _matchers(request.allowed_headers, within(path, "http_service.authorization_request.allowed_headers"))


def _matchers(message: ListStringMatcher, path: str) -> tuple[StringMatcher, ...]:
    return tuple(string_matcher(one, item(path, "patterns", index)) for index, one in enumerate(message.patterns))
