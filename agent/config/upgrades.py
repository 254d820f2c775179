"""Protocols that a connection may be switched to (RFC 9110 7.8). CONNECT is not one: the agent has no tunnels."""

from agent.config.fields import beyond, refuse

_CONNECTS = frozenset({"connect", "connect-udp"})


def upgrade_type(name: str, path: str) -> str:
    """The protocol, in lower case."""
    lower = name.lower()
    if not lower:
        raise refuse(path, name, "a protocol")
    if lower in _CONNECTS:
        raise beyond(path, name, "another protocol")
    return lower
