"""RBAC rules of HTTP and network filters.

Source: envoy/config/rbac/v3/rbac.proto; envoy/extensions/filters/{http,network}/rbac/v3.
Differs: matching trees, CEL conditions, audit loggers, filter state and `source_ip`, which Envoy calls ambiguous, are
        not taken.
"""

import ipaddress
from collections.abc import Callable, Iterable

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.rbac.v3.rbac_pb2 import RBAC as RulesMessage
from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal, SourcedMetadata
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as HttpMessage
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkMessage
from envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2 import UriTemplateMatchConfig
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher

from agent.config.fields import Refused, beyond, item, only, refuse, unpacked, within
from agent.config.matchers import header_matcher, string_matcher
from agent.filters.path_templates import template_regex
from agent.model.matchers import MatchKind, StringMatcher
from agent.model.rbac import (
    Action,
    AddressIn,
    AllOf,
    Anybody,
    AnyOf,
    BoolValue,
    Condition,
    EitherValue,
    HeaderIs,
    ListValue,
    MetadataIs,
    NetworkRbac,
    Not,
    NullValue,
    PathIs,
    PeerIs,
    PortIn,
    PresentValue,
    Rbac,
    RbacPolicy,
    RbacRules,
    Side,
    TextValue,
    ValueTest,
)

MAX_DEPTH = 32
MAX_POLICIES = 10_000
_HTTP = frozenset({"rules", "rules_stat_prefix", "shadow_rules", "shadow_rules_stat_prefix"})
_NETWORK = frozenset({"rules", "stat_prefix", "shadow_rules", "shadow_rules_stat_prefix"})
_NOT_HTTP = "conditions of connections: addresses, ports and the peer's name"


def http_rbac(message: HttpMessage, path: str) -> Rbac:
    """The filter of requests."""
    only(message, path, _HTTP)
    return Rbac(
        rules=_rules(message.rules, within(path, "rules"), http=True) if message.HasField("rules") else None,
        shadow=_shadow(message, path, http=True),
        prefix=message.rules_stat_prefix,
        shadow_prefix=message.shadow_rules_stat_prefix,
    )


def network_rbac(message: NetworkMessage, path: str) -> NetworkRbac:
    """The filter of connections."""
    only(message, path, _NETWORK)
    own = Rbac(
        rules=_rules(message.rules, within(path, "rules"), http=False) if message.HasField("rules") else None,
        shadow=_shadow(message, path, http=False),
        shadow_prefix=message.shadow_rules_stat_prefix,
    )
    return NetworkRbac(stat_prefix=message.stat_prefix, rbac=own)


def _shadow(message: HttpMessage | NetworkMessage, path: str, *, http: bool) -> RbacRules | None:
    if not message.HasField("shadow_rules"):
        return None
    return _rules(message.shadow_rules, within(path, "shadow_rules"), http=http)


def _rules(message: RulesMessage, own: str, *, http: bool) -> RbacRules:
    only(message, own, frozenset({"action", "policies"}))
    if message.action not in RulesMessage.Action.values():
        raise refuse(within(own, "action"), message.action, "ALLOW, DENY or LOG")
    if len(message.policies) > MAX_POLICIES:
        raise refuse(within(own, "policies"), len(message.policies), f"at most {MAX_POLICIES}")
    found = [
        RbacPolicy(name=key, condition=_policy(message.policies[key], f'{within(own, "policies")}["{key}"]', http))
        for key in sorted(message.policies, key=lambda text: text.encode())
    ]
    return RbacRules(action=Action(message.action), policies=tuple(found))


def _policy(message: Policy, path: str, http: bool) -> Condition:
    only(message, path, frozenset({"permissions", "principals"}))
    if not message.permissions or not message.principals:
        raise Refused(path, "found no permissions or no principals, expected at least one of each")
    permission = AnyOf(conditions=_each(message.permissions, path, "permissions", _permission, http, 0))
    principal = AnyOf(conditions=_each(message.principals, path, "principals", _principal, http, 0))
    return AllOf(conditions=(permission, principal))


def _each(
    messages: Iterable[object],
    path: str,
    name: str,
    read: Callable[..., Condition],
    http: bool,
    depth: int,
) -> tuple[Condition, ...]:
    if depth > MAX_DEPTH:
        raise Refused(path, f"found conditions within conditions, expected at most {MAX_DEPTH} levels")
    return tuple(read(one, item(path, name, index), http, depth) for index, one in enumerate(messages))


def _permission(message: Permission, path: str, http: bool, depth: int) -> Condition:
    which = message.WhichOneof("rule") or ""
    own = within(path, which)
    match which:
        case "and_rules":
            return AllOf(conditions=_each(message.and_rules.rules, own, "rules", _permission, http, depth + 1))
        case "or_rules":
            return AnyOf(conditions=_each(message.or_rules.rules, own, "rules", _permission, http, depth + 1))
        case "not_rule":
            return Not(condition=_each([message.not_rule], path, which, _permission, http, depth + 1)[0])
        case "destination_ip":
            return _address(message.destination_ip, Side.LOCAL, own)
        case "destination_port":
            return PortIn(low=message.destination_port, high=message.destination_port + 1)
        case "destination_port_range":
            return PortIn(low=message.destination_port_range.start, high=message.destination_port_range.end)
        case "uri_template":
            _only_http(http, own)
            return PathIs(matcher=_template(message.uri_template, own))
    return _shared(message, which, path, http)


