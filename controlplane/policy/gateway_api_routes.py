"""HTTPRoute and GRPCRoute of the Kubernetes Gateway API.

Owns:   the shape of their specs.
Not:    what is refused (rules.gateway_api_routes), what is made of a rule (controlplane.model.gateway_rules).
Source: kubernetes-sigs/gateway-api apis/v1 httproute_types.go, grpcroute_types.go. Of the experimental channel only
        `retry` of an HTTPRoute's rule is known.
"""

from enum import StrEnum
from typing import Annotated

from controlplane.policy.gateway_api import ParentReference
from controlplane.policy.scalars import Duration, Int32, Text, enum_parser
from controlplane.policy.spec import Spec


class PathMatchType(StrEnum):
    """PathPrefix matches whole segments: /a matches /a and /a/b, not /ab."""

    EXACT = "Exact"
    PATH_PREFIX = "PathPrefix"
    REGULAR_EXPRESSION = "RegularExpression"


class ValueMatchType(StrEnum):
    """How a header, a parameter or a method is compared."""

    EXACT = "Exact"
    REGULAR_EXPRESSION = "RegularExpression"


class HTTPPathMatch(Spec):
    """Every path when unset."""

    type: Annotated[PathMatchType, enum_parser(PathMatchType)] = PathMatchType.PATH_PREFIX
    value: Text = "/"


class HTTPHeaderMatch(Spec):
    """A header, or a query parameter, has a value."""

    type: Annotated[ValueMatchType, enum_parser(ValueMatchType)] = ValueMatchType.EXACT
    name: Text = ""
    value: Text = ""


class HTTPQueryParamMatch(HTTPHeaderMatch):
    """A query parameter has a value."""


class HTTPMethod(StrEnum):
    """The methods that can be matched."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    CONNECT = "CONNECT"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    PATCH = "PATCH"


class HTTPRouteMatch(Spec):
    """All that is set must match."""

    path: HTTPPathMatch | None = None
    headers: tuple[HTTPHeaderMatch, ...] = ()
    query_params: tuple[HTTPQueryParamMatch, ...] = ()
    method: Annotated[HTTPMethod | None, enum_parser(HTTPMethod)] = None

    @property
    def effective_path(self) -> HTTPPathMatch:
        """Every path when unset."""
        return self.path or HTTPPathMatch()


class HTTPHeader(Spec):
    """A header with a value."""

    name: Text = ""
    value: Text = ""


class HTTPHeaderFilter(Spec):
    """`set` overwrites, `add` appends, `remove` removes."""

    set: tuple[HTTPHeader, ...] = ()
    add: tuple[HTTPHeader, ...] = ()
    remove: tuple[Text, ...] = ()


class PathModifierType(StrEnum):
    """What of the path is replaced."""

    REPLACE_FULL_PATH = "ReplaceFullPath"
    REPLACE_PREFIX_MATCH = "ReplacePrefixMatch"


class HTTPPathModifier(Spec):
    """The field of the type's name says by what; ReplacePrefixMatch replaces what the rule's PathPrefix matched."""

    type: Annotated[PathModifierType | None, enum_parser(PathModifierType)] = None
    replace_full_path: Text | None = None
    replace_prefix_match: Text | None = None


class HTTPRequestRedirectFilter(Spec):
    """What is unset is as in the request; `port` unset is the scheme's own, without scheme the listener's."""

    scheme: Text = ""
    hostname: Text = ""
    path: HTTPPathModifier | None = None
    port: Int32 | None = None
    status_code: Int32 = 302


class HTTPURLRewriteFilter(Spec):
    """What backends see instead of host and path."""

    hostname: Text = ""
    path: HTTPPathModifier | None = None


class BackendObjectReference(Spec):
    """A Service's port; `namespace` empty = that of the route."""

    group: Text = ""
    kind: Text = "Service"
    name: Text = ""
    namespace: Text = ""
    port: Int32 | None = None

    @property
    def is_service(self) -> bool:
        """Whether it names a Service."""
        return (self.group, self.kind) == ("", "Service")


class Fraction(Spec):
    """A share of the requests."""

    numerator: Int32 = 0
    denominator: Int32 = 100


class HTTPRequestMirrorFilter(Spec):
    """A copy for another backend, of all requests unless `percent` or `fraction` says less."""

    backend_ref: BackendObjectReference | None = None
    percent: Int32 | None = None
    fraction: Fraction | None = None

    @property
    def effective_percent(self) -> float:
        """0..100."""
        if self.fraction is not None:
            return 100.0 * self.fraction.numerator / self.fraction.denominator
        return 100.0 if self.percent is None else float(self.percent)


