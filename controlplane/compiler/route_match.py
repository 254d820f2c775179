"""HTTPMatchRequest as Envoy's RouteMatch; which entries hold for a caller and port at all.

Source: control-plane.md 2.3.4, 2.3.7, 2.3.8; istio route.go TranslateRouteMatch.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher, RouteMatch
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from controlplane.model.gateway_rules import LiteralMatch, PathSegments
from controlplane.model.gateways import gateway_name
from controlplane.model.proxy import Caller
from controlplane.policy.http_route import HTTPMatchRequest
from controlplane.policy.selector import selects
from controlplane.policy.string_match import StringMatch
from controlplane.policy.virtual_service import MESH_GATEWAY
from mesh.vocabulary import Dialect

_PSEUDO = ("scheme", "method", "authority")
# Headers of these names are not matched: the fields of the same name do that (2.3.8).
_IGNORED_HEADERS = frozenset({"uri", "scheme", "method", "authority"})
CLAIM_PREFIX = "@request.auth.claims"


class ProxyMatch(Protocol):
    """The part of a match, of whatever protocol, that selects proxies."""

    @property
    def port(self) -> int: ...
    @property
    def gateways(self) -> tuple[str, ...]: ...
    @property
    def source_namespace(self) -> str: ...
    @property
    def source_labels(self) -> Mapping[str, str]: ...


def holds_for(match: ProxyMatch, caller: Caller, port: int, gateway: str = MESH_GATEWAY, namespace: str = "") -> bool:
    """Whether the entry is for this caller and port; these fields never become part of a route.

    `gateway`: the one whose routes are made, `namespace/name`; `namespace`: of the rule, by which it names gateways.
    """
    if match.port and match.port != port:
        return False
    if match.gateways:
        return any(_names(written, namespace) == gateway for written in match.gateways)
    if match.source_namespace and match.source_namespace != caller.namespace:
        return False
    return selects(match.source_labels, dict(caller.labels))


def _names(written: str, namespace: str) -> str:
    return MESH_GATEWAY if written == MESH_GATEWAY else gateway_name(written, namespace)


def can_be_matched(match: HTTPMatchRequest, dialect: Dialect) -> bool:
    """Whether the dialect can evaluate it. What cannot be evaluated must not match more than was meant."""
    names = (*match.headers, *match.without_headers)
    if any(name.startswith(CLAIM_PREFIX) for name in names):
        return False
    # gRPC would ignore the whole route silently.
    return dialect is not Dialect.GRPC or not match.query_params


def route_match(match: HTTPMatchRequest | None) -> RouteMatch:
    """The match; None matches everything."""
    if match is None:
        return RouteMatch(prefix="/")
    message = _path(match)
    for name in _PSEUDO:
        wanted: StringMatch | None = getattr(match, name)
        if wanted is not None:
            message.headers.append(_header(f":{name}", wanted))
    tested = sorted(match.headers.items()) if isinstance(match, LiteralMatch) else _tested(match.headers.items())
    message.headers.extend(_header(name, wanted) for name, wanted in tested)
    message.headers.extend(_without(name, wanted) for name, wanted in _tested(match.without_headers.items()))
    message.query_parameters.extend(_query(name, wanted) for name, wanted in sorted(match.query_params.items()))
    return message


def string_matcher(match: StringMatch) -> StringMatcher:
    """The matcher of a value that must be there."""
    if match.exact is not None:
        return StringMatcher(exact=match.exact)
    if match.prefix is not None:
        return StringMatcher(prefix=match.prefix)
    return StringMatcher(safe_regex=RegexMatcher(regex=match.regex or ".*"))


def _path(match: HTTPMatchRequest) -> RouteMatch:
    uri = match.uri
    if uri is None or uri.is_presence:
        message = RouteMatch(prefix="/")
    elif uri.exact is not None:
        message = RouteMatch(path=uri.exact)
    elif isinstance(uri, PathSegments):
        message = RouteMatch(path_separated_prefix=uri.prefix or "")
    elif uri.prefix is not None:
        message = RouteMatch(prefix=uri.prefix)
    else:
        message = RouteMatch(safe_regex=RegexMatcher(regex=uri.regex or ""))
    if match.ignore_uri_case and uri is not None and uri.regex is None:
        message.case_sensitive.value = False
    return message


def _tested(items: Iterable[tuple[str, StringMatch]]) -> list[tuple[str, StringMatch]]:
    return sorted(((name, match) for name, match in items if name not in _IGNORED_HEADERS), key=lambda pair: pair[0])


def _header(name: str, match: StringMatch) -> HeaderMatcher:
    if match.is_presence:
        return HeaderMatcher(name=name, present_match=True)
    return HeaderMatcher(name=name, string_match=string_matcher(match))


def _without(name: str, match: StringMatch) -> HeaderMatcher:
    message = _header(name, match)
    message.invert_match = True
    if not match.is_presence:
        # Otherwise a request without the header would not match, which is the case that is most meant.
        message.treat_missing_header_as_empty = True
    return message


def _query(name: str, match: StringMatch) -> QueryParameterMatcher:
    if match.is_presence:
        return QueryParameterMatcher(name=name, present_match=True)
    return QueryParameterMatcher(name=name, string_match=string_matcher(match))
