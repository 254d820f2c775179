"""Rules of RequestAuthentication.

Source: istio validation.go ValidateRequestAuthentication, validateJwtRule.
"""

from urllib.parse import urlsplit

from controlplane.policy import jwks
from controlplane.policy.request_authentication import JWTRule, RequestAuthentication
from controlplane.policy.rules.fields import check_duration
from controlplane.policy.rules.security import check_entries, check_targets
from controlplane.policy.syntax import HEADER, is_header_name
from controlplane.policy.violations import Found, Path, Report

MAX_RULES = 64
MAX_TIMEOUT_S = 60.0
_URL = "an http or https URL with a host and without user, query or fragment"


def check_request_authentication(spec: RequestAuthentication, path: Path, report: Report) -> None:
    """Everything about one RequestAuthentication on its own."""
    check_targets(report, path, spec.selector, spec.target_refs)
    rules = path / "jwtRules"
    if len(spec.jwt_rules) > MAX_RULES:
        report.refuse(rules, f"at most {MAX_RULES} rules", found=Found(f"{len(spec.jwt_rules)} rules"))
    for index, rule in enumerate(spec.jwt_rules):
        _check_rule(report, rules.at(index), rule)
    _check_secrets(report, rules, spec)


def is_url(text: str) -> bool:
    """Whether keys can be fetched from there."""
    try:
        found = urlsplit(text)
        port = found.port
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and not set(text) & set(' "<>\\^`{|}#')
    return (
        plain and found.scheme in ("http", "https") and bool(found.hostname) and "@" not in found.netloc and port != 0
    )


def _check_rule(report: Report, path: Path, rule: JWTRule) -> None:
    if not rule.issuer:
        report.refuse(path / "issuer", "the issuer of the tokens, as their claim `iss` says")
    check_entries(report, path / "audiences", rule.audiences, "an audience")
    _check_keys(report, path, rule)
    for index, header in enumerate(rule.from_headers):
        _check_header(report, (path / "fromHeaders").at(index) / "name", header.name)
    check_entries(report, path / "fromParams", rule.from_params, "a query parameter's name")
    check_entries(report, path / "fromCookies", rule.from_cookies, "a cookie's name")
    check_entries(report, path / "spaceDelimitedClaims", rule.space_delimited_claims, "a claim's name")
    if rule.output_payload_to_header:
        _check_header(report, path / "outputPayloadToHeader", rule.output_payload_to_header)
    for index, output in enumerate(rule.output_claim_to_headers):
        own = (path / "outputClaimToHeaders").at(index)
        _check_header(report, own / "header", output.header)
        if not output.claim:
            report.refuse(own / "claim", "the name of a claim")
    check_duration(report, path / "timeout", rule.timeout)
    if rule.timeout is not None and rule.timeout > MAX_TIMEOUT_S:
        report.refuse(path / "timeout", f"at most {MAX_TIMEOUT_S:g}s")


def _check_keys(report: Report, path: Path, rule: JWTRule) -> None:
    if rule.jwks and rule.jwks_uri:
        report.refuse(path / "jwksUri", "only one of jwks and jwksUri", found=Found("both"))
    elif rule.jwks_uri:
        if not is_url(rule.jwks_uri):
            report.refuse(path / "jwksUri", _URL)
    elif rule.jwks:
        for problem in jwks.problems(rule.jwks):
            report.add(path / "jwks", problem)
    elif rule.issuer and not is_url(rule.issuer):
        report.refuse(
            path / "jwksUri", "jwks, jwksUri, or a URL as issuer whose OpenID configuration says where its keys are"
        )  # fmt: skip


def _check_header(report: Report, path: Path, name: str) -> None:
    if not is_header_name(name):
        report.refuse(path, HEADER)


def _check_secrets(report: Report, path: Path, spec: RequestAuthentication) -> None:
    """Shared secrets of an issuer never beside its public keys, also not in another rule."""
    public = {rule.issuer for rule in spec.jwt_rules if not rule.jwks or jwks.has_public_keys(rule.jwks)}
    for index, rule in enumerate(spec.jwt_rules):
        if rule.jwks and jwks.has_secrets(rule.jwks) and rule.issuer in public and not jwks.has_public_keys(rule.jwks):
            report.add(
                path.at(index) / "jwks",
                f"found `oct` keys of {rule.issuer}, of which another rule has public keys, expected one sort: a token "
                "could be signed with a public key taken for a secret",
            )
