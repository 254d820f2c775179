"""The join token and the pinning of the mesh's root (decision 13).

Owns:   the token's form, fetching a server's chain without trusting it, finding the pinned root in it.
Not:    the join itself (agent.identity.authority).
Source: decision 13: `id.secret.sha256hex(root certificate, DER)`.
Invariant: nothing secret is sent here: the connection that fetches the chain carries no application data.
"""

import asyncio
import hashlib
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import ErrorCode, MeshError
from mesh.logs import Secret

FETCH_S = 10.0
_FORM = re.compile(r"([A-Za-z0-9_-]{1,128})\.([A-Za-z0-9_-]{1,256})\.([0-9a-f]{64})")
_DER = 2  # _ssl.ENCODING_DER


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    id: str
    secret: Secret
    root_sha256: str


def parse(text: str, subject: str) -> JoinToken:
    """Raises SETTINGS without showing the token."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise MeshError(
            ErrorCode.SETTINGS, "found something else than a join token", subject=subject, hint="meshctl token create"
        )
    return JoinToken(id=found[1], secret=Secret(found[2]), root_sha256=found[3])


def read(path: Path) -> JoinToken:
    """The token in a file. Raises SETTINGS."""
    try:
        return parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise MeshError(
            ErrorCode.SETTINGS,
            f"the join token cannot be read: {error}",
            subject=str(path),
            hint="meshctl token create",
        ) from error


async def fetch_chain(host: str, port: int) -> tuple[bytes, ...]:
    """The certificates (DER) that the server shows, unverified. Raises UNAVAILABLE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(FETCH_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                return _shown(writer.get_extra_info("ssl_object"))
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        raise MeshError(
            ErrorCode.UNAVAILABLE,
            f"no certificates from the control plane: {error or 'timeout'}",
            subject=f"{host}:{port}",
        ) from error


def _shown(connection: Any) -> tuple[bytes, ...]:
    if hasattr(connection, "get_unverified_chain"):  # public from Python 3.13 on
        return tuple(connection.get_unverified_chain())
    return tuple(item.public_bytes(_DER) for item in connection._sslobj.get_unverified_chain() or ())


def pinned_root(chain: Sequence[bytes], token: JoinToken, subject: str) -> bytes:
    """The root (PEM) whose hash the token names. Raises UNAUTHENTICATED when the chain has none."""
    for der in chain:
        if hashlib.sha256(der).hexdigest() == token.root_sha256:
            return ssl.DER_cert_to_PEM_cert(der).encode()
    raise MeshError(
        ErrorCode.UNAUTHENTICATED,
        f"none of the {len(chain)} certificates shown is the root that the join token names; the secret was not sent",
        subject=subject,
        hint="is this the right control plane, and the token one of it?",
    )
