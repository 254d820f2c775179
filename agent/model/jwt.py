"""JSON Web Tokens: which are demanded, from where they come, what becomes of them.

Source: envoy/extensions/filters/http/jwt_authn/v3/config.proto.
"""

from dataclasses import dataclass

from agent.model.matchers import HeaderMatcher, StringMatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtProvider:
    """One issuer with its keys (a JWKS as JSON).

    `issuer` "" and `audiences` () take any. `from_headers`: (lower-case name, prefix). `claim_headers`: (lower-case
    header, path of the claim). `payload_header`: "" = none; `metadata_key` of the claims, "" = they are not told.
    """

    name: str
    issuer: str
    audiences: tuple[str, ...] = ()
    jwks: str
    forward: bool = False
    from_headers: tuple[tuple[str, str], ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    payload_header: str = ""
    pads_payload: bool = False
    metadata_key: str = ""
    space_delimited: tuple[str, ...] = ()
    claim_headers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    clock_skew_s: int = 60
    requires_expiration: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsToken:
    """A good token of a provider. `audiences` None: the provider's."""

    provider: str
    audiences: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsAny:
    requirements: tuple["Requirement", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsAll:
    requirements: tuple["Requirement", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MayMiss:
    """No token is fine; within `NeedsAny` it is about the providers beside it. `failed`: a bad one is fine too."""

    failed: bool = False


Requirement = NeedsToken | NeedsAny | NeedsAll | MayMiss


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule:
    """For requests that match: the first rule that does counts. `requires` None: nothing is demanded of them.

    `path`: the path without its query; `separated`: a prefix ends at a slash.
    """

    path: StringMatcher
    separated: bool = False
    headers: tuple[HeaderMatcher, ...] = ()
    requires: Requirement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtAuthentication:
    """`requirements`: by name, for routes."""

    providers: tuple[JwtProvider, ...]
    rules: tuple[JwtRule, ...]
    bypass_cors_preflight: bool = False
    strip_failure_response: bool = False
