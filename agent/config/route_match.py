"""RouteMatch: which requests a route is for. Source: envoy/config/route/v3/route_components.proto."""

from envoy.config.route.v3.route_components_pb2 import RouteMatch as MatchMessage

from agent.config.fields import item, only, value_or, within
from agent.config.fractions import runtime_share
from agent.config.matchers import header_matcher, query_matcher
from agent.config.regexes import regex
from agent.model.route import PathKind, RouteMatch
from agent.model.shares import MILLION

_PATHS = {
    "prefix": PathKind.PREFIX,
    "path": PathKind.EXACT,
    "path_separated_prefix": PathKind.SEPARATED_PREFIX,
}
_KNOWN = frozenset({*_PATHS, "safe_regex", "case_sensitive", "runtime_fraction", "headers", "query_parameters"})


def route_match(message: MatchMessage, path: str) -> RouteMatch:
    """The match."""
    only(message, path, _KNOWN)
    kind, text = _path(message, path)
    return RouteMatch(
        path_kind=kind,
        path=text,
        ignore_case=kind is not PathKind.REGEX and not value_or(message, "case_sensitive", True),
        headers=tuple(header_matcher(one, item(path, "headers", index)) for index, one in enumerate(message.headers)),
        query=tuple(
            query_matcher(one, item(path, "query_parameters", index))
            for index, one in enumerate(message.query_parameters)
        ),
        runtime_per_million=_share(message, path),
    )


def _path(message: MatchMessage, path: str) -> tuple[PathKind, str]:
    which = message.WhichOneof("path_specifier") or ""
    if which == "safe_regex":
        return PathKind.REGEX, regex(message.safe_regex, within(path, which))
    return _PATHS[which], getattr(message, which)


def _share(message: MatchMessage, path: str) -> int:
    if not message.HasField("runtime_fraction"):
        return MILLION
    return runtime_share(message.runtime_fraction, within(path, "runtime_fraction"))
