"""Rows (name, spec, field, message) of RequestAuthentications and AuthorizationPolicies that are refused."""

import base64
import json
from typing import Any

Row = tuple[str, str, str, str]


def _b64(size: int, first: int = 0x80) -> str:
    return base64.urlsafe_b64encode(bytes([first, *[1] * (size - 1)])).rstrip(b"=").decode()


RSA = {"kty": "RSA", "n": _b64(256), "e": "AQAB"}
OCT = {"kty": "oct", "k": _b64(32)}
P256 = {"kty": "EC", "crv": "P-256", "x": _b64(32), "y": _b64(32)}


def keys(*found: Any) -> str:
    """A set as the text of a YAML string."""
    return json.dumps(json.dumps({"keys": list(found)}))


def _rule(more: str = "", issuer: str = "issuer: https://i") -> str:
    return f"{{jwtRules: [{{{issuer}{', ' if issuer and more else ''}{more}}}]}}"


def _jwks(name: str, message: str, *found: Any) -> Row:
    return name, _rule(f"jwks: {keys(*found)}"), "spec.jwtRules[0].jwks", message


REQUEST_AUTHENTICATIONS: tuple[Row, ...] = (
    ("selector-label", '{selector: {matchLabels: {a: "*"}}}', "spec.selector.matchLabels[a]", "wildcards"),
    ("both-targets", "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}", "spec.targetRefs",
     "found both, expected only one of selector and targetRefs"),
    ("target-kind", "{targetRefs: [{kind: Waypoint, name: a}]}", "spec.targetRefs[0].kind", "one of Service, Gateway"),
    ("target-group", "{targetRefs: [{kind: Service, group: apps, name: a}]}", "spec.targetRefs[0].group", "a Service"),
    ("target-name", "{targetRefs: [{kind: Service}]}", "spec.targetRefs[0].name", "a DNS subdomain"),
    ("target-namespace", "{targetRefs: [{kind: Service, name: a, namespace: other}]}", "spec.targetRefs[0].namespace",
     "the policy's own namespace default"),
    ("targets", f"{{targetRefs: [{', '.join(['{kind: Service, name: a}'] * 17)}]}}", "spec.targetRefs", "at most 16"),
    ("issuer", _rule(f"jwks: {keys(RSA)}", ""), "spec.jwtRules[0].issuer", "the issuer of the tokens"),
    ("audience", _rule('audiences: ["a", ""]'), "spec.jwtRules[0].audiences[1]", "an audience that is not empty"),
    ("both-keys", _rule(f"jwks: {keys(RSA)}, jwksUri: https://i/k"), "spec.jwtRules[0].jwksUri", "found both"),
    ("no-keys", _rule("", "issuer: me"), "spec.jwtRules[0].jwksUri", "jwks, jwksUri, or a URL as issuer"),
    ("uri", _rule("jwksUri: file:///etc/passwd"), "spec.jwtRules[0].jwksUri", "an http or https URL"),
    ("uri-user", _rule("jwksUri: https://u:p@i/k"), "spec.jwtRules[0].jwksUri", "without user"),
    ("header", _rule("fromHeaders: [{prefix: a}]"), "spec.jwtRules[0].fromHeaders[0].name", "a header's name"),
    ("param", _rule('fromParams: [""]'), "spec.jwtRules[0].fromParams[0]", "a query parameter's name"),
    ("cookie", _rule('fromCookies: [""]'), "spec.jwtRules[0].fromCookies[0]", "a cookie's name"),
    ("payload-header", _rule('outputPayloadToHeader: ":path"'), "spec.jwtRules[0].outputPayloadToHeader", "a header's"),
    ("claim", _rule("outputClaimToHeaders: [{header: x-a}]"), "spec.jwtRules[0].outputClaimToHeaders[0].claim",
     "the name of a claim"),
    ("claim-header", _rule('outputClaimToHeaders: [{header: "a b", claim: c}]'),
     "spec.jwtRules[0].outputClaimToHeaders[0].header", "a header's name"),
    ("timeout", _rule("timeout: 2m"), "spec.jwtRules[0].timeout", "at most 60s"),
    ("unknown", _rule("audience: a"), "spec.jwtRules[0].audience", "did you mean audiences?"),
    ("not-json", _rule("jwks: nonsense"), "spec.jwtRules[0].jwks", "found something that is no JSON"),
    ("empty-set", _rule("jwks: '{\"keys\": []}'"), "spec.jwtRules[0].jwks", "found no keys"),
    _jwks("kty", 'found "none" as keys[1].kty, expected one of RSA', RSA, {"kty": "none"}),
    _jwks("small-rsa", "found a number of 1024 bits as keys[0].n, expected 2048", {**RSA, "n": _b64(128)}),
    _jwks("exponent", "found an unfit exponent as keys[0].e", {**RSA, "e": "AQ"}),
    _jwks("kty-list", "found a list as keys[0].kty, expected one of RSA, EC, OKP, oct", {"kty": ["RSA"]}),
    _jwks("private", "found a private key (not shown) as keys[0], expected the public one", {**RSA, "d": "hunter2"}),
    _jwks("alg-none", 'found "none" as keys[0].alg, expected one of RS256', {**RSA, "alg": "none"}),
    _jwks("alg-confused", 'found "HS256" as keys[0].alg, expected one of RS256', {**RSA, "alg": "HS256"}),
    _jwks("oct-with-rsa-alg", 'found "RS256" as keys[0].alg, expected one of HS256', {**OCT, "alg": "RS256"}),
    _jwks("short-secret", "found 16 bytes as keys[0].k, expected at least 32", {**OCT, "k": _b64(16)}),
    _jwks("curve", 'found "P-224" as keys[0].crv', {**P256, "crv": "P-224"}),
    _jwks("curve-alg", 'found "ES384" as keys[0].alg, expected ES256 for P-256', {**P256, "alg": "ES384"}),
    _jwks("coordinate", "found no coordinate of P-256 as keys[0].y", {**P256, "y": "AA"}),
    _jwks("edwards", 'found "X25519" as keys[0].crv, expected Ed25519', {"kty": "OKP", "crv": "X25519", "x": _b64(32)}),
    _jwks("encryption", 'found "enc" as keys[0].use, expected sig', {**RSA, "use": "enc"}),
    _jwks("mixed", "found `oct` keys beside asymmetric ones, expected one sort", RSA, OCT),
    ("mixed-rules", f"{{jwtRules: [{{issuer: https://i, jwks: {keys(OCT)}}}, {{issuer: https://i, jwksUri: https://i}}]}}",
     "spec.jwtRules[0].jwks", "found `oct` keys of https://i, of which another rule has public keys"),
)  # fmt: skip


