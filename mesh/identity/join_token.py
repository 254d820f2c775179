"""The join token: its form, and finding the root that it pins. Pure.

Owns:   parsing; what a TLS connection has shown; which of the certificates shown is the pinned root.
Not:    reading files and the connection itself (agent.identity.token, controlplane.cli.identity.token).
Source: decision 13: `id.secret.sha256hex(root certificate, DER)`.
Invariant: a token is shown in no error and no repr.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mesh.errors import ErrorCode, MeshError
from mesh.secret import Secret

_FORM = re.compile(r"([A-Za-z0-9_-]{1,128})\.([A-Za-z0-9_-]{1,256})\.([0-9a-f]{64})")
_DER = 2  # _ssl.ENCODING_DER


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A parsed join token. `root_sha256`: of the root's DER form, in hex."""

    id: str
    secret: Secret
    root_sha256: str


def parse(text: str, subject: str) -> JoinToken:
    """Raises SETTINGS without showing the token; `subject` says where it came from."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise MeshError(
            ErrorCode.SETTINGS, "found something else than a join token", subject=subject, hint="meshctl token create"
        )
    return JoinToken(id=found[1], secret=Secret(found[2]), root_sha256=found[3])


def shown_chain(connection: Any) -> tuple[bytes, ...]:
    """The certificates (DER) that the peer of an ssl object has shown, unverified."""
    if hasattr(connection, "get_unverified_chain"):  # public from Python 3.13 on
        return tuple(connection.get_unverified_chain())
    return tuple(item.public_bytes(_DER) for item in connection._sslobj.get_unverified_chain() or ())


def pinned(chain: Sequence[bytes], token: JoinToken, subject: str) -> bytes:
    """The certificate (DER) whose hash the token names. Raises UNAUTHENTICATED when the chain has none."""
    for der in chain:
        if hashlib.sha256(der).hexdigest() == token.root_sha256:
            return der
    raise MeshError(
        ErrorCode.UNAUTHENTICATED,
        f"none of the {len(chain)} certificates shown is the root that the join token names; the secret was not sent",
        subject=subject,
        hint="is this the right control plane, and the token one of it?",
    )
