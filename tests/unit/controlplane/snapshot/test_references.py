"""What a listener and a route configuration lead to."""

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext

from controlplane.snapshot.references import has_vhds, routes_named, secrets_shown
from mesh.xds.type_url import LISTENER
from tests.support.resources import ADS, listener, resource, route_configuration


def test_the_routes_of_a_listener() -> None:
    assert routes_named(listener("l", "cluster", routes="r")) == {"r"}
    assert routes_named(listener("l", "cluster")) == frozenset()


def test_where_virtual_hosts_come_from() -> None:
    assert has_vhds(route_configuration("r", by_vhds=True))
    assert not has_vhds(route_configuration("r", "cluster"))


def test_the_secrets_of_a_listener_are_those_of_this_stream() -> None:
    context = DownstreamTlsContext()
    common = context.common_tls_context
    common.tls_certificate_sds_secret_configs.append(SdsSecretConfig(name="shown", sds_config=ADS))
    common.tls_certificate_sds_secret_configs.append(SdsSecretConfig(name="static"))
    combined = common.combined_validation_context.validation_context_sds_secret_config
    combined.CopyFrom(SdsSecretConfig(name="roots", sds_config=ADS))
    socket = TransportSocket(name="tls")
    socket.typed_config.Pack(context)
    message = Listener(name="l", filter_chains=[FilterChain(transport_socket=socket), FilterChain()])
    assert secrets_shown(resource(LISTENER, "l", message)) == {"shown", "roots"}
    assert secrets_shown(listener("l", "cluster")) == frozenset()
