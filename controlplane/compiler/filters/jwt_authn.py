"""RequestAuthentications as Envoy's JWT filter.

Owns:   a provider per rule, the requirement: a token that comes must be valid, none is fine.
Source: istio pilot/pkg/security/authn policy_applier.go convertToEnvoyJwtConfig; data-plane.md 1.10.
Differs: keys are always inline. Those of a URL are fetched by the control plane (controlplane.reconcile.jwks), so that
        no proxy needs a way out; before they are there no token passes.
"""

from collections.abc import Iterable, Mapping

from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import (
    JwtAuthentication,
    JwtProvider,
    JwtRequirement,
    JwtRequirementAndList,
    JwtRequirementOrList,
    RequirementRule,
)
from google.protobuf.empty_pb2 import Empty

from controlplane.policy.jwks import NOBODYS_JWKS
from controlplane.policy.objects import PolicyObject
from controlplane.policy.request_authentication import JWTRule, RequestAuthentication

NAME = "envoy.filters.http.jwt_authn"
PAYLOAD = "payload"  # where the filter's metadata holds the claims
_SPACE_DELIMITED = ("permission", "scope")


def rules_of(policies: Iterable[PolicyObject]) -> tuple[JWTRule, ...]:
    """All rules, by issuer and age."""
    found = [rule for item in policies for rule in item.spec_as(RequestAuthentication).jwt_rules]
    return tuple(sorted(found, key=lambda rule: rule.issuer))


def jwt_authentication(rules: tuple[JWTRule, ...], fetched: Mapping[str, str]) -> JwtAuthentication | None:
    """The filter; None without rules. `fetched`: keys by the URL that leads to them."""
    if not rules:
        return None
    message = JwtAuthentication(bypass_cors_preflight=True)
    names = [f"origins-{index}" for index in range(len(rules))]
    for name, rule in zip(names, rules, strict=True):
        message.providers[name].CopyFrom(_provider(rule, fetched))
    own = RequirementRule(requires=_requirement(names))
    own.match.prefix = "/"
    message.rules.append(own)
    return message


def _requirement(names: list[str]) -> JwtRequirement:
    """One that is valid, or each valid or missing: tokens of several issuers may come from one place."""
    each = [_any(JwtRequirement(provider_name=name), JwtRequirement(allow_missing=Empty())) for name in names]
    if len(each) == 1:
        return each[0]
    one = [JwtRequirement(provider_name=name) for name in names]
    return _any(*one, JwtRequirement(requires_all=JwtRequirementAndList(requirements=each)))


def _any(*requirements: JwtRequirement) -> JwtRequirement:
    return JwtRequirement(requires_any=JwtRequirementOrList(requirements=requirements))


def _provider(rule: JWTRule, fetched: Mapping[str, str]) -> JwtProvider:
    message = JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward_original_token,
        forward_payload_header=rule.output_payload_to_header,
        payload_in_metadata=PAYLOAD,
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
    )
    message.local_jwks.inline_string = rule.jwks or fetched.get(rule.jwks_source, NOBODYS_JWKS)
    delimited = sorted({*_SPACE_DELIMITED, *rule.space_delimited_claims})
    message.normalize_payload_in_metadata.space_delimited_claims.extend(delimited)
    for header in rule.from_headers:
        message.from_headers.add(name=header.name, value_prefix=header.prefix)
    for output in rule.output_claim_to_headers:
        message.claim_to_headers.add(header_name=output.header, claim_name=output.claim)
    return message
