r"""Rules of the Gateway API's routes as rules of a VirtualService, each with its rank among all of a listener.

Owns:   the translation of matches, filters, backends, timeouts and retries; precedence; what a rule refers to.
Not:    which routes a listener has (gateway_attachments), where destinations lead (controlplane.compiler).
Source: kubernetes-sigs/gateway-api apis/v1 httproute_types.go, grpcroute_types.go; GEP-1731 for retries.
Differs: an exact path stands before a regular expression, that before a prefix; the API leaves it open. Without
         timeouts and retries of its own a rule has those of the mesh, as in Istio.

    PathPrefix /a, replaced by   /x: /a -> /x, /a/b -> /x/b     "" or /: /a -> /, /a/b -> /b
    PathPrefix /,  replaced by   /x: / -> /x/, /b -> /x/b
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from controlplane.policy.frozen import FrozenMap
from controlplane.policy.gateway_api_routes import (
    BackendObjectReference,
    GRPCMethodMatch,
    GRPCRouteMatch,
    GRPCRouteRule,
    GRPCRouteSpec,
    HTTPHeaderFilter,
    HTTPHeaderMatch,
    HTTPPathMatch,
    HTTPPathModifier,
    HTTPRequestRedirectFilter,
    HTTPRouteMatch,
    HTTPRouteRetry,
    HTTPRouteRule,
    HTTPRouteSpec,
    HTTPURLRewriteFilter,
    PathMatchType,
    PathModifierType,
    RouteBackend,
    RouteFilter,
    RouteRule,
    RouteSpec,
    ValueMatchType,
)
from controlplane.policy.http_route import (
    DEFAULT_PORTS,
    DEFAULT_RETRY_ATTEMPTS,
    Destination,
    HeaderOperations,
    Headers,
    HTTPDirectResponse,
    HTTPMatchRequest,
    HTTPMirrorPolicy,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    Percent,
    PortSelector,
    RegexRewrite,
)
from controlplane.policy.kinds import HTTP_ROUTE
from controlplane.policy.objects import PolicyObject
from controlplane.policy.string_match import StringMatch

_DEFAULT_TRIES = 1
_RETRY_ON = ("connect-failure", "refused-stream", "reset-before-request")
_INTERNAL_ERROR = 500
_UNAVAILABLE = 503  # what proxies tell gRPC clients as UNAVAILABLE
_EVERYTHING = StringMatch(prefix="/")
Rank = tuple[int, ...]
# The filters of a backend that routes can hold.
_OF_BACKENDS = ("RequestHeaderModifier", "ResponseHeaderModifier")


class PathSegments(StringMatch):
    """`prefix` matches whole segments: /a matches /a and /a/b, not /ab. It has no slash at its end."""


class LiteralMatch(HTTPMatchRequest):
    """A match whose `headers` are all matched, whatever their names."""


class BackendRule(HTTPRoute):
    """A rule whose requests answer `lost_status` as far as their backends are not there.

    A destination that is None is a backend that cannot be there at all; weights count for a single one too.
    """

    lost_status: int = _INTERNAL_ERROR


@dataclass(frozen=True, slots=True)
class Site:
    """Where a listener is, as far as redirects depend on it."""

    scheme: str
    port: int


@dataclass(frozen=True, slots=True)
class RankedRule:
    """`rank` sorts the rule that takes precedence first, among all rules for a host."""

    rank: Rank
    rule: BackendRule


@dataclass(frozen=True, slots=True)
class LocatedBackend:
    """What a rule refers to, and where it stands."""

    path: str
    backend: BackendObjectReference


Permits = frozenset[tuple[str, str, str, str]]  # (group, kind, namespace, name) beyond the route's own namespace


class _Translation:
    """Of one route at one site."""

    def __init__(self, route: PolicyObject, site: Site, permits: Permits, domain_suffix: str) -> None:
        self._route = route
        self._site = site
        self._permits = permits
        self._suffix = domain_suffix

    def rules(self) -> Iterator[RankedRule]:
        if self._route.kind is HTTP_ROUTE:
            for index, rule in enumerate(self._route.spec_as(HTTPRouteSpec).effective_rules):
                yield from self._http(index, rule)
        else:
            for index, own in enumerate(self._route.spec_as(GRPCRouteSpec).effective_rules):
                yield from self._grpc(index, own)

    def _http(self, index: int, rule: HTTPRouteRule) -> Iterator[RankedRule]:
        for number, match in enumerate(rule.matches or (HTTPRouteMatch(),)):
            path = match.effective_path
            made = self._acting(index, rule, _INTERNAL_ERROR)
            redirect = next((own.request_redirect for own in rule.filters if own.request_redirect), None)
            rewrite = next((own.url_rewrite for own in rule.filters if own.url_rewrite), None)
            if made.direct_response is None and redirect is not None:
                made = made.model_copy(update={"redirect": self._redirect(redirect, path), "route": ()})
            elif rewrite is not None:
                made = made.model_copy(update={"rewrite": _rewrite(rewrite, path)})
            made = made.model_copy(update=_times(rule))
            modifier = redirect.path if redirect is not None else rewrite.path if rewrite is not None else None
            uris = _split(path) if _drops_prefix(modifier) else (_uri(path),)
            yield RankedRule(
                (*_http_rank(match), index, number),
                made.model_copy(update={"match": tuple(_http_match(match, uri) for uri in uris)}),
            )

    def _grpc(self, index: int, rule: GRPCRouteRule) -> Iterator[RankedRule]:
        made = self._acting(index, rule, _UNAVAILABLE)
        for number, match in enumerate(rule.matches or (GRPCRouteMatch(),)):
            yield RankedRule(
                (*_grpc_rank(match), index, number), made.model_copy(update={"match": (_grpc_match(match),)})
            )

    def _acting(self, index: int, rule: RouteRule, status: int) -> BackendRule:
        """Without its matches, and what only HTTP has."""
        metadata = self._route.metadata
        name = rule.name or f"{metadata.namespace}/{metadata.name}.rules[{index}]"
        if any(own.extension_ref is not None for own in rule.filters):
            # A filter that is not known must not be skipped.
            return BackendRule(name=name, lost_status=status, direct_response=HTTPDirectResponse(status=status))
        mirrors = [own.request_mirror for own in rule.filters if own.request_mirror is not None]
        return BackendRule(
            name=name,
            lost_status=status,
            headers=_headers(rule.filters),
            route=tuple(self._backend(own) for own in rule.backend_refs),
            mirrors=tuple(
                HTTPMirrorPolicy(destination=target, percentage=Percent(value=own.effective_percent))
                for own in mirrors
                if own.backend_ref is not None and (target := self._destination(own.backend_ref)) is not None
            ),
        )

    def _backend(self, own: RouteBackend) -> HTTPRouteDestination:
        return HTTPRouteDestination(
            destination=self._destination(own), weight=own.weight, headers=_headers(own.filters)
        )  # fmt: skip

    def _destination(self, own: BackendObjectReference) -> Destination | None:
        if own.port is None or backend_problem(own, self._route, self._permits):
            return None
        namespace = own.namespace or self._route.metadata.namespace
        return Destination(host=f"{own.name}.{namespace}.{self._suffix}", port=PortSelector(number=own.port))

    def _redirect(self, own: HTTPRequestRedirectFilter, path: HTTPPathMatch) -> HTTPRedirect:
        scheme = own.scheme or self._site.scheme
        port = own.port or (DEFAULT_PORTS[own.scheme] if own.scheme else self._site.port)
        named = own.hostname or self._site.port == DEFAULT_PORTS[self._site.scheme]
        uri, prefix = _redirect_path(own.path, path)
        return HTTPRedirect(
            uri=uri,
            prefix_rewrite=prefix,
            authority=own.hostname,
            port=None if named and port == DEFAULT_PORTS[scheme] else port,
            scheme=own.scheme,
            redirect_code=own.status_code,
        )


def ranked_rules(route: PolicyObject, site: Site, permits: Permits, domain_suffix: str) -> tuple[RankedRule, ...]:
    """The rules of one route at a listener, one for each match."""
    return tuple(_Translation(route, site, permits, domain_suffix).rules())


def at_host(rule: BackendRule, host: str) -> BackendRule:
    """The rule for one host. A redirect to the default port of a scheme names none, where the host is known."""
    redirect = rule.redirect
    if redirect is None or redirect.authority or host.startswith("*") or redirect.port is None:
        return rule
    if redirect.port != DEFAULT_PORTS.get(redirect.scheme):
        return rule
    return rule.model_copy(update={"redirect": redirect.model_copy(update={"authority": host, "port": None})})


def backends_of(route: PolicyObject) -> Iterator[LocatedBackend]:
    """Everything that its rules refer to, mirrors included."""
    spec = route.spec_as(RouteSpec)
    for index, rule in enumerate(spec.rules):
        path = f"spec.rules[{index}]"
        for number, own in enumerate(rule.backend_refs):
            yield LocatedBackend(f"{path}.backendRefs[{number}]", own)
        for number, item in enumerate(rule.filters):
            if item.request_mirror is not None and item.request_mirror.backend_ref is not None:
                place = f"{path}.filters[{number}].requestMirror.backendRef"
                yield LocatedBackend(place, item.request_mirror.backend_ref)


def foreign(own: BackendObjectReference, route: PolicyObject) -> tuple[str, str, str, str] | None:
    """What a grant has to permit, None when it is of the route's own namespace."""
    if own.namespace in ("", route.metadata.namespace):
        return None
    return own.group, own.kind, own.namespace, own.name


