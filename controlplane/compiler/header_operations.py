"""Header operations of routes and destinations.

Source: istio route.go TranslateHeadersOperations; control-plane.md section 5, "Envoy quirks": a Host among the headers
        to add makes Envoy refuse the whole RouteConfiguration, so it becomes a host rewrite.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer

from controlplane.policy.http_route import HeaderOperations, Headers

_AUTHORITY = frozenset({"host", ":authority"})
_NOTHING = HeaderOperations()


class TakesHeaders(Protocol):
    """A Route or a WeightedCluster.ClusterWeight."""

    @property
    def request_headers_to_add(self) -> RepeatedCompositeFieldContainer[HeaderValueOption]: ...
    @property
    def request_headers_to_remove(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def response_headers_to_add(self) -> RepeatedCompositeFieldContainer[HeaderValueOption]: ...
    @property
    def response_headers_to_remove(self) -> RepeatedScalarFieldContainer[str]: ...


def set_header_operations(message: TakesHeaders, headers: Headers | None) -> None:
    """Write the operations into `message`, but for the authority."""
    if headers is None:
        return
    request, response = headers.request or _NOTHING, headers.response or _NOTHING
    message.request_headers_to_add.extend(_options(request))
    message.request_headers_to_remove.extend(name for name in request.remove if name.lower() not in _AUTHORITY)
    message.response_headers_to_add.extend(_options(response))
    message.response_headers_to_remove.extend(response.remove)


def authority(headers: Headers | None) -> str:
    """The authority that the operations on the request give it, or nothing."""
    if headers is None or headers.request is None:
        return ""
    pairs: Iterable[Mapping[str, str]] = (headers.request.set, headers.request.add)
    return next((value for own in pairs for name, value in own.items() if name.lower() in _AUTHORITY), "")


def _options(operations: HeaderOperations) -> list[HeaderValueOption]:
    overwrite = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    append = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
    return [
        HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)
        for action, pairs in ((overwrite, operations.set), (append, operations.add))
        for name, value in sorted(pairs.items())
        if name.lower() not in _AUTHORITY
    ]
