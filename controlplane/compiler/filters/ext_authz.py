"""An extension provider as Envoy's external authorization filter.

Owns:   the filter's configuration; when it asks: where the shadow rules before it have matched.
Source: istio pilot/pkg/security/authz/builder extauthz.go; data-plane.md 1.10.
"""

from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import BufferSettings, ExtAuthz, HttpService
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode

from controlplane.compiler.resources import duration
from controlplane.extension_providers import ExtensionProvider, GrpcAuthorizer, HttpAuthorizer
from controlplane.policy.hosts import resolve
from mesh.xds.names import outbound_cluster

NAME = "envoy.filters.http.ext_authz"
RBAC_FILTER = "envoy.filters.http.rbac"
MATCH_PREFIX = "istio-ext-authz"
STAT_PREFIX = "istio_ext_authz_"


def provider_cluster(authorizer: HttpAuthorizer | GrpcAuthorizer, root: str, domain_suffix: str) -> str:
    """The cluster of its service; a short name is of its own namespace, else of the root one."""
    host = resolve(authorizer.host, authorizer.namespace or root, domain_suffix=domain_suffix)
    return outbound_cluster(host, authorizer.port)


def ext_authz(provider: ExtensionProvider, root: str, domain_suffix: str) -> ExtAuthz:
    """The filter."""
    http, grpc = provider.envoy_ext_authz_http, provider.envoy_ext_authz_grpc
    authorizer = http or grpc
    assert authorizer is not None
    cluster = provider_cluster(authorizer, root, domain_suffix)
    message = ExtAuthz(
        transport_api_version=ApiVersion.V3,
        failure_mode_allow=authorizer.fail_open,
        filter_enabled_metadata=_enabled(),
        # A header of the service's answer that is none must not break the request.
        validate_mutations=True,
    )
    if authorizer.status_on_error:
        message.status_on_error.CopyFrom(HttpStatus(code=StatusCode.ValueType(authorizer.status_on_error)))
    body = authorizer.include_request_body_in_check
    if body is not None:
        message.with_request_body.CopyFrom(
            BufferSettings(
                max_request_bytes=body.max_request_bytes,
                allow_partial_message=body.allow_partial_message,
                pack_as_bytes=body.pack_as_bytes,
            )
        )
    if http is not None:
        _names(message.allowed_headers, http.include_request_headers_in_check)
        message.http_service.CopyFrom(_http(http, cluster))
    else:
        message.grpc_service.CopyFrom(_grpc(authorizer.timeout, cluster))
    return message


def _http(authorizer: HttpAuthorizer, cluster: str) -> HttpService:
    message = HttpService(path_prefix=authorizer.path_prefix)
    message.server_uri.uri = f"http://{authorizer.host}"
    message.server_uri.cluster = cluster
    message.server_uri.timeout.CopyFrom(duration(authorizer.timeout))
    for name, value in authorizer.include_additional_headers_in_check:
        message.authorization_request.headers_to_add.add(key=name, value=value)
    response = message.authorization_response
    _names(response.allowed_upstream_headers, authorizer.headers_to_upstream_on_allow)
    _names(response.allowed_client_headers, authorizer.headers_to_downstream_on_deny)
    _names(response.allowed_client_headers_on_success, authorizer.headers_to_downstream_on_allow)
    return message


def _names(message: ListStringMatcher, names: tuple[str, ...]) -> None:
    for name in names:
        if name.endswith("*"):
            message.patterns.add(prefix=name[:-1], ignore_case=True)
        else:
            message.patterns.add(exact=name, ignore_case=True)


def _grpc(timeout_s: float, cluster: str) -> GrpcService:
    message = GrpcService(timeout=duration(timeout_s))
    message.envoy_grpc.cluster_name = cluster
    # The name of a cluster has characters that no authority may have.
    message.envoy_grpc.authority = cluster.replace("|", "_.")
    return message


def _enabled() -> MetadataMatcher:
    message = MetadataMatcher(filter=RBAC_FILTER)
    message.path.add(key=f"{STAT_PREFIX}shadow_effective_policy_id")
    message.value.string_match.prefix = MATCH_PREFIX
    return message
