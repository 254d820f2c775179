"""Socket addresses as text."""

from typing import Any


def address_text(address: Any) -> str:
    """`address:port` of what a socket says, IPv6 in brackets; a Unix path as it is; "" for nothing."""
    if not isinstance(address, tuple):
        return str(address) if address else ""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