def backend_problem(own: BackendObjectReference, route: PolicyObject, permits: Permits) -> tuple[str, str] | None:
    """(reason, message) of a reference that leads nowhere, whatever there is in the mesh."""
    if not own.is_service:
        return "InvalidKind", f"a {own.kind} of group {own.group or 'core'} is no backend, only a Service is"
    wanted = foreign(own, route)
    if wanted is not None and wanted not in permits:
        who = f"{route.kind.kind}s of namespace {route.metadata.namespace}"
        return "RefNotPermitted", not_granted(own.namespace, who, f"Service {own.name}")
    return None


def not_granted(namespace: str, who: str, what: str) -> str:
    """That nothing in a namespace permits a reference, in words."""
    return f"no ReferenceGrant of namespace {namespace} lets {who} refer to {what}"


def unsupported(route: PolicyObject) -> str | None:
    """The first thing in the route that nothing here does, in words."""
    spec = route.spec_as(RouteSpec)
    for index, rule in enumerate(spec.rules):
        for number, own in enumerate(rule.backend_refs):
            for place, item in enumerate(own.filters):
                if item.type not in _OF_BACKENDS:
                    path = f"spec.rules[{index}].backendRefs[{number}].filters[{place}]"
                    return f"{path}: {item.type} is not done for one backend, only {' and '.join(_OF_BACKENDS)} are"
    return None


