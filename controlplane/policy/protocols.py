"""The protocol of a port, by what the user declares.

Source: Istio's protocol selection: `appProtocol`, else the port's name `<protocol>[-suffix]`, else unknown;
        Kubernetes' standard appProtocol names (kubernetes.io/h2c, /ws, /wss).
"""

from enum import StrEnum


class Protocol(StrEnum):
    """UNSUPPORTED = not declared or not known: sniffed or treated as TCP."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    HTTPS = "HTTPS"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-Web"
    TCP = "TCP"
    TLS = "TLS"
    UDP = "UDP"
    MONGO = "Mongo"
    MYSQL = "MySQL"
    REDIS = "Redis"
    HBONE = "HBONE"
    UNSUPPORTED = "UnsupportedProtocol"

    @property
    def is_http(self) -> bool:
        """Whether requests can be routed."""
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        """Whether it is HTTP/2 on the wire."""
        return self in (Protocol.HTTP2, Protocol.GRPC)

    @property
    def is_tls(self) -> bool:
        """Whether the application itself speaks TLS."""
        return self in (Protocol.HTTPS, Protocol.TLS)


_HTTP = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})
_BY_NAME = {protocol.value.lower(): protocol for protocol in Protocol if protocol is not Protocol.UNSUPPORTED}
_APP_PROTOCOLS = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTPS,
}


def declared_protocol(text: str) -> Protocol:
    """The protocol of that name, in any case."""
    return _BY_NAME.get(text.lower(), Protocol.UNSUPPORTED)


def port_protocol(*, name: str, app_protocol: str = "", transport: str = "TCP") -> Protocol:
    """The protocol of a Kubernetes Service's port. `transport` is its `protocol` field."""
    if transport == "UDP":
        return Protocol.UDP
    if app_protocol:
        return _APP_PROTOCOLS.get(app_protocol) or declared_protocol(app_protocol)
    if name.lower().startswith("grpc-web"):
        return Protocol.GRPC_WEB
    return declared_protocol(name.partition("-")[0])
