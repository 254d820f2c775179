"""Where something listens or is reached: an IP address and a port."""

import ipaddress

from envoy.config.core.v3.address_pb2 import Address

from agent.config.fields import only, refuse, within

_KNOWN = frozenset({"address", "port_value"})  # without a protocol it is TCP


def ip_and_port(message: Address, path: str) -> tuple[str, int]:
    """(IP address in its shortest form, port 1-65535)."""
    only(message, path, frozenset({"socket_address"}))
    socket_address, own = message.socket_address, within(path, "socket_address")
    only(socket_address, own, _KNOWN)
    if not socket_address.port_value:
        raise refuse(within(own, "port_value"), 0, "1 to 65535")
    try:
        address = ipaddress.ip_address(socket_address.address)
    except ValueError as error:
        raise refuse(within(own, "address"), socket_address.address, "an IP address") from error
    return str(address), socket_address.port_value
