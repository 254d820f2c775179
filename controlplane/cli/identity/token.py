"""The join token's file and the root that it pins, for clients that join from the command line.

Owns:   reading the file, fetching a server's chain without trusting it, the root's trust domain.
Not:    the token's form and the pinned root (mesh.identity.join_token), the join itself (signing).
Source: decision 13. SPIFFE X509-SVID 3: the root names its trust domain.
Invariant: nothing secret is sent here: the connection that fetches the chain carries no application data.
"""

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from mesh.errors import ErrorCode, MeshError
from mesh.identity import join_token
from mesh.identity.join_token import JoinToken
from mesh.identity.spiffe import SpiffeId

FETCH_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedRoot:
    """The root that a token names, as the server showed it."""

    pem: bytes
    trust_domain: str


def read(path: str) -> JoinToken:
    """The token in a file. Raises SETTINGS."""
    try:
        return join_token.parse(Path(path).read_text(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise MeshError(ErrorCode.SETTINGS, f"the join token cannot be read: {error}", subject=path) from error


def fetch_chain(host: str, port: int) -> tuple[bytes, ...]:
    """The certificates (DER) that the server shows, unverified. Raises UNAVAILABLE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=FETCH_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            return join_token.shown_chain(connection)
    except OSError as error:
        raise MeshError(
            ErrorCode.UNAVAILABLE,
            f"no certificates from the control plane: {error.strerror or error}",
            subject=f"{host}:{port}",
            hint="--join-address names its port with server TLS, 18001",
        ) from error


def pinned_root(chain: Sequence[bytes], token: JoinToken, subject: str) -> PinnedRoot:
    """The root whose hash the token names. Raises UNAUTHENTICATED when the chain has none."""
    der = join_token.pinned(chain, token, subject)
    return PinnedRoot(pem=ssl.DER_cert_to_PEM_cert(der).encode(), trust_domain=_trust_domain(der, subject))


def _trust_domain(der: bytes, subject: str) -> str:
    try:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        return SpiffeId.parse(uri).trust_domain
    except (ValueError, x509.ExtensionNotFound) as error:
        raise MeshError(ErrorCode.UNREADABLE, "the mesh's root names no trust domain", subject=subject) from error
