"""corsPolicy as Envoy's CORS filter, configured per route.

Source: istio route.go TranslateCORSPolicy.
"""

from envoy.extensions.filters.http.cors.v3.cors_pb2 import CorsPolicy as Message
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from controlplane.compiler.route_match import string_matcher
from controlplane.policy.http_route import CorsPolicy, UnmatchedPreflights

NAME = "envoy.filters.http.cors"


def cors_policy(policy: CorsPolicy | None) -> Message | None:
    """The filter's configuration for a route."""
    if policy is None:
        return None
    message = Message(
        allow_methods=",".join(policy.allow_methods),
        allow_headers=",".join(policy.allow_headers),
        expose_headers=",".join(policy.expose_headers),
    )
    message.allow_origin_string_match.extend(string_matcher(origin) for origin in policy.allow_origins)
    # The older field; `*` is everybody to the filter.
    message.allow_origin_string_match.extend(StringMatcher(exact=origin) for origin in policy.allow_origin)
    message.filter_enabled.default_value.numerator = 100
    if policy.max_age is not None:
        message.max_age = str(round(policy.max_age))
    if policy.allow_credentials is not None:
        message.allow_credentials.value = policy.allow_credentials
    message.forward_not_matching_preflights.value = policy.unmatched_preflights is not UnmatchedPreflights.IGNORE
    return message
