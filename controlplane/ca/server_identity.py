"""The control plane's own certificate on its two gRPC ports, renewed while it serves.

Owns:   the server's key (in memory only), its present chain, when it is renewed, the gRPC credentials.
Not:    the CA (authority.py).
Source: gRPC asks the fetcher of dynamic server credentials at each handshake, so no task has to wake up for renewal.

Invariants:
  The chain ends in the root, which is included: an agent that knows only the root's hash compares it (decision 13).
  Renewal begins at half of the lifetime, so a handshake never sees an expired certificate, and with other roots.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca.authority import Authority
from mesh.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ServerCertificate:
    """Key and chain (leaf, then root) in PEM; `renew_at_s` wall clock."""

    key_pem: bytes
    chain_pem: bytes
    bundle_pem: bytes
    renew_at_s: float
    issued_by: Authority


class ServerIdentity:
    """The certificate for `names` beside the local ones. Safe to ask from gRPC's threads."""

    def __init__(self, authority: Callable[[], Authority], clock: Clock, *, names: Sequence[str] = ()) -> None:
        """`authority`: the present one."""
        self._authority = authority
        self._clock = clock
        self._names = tuple(names)
        self._lock = threading.Lock()
        self._certificate = self._issue(authority())

    def current(self) -> ServerCertificate:
        """The certificate to serve now; a new one when the last is half through its life, or of other roots."""
        with self._lock:
            authority, held = self._authority(), self._certificate
            if self._clock.wall() >= held.renew_at_s or held.issued_by is not authority:
                self._certificate = self._issue(authority)
            return self._certificate

    def mtls_credentials(self) -> grpc.ServerCredentials:
        """For the port that demands a client certificate of this mesh."""
        return self._credentials(client_certificates=True)

    def tls_credentials(self) -> grpc.ServerCredentials:
        """For the port where agents without a certificate join."""
        return self._credentials(client_certificates=False)

    def _credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        served = self.current()

        def configuration(certificate: ServerCertificate) -> grpc.ServerCertificateConfiguration:
            roots = certificate.bundle_pem if client_certificates else None
            return grpc.ssl_server_certificate_configuration([(certificate.key_pem, certificate.chain_pem)], roots)

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """None = the last one still holds."""
            nonlocal served
            current = self.current()
            if current is served:
                return None
            served = current
            return configuration(current)

        return grpc.dynamic_ssl_server_credentials(
            configuration(served),
            fetch,  # type: ignore[arg-type]  # grpc documents None as "unchanged"; its stubs do not
            require_client_authentication=client_certificates,
        )

    def _issue(self, authority: Authority) -> ServerCertificate:
        now_s = self._clock.wall()
        key = ec.generate_private_key(ec.SECP256R1())
        issued = authority.issue_server(key.public_key(), self._names, now_s)
        return ServerCertificate(
            key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            chain_pem=issued.chain_pem + authority.root_pem,
            bundle_pem=authority.bundle_pem,
            issued_by=authority,
            renew_at_s=now_s + (issued.not_after_s - now_s) / 2,
        )
