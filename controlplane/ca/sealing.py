"""The key file that encrypts the CA's key at rest in etcd, so that a copy of etcd's data is no copy of the CA.

Owns:   the file (made on first use, 0600), encryption with AES-256-GCM.
Source: decisions 38; NIST SP 800-38D (a random 96-bit nonce; the file seals a handful of values).

Every replica needs the same file: copy it to the state directories of the others.
"""

import base64
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.errors import ErrorCode, MeshError

_KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, repr=False)
class SealingKey:
    """The key. `id` names it without telling anything about it."""

    key: bytes
    path: Path

    @property
    def id(self) -> str:
        return hashlib.sha256(b"gossamer sealing key\0" + self.key).hexdigest()[:16]

    def seal(self, plaintext: bytes, *, purpose: str) -> str:
        """Encrypt; only `unseal` with the same purpose opens it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + AESGCM(self.key).encrypt(nonce, plaintext, purpose.encode())).decode()

    def unseal(self, sealed: str, *, purpose: str) -> bytes:
        """Decrypt. Raises UNREADABLE when it was changed or sealed for another purpose or with another key."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            return AESGCM(self.key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise MeshError(
                ErrorCode.UNREADABLE, f"cannot decrypt it with the key file {self.path}", subject=purpose
            ) from error


def load_or_create(path: Path) -> SealingKey:
    """Read the key file, or make it. Raises SETTINGS when it cannot be used or others may read it."""
    try:
        # Exclusive: two processes that start at once must not both make a key.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _load(path)
    except OSError as error:
        raise _unusable(path, f"cannot create it: {error.strerror}") from error
    key = secrets.token_bytes(_KEY_BYTES)
    with os.fdopen(file, "wb") as opened:
        opened.write(base64.b64encode(key) + b"\n")
        opened.flush()
        os.fsync(opened.fileno())
    return SealingKey(key, path)


def _load(path: Path) -> SealingKey:
    try:
        if path.stat().st_mode & 0o077:
            raise _unusable(path, "others may read it", hint=f"chmod 600 {path}")
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except OSError as error:
        raise _unusable(path, f"cannot read it: {error.strerror}") from error
    except ValueError as error:
        raise _unusable(path, "found something else than a base64 key") from error
    if len(key) != _KEY_BYTES:
        raise _unusable(path, f"found a key of {len(key)} bytes, expected {_KEY_BYTES}")
    return SealingKey(key, path)


def _unusable(path: Path, message: str, *, hint: str = "") -> MeshError:
    return MeshError(
        ErrorCode.SETTINGS,
        message,
        subject=f"CA key file {path}",
        hint=hint or "copy the file of another replica, or of a backup, there",
    )
