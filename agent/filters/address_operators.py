"""Operators that show addresses and ports of both sides.

Source: Envoy access_log/usage; data-plane.md 1.11. `address:port`, IPv6 in brackets.
"""

from agent.filters import forwarded
from agent.filters.subject import Operator, Subject, Value


def downstream_address(subject: Subject) -> Value:
    """The believed address: an entry of x-forwarded-for has no port, which is written as 0."""
    connection = subject.connection
    hops = subject.chain.trusted_hops
    if hops != forwarded.PEER:
        value = subject.head.headers.index.get(forwarded.FOR)
        if value is not None:
            address = forwarded.client_address(value, hops)
            if address:
                return f"[{address}]:0" if ":" in address else f"{address}:0"
    return connection.peer_address or None


def downstream_host(subject: Subject) -> str:
    """The believed address without a port, "" when there is none."""
    address = downstream_address(subject)
    return forwarded.host_of(str(address)) if address is not None else ""


def _without_port(address: Operator) -> Operator:
    def host(subject: Subject) -> Value:
        text = address(subject)
        return forwarded.host_of(str(text)) if text is not None else None

    return host


def _direct_address(subject: Subject) -> Value:
    return subject.connection.peer_address or None


def _local_address(subject: Subject) -> Value:
    return subject.connection.local_address or None


def upstream_host(subject: Subject) -> Value:
    """The host of the last try."""
    host = subject.host
    return host.key if host is not None else None


def _upstream_remote(subject: Subject) -> Value:
    """The host that a connection was made to, in the last try."""
    return upstream_host(subject) if subject.carrier is not None else None


def _upstream_name(subject: Subject) -> Value:
    """The host's name if the configuration gives one."""
    host = subject.host
    if host is None:
        return None
    name = host.endpoint.hostname
    return f"{name}:{host.endpoint.port}" if name else host.key


def _upstream_local(subject: Subject) -> Value:
    carrier = subject.carrier
    return carrier.local_address or None if carrier is not None else None


def _port(address: Operator) -> Operator:
    def port(subject: Subject) -> Value:
        text = str(address(subject)).rpartition(":")[2]
        return int(text) if text.isdigit() else None

    return port


def _with_parts(name: str, address: Operator) -> dict[str, Operator]:
    """An address, its host and its port: three operators."""
    port = name.removesuffix("ADDRESS") + "PORT"
    return {name: address, f"{name}_WITHOUT_PORT": _without_port(address), port: _port(address)}


PLAIN: dict[str, Operator] = {
    **_with_parts("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", _local_address),
    **_with_parts("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", _direct_address),
    **_with_parts("DOWNSTREAM_LOCAL_ADDRESS", _local_address),
    **_with_parts("DOWNSTREAM_REMOTE_ADDRESS", downstream_address),
    **_with_parts("UPSTREAM_LOCAL_ADDRESS", _upstream_local),
    **_with_parts("UPSTREAM_REMOTE_ADDRESS", _upstream_remote),
    "UPSTREAM_HOST": upstream_host,
    "UPSTREAM_HOST_NAME": _upstream_name,
    "UPSTREAM_HOST_NAME_WITHOUT_PORT": _without_port(_upstream_name),
}
