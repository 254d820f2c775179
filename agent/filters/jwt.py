"""A JSON Web Token: its parts, its claims, whether they are good for a provider.

Owns:   the form of a token, the checks of issuer, time and audience, the words for what is wrong.
Not:    where tokens come from (jwt_locations), signatures (an argument), which of several providers has to be content
        (jwt_requirements).
Source: RFC 7515, 7519; Envoy's jwt_verify_lib (the order of the checks and their words); RFC 8725: the algorithm must
        fit the key, `none` is no algorithm.
Invariant: the signature is checked last and always: no token is good without it.
"""

import base64
import binascii
import json
import re
from functools import lru_cache
from typing import Any, Final

from agent.model.jwt import JwtProvider

MISSING: Final = "Jwt is missing"
FORM: Final = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
HEADER_ENCODING: Final = "Jwt header is an invalid Base64url encoded"
HEADER_JSON: Final = "Jwt header is an invalid JSON"
HEADER_ALG: Final = "Jwt header [alg] field is required and must be a string"
ALG: Final = "Jwt header [alg] is not supported"
HEADER_KID: Final = "Jwt header [kid] field is not a string"
PAYLOAD_ENCODING: Final = "Jwt payload is an invalid Base64url encoded"
PAYLOAD_JSON: Final = "Jwt payload is an invalid JSON"
SIGNATURE_ENCODING: Final = "Jwt signature is an invalid Base64url encoded"
UNKNOWN_ISSUER: Final = "Jwt issuer is not configured"
NOT_YET: Final = "Jwt not yet valid"
EXPIRED: Final = "Jwt is expired"
AUDIENCE: Final = "Audiences in Jwt are not allowed"
SIGNATURE: Final = "Jwt verification fails"
NO_EXPIRATION: Final = SIGNATURE  # so says Envoy
NO_KEY: Final = "Jwks doesn't have key to match kid or alg from Jwt"
ALGORITHMS: Final = frozenset(
    {
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
        "HS256", "HS384", "HS512",
    }
)  # fmt: skip
MAX_TOKEN_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 100  # of objects and lists in each other, as in Envoy: what others are told must be told whole
_BASE64URL: Final = re.compile(rb"[A-Za-z0-9_-]*")
_MAX_SECONDS: Final = 2**63


class Token:
    """A token that has the right form. `expires_s`, `not_before_s`: seconds since the epoch, -1 = none.

    `audiences`: as they are compared. `told`: what filters behind are told of its claims, once somebody has asked.
    """

    __slots__ = (
        "algorithm",
        "audiences",
        "claims",
        "expires_s",
        "issuer",
        "key_id",
        "not_before_s",
        "payload",
        "signature",
        "signed",
        "told",
    )

    def __init__(
        self,
        algorithm: str,
        key_id: str | None,
        claims: dict[str, Any],
        payload: bytes,
        signed: bytes,
        signature: bytes,
    ) -> None:
        """Raises BadToken for claims of the wrong sort."""
        self.algorithm = algorithm
        self.key_id = key_id
        self.claims = claims
        self.payload = payload  # as it came, in base64url
        self.signed = signed
        self.signature = signature
        self.issuer = _text(claims, "iss")
        _text(claims, "sub")
        self.not_before_s = _seconds(claims, "nbf")
        _seconds(claims, "iat")
        self.expires_s = _seconds(claims, "exp")
        self.audiences = frozenset(map(_bare, _audiences(claims)))
        self.told: dict[str, Any] | None = None