def extension_filters(route: PolicyObject) -> Iterator[tuple[str, str]]:
    """(path, kind) of every ExtensionRef of its rules."""
    spec = route.spec_as(RouteSpec)
    for index, rule in enumerate(spec.rules):
        for number, item in enumerate(rule.filters):
            if item.extension_ref is not None:
                yield f"spec.rules[{index}].filters[{number}].extensionRef", item.extension_ref.kind


# --- matches and their rank


def _http_match(match: HTTPRouteMatch, uri: StringMatch) -> HTTPMatchRequest:
    return LiteralMatch(
        uri=uri,
        method=StringMatch(exact=match.method.value) if match.method is not None else None,
        headers=_values(match.headers, header=True),
        query_params=_values(match.query_params),
    )


def _values(matches: Sequence[HTTPHeaderMatch], *, header: bool = False) -> FrozenMap[str, StringMatch]:
    return FrozenMap({_name(own.name) if header else own.name: _text(own.type, own.value) for own in matches})


def _name(header: str) -> str:
    """The Host has another name inside of proxies."""
    name = header.lower()
    return ":authority" if name == "host" else name


def _text(kind: ValueMatchType, value: str) -> StringMatch:
    return StringMatch(exact=value) if kind is ValueMatchType.EXACT else StringMatch(regex=value)


def _uri(path: HTTPPathMatch) -> StringMatch:
    match path.type:
        case PathMatchType.EXACT:
            return StringMatch(exact=path.value)
        case PathMatchType.REGULAR_EXPRESSION:
            return StringMatch(regex=path.value)
        case PathMatchType.PATH_PREFIX:
            prefix = path.value.rstrip("/")
            return PathSegments(prefix=prefix) if prefix else _EVERYTHING


def _split(path: HTTPPathMatch) -> tuple[StringMatch, ...]:
    """The prefix alone, and with what follows: so that a prefix can be replaced by nothing."""
    prefix = path.value.rstrip("/")
    return (StringMatch(exact=prefix), StringMatch(prefix=f"{prefix}/")) if prefix else (_EVERYTHING,)


def _http_rank(match: HTTPRouteMatch) -> Rank:
    path = match.effective_path
    kinds = (PathMatchType.EXACT, PathMatchType.REGULAR_EXPRESSION, PathMatchType.PATH_PREFIX)
    length = 0 if path.type is PathMatchType.EXACT else len(path.value.rstrip("/") or "/")
    return kinds.index(path.type), -length, int(match.method is None), -len(match.headers), -len(match.query_params)


def _grpc_match(match: GRPCRouteMatch) -> HTTPMatchRequest:
    return LiteralMatch(uri=_grpc_uri(match.method), headers=_values(match.headers, header=True))


