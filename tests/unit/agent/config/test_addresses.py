"""Addresses: an IP in one form, a port."""

import pytest
from envoy.config.core.v3.address_pb2 import Address, SocketAddress

from agent.config.addresses import ip_and_port
from agent.config.fields import Refused


def address(host: str, port: int = 80) -> Address:
    return Address(socket_address=SocketAddress(address=host, port_value=port))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("0:0:0:0:0:0:0:1", "::1"), ("FE80::A", "fe80::a"), ("::", "::")],
)
def test_one_form(host: str, expected: str) -> None:
    assert ip_and_port(address(host), "p") == (expected, 80)


@pytest.mark.parametrize("host", ["", "localhost", "1.2.3", "01.2.3.4", "1.2.3.4/8", "[::1]", "1.2.3.4:80"])
def test_no_ip(host: str) -> None:
    with pytest.raises(Refused) as caught:
        ip_and_port(address(host), "p")
    assert caught.value.path == "p.socket_address.address"
    assert caught.value.reason == f"found {host!r}, expected an IP address"