def _principal(message: Principal, path: str, http: bool, depth: int) -> Condition:
    which = message.WhichOneof("identifier") or ""
    own = within(path, which)
    match which:
        case "and_ids":
            return AllOf(conditions=_each(message.and_ids.ids, own, "ids", _principal, http, depth + 1))
        case "or_ids":
            return AnyOf(conditions=_each(message.or_ids.ids, own, "ids", _principal, http, depth + 1))
        case "not_id":
            return Not(condition=_each([message.not_id], path, which, _principal, http, depth + 1)[0])
        case "authenticated":
            only(message.authenticated, own, frozenset({"principal_name"}))
            if not message.authenticated.HasField("principal_name"):
                return PeerIs(matcher=None)
            return PeerIs(matcher=string_matcher(message.authenticated.principal_name, within(own, "principal_name")))
        case "direct_remote_ip":
            return _address(message.direct_remote_ip, Side.DIRECT, own)
        case "remote_ip":
            return _address(message.remote_ip, Side.REMOTE, own)
    return _shared(message, which, path, http)


def _shared(message: Permission | Principal, which: str, path: str, http: bool) -> Condition:
    """What both have."""
    own = within(path, which)
    match which:
        case "any" if message.any:
            return Anybody()
        case "header":
            _only_http(http, own)
            return HeaderIs(matcher=header_matcher(message.header, own))
        case "url_path":
            _only_http(http, own)
            return PathIs(matcher=_url_path(message.url_path, own))
        case "metadata":
            return metadata_matcher(message.metadata, own)
        case "sourced_metadata":
            return _sourced(message.sourced_metadata, own)
    raise beyond(own, which or "no condition", "one that the agent tests" if http else _NOT_HTTP)


def _only_http(http: bool, path: str) -> None:
    if not http:
        raise beyond(path, "a condition of requests", _NOT_HTTP)


def _url_path(message: PathMatcher, path: str) -> StringMatcher:
    only(message, path, frozenset({"path"}))
    return string_matcher(message.path, within(path, "path"))


def _template(message: TypedExtensionConfig, path: str) -> StringMatcher:
    own = within(path, "typed_config")
    config = unpacked(message.typed_config, UriTemplateMatchConfig, own)
    try:
        pattern = template_regex(config.path_template)
    except ValueError as error:
        raise Refused(within(own, "path_template"), str(error)) from error
    return StringMatcher(kind=MatchKind.REGEX, value=pattern)


def _address(message: CidrRange, side: Side, path: str) -> AddressIn:
    length = f"/{message.prefix_len.value}" if message.HasField("prefix_len") else "/0"
    try:
        network = ipaddress.ip_network(message.address_prefix + length, strict=False)
    except ValueError as error:
        raise refuse(path, message.address_prefix + length, "an address and a prefix length") from error
    return AddressIn(side=side, network=str(network))


def _sourced(message: SourcedMetadata, path: str) -> MetadataIs:
    only(message, path, frozenset({"metadata_matcher"}))  # the other source is the route
    return metadata_matcher(message.metadata_matcher, within(path, "metadata_matcher"))


def metadata_matcher(message: MetadataMatcher, path: str) -> MetadataIs:
    """What a filter has told."""
    only(message, path, frozenset({"filter", "path", "value", "invert"}))
    keys = tuple(segment.key for segment in message.path)
    value = _value(message.value, within(path, "value"), 0)
    return MetadataIs(filter=message.filter, path=keys, value=value, invert=message.invert)


def _value(message: ValueMatcher, path: str, depth: int) -> ValueTest:
    which = message.WhichOneof("match_pattern") or ""
    own = within(path, which)
    if depth > MAX_DEPTH:
        raise Refused(path, f"found matchers within matchers, expected at most {MAX_DEPTH} levels")
    match which:
        case "string_match":
            return TextValue(matcher=string_matcher(message.string_match, own))
        case "bool_match":
            return BoolValue(value=message.bool_match)
        case "present_match":
            return PresentValue(value=message.present_match)
        case "null_match":
            return NullValue()
        case "list_match":
            return ListValue(one_of=_value(message.list_match.one_of, within(own, "one_of"), depth + 1))
        case "or_match":
            tests = message.or_match.value_matchers
            found = (_value(one, item(own, "value_matchers", index), depth + 1) for index, one in enumerate(tests))
            return EitherValue(tests=tuple(found))
    raise beyond(own, which or "no matcher", "a match of strings, booleans, lists or presence")
