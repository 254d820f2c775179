"""What of a request is hashed to choose its host: the route's part of consistentHash.

Source: istio route.go consistentHashToHashPolicy; gRFC A42 (gRPC hashes headers).
"""

from envoy.config.route.v3.route_components_pb2 import RouteAction

from controlplane.compiler.resources import duration
from controlplane.policy.load_balancer import ConsistentHashLB


def hash_policy(hashing: ConsistentHashLB) -> RouteAction.HashPolicy:
    """Exactly one key is set (admission)."""
    message = RouteAction.HashPolicy()
    if hashing.http_header_name is not None:
        message.header.header_name = hashing.http_header_name
    elif hashing.http_cookie is not None:
        cookie = hashing.http_cookie
        message.cookie.name, message.cookie.path = cookie.name, cookie.path
        if cookie.ttl is not None:
            message.cookie.ttl.CopyFrom(duration(cookie.ttl))
        for attribute in cookie.attributes:
            message.cookie.attributes.add(name=attribute.name, value=attribute.value)
    elif hashing.http_query_parameter_name is not None:
        message.query_parameter.name = hashing.http_query_parameter_name
    else:
        message.connection_properties.source_ip = True
    return message
