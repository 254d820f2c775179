"""RequestAuthentication: which JSON Web Tokens a workload takes, and from where.

Owns:   the shape, and where the keys of a rule come from.
Not:    which policies a workload has (controlplane.model.security_policies), how tokens are checked (the proxies).
Source: istio.io/api security/v1 request_authentication.proto.
"""

from controlplane.policy.scalars import Boolean, Duration, Text
from controlplane.policy.selector import WorkloadSelector
from controlplane.policy.spec import Spec
from controlplane.policy.target_reference import PolicyTargetReference

DEFAULT_TIMEOUT_S = 5.0
DISCOVERY_PATH = "/.well-known/openid-configuration"


class JWTHeader(Spec):
    """A header's value without its prefix is the token."""

    name: Text = ""
    prefix: Text = ""


class ClaimToHeader(Spec):
    """A claim, `a.b` within others, goes to the application as a header."""

    header: Text = ""
    claim: Text = ""


class JWTRule(Spec):
    """One issuer. Without a location: `Authorization: Bearer`, then the query parameter `access_token`.

    Exactly one of `jwks` and `jwks_uri` is set, or none where the issuer is a URL that tells (OpenID discovery).
    """

    issuer: Text = ""
    audiences: tuple[Text, ...] = ()
    jwks_uri: Text | None = None
    jwks: Text | None = None
    from_headers: tuple[JWTHeader, ...] = ()
    from_params: tuple[Text, ...] = ()
    from_cookies: tuple[Text, ...] = ()
    output_payload_to_header: Text = ""
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    forward_original_token: Boolean = False
    timeout: Duration | None = None
    space_delimited_claims: tuple[Text, ...] = ()

    @property
    def jwks_source(self) -> str:
        """The URL that leads to the keys; empty when they stand in the rule."""
        if self.jwks:
            return ""
        return self.jwks_uri or self.issuer.rstrip("/") + DISCOVERY_PATH

    @property
    def timeout_s(self) -> float:
        """How long the keys' server may take."""
        return DEFAULT_TIMEOUT_S if self.timeout is None else self.timeout


class RequestAuthentication(Spec):
    """A token that comes must be valid; a request without any passes (an AuthorizationPolicy may refuse it)."""

    selector: WorkloadSelector | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    jwt_rules: tuple[JWTRule, ...] = ()