class ExtensionReference(Spec):
    """A filter of an implementation's own; none is known here."""

    group: Text = ""
    kind: Text = ""
    name: Text = ""


class HTTPFilterType(StrEnum):
    """What a filter is; the field of that name holds it."""

    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"
    REQUEST_REDIRECT = "RequestRedirect"
    URL_REWRITE = "URLRewrite"
    EXTENSION_REF = "ExtensionRef"


class GRPCFilterType(StrEnum):
    """Of a GRPCRoute."""

    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"
    EXTENSION_REF = "ExtensionRef"


class RouteFilter(Spec):
    """What filters of both kinds of routes have."""

    type: StrEnum | None = None
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    extension_ref: ExtensionReference | None = None


class HTTPRouteFilter(RouteFilter):
    """`type` says which of the fields it is."""

    type: Annotated[HTTPFilterType | None, enum_parser(HTTPFilterType)] = None
    request_redirect: HTTPRequestRedirectFilter | None = None
    url_rewrite: HTTPURLRewriteFilter | None = None


class GRPCRouteFilter(RouteFilter):
    """`type` says which of the fields it is."""

    type: Annotated[GRPCFilterType | None, enum_parser(GRPCFilterType)] = None


class RouteBackend(BackendObjectReference):
    """One of a rule's backends with its share; `filters` are for requests that go there."""

    weight: Int32 = 1
    filters: tuple[RouteFilter, ...] = ()


class HTTPBackendRef(RouteBackend):
    """Of an HTTPRoute."""

    filters: tuple[HTTPRouteFilter, ...] = ()


class GRPCBackendRef(RouteBackend):
    """Of a GRPCRoute."""

    filters: tuple[GRPCRouteFilter, ...] = ()


class HTTPRouteTimeouts(Spec):
    """`request`: with all retries; `backend_request`: of one try. 0s = none."""

    request: Duration | None = None
    backend_request: Duration | None = None


class HTTPRouteRetry(Spec):
    """Tries again on failed connections, and on answers with one of `codes`."""

    codes: tuple[Int32, ...] = ()
    attempts: Int32 | None = None
    backoff: Duration | None = None


class RouteRule(Spec):
    """What rules of both kinds of routes have."""

    name: Text = ""
    matches: tuple[Spec, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[RouteBackend, ...] = ()


class HTTPRouteRule(RouteRule):
    """Requests that fit any of `matches` (none = all) go to the backends by weight, or are redirected."""

    matches: tuple[HTTPRouteMatch, ...] = ()
    filters: tuple[HTTPRouteFilter, ...] = ()
    backend_refs: tuple[HTTPBackendRef, ...] = ()
    timeouts: HTTPRouteTimeouts | None = None
    retry: HTTPRouteRetry | None = None


class RouteSpec(Spec):
    """What both kinds of routes have. `hostnames` empty = those of the listener."""

    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[Text, ...] = ()
    rules: tuple[RouteRule, ...] = ()


class HTTPRouteSpec(RouteSpec):
    """`rules` empty = one that takes every request and has no backend."""

    rules: tuple[HTTPRouteRule, ...] = ()

    @property
    def effective_rules(self) -> tuple[HTTPRouteRule, ...]:
        """At least one."""
        return self.rules or (HTTPRouteRule(),)


class GRPCMethodMatch(Spec):
    """A service, a method, or both."""

    type: Annotated[ValueMatchType, enum_parser(ValueMatchType)] = ValueMatchType.EXACT
    service: Text = ""
    method: Text = ""


class GRPCHeaderMatch(HTTPHeaderMatch):
    """A header has a value."""


class GRPCRouteMatch(Spec):
    """All that is set must match."""

    method: GRPCMethodMatch | None = None
    headers: tuple[GRPCHeaderMatch, ...] = ()


class GRPCRouteRule(RouteRule):
    """Calls that fit any of `matches` (none = all) go to the backends by weight."""

    matches: tuple[GRPCRouteMatch, ...] = ()
    filters: tuple[GRPCRouteFilter, ...] = ()
    backend_refs: tuple[GRPCBackendRef, ...] = ()


class GRPCRouteSpec(RouteSpec):
    """`rules` empty = one that takes every call and has no backend."""

    rules: tuple[GRPCRouteRule, ...] = ()

    @property
    def effective_rules(self) -> tuple[GRPCRouteRule, ...]:
        """At least one."""
        return self.rules or (GRPCRouteRule(),)
