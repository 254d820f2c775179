"""Keys of token issuers, made anew at every run, and tokens that they, or somebody else, sign."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Json = dict[str, Any]
HASHES: dict[str, Any] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int, size: int = 0) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Signer:
    """A key pair. `jwk`: its public half."""

    def __init__(self, jwk: Json, sign: Callable[[bytes], bytes], algorithm: str) -> None:
        self.jwk = jwk
        self.sign = sign
        self.algorithm = algorithm

    def token(self, claims: Any, **header: Any) -> bytes:
        """A signed token; a header that is None is left out. `claims` may be the bytes of the payload."""
        fields = {"alg": self.algorithm, "typ": "JWT", "kid": self.jwk.get("kid"), **header}
        written = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        signed = f"{b64(written)}.{b64(payload)}".encode()
        return signed + b"." + b64(self.sign(signed)).encode()


_RSA: dict[str, rsa.RSAPrivateKey] = {}


def rsa_signer(name: str, algorithm: str = "RS256", kid: str | None = "") -> Signer:
    """`name`: whose key it is; the same key for all algorithms."""
    key = _RSA.setdefault(name, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    digest = HASHES[algorithm[2:]]
    pad: Any = padding.PKCS1v15()
    if algorithm.startswith("PS"):
        pad = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
    public = key.public_key().public_numbers()
    jwk = {"kty": "RSA", "n": _number(public.n), "e": _number(public.e), "alg": algorithm}
    return Signer(_named(jwk, name if kid == "" else kid), lambda data: key.sign(data, pad, digest), algorithm)


def rsa_pem(name: str) -> bytes:
    """The public key as a file has it: what an attacker takes for a secret."""
    return _RSA[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def ec_signer(name: str, algorithm: str = "ES256") -> Signer:
    """A key on the algorithm's curve."""
    crv, curve, size = {
        "ES256": ("P-256", ec.SECP256R1(), 32),
        "ES384": ("P-384", ec.SECP384R1(), 48),
        "ES512": ("P-521", ec.SECP521R1(), 66),
    }[algorithm]
    key = ec.generate_private_key(curve)
    public = key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": crv, "x": _number(public.x, size), "y": _number(public.y, size)}

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(HASHES[algorithm[2:]])))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    return Signer(_named(jwk, name), sign, algorithm)


def ed25519_signer(name: str) -> Signer:
    """EdDSA."""
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return Signer(_named({"kty": "OKP", "crv": "Ed25519", "x": b64(public)}, name), key.sign, "EdDSA")


def secret_signer(name: str, secret: bytes, algorithm: str = "HS256") -> Signer:
    """A shared secret."""
    digest = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}[algorithm[2:]]
    jwk = {"kty": "oct", "k": b64(secret), "alg": algorithm}
    return Signer(_named(jwk, name), lambda data: hmac.new(secret, data, digest).digest(), algorithm)


def _named(jwk: Json, kid: str | None) -> Json:
    return jwk if kid is None else {**jwk, "kid": kid}


def jwks(*signers: Signer) -> str:
    """A set of their keys."""
    return json.dumps({"keys": [own.jwk for own in signers]})