class BadToken(Exception):
    """What is wrong, in Envoy's words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parsed(text: bytes) -> Token:
    """The token in a text. Raises BadToken."""
    parts = text.split(b".")
    if len(parts) != 3 or not all(parts) or len(text) > MAX_TOKEN_BYTES:
        raise BadToken(FORM)
    header = _object(parts[0], HEADER_ENCODING, HEADER_JSON)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise BadToken(HEADER_ALG)
    if algorithm not in ALGORITHMS:
        raise BadToken(ALG)
    key_id = header.get("kid")
    if "kid" in header and not isinstance(key_id, str):
        raise BadToken(HEADER_KID)
    claims = _object(parts[1], PAYLOAD_ENCODING, PAYLOAD_JSON)
    signature = _decoded(parts[2], SIGNATURE_ENCODING)
    if "crit" in header:
        raise BadToken(HEADER_JSON)  # RFC 7515 4.1.11: an extension that must be understood, and is not
    return Token(algorithm, key_id, claims, parts[1], parts[0] + b"." + parts[1], signature)


def problem(token: Token, provider: JwtProvider, audiences: tuple[str, ...] | None, now_s: float) -> str:
    """Why a provider does not take it, whatever its signature; "" when that decides. `now_s`: since the epoch."""
    if provider.issuer and token.issuer != provider.issuer:
        return UNKNOWN_ISSUER
    reason = time_problem(token, provider, now_s)
    if reason:
        return reason
    allowed = provider.audiences if audiences is None else audiences
    if allowed and _allowed(allowed).isdisjoint(token.audiences):
        return AUDIENCE
    return ""


def time_problem(token: Token, provider: JwtProvider, now_s: float) -> str:
    """Whether it is too early or too late, with the clocks' difference allowed for."""
    if provider.requires_expiration and token.expires_s < 0:
        return NO_EXPIRATION
    now = int(now_s)
    if token.not_before_s >= 0 and now + provider.clock_skew_s < token.not_before_s:
        return NOT_YET
    if token.expires_s >= 0 and now > token.expires_s + provider.clock_skew_s:
        return EXPIRED
    return ""


def claim_text(claims: dict[str, Any], path: tuple[str, ...]) -> str | None:
    """A claim as a header carries it: text, number, boolean as they are, lists and objects as base64 of their JSON."""
    value: Any = claims
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:.6f}"
        case dict() | list():
            text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
    return None


def normalised(claims: dict[str, Any], space_delimited: tuple[str, ...]) -> dict[str, Any]:
    """The claims with those that are lists in one text made lists."""
    found = {name: claims[name].split(" ") for name in space_delimited if isinstance(claims.get(name), str)}
    return {**claims, **found} if found else claims


@lru_cache(maxsize=256)  # of configurations, never of tokens: anybody may send those
def _allowed(audiences: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_bare, audiences))


def _bare(audience: str) -> str:
    """As Envoy compares audiences: without scheme and without a slash at the end."""
    return audience.removeprefix("https://").removeprefix("http://").removesuffix("/")


def _object(part: bytes, encoding: str, form: str) -> dict[str, Any]:
    data = _decoded(part, encoding)
    try:
        found: Any = json.loads(data.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadToken(form) from error
    if not isinstance(found, dict) or (data.count(b"{") + data.count(b"[") > MAX_DEPTH and _is_deep(found)):
        raise BadToken(form)
    return found


def _is_deep(found: dict[str, Any]) -> bool:
    """Whether objects and lists stand in each other more than MAX_DEPTH deep. Counted without recursion."""
    level: list[Any] = [found]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            items = value.values() if isinstance(value, dict) else value
            inner.extend(item for item in items if isinstance(item, dict | list))
        if not inner:
            return False
        level = inner
    return True


def _refuse(text: str) -> None:
    raise ValueError(text)


def _decoded(part: bytes, reason: str) -> bytes:
    if len(part) % 4 == 1 or not _BASE64URL.fullmatch(part):
        raise BadToken(reason)
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except (binascii.Error, ValueError) as error:
        raise BadToken(reason) from error


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str):
        raise BadToken(f"Jwt payload [{name}] field is not a string")
    return value


def _seconds(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name, -1)
    if name not in claims:
        return -1
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadToken(f"Jwt payload [{name}] field is not an integer")
    if not 0 <= value < _MAX_SECONDS:
        raise BadToken(f"Jwt payload [{name}] field is not a positive 64 bit integer")
    return int(value)


def _audiences(claims: dict[str, Any]) -> tuple[str, ...]:
    value = claims.get("aud", [])
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise BadToken("Jwt payload [aud] field is not a string or string list")
    return tuple(value)
