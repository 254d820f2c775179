"""The policies of `make bench-dataplane`, stage by stage; the same for the agent and for Envoy."""

from collections.abc import Sequence

from bench.dataplane_scenarios import FEW, MANY, PLAIN_HOST, ROUTES_HOST, host_of
from tests.support.tokens import Signer, jwks, rsa_signer

ISSUER = "https://issuer.bench"
TOKENS = 16
_BATCH = 100  # documents in one POST

_SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{host}]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 9000}}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{{address: {origin}}}]
"""
_LIMITS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec:
  host: {host}
  trafficPolicy:
    connectionPool: {{tcp: {{maxConnections: 4000}}, http: {{http1MaxPendingRequests: 4000}}}}
    outlierDetection: {{consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s}}
"""
_RULE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{host}]
  http:
"""
_UNMATCHED = """\
  - match: [{{uri: {{prefix: /never}}, headers: {{x-never: {{exact: "1"}}}}}}]
    route: [{{destination: {{host: {host}}}}}]
"""
_ROUTE = """\
  - route: [{{destination: {{host: {host}}}}}]
    timeout: 15s
    retries: {{attempts: 2, retryOn: "5xx,connect-failure"}}
"""
_PART = """\
  - match: [{{uri: {{prefix: /part-{number}/}}}}]
    route: [{{destination: {{host: {host}}}}}]
    timeout: 15s
    retries: {{attempts: 2, retryOn: "5xx,connect-failure"}}
"""
_STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""
_GUARD = """\
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: bench}}
spec:
  jwtRules: [{{issuer: "{issuer}", audiences: [bench], forwardOriginalToken: true, jwks: '{keys}'}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: bench}}
spec:
  action: ALLOW
  rules:
  - from: [{{source: {{requestPrincipals: ["{issuer}/*"]}}}}]
    to: [{{operation: {{methods: [GET], paths: ["/users/*"]}}}}]
    when: [{{key: "request.auth.claims[groups]", values: [bench]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: no-admin}}
spec:
  action: DENY
  rules: [{{to: [{{operation: {{paths: ["/admin*"]}}}}]}}]
---
apiVersion: gossamer.mesh/v1
kind: RateLimit
metadata: {{name: bench}}
spec:
  limits: [{{name: all, rates: [{{requests: 1000000, per: SECOND}}]}}]
"""


class Policies:
    """What each stage posts. `tokens` are accepted by the policies of the stage `guarded`."""

    def __init__(self, origin: str, workloads: Sequence[str]) -> None:
        self._origin = origin
        self._workloads = workloads
        self._signer: Signer = rsa_signer("bench")
        claims = {"iss": ISSUER, "aud": "bench", "exp": 4_000_000_000, "groups": ["bench"]}
        self.tokens = [self._signer.token({**claims, "sub": f"user-{n}"}).decode() for n in range(TOKENS)]

    def batches(self, stage: str) -> list[str]:
        """YAML, a text for each POST."""
        documents = {
            "base": self._base,
            "guarded": self._guard,
            "few hosts": lambda: self._hosts(range(FEW)),
            "many hosts": lambda: self._hosts(range(MANY)),
            "many routes": self._routes,
        }[stage]()
        return ["---\n".join(documents[at : at + _BATCH]) for at in range(0, len(documents), _BATCH)]

    def _base(self) -> list[str]:
        names = {"name": "plain", "host": PLAIN_HOST}
        documents = [
            _SERVICE.format(**names, origin=self._origin),
            _LIMITS.format(**names),
            (_RULE + _UNMATCHED + _ROUTE).format(**names),
        ]
        for name in self._workloads:
            documents += (_LIMITS.format(name=name, host=name), (_RULE + _ROUTE).format(name=name, host=name))
        return [*documents, _STRICT]

    def _guard(self) -> list[str]:
        return [_GUARD.format(issuer=ISSUER, keys=jwks(self._signer))]

    def _hosts(self, numbers: range) -> list[str]:
        names = [{"name": f"host-{number}", "host": host_of(number)} for number in numbers]
        return [
            "---\n".join(
                (_SERVICE.format(**own, origin=self._origin), _LIMITS.format(**own), (_RULE + _ROUTE).format(**own))
            )
            for own in names
        ]

    def _routes(self) -> list[str]:
        names = {"name": "routes", "host": ROUTES_HOST}
        parts = "".join(_PART.format(number=number, host=ROUTES_HOST) for number in range(MANY))
        return [_SERVICE.format(**names, origin=self._origin), _LIMITS.format(**names), _RULE.format(**names) + parts]
