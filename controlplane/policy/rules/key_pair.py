"""Whether certificates and private keys can be read, belong together, and are of a kind that Envoys take.

Owns:   the words for what is wrong with them; until when a certificate is valid.
Not:    that they are blocks of PEM (rules.secret), time: an expired certificate is no violation.
Source: what Envoy 1.40 refuses when it loads a certificate: another key's, RSA below 2048 bits, other curves than
        P-256, P-384 and P-521.
Invariant: no message shows a value.

cryptography is loaded only when there is something to read: meshctl checks manifests, and mostly none is a Secret.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PRIVATE_LABELS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
MIN_RSA_BITS = 2048
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.ASCII | re.DOTALL)


def chain_problem(chain: str) -> str:
    """What is wrong with certificates in PEM, or nothing."""
    for number, block in enumerate(_blocks(chain, ("CERTIFICATE",)), start=1):
        if _certificate(block) is None:
            return f"found certificate {number} that cannot be read (not shown), expected X.509"
    return ""


def pair_problem(chain: str, key: str, *, chain_name: str) -> str:
    """What is wrong with a private key in PEM for a chain that can be read, or nothing."""
    leaf = _certificate(next(_blocks(chain, ("CERTIFICATE",))))
    found = _private_key(next(_blocks(key, PRIVATE_LABELS)))
    if found is None:
        return "found a private key that cannot be read (not shown), expected RSA, ECDSA or Ed25519, not encrypted"
    if leaf is None or _public_bytes(leaf.public_key()) != _public_bytes(found.public_key()):
        return f"found the key of another certificate (not shown), expected that of the first one in {chain_name}"
    return _kind_problem(found)


@lru_cache(maxsize=1024)
def not_after(chain: str) -> datetime | None:
    """Until when the certificate of a chain is valid, in UTC; None when it cannot be read."""
    leaf = next((_certificate(block) for block in _blocks(chain, ("CERTIFICATE",))), None)
    return leaf.not_valid_after_utc if leaf is not None else None


def _kind_problem(key: Any) -> str:
    curve = getattr(getattr(key, "curve", None), "name", "")
    if curve and curve not in CURVES:
        return f"found an ECDSA key on {curve}, expected one on {', '.join(CURVES.values())}: Envoys refuse others"
    size = getattr(key, "key_size", MIN_RSA_BITS)
    if not curve and size < MIN_RSA_BITS:
        return f"found an RSA key of {size} bits, expected at least {MIN_RSA_BITS}: Envoys refuse smaller ones"
    return ""


def _blocks(text: str, labels: tuple[str, ...]) -> Iterator[str]:
    return (found.group() for found in _BLOCK.finditer(text) if found.group(1) in labels)


def _certificate(block: str) -> "Certificate | None":
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        found = x509.load_pem_x509_certificate(block.encode())
        found.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return found


def _private_key(block: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(block.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _public_bytes(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
