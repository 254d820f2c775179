"""RouteAction.hash_policy: what of a request is hashed to choose its host.

Source: envoy/config/route/v3/route_components.proto RouteAction.HashPolicy.
"""

from collections.abc import Iterable

from envoy.config.route.v3.route_components_pb2 import RouteAction

from agent.config.fields import beyond, item, only, within
from agent.model.route import HashKind, HashPolicy

Message = RouteAction.HashPolicy
_COOKIE = frozenset({"name", "ttl", "path", "attributes"})


def hash_policies(messages: Iterable[Message], path: str) -> tuple[HashPolicy, ...]:
    """The policies in their order; `path` is the RouteAction's."""
    found = (_policy(message, item(path, "hash_policy", index)) for index, message in enumerate(messages))
    return tuple(policy for policy in found if policy is not None)


def _policy(message: Message, path: str) -> HashPolicy | None:
    """None for one that hashes nothing."""
    which = message.WhichOneof("policy_specifier")
    own = within(path, str(which))
    match which:
        case "header":
            only(message.header, own, frozenset({"header_name"}))
            return HashPolicy(kind=HashKind.HEADER, name=message.header.header_name.lower(), terminal=message.terminal)
        case "cookie":
            return _cookie(message, own)
        case "query_parameter":
            only(message.query_parameter, own, frozenset({"name"}))
            return HashPolicy(
                kind=HashKind.QUERY_PARAMETER, name=message.query_parameter.name, terminal=message.terminal
            )
        case "connection_properties":
            return HashPolicy(kind=HashKind.SOURCE_IP, terminal=message.terminal) if _by_source(message) else None
    raise beyond(own, "a value", "header, cookie, query_parameter or connection_properties")


def _by_source(message: Message) -> bool:
    return message.connection_properties.source_ip


def _cookie(message: Message, path: str) -> HashPolicy:
    cookie = message.cookie
    only(cookie, path, _COOKIE)
    return HashPolicy(
        kind=HashKind.COOKIE,
        name=cookie.name,
        terminal=message.terminal,
        ttl_s=cookie.ttl.seconds if cookie.HasField("ttl") else None,
        path=cookie.path,
        attributes=tuple((one.name, one.value) for one in cookie.attributes),
    )
