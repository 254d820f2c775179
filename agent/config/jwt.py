"""The JWT filter.

Owns:   its providers, rules and requirements.
Source: envoy/extensions/filters/http/jwt_authn/v3/config.proto.
Differs: keys stand in the configuration (`local_jwks.inline_string`): a worker fetches nothing. Requirements by
        name, for routes and filter state, are not taken.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import (
    JwtAuthentication as Message,
)
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtProvider as ProviderMessage
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtRequirement, RequirementRule

from agent.config.fields import Refused, beyond, item, only, refuse, within
from agent.config.matchers import header_matcher
from agent.config.regexes import regex
from agent.model.jwt import (
    JwtAuthentication,
    JwtProvider,
    JwtRule,
    MayMiss,
    NeedsAll,
    NeedsAny,
    NeedsToken,
    Requirement,
)
from agent.model.matchers import MatchKind, StringMatcher

MAX_DEPTH = 16
_KNOWN = frozenset({"providers", "rules", "bypass_cors_preflight", "strip_failure_response"})
_PROVIDER = frozenset(
    {
        "issuer", "audiences", "local_jwks", "forward", "from_headers", "from_params", "from_cookies",
        "forward_payload_header", "pad_forward_payload_header", "payload_in_metadata", "normalize_payload_in_metadata",
        "clock_skew_seconds", "claim_to_headers", "require_expiration",
        # no effect here: good tokens are remembered in any case
        "jwt_cache_config",
    }
)  # fmt: skip
_MATCH = frozenset({"prefix", "path", "safe_regex", "path_separated_prefix", "headers"})
_DEFAULT_SKEW_S = 60


def jwt_authentication(message: Message, path: str) -> JwtAuthentication:
    """The filter."""
    only(message, path, _KNOWN)
    providers = tuple(
        _provider(name, message.providers[name], f'{within(path, "providers")}["{name}"]')
        for name in sorted(message.providers)
    )
    known = frozenset(own.name for own in providers)
    rules = tuple(_rule(one, item(path, "rules", index), known) for index, one in enumerate(message.rules))
    return JwtAuthentication(
        providers=providers,
        rules=rules,
        bypass_cors_preflight=message.bypass_cors_preflight,
        strip_failure_response=message.strip_failure_response,
    )


def _provider(name: str, message: ProviderMessage, path: str) -> JwtProvider:
    only(message, path, _PROVIDER)
    normalised = message.normalize_payload_in_metadata
    only(normalised, within(path, "normalize_payload_in_metadata"), frozenset({"space_delimited_claims"}))
    for index, header in enumerate(message.from_headers):
        only(header, item(path, "from_headers", index), frozenset({"name", "value_prefix"}))
    return JwtProvider(
        name=name,
        issuer=message.issuer,
        audiences=tuple(message.audiences),
        jwks=_jwks(message, path),
        forward=message.forward,
        from_headers=tuple((one.name.lower(), one.value_prefix) for one in message.from_headers),
        from_params=tuple(message.from_params),
        from_cookies=tuple(message.from_cookies),
        payload_header=message.forward_payload_header.lower(),
        pads_payload=message.pad_forward_payload_header,
        metadata_key=message.payload_in_metadata,
        space_delimited=tuple(normalised.space_delimited_claims),
        claim_headers=tuple(
            (one.header_name.lower(), tuple(one.claim_name.split("."))) for one in message.claim_to_headers
        ),
        clock_skew_s=message.clock_skew_seconds or _DEFAULT_SKEW_S,
        requires_expiration=message.require_expiration,
    )


def _jwks(message: ProviderMessage, path: str) -> str:
    if message.WhichOneof("jwks_source_specifier") != "local_jwks":
        raise beyond(within(path, "remote_jwks"), "a value", "local_jwks")
    own = within(path, "local_jwks")
    only(message.local_jwks, own, frozenset({"inline_string"}))
    text, where = message.local_jwks.inline_string, within(own, "inline_string")
    try:
        keys: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(where, "found something that is no JSON, expected a JWKS") from error
    if not isinstance(keys, Mapping) or not isinstance(keys.get("keys"), list):
        raise Refused(where, 'found no keys, expected {"keys": [...]}')
    _check_sorts(keys["keys"], where)
    return text


def _check_sorts(keys: Iterable[Any], path: str) -> None:
    """A public key must never be taken for a secret (RFC 8725 2.1)."""
    kinds = {key.get("kty") for key in keys if isinstance(key, Mapping)}
    if "oct" in kinds and len(kinds) > 1:
        raise Refused(path, "found oct keys beside asymmetric ones, expected one sort")


def _rule(message: RequirementRule, path: str, known: frozenset[str]) -> JwtRule:
    only(message, path, frozenset({"match", "requires"}))
    match, own = message.match, within(path, "match")
    only(match, own, _MATCH)
    which = match.WhichOneof("path_specifier") or ""
    kinds = {
        "prefix": MatchKind.PREFIX,
        "path": MatchKind.EXACT,
        "path_separated_prefix": MatchKind.PREFIX,
        "safe_regex": MatchKind.REGEX,
    }
    if which not in kinds:
        raise refuse(own, which, "a path")
    text = regex(match.safe_regex, within(own, which)) if which == "safe_regex" else getattr(match, which)
    headers = enumerate(match.headers)
    return JwtRule(
        path=StringMatcher(kind=kinds[which], value=text),
        separated=which == "path_separated_prefix",
        headers=tuple(header_matcher(one, item(own, "headers", index)) for index, one in headers),
        requires=(
            _requirement(message.requires, within(path, "requires"), known, 0) if message.HasField("requires") else None
        ),
    )


def _requirement(message: JwtRequirement, path: str, known: frozenset[str], depth: int) -> Requirement | None:
    if depth > MAX_DEPTH:
        raise Refused(path, f"found requirements within requirements, expected at most {MAX_DEPTH} levels")
    which = message.WhichOneof("requires_type")
    own = within(path, which or "")
    match which:
        case None:
            return None
        case "provider_name":
            return _needs(message.provider_name, None, own, known)
        case "provider_and_audiences":
            one = message.provider_and_audiences
            return _needs(one.provider_name, tuple(one.audiences), within(own, "provider_name"), known)
        case "requires_any":
            return NeedsAny(requirements=_each(message.requires_any.requirements, own, known, depth))
        case "requires_all":
            return NeedsAll(requirements=_each(message.requires_all.requirements, own, known, depth))
    return MayMiss(failed=which == "allow_missing_or_failed")


def _each(
    messages: Iterable[JwtRequirement], path: str, known: frozenset[str], depth: int
) -> tuple[Requirement, ...]:  # fmt: skip
    found = (
        _requirement(one, item(path, "requirements", index), known, depth + 1) for index, one in enumerate(messages)
    )
    return tuple(one for one in found if one is not None)


def _needs(provider: str, audiences: tuple[str, ...] | None, path: str, known: frozenset[str]) -> NeedsToken:
    if provider not in known:
        raise refuse(path, provider, "the name of a provider")
    return NeedsToken(provider=provider, audiences=audiences)