def _when(key: str, more: str = "values: [a]") -> str:
    return f"{{rules: [{{when: [{{key: {json.dumps(key)}, {more}}}]}}]}}"


def _source(fields: str, more: str = "") -> str:
    return f"{{{more}rules: [{{from: [{{source: {{{fields}}}}}]}}]}}"


def _operation(fields: str) -> str:
    return f"{{rules: [{{to: [{{operation: {{{fields}}}}}]}}]}}"


_CUSTOM = "action: CUSTOM, provider: {name: p}, "
_FROM, _TO = "spec.rules[0].from[0].source", "spec.rules[0].to[0].operation"

AUTHORIZATION_POLICIES: tuple[Row, ...] = (
    ("action", "{action: LOG}", "spec.action", "one of ALLOW, DENY, AUDIT, CUSTOM"),
    ("deny-nothing", "{action: DENY}", "spec.rules", "DENY without rules never applies"),
    ("deny-empty", "{action: DENY, rules: []}", "spec.rules", "DENY without rules never applies"),
    ("custom-nothing", "{action: CUSTOM, provider: {name: p}}", "spec.rules", "CUSTOM without rules never applies"),
    ("custom-provider", "{action: CUSTOM, rules: [{}]}", "spec.provider.name", "the name of an extension provider"),
    ("provider", "{provider: {name: p}}", "spec.provider", "none with action ALLOW"),
    ("both-targets", "{selector: {}, targetRefs: [{kind: Gateway, name: a}]}", "spec.targetRefs", "found both"),
    ("from-empty", "{rules: [{from: []}]}", "spec.rules[0].from", "at least one entry"),
    ("to-empty", "{rules: [{to: []}]}", "spec.rules[0].to", "at least one entry"),
    ("no-source", "{rules: [{from: [{}]}]}", _FROM, "at least one field with values"),
    ("empty-source", "{rules: [{from: [{source: {}}]}]}", _FROM, "at least one field with values"),
    ("no-operation", "{rules: [{to: [{}]}]}", _TO, "at least one field with values"),
    ("empty-list", _source("principals: [a], namespaces: []"), f"{_FROM}.namespaces", "at least one value"),
    ("empty-value", _source('principals: [""]'), f"{_FROM}.principals[0]", "a value that is not empty"),
    ("ip", _source("ipBlocks: [10.0.0.0/33]"), f"{_FROM}.ipBlocks[0]", "an IP address or a block"),
    ("remote-ip", _source("notRemoteIpBlocks: [a]"), f"{_FROM}.notRemoteIpBlocks[0]", "an IP address or a block"),
    ("account", _source('serviceAccounts: ["a/*"]'), f"{_FROM}.serviceAccounts[0]", "without wildcards"),
    ("account-slashes", _source("notServiceAccounts: [a/b/c]"), f"{_FROM}.notServiceAccounts[0]", "namespace/name"),
    ("account-beside", _source("serviceAccounts: [a], namespaces: [b]"), f"{_FROM}.namespaces", "serviceAccounts"),
    ("port", _operation('ports: ["0"]'), f"{_TO}.ports[0]", "a port from 1 to 65535"),
    ("port-name", _operation("notPorts: [http]"), f"{_TO}.notPorts[0]", "a port from 1 to 65535"),
    ("template", _operation('paths: ["/a/{**}/b"]'), f"{_TO}.paths[0]", "{**} as the last segment"),
    ("template-mixed", _operation('paths: ["/a*/{*}"]'), f"{_TO}.paths[0]", "no other *"),
    ("template-part", _operation('notPaths: ["/a{*}"]'), f"{_TO}.notPaths[0]", "whole segments"),
    ("template-relative", _operation('paths: ["a/{*}"]'), f"{_TO}.paths[0]", "a template that begins with /"),
    ("key", _when("request.method"), "spec.rules[0].when[0].key", "one of connection.sni"),
    ("key-header", _when("request.headers[a b]"), "spec.rules[0].when[0].key", "request.headers[name]"),
    ("key-header-open", _when("request.headers[a"), "spec.rules[0].when[0].key", "request.headers[name]"),
    ("key-claim", _when("request.auth.claims"), "spec.rules[0].when[0].key", "request.auth.claims[name]"),
    ("values", _when("source.ip", "values: []"), "spec.rules[0].when[0]", "values or notValues"),
    ("value-ip", _when("source.ip"), "spec.rules[0].when[0].values[0]", "an IP address or a block"),
    ("value-port", _when("destination.port", 'notValues: ["x"]'), "spec.rules[0].when[0].notValues[0]", "a port from"),
    ("custom-principal", _source("principals: [a]", _CUSTOM), f"{_FROM}.principals", "none with CUSTOM"),
    ("custom-not", _source("notRequestPrincipals: [a]", _CUSTOM), f"{_FROM}.notRequestPrincipals", "none with CUSTOM"),
    ("custom-when", f"{{{_CUSTOM}rules: [{{when: [{{key: 'request.auth.claims[a]', values: [b]}}]}}]}}",
     "spec.rules[0].when[0].key", "another attribute with CUSTOM"),
    ("unknown", _source("principal: [a]"), f"{_FROM}.principal", "did you mean principals?"),
)  # fmt: skip
