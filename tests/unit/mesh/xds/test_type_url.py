"""Type URLs are those of the messages, and the order is that of the rules."""

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from mesh.xds import type_url

MESSAGES = {
    type_url.LISTENER: Listener,
    type_url.ROUTE_CONFIGURATION: RouteConfiguration,
    type_url.VIRTUAL_HOST: VirtualHost,
    type_url.CLUSTER: Cluster,
    type_url.CLUSTER_LOAD_ASSIGNMENT: ClusterLoadAssignment,
    type_url.SECRET: Secret,
}


def test_urls_are_those_of_the_messages() -> None:
    for url, message in MESSAGES.items():
        assert url == f"type.googleapis.com/{message.DESCRIPTOR.full_name}"


def test_every_type_has_a_place_in_the_order_and_a_short_name() -> None:
    assert set(type_url.PUSH_ORDER) == set(MESSAGES) == set(type_url.SHORT_NAMES)
    assert len(type_url.PUSH_ORDER) == len(MESSAGES)
    assert type_url.FULL_STATE_TYPES <= type_url.WILDCARD_TYPES <= set(MESSAGES)


def test_what_is_referred_to_is_pushed_first() -> None:
    place = type_url.PUSH_ORDER.index
    assert place(type_url.SECRET) < place(type_url.CLUSTER) < place(type_url.CLUSTER_LOAD_ASSIGNMENT)
    assert place(type_url.CLUSTER_LOAD_ASSIGNMENT) < place(type_url.LISTENER) < place(type_url.ROUTE_CONFIGURATION)
    assert place(type_url.ROUTE_CONFIGURATION) < place(type_url.VIRTUAL_HOST)
