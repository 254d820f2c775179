"""Reading the node of a stream."""

from typing import Any

import pytest

from controlplane.model.proxy import Caller, Proxy
from controlplane.registry.instances import InstancePort
from mesh.vocabulary import Dialect, Locality
from tests.support.compiling import proxy_of


@pytest.mark.parametrize(
    ("agent", "metadata", "dialect"),
    [
        ("gossamer-agent", {}, Dialect.GOSSAMER),
        ("envoy", {}, Dialect.ENVOY),
        ("gRPC C-core linux Python", {}, Dialect.GRPC),
        ("grpc-go", {}, Dialect.GRPC),
        ("something", {}, Dialect.ENVOY),
        ("envoy", {"DIALECT": "gossamer"}, Dialect.GOSSAMER),
    ],
)
def test_dialect(agent: str, metadata: dict[str, Any], dialect: Dialect) -> None:
    assert proxy_of({"id": "n", "userAgentName": agent, "metadata": metadata}).dialect is dialect


@pytest.mark.parametrize(
    ("agent", "metadata", "tls"),
    [
        ("gossamer-agent", {}, True),
        ("envoy", {}, False),
        ("envoy", {"TLS_DIR": "/tls"}, True),
        ("gRPC", {}, False),
        ("gRPC", {"TLS": True}, True),
    ],
)
def test_certificates(agent: str, metadata: dict[str, Any], tls: bool) -> None:
    assert proxy_of({"id": "n", "userAgentName": agent, "metadata": metadata}).tls is tls


def envoy(**metadata: Any) -> Proxy:
    return proxy_of({"id": "e", "userAgentName": "envoy", "locality": {"region": "r"}, "metadata": metadata})


def test_workloads_of_an_envoy() -> None:
    """They are instances on the proxy's node; its own namespace and account are those of the first."""
    proxy = envoy(
        ADDRESS="10.0.0.9",
        TLS_DIR="/tls",
        WORKLOADS=[
            {
                "service": "billing", "namespace": "pay", "service_account": "bill", "labels": {"app": "billing"},
                "ports": [{"name": "http", "port": 3005, "protocol": "HTTP", "inbound_port": "20000"}],
            }
        ],
    )  # fmt: skip
    (workload,) = proxy.workloads
    assert (workload.id, workload.node, workload.address) == ("billing-3005", "e", "10.0.0.9")
    assert workload.ports == (InstancePort(name="http", port=3005, protocol="HTTP", inbound_port=20000),)
    assert workload.locality == Locality("r")
    assert workload.agent
    assert (proxy.namespace, proxy.service_account) == ("pay", "bill")
    assert proxy.labels == {"app": "billing"}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"DIALECT": "istio"}, "found DIALECT 'istio'"),
        ({"NAMESPACE": 3}, "found float as NAMESPACE, expected a string"),
        ({"NAMESPACE": "a/b"}, "found NAMESPACE 'a/b'"),
        ({"LABELS": {"a": 1}}, "found LABELS"),
        ({"OUTBOUND_PORT": 70000}, "found OUTBOUND_PORT 70000"),
        ({"OUTBOUND_PORT": 1.5}, "found OUTBOUND_PORT '1.5'"),
        ({"WORKLOADS": {}}, "found dict as WORKLOADS, expected a list"),
        ({"WORKLOADS": ["a"]}, "something else than an object"),
        ({"WORKLOADS": [{"service": "a"}]}, "without ports"),
        ({"WORKLOADS": [{"service": "a/b", "ports": [{"port": 1}]}]}, "found service 'a/b'"),
        ({"WORKLOADS": [{"service": "a", "ports": [{"port": "x"}]}]}, "found port 'x', expected a port"),
        ({"WORKLOADS": [{"service": "a", "ports": [{"port": 1}]}] * 257}, "found 257 WORKLOADS"),
    ],
)
def test_refused(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        envoy(**metadata)


def test_route_configuration_names() -> None:
    """Labels make another name, the same on every replica."""
    assert Caller("shop").route_configuration == "outbound.shop"
    labelled = Caller("shop", (("app", "a"),)).route_configuration
    assert labelled == "outbound.shop.4806a97d"
    assert labelled != Caller("shop", (("app", "b"),)).route_configuration


def test_a_gateway() -> None:
    """An Envoy that is one is an instance too, without service and ports; an agent reports itself; a client is none."""
    said: dict[str, Any] = {"GATEWAY": True, "NAMESPACE": "edge", "SERVICE_ACCOUNT": "sa", "LABELS": {"istio": "edge"}}
    proxy = envoy(ADDRESS="10.0.0.9", TLS_DIR="/tls", **said)
    assert (proxy.gateway, proxy.gateway_address, proxy.namespace) == (True, "10.0.0.9", "edge")
    (own,) = proxy.workloads
    assert (own.id, own.service, own.ports, own.gateway, own.agent) == ("gateway", "", (), True, True)
    assert (own.namespace, own.service_account, dict(own.labels)) == ("edge", "sa", {"istio": "edge"})
    assert envoy(GATEWAY_ADDRESS="0.0.0.0", **said).gateway_address == "0.0.0.0"
    agent = proxy_of({"id": "n", "userAgentName": "gossamer-agent", "metadata": said})
    assert (agent.gateway, agent.workloads) == (True, ())
    assert not envoy().gateway
    assert not proxy_of({"id": "n", "userAgentName": "gRPC", "metadata": said}).gateway
