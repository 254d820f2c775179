"""Who is asking: bearer tokens, the anonymous loopback author, and the guard against web pages of other sites.

Owns:   reading the token file, comparing tokens, the Host and Origin checks.
Not:    certificates (mTLS peers never come here), what an author may do (every token may do everything).
Source: decision 12; RFC 6750. DNS rebinding: a page of evil.example whose name now resolves to 127.0.0.1 sends
        `Host: evil.example`; a page that posts straight to 127.0.0.1 sends an `Origin` of another host.
Invariant: tokens are compared by their SHA-256, in constant time; neither the token nor its hash is logged.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping

from mesh.errors import ErrorCode, MeshError

ANONYMOUS = "local"
_HEX_SHA256 = frozenset("0123456789abcdef")


def parse_token_file(text: str, *, source: str) -> dict[str, str]:
    """`{sha256 in hex: name}` from lines `name:sha256hex`; `#` begins a comment line. Raises SETTINGS with the line."""
    tokens: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, digest = (part.strip() for part in line.strip().partition(":"))
        digest = digest.lower()
        if not name or not colon or len(digest) != 64 or not _HEX_SHA256.issuperset(digest):
            # The line is not quoted: it may hold a token that somebody forgot to hash.
            raise MeshError(
                ErrorCode.SETTINGS,
                "expected `name:sha256 of the token in hex`",
                subject=f"{source}:{number}",
                hint="printf %s TOKEN | sha256sum",
            )
        tokens[digest] = name
    if not tokens:
        raise MeshError(ErrorCode.SETTINGS, "found no token, expected lines name:sha256", subject=source)
    return tokens


class Authenticator:
    """Says who the author of a request is."""

    def __init__(self, tokens: Mapping[str, str] | None) -> None:
        self._tokens = tokens

    def author(self, authorization: str) -> str:
        """The token's name, or `local` when the server has no tokens. Raises UNAUTHENTICATED."""
        if self._tokens is None:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthenticated("found no bearer token")
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        for known, name in self._tokens.items():
            if hmac.compare_digest(known, digest):
                return name
        raise _unauthenticated("the bearer token is not known")


def _unauthenticated(message: str) -> MeshError:
    return MeshError(
        ErrorCode.UNAUTHENTICATED, message, subject="authorization", hint="meshctl: --token-file or GOSSAMER_TOKEN"
    )


def check_host(host: str, origin: str, *, bound_to_loopback: bool) -> None:
    """Refuse what a web page of another site sends through the user's browser. Raises PERMISSION_DENIED.

    `host` and `origin`: the headers' values, empty when missing. Other binds than loopback have bearer tokens, which
    no foreign page can add, so only the Origin is compared there.
    """
    if bound_to_loopback and host and not _is_local_name(_host_name(host)):
        raise _refused("Host", host, "localhost or a loopback address")
    if origin and origin.partition("://")[2] != host:  # also `null`, of sandboxed pages and files
        raise _refused("Origin", origin, f"the server itself ({host})")


def _refused(header: str, found: str, expected: str) -> MeshError:
    return MeshError(ErrorCode.PERMISSION_DENIED, f"found {found[:100]!r}, expected {expected}", subject=header)


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_local_name(name: str) -> bool:
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
