"""Gateway: ports at the edge of the mesh, the hosts that they serve, and their TLS.

Owns:   the shape of the spec; which servers end TLS, pass it through, and are routed as HTTP.
Not:    how several Gateways on one port merge (controlplane.model.gateway_ports), routes: those of VirtualServices.
Source: istio.io/api networking/v1 gateway.proto; Istio's predicates in pkg/config/gateway.
"""

from enum import StrEnum
from typing import Annotated

from controlplane.policy.frozen import EMPTY
from controlplane.policy.protocols import Protocol, declared_protocol
from controlplane.policy.scalars import Boolean, Text, TextMap, UInt32, enum_parser
from controlplane.policy.spec import Spec

EVERY_HOST = "*"


class ServerTLSMode(StrEnum):
    """PASSTHROUGH and AUTO_PASSTHROUGH leave TLS closed, the others end it; OPTIONAL_MUTUAL takes clients without."""

    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"

    @property
    def passes_through(self) -> bool:
        """Whether TLS goes on to the destination as it comes."""
        return self in (ServerTLSMode.PASSTHROUGH, ServerTLSMode.AUTO_PASSTHROUGH)

    @property
    def verifies_clients(self) -> bool:
        """Whether a client's certificate is checked against roots of the user's."""
        return self in (ServerTLSMode.MUTUAL, ServerTLSMode.OPTIONAL_MUTUAL)

    @property
    def shows_own_certificate(self) -> bool:
        """Whether the server shows a certificate of the user's."""
        return self is ServerTLSMode.SIMPLE or self.verifies_clients


class TLSProtocol(StrEnum):
    """A version of TLS."""

    TLS_AUTO = "TLS_AUTO"
    TLSV1_0 = "TLSV1_0"
    TLSV1_1 = "TLSV1_1"
    TLSV1_2 = "TLSV1_2"
    TLSV1_3 = "TLSV1_3"


class TLSCertificate(Spec):
    """Files on the gateway's machine."""

    server_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""


class ServerTLSSettings(Spec):
    """Certificates come from Secrets (`credential_name`, or several `credential_names`), or from files."""

    https_redirect: Boolean = False
    mode: Annotated[ServerTLSMode, enum_parser(ServerTLSMode)] = ServerTLSMode.PASSTHROUGH
    server_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""
    ca_crl: Text = ""
    credential_name: Text = ""
    credential_names: tuple[Text, ...] = ()
    tls_certificates: tuple[TLSCertificate, ...] = ()
    ca_cert_credential_name: Text = ""
    subject_alt_names: tuple[Text, ...] = ()
    verify_certificate_spki: tuple[Text, ...] = ()
    verify_certificate_hash: tuple[Text, ...] = ()
    min_protocol_version: Annotated[TLSProtocol, enum_parser(TLSProtocol)] = TLSProtocol.TLS_AUTO
    max_protocol_version: Annotated[TLSProtocol, enum_parser(TLSProtocol)] = TLSProtocol.TLS_AUTO
    cipher_suites: tuple[Text, ...] = ()

    @property
    def credentials(self) -> tuple[str, ...]:
        """The Secrets with certificates, in order."""
        return self.credential_names or ((self.credential_name,) if self.credential_name else ())

    @property
    def roots_credential(self) -> str:
        """The Secret by whose roots clients are verified, if Secrets say so."""
        return self.ca_cert_credential_name or next(iter(self.credentials), "")


class ServerPort(Spec):
    """`target_port` is deprecated and means nothing."""

    number: UInt32 = 0
    protocol: Text = ""
    name: Text = ""
    target_port: UInt32 = 0

    @property
    def effective_protocol(self) -> Protocol:
        """Of `protocol`."""
        return declared_protocol(self.protocol)


class Server(Spec):
    """One port with hosts of its own: `host` or `namespace/host`, where `.` is the Gateway's own namespace."""

    port: ServerPort | None = None
    bind: Text = ""
    hosts: tuple[Text, ...] = ()
    tls: ServerTLSSettings | None = None
    default_endpoint: Text = ""
    name: Text = ""

    @property
    def number(self) -> int:
        """The port."""
        return self.port.number if self.port is not None else 0

    @property
    def protocol(self) -> Protocol:
        """The port's protocol."""
        return self.port.effective_protocol if self.port is not None else Protocol.UNSUPPORTED

    @property
    def is_tls(self) -> bool:
        """Whether connections begin with TLS. `tls` of an HTTP server only redirects."""
        return self.tls is not None and not self.protocol.is_http

    @property
    def ends_tls(self) -> bool:
        """Whether TLS ends here."""
        return self.is_tls and self.tls is not None and not self.tls.mode.passes_through

    @property
    def is_routed(self) -> bool:
        """Whether requests are looked at: HTTP, or HTTPS that ends here."""
        return self.protocol.is_http or (self.protocol is Protocol.HTTPS and self.ends_tls)

    @property
    def redirects(self) -> bool:
        """Whether plain requests are sent to https."""
        return self.tls is not None and self.tls.https_redirect


class Gateway(Spec):
    """`selector`: labels of gateway proxies, in whatever namespace; none selects them all."""

    servers: tuple[Server, ...] = ()
    selector: TextMap = EMPTY


def host_parts(host: str, namespace: str) -> tuple[str, str]:
    """(namespace whose VirtualServices may use it, `*` = any; host) of a server's host in a Gateway of `namespace`."""
    owner, slash, name = host.partition("/")
    if not slash:
        return "*", host.lower()
    return namespace if owner == "." else owner, name.lower()
