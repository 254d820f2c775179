"""Which instances the control plane is told."""

from agent.model.reports import LocalInstance
from agent.supervisor.node import announced
from mesh.vocabulary import HealthStatus


def instance(name: str, account: str, namespace: str = "default") -> LocalInstance:
    return LocalInstance(
        id=name, service=name, namespace=namespace, service_account=account, labels=(), app_address="127.0.0.1",
        ports=(), weight=1, outbound_port=15100, health=HealthStatus.HEALTHY, health_reason="", health_since_ms=0,
        bypass_possible=False,
    )  # fmt: skip


def test_an_instance_is_told_when_its_certificate_is_decided() -> None:
    orders, users, other = instance("o", "orders"), instance("u", "users"), instance("x", "orders", "shop")
    decided = {"spiffe://td/ns/default/sa/orders"}
    assert announced((orders, users, other), "td", decided.__contains__) == (orders,)
    decided.add("spiffe://td/ns/shop/sa/orders")
    assert announced((orders, users, other), "td", decided.__contains__) == (orders, other)
