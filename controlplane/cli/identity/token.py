"""The join token and the pinning of the mesh's root (decision 13), for clients that join from the command line.

Owns:   the token's form, finding the pinned root among the certificates that a server shows, its trust domain.
Not:    the join itself (signing).
Source: decision 13: `id.secret.sha256hex(root certificate, DER)`. SPIFFE X509-SVID 3: the root names its trust domain.
Invariant: nothing secret is sent here: the connection that fetches the chain carries no application data.
"""

import hashlib
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import SpiffeId
from mesh.logs import Secret

FETCH_S = 10.0
_FORM = re.compile(r"([A-Za-z0-9_-]{1,128})\.([A-Za-z0-9_-]{1,256})\.([0-9a-f]{64})")
_DER = 2  # _ssl.ENCODING_DER


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A parsed join token."""

    id: str
    secret: Secret
    root_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedRoot:
    """The root that a token names, as the server showed it."""

    pem: bytes
    trust_domain: str


def parse(text: str, subject: str) -> JoinToken:
    """Raises SETTINGS without showing the token."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise MeshError(
            ErrorCode.SETTINGS, "found something else than a join token", subject=subject, hint="meshctl token create"
        )
    return JoinToken(id=found[1], secret=Secret(found[2]), root_sha256=found[3])


def read(path: str) -> JoinToken:
    """The token in a file. Raises SETTINGS."""
    try:
        return parse(Path(path).read_text(), path)
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
            return _shown(connection)
    except OSError as error:
        raise MeshError(
            ErrorCode.UNAVAILABLE,
            f"no certificates from the control plane: {error.strerror or error}",
            subject=f"{host}:{port}",
            hint="--join-address names its port with server TLS, 18001",
        ) from error


def _shown(connection: Any) -> tuple[bytes, ...]:
    if hasattr(connection, "get_unverified_chain"):  # public from Python 3.13 on
        return tuple(connection.get_unverified_chain())
    return tuple(item.public_bytes(_DER) for item in connection._sslobj.get_unverified_chain() or ())


def pinned_root(chain: Sequence[bytes], token: JoinToken, subject: str) -> PinnedRoot:
    """The root whose hash the token names. Raises UNAUTHENTICATED when the chain has none."""
    for der in chain:
        if hashlib.sha256(der).hexdigest() == token.root_sha256:
            return PinnedRoot(pem=ssl.DER_cert_to_PEM_cert(der).encode(), trust_domain=_trust_domain(der, subject))
    raise MeshError(
        ErrorCode.UNAUTHENTICATED,
        f"none of the {len(chain)} certificates shown is the root that the join token names; the secret was not sent",
        subject=subject,
        hint="is this the right control plane, and the token one of it?",
    )


def _trust_domain(der: bytes, subject: str) -> str:
    try:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        return SpiffeId.parse(uri).trust_domain
    except (ValueError, x509.ExtensionNotFound) as error:
        raise MeshError(ErrorCode.UNREADABLE, "the mesh's root names no trust domain", subject=subject) from error
