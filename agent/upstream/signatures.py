"""Signatures of tokens: the only module of a worker that loads `cryptography`, where a listener looks at tokens.

Owns:   keys from a JWKS, the check of one signature.
Not:    what a token says (agent.filters.jwt), when it is checked (agent.proxy.authentication).
Source: RFC 7515, 7517, 7518, 8037; docs/adr/0006-signatures-in-workers.md.
Invariants: the sort of the key decides how a signature is checked, never the token: an HS algorithm needs a shared
        secret, an RS or PS one an RSA key, an ES one the curve of its name. A key that cannot be read is left out.
"""

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any, Final

from agent.filters.jwt import NO_KEY, SIGNATURE

_HASHES: Final = {"256": "sha256", "384": "sha384", "512": "sha512"}
_CURVES: Final = {"P-256": ("ES256", 32), "P-384": ("ES384", 48), "P-521": ("ES512", 66)}
Check = Callable[[str, bytes, bytes], bool]  # algorithm, signed part, signature


class Key:
    """One key. `algorithms`: those that it may be used with."""

    __slots__ = ("algorithms", "check", "key_id")

    def __init__(self, key_id: str | None, algorithms: frozenset[str], check: Check) -> None:
        self.key_id = key_id
        self.algorithms = algorithms
        self.check = check


class Keys:
    """The keys of a set."""

    __slots__ = ("_keys",)

    def __init__(self, jwks: str) -> None:
        self._keys = tuple(key for one in json.loads(jwks)["keys"] if (key := _key(one)) is not None)

    def verify(self, algorithm: str, key_id: str | None, signed: bytes, signature: bytes) -> str:
        """ "" when a key that may have made it did; else why not."""
        fitting = [key for key in self._keys if self._fits(key, algorithm, key_id)]
        if any(key.check(algorithm, signed, signature) for key in fitting):
            return ""
        return SIGNATURE if fitting else NO_KEY

    @staticmethod
    def _fits(key: Key, algorithm: str, key_id: str | None) -> bool:
        if key_id is not None and key.key_id is not None and key_id != key.key_id:
            return False
        return algorithm in key.algorithms


def _key(found: Any) -> Key | None:
    """None for one that cannot be used."""
    make = _BY_KIND.get(str(found.get("kty"))) if isinstance(found, dict) else None
    if make is None:
        return None
    try:
        algorithms, check = make(found)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    named = found.get("alg")
    key_id = found.get("kid")
    usable = algorithms & {named} if isinstance(named, str) else algorithms
    return Key(key_id if isinstance(key_id, str) else None, usable, check)


def _rsa(found: dict[str, Any]) -> tuple[frozenset[str], Check]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = rsa.RSAPublicNumbers(_number(found["e"]), _number(found["n"])).public_key()
    kinds: dict[str, Any] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}

    def check(algorithm: str, signed: bytes, signature: bytes) -> bool:
        digest = kinds[algorithm[2:]]
        pad: Any = padding.PKCS1v15()
        if algorithm.startswith("PS"):
            pad = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
        try:
            key.verify(signature, signed, pad, digest)
        except InvalidSignature:
            return False
        return True

    return frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}), check


def _ec(found: dict[str, Any]) -> tuple[frozenset[str], Check]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    algorithm, size = _CURVES[found["crv"]]
    curves: dict[str, Any] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    kinds: dict[str, Any] = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "ES512": hashes.SHA512()}
    numbers = ec.EllipticCurvePublicNumbers(_number(found["x"]), _number(found["y"]), curves[algorithm])
    key, how = numbers.public_key(), ec.ECDSA(kinds[algorithm])

    def check(_: str, signed: bytes, signature: bytes) -> bool:
        if len(signature) != 2 * size:
            return False
        halves = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        try:
            key.verify(encode_dss_signature(*halves), signed, how)
        except InvalidSignature:
            return False
        return True

    return frozenset({algorithm}), check


def _okp(found: dict[str, Any]) -> tuple[frozenset[str], Check]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if found["crv"] != "Ed25519":
        raise ValueError(found["crv"])
    key = Ed25519PublicKey.from_public_bytes(_bytes(found["x"]))

    def check(_: str, signed: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            return False
        return True

    return frozenset({"EdDSA"}), check


def _oct(found: dict[str, Any]) -> tuple[frozenset[str], Check]:
    secret = _bytes(found["k"])
    if not secret:
        raise ValueError("an empty secret")

    def check(algorithm: str, signed: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(secret, signed, _HASHES[algorithm[2:]]), signature)

    return frozenset({"HS256", "HS384", "HS512"}), check


_BY_KIND: Final = {"RSA": _rsa, "EC": _ec, "OKP": _okp, "oct": _oct}


def _bytes(text: str) -> bytes:
    bare = text.rstrip("=")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text), "big")
