"""The join token's file, and fetching the certificates among which its root is found.

Owns:   reading the file, fetching a server's chain without trusting it.
Not:    the token's form and the pinned root (mesh.identity.join_token), the join itself (agent.identity.authority).
Source: decision 13.
Invariant: nothing secret is sent here: the connection that fetches the chain carries no application data.
"""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

from mesh.errors import ErrorCode, MeshError
from mesh.identity import join_token
from mesh.identity.join_token import JoinToken

FETCH_S = 10.0


def read(path: Path) -> JoinToken:
    """The token in a file. Raises SETTINGS."""
    try:
        return join_token.parse(path.read_text(), str(path))
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
                return join_token.shown_chain(writer.get_extra_info("ssl_object"))
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        raise MeshError(
            ErrorCode.UNAVAILABLE,
            f"no certificates from the control plane: {error or 'timeout'}",
            subject=f"{host}:{port}",
        ) from error


def pinned_root(chain: Sequence[bytes], token: JoinToken, subject: str) -> bytes:
    """The root (PEM) whose hash the token names. Raises UNAUTHENTICATED when the chain has none."""
    return ssl.DER_cert_to_PEM_cert(join_token.pinned(chain, token, subject)).encode()
