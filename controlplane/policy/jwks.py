"""JSON Web Key Sets: which keys may verify tokens, and which sets are refused.

Owns:   the forms of keys, sizes, the rule against confused algorithms; a set without what nobody needs.
Not:    fetching (controlplane.reconcile.jwks), verifying (the proxies).
Source: RFC 7517, 7518 section 6, 8037, 8725 (sections 3.1, 3.2: algorithms that fit the key, keys of enough entropy).
Invariants: a set with an `oct` key has no other kind of key, so that nobody can take a public key for a secret; no
        private key passes.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from controlplane.policy.scalars import shown

MAX_BYTES = 256 * 1024
MAX_KEYS = 100
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192
_MIN_SECRET_BYTES = 32
_ED25519_BYTES = 32
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth")
_ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
    "oct": ("HS256", "HS384", "HS512"),
}
_CURVES = {"P-256": ("ES256", 32), "P-384": ("ES384", 48), "P-521": ("ES512", 66)}
_KEPT = ("kty", "kid", "alg", "use", "n", "e", "crv", "x", "y", "k")

# No token passes it: a point of P-256 whose x is a hash, so nobody knows its private key (made in its test).
NOBODYS_JWKS = (
    '{"keys":[{"alg":"ES256","crv":"P-256","kid":"nobody","kty":"EC",'
    '"x":"_qf-9dxMg4VFdO14vj7jh-SQonNu3DZ_92U_twA2oXk","y":"7hw4Pl0AVRhbr2K7gNy-GWH4ZwbVV_4RSSxHk4UhEBg"}]}'
)


def problems(text: str) -> Iterator[str]:
    """What is wrong with the set, in words that name the key; nothing when it can be used."""
    try:
        keys = _keys(text)
    except ValueError as error:
        yield str(error)
        return
    kinds = [key.get("kty") for key in keys if isinstance(key, Mapping)]  # of any type
    if "oct" in kinds and any(kind != "oct" for kind in kinds):
        yield (
            "found `oct` keys beside asymmetric ones, expected one sort: a token could be signed with a public key "
            "taken for a secret"
        )
    for index, key in enumerate(keys):
        problem = _problem(key)
        if problem is not None:
            name, found, expected = problem
            yield f"found {found} as keys[{index}]{name and '.'}{name}, expected {expected}"


def has_secrets(text: str) -> bool:
    """Whether the set has an `oct` key."""
    return _has(text, secret=True)


def has_public_keys(text: str) -> bool:
    """Whether the set has another."""
    return _has(text, secret=False)


def public_part(text: str) -> str:
    """What of a fetched set can verify tokens, as canonical JSON. Raises ValueError when that is nothing.

    Keys for encryption, of unknown sorts, or shared secrets (which nobody may publish) are left out.
    """
    usable = [
        {name: key[name] for name in _KEPT if name in key}
        for key in _keys(text)
        if isinstance(key, Mapping) and key.get("kty") != "oct" and _problem(key) is None
    ]
    if not usable:
        raise ValueError("found no key that can verify tokens, expected one at least")
    return json.dumps({"keys": usable}, sort_keys=True, separators=(",", ":"))


def _keys(text: str) -> list[Any]:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ValueError(f"found {len(text)} characters, expected at most {MAX_BYTES} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError('found something that is no JSON, expected {"keys": [...]}') from error
    keys = found.get("keys") if isinstance(found, Mapping) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError('found no keys, expected {"keys": [...]} with one key at least')
    if len(keys) > MAX_KEYS:
        raise ValueError(f"found {len(keys)} keys, expected at most {MAX_KEYS}")
    return keys


def _has(text: str, *, secret: bool) -> bool:
    try:
        return any(isinstance(key, Mapping) and (key.get("kty") == "oct") is secret for key in _keys(text))
    except ValueError:
        return False


_Problem = tuple[str, str, str]  # field of the key, what was found, what was expected


def _problem(key: Any) -> _Problem | None:
    """Nothing of a key's content is shown."""
    if not isinstance(key, Mapping):
        return "", shown(key), "an object"
    kind = key.get("kty")
    if not isinstance(kind, str) or kind not in _ALGORITHMS:
        return "kty", shown(kind), f"one of {', '.join(_ALGORITHMS)}"
    if any(name in key for name in _PRIVATE):
        return "", "a private key (not shown)", "the public one"
    if "kid" in key and not isinstance(key["kid"], str):
        return "kid", shown(key["kid"]), "a string"
    if key.get("use", "sig") != "sig":
        return "use", shown(key["use"]), "sig"
    algorithms = _ALGORITHMS[kind]
    if "alg" in key and key["alg"] not in algorithms:
        return "alg", shown(key["alg"]), f"one of {', '.join(algorithms)} for a key of kty {kind}"
    return _BY_KIND[kind](key)


def _rsa(key: Mapping[str, Any]) -> _Problem | None:
    modulus, exponent = _decoded(key.get("n")), _decoded(key.get("e"))
    if not modulus or not exponent:
        return "e" if modulus else "n", "no base64url", "a number in base64url"
    bits = int.from_bytes(modulus, "big").bit_length()
    if not _MIN_RSA_BITS <= bits <= _MAX_RSA_BITS:
        return "n", f"a number of {bits} bits", f"{_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits"
    number = int.from_bytes(exponent, "big")
    return None if number % 2 and 3 <= number < 2**64 else ("e", "an unfit exponent", "an odd one from 3")


def _ec(key: Mapping[str, Any]) -> _Problem | None:
    curve = key.get("crv")
    if not isinstance(curve, str) or curve not in _CURVES:
        return "crv", shown(curve), f"one of {', '.join(_CURVES)}"
    algorithm, size = _CURVES[curve]
    if key.get("alg", algorithm) != algorithm:
        return "alg", shown(key["alg"]), f"{algorithm} for {curve}"
    wrong = next((name for name in ("x", "y") if len(_decoded(key.get(name))) != size), "")
    return (wrong, f"no coordinate of {curve}", f"{size} bytes in base64url") if wrong else None


def _okp(key: Mapping[str, Any]) -> _Problem | None:
    if key.get("crv") != "Ed25519":
        return "crv", shown(key.get("crv")), "Ed25519"
    fits = len(_decoded(key.get("x"))) == _ED25519_BYTES
    return None if fits else ("x", "no public key", f"{_ED25519_BYTES} bytes in base64url")


def _oct(key: Mapping[str, Any]) -> _Problem | None:
    size = len(_decoded(key.get("k")))
    fits = size >= _MIN_SECRET_BYTES
    return None if fits else ("k", f"{size} bytes", f"at least {_MIN_SECRET_BYTES} in base64url")


_BY_KIND = {"RSA": _rsa, "EC": _ec, "OKP": _okp, "oct": _oct}


def _decoded(value: object) -> bytes:
    """b"" when it is no base64url."""
    if not isinstance(value, str) or not value.isascii() or "+" in value or "/" in value:
        return b""
    bare = value.rstrip("=")
    try:
        return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except (binascii.Error, ValueError):
        return b""