def _grpc_uri(own: GRPCMethodMatch | None) -> StringMatch:
    if own is None:
        return _EVERYTHING
    if own.type is ValueMatchType.REGULAR_EXPRESSION:
        parts = [f"(?:{text})" if text else "[^/]+" for text in (own.service, own.method)]
        return StringMatch(regex=f"/{'/'.join(parts)}")
    if own.service and own.method:
        return StringMatch(exact=f"/{own.service}/{own.method}")
    return StringMatch(prefix=f"/{own.service}/") if own.service else StringMatch(regex=f"/[^/]+/{own.method}")


def _grpc_rank(match: GRPCRouteMatch) -> Rank:
    own = match.method or GRPCMethodMatch()
    return 0, -len(own.service), -len(own.method), -len(match.headers), 0


# --- filters


def _headers(filters: Iterable[RouteFilter]) -> Headers | None:
    request = next((own.request_header_modifier for own in filters if own.request_header_modifier is not None), None)
    response = next((own.response_header_modifier for own in filters if own.response_header_modifier is not None), None)
    if request is None and response is None:
        return None
    return Headers(request=_operations(request), response=_operations(response))


def _operations(own: HTTPHeaderFilter | None) -> HeaderOperations | None:
    """`%` begins a command in a VirtualService, and is nothing but itself here."""
    if own is None:
        return None
    return HeaderOperations(
        set=FrozenMap({item.name: item.value.replace("%", "%%") for item in own.set}),
        add=FrozenMap({item.name: item.value.replace("%", "%%") for item in own.add}),
        remove=own.remove,
    )


def _rewrite(own: HTTPURLRewriteFilter, path: HTTPPathMatch) -> HTTPRewrite | None:
    uri, regex = "", None
    if own.path is not None and own.path.type is PathModifierType.REPLACE_FULL_PATH:
        full = _absolute(own.path.replace_full_path or "").replace("\\", r"\\")
        regex = RegexRewrite(match="^/.*$", rewrite=full)
    elif own.path is not None:
        uri = _replacement(own.path, path)
    if not (uri or regex or own.hostname):
        return None
    return HTTPRewrite(uri=uri, uri_regex_rewrite=regex, authority=own.hostname)


def _redirect_path(own: HTTPPathModifier | None, path: HTTPPathMatch) -> tuple[str, str]:
    """(the whole path, what replaces the prefix), each empty when it is not meant."""
    if own is None:
        return "", ""
    if own.type is PathModifierType.REPLACE_FULL_PATH:
        return _absolute(own.replace_full_path or ""), ""
    return "", _replacement(own, path)


def _replacement(own: HTTPPathModifier, path: HTTPPathMatch) -> str:
    """What is written for the text that the route matched; nothing when it stays."""
    wanted = _absolute(own.replace_prefix_match or "").rstrip("/")
    if path.value.rstrip("/"):
        return wanted or "/"
    return f"{wanted}/" if wanted else ""


def _drops_prefix(own: HTTPPathModifier | None) -> bool:
    if own is None or own.type is not PathModifierType.REPLACE_PREFIX_MATCH:
        return False
    return not (own.replace_prefix_match or "").rstrip("/")


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


# --- timeouts and retries


def _times(rule: HTTPRouteRule) -> dict[str, object]:
    whole = rule.timeouts.request if rule.timeouts is not None else None
    one = (rule.timeouts.backend_request if rule.timeouts is not None else None) or None
    if rule.retry is not None and rule.retry.attempts == 0:
        # The only try has the shorter of both.
        return {"timeout": min((item for item in (whole, one) if item), default=whole), "retries": HTTPRetry()}
    if rule.retry is not None:
        return {"timeout": whole, "retries": _retries(rule.retry, one)}
    retries = _retry_with(HTTPRetry(attempts=DEFAULT_RETRY_ATTEMPTS), per_try_timeout=one) if one else None
    return {"timeout": whole, "retries": retries}


def _retries(own: HTTPRouteRetry, one: float | None) -> HTTPRetry:
    attempts = _DEFAULT_TRIES if own.attempts is None else own.attempts
    made = HTTPRetry(attempts=attempts, retry_on=",".join((*_RETRY_ON, *map(str, own.codes))))
    return _retry_with(made, per_try_timeout=one, backoff=own.backoff)


def _retry_with(made: HTTPRetry, **durations: float | None) -> HTTPRetry:
    """With durations, which are parsed already."""
    return made.model_copy(update=durations)
