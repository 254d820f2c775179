"""A CORS policy. Source: envoy/extensions/filters/http/cors/v3/cors.proto."""

from typing import Any

from envoy.extensions.filters.http.cors.v3.cors_pb2 import CorsPolicy as PolicyMessage

from agent.config.fields import item, only, within
from agent.config.fractions import runtime_share
from agent.config.matchers import string_matcher
from agent.model.cors import CorsPolicy
from agent.model.shares import MILLION

_KNOWN = frozenset(field.name for field in PolicyMessage.DESCRIPTOR.fields)


def cors_policy(message: PolicyMessage, path: str) -> CorsPolicy:
    """What one level says."""
    only(message, path, _KNOWN)
    return CorsPolicy(
        allow_origins=tuple(
            string_matcher(one, item(path, "allow_origin_string_match", index))
            for index, one in enumerate(message.allow_origin_string_match)
        ),
        allow_methods=message.allow_methods,
        allow_headers=message.allow_headers,
        expose_headers=message.expose_headers,
        max_age=message.max_age,
        allow_credentials=_choice(message, "allow_credentials"),
        allow_private_network=_choice(message, "allow_private_network_access"),
        forward_unmatched=_choice(message, "forward_not_matching_preflights"),
        enabled_per_million=_share(message, "filter_enabled", path, MILLION),
        counted_per_million=_share(message, "shadow_enabled", path, 0),
    )


def _choice(message: PolicyMessage, name: str) -> bool | None:
    return bool(getattr(message, name).value) if message.HasField(_name(name)) else None


def _share(message: PolicyMessage, name: str, path: str, default: int) -> int:
    return runtime_share(getattr(message, name), within(path, name)) if message.HasField(_name(name)) else default


def _name(name: str) -> Any:
    """A field's name, for a stub that wants a literal."""
    return name
