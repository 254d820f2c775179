"""Of generated policy sets: what keeps calls and callers in bounds, and what stands at the mesh's edge.

Not:    services and what routes and clusters depend on (policy_sets).
"""

from collections.abc import Sequence
from typing import Any

from tests.support.chance import Chance
from tests.support.secrets import CERTIFICATE, KEY, encoded
from tests.support.tokens import jwks, rsa_signer

Json = dict[str, Any]
SECURITY, OWN = "security.istio.io/v1", "gossamer.mesh/v1"
EDGE = {"istio": "ingressgateway"}
ISSUER, FETCHED = "https://one.example.com", "https://one.example.com/keys"
KEYS = jwks(rsa_signer("one"))


class Guards:
    """Those of one set. `ports`: the numbers that each service has."""

    def __init__(self, chance: Chance, ports: dict[str, list[int]], subsets: Sequence[str]) -> None:
        self._chance = chance
        self._ports = ports
        self._subsets = subsets

    def made(self) -> list[Json]:
        likely = self._chance.likely
        found: list[Json] = []
        for name in self._ports:
            found += [self._breaker(name)] if likely(0.4) else []
            found += [self._bulkhead(name, number) for number in range(self._chance.rng.randint(0, 2))]
        found += [self._tokens(number) for number in range(self._chance.rng.randint(0, 2))]
        found += [self._authorization(number) for number in range(self._chance.rng.randint(0, 3))]
        return found + (self._edge() if likely(0.5) else [])

    # --- calls

    def _target(self, name: str) -> Json:
        port, subset = self._chance.one(self._ports[name]), self._chance.one(self._subsets)
        return {"host": name, **self._chance.some(port=lambda: {"number": port}, subset=lambda: subset)}

    def _breaker(self, name: str) -> Json:
        one, some = self._chance.one, self._chance.some
        spec = {
            "target": self._target(name) | some(route=lambda: f"rule-{name}"),
            **some(
                per=lambda: one(("TARGET", "CALLER")),
                failures=lambda: {"statuses": [503, "500-502"], "flags": ["UF"], "slowCallDuration": "2s"},
                window=lambda: one(({"type": "COUNT", "size": 20}, {"type": "TIME", "duration": "10s", "buckets": 5})),
                requestVolume=lambda: 5, errorPercent=lambda: one((1, 50, 100)), sleepWindow=lambda: "1s",
                halfOpen=lambda: {"probes": 3, "verdict": one(("EVERY", "PERCENTAGES")), "maxWait": "4s"},
                fallback=lambda: self._fallback(name), forced=lambda: one(("OPEN", "DISABLED")),
            ),
        }  # fmt: skip
        return _object(OWN, "CircuitBreaker", f"breaker-{name}", spec)

    def _fallback(self, name: str) -> Json:
        others = [own for own in self._ports if own != name]
        kinds: list[Json] = [
            {"cached": {"maxAge": "10m", "maxEntries": 10, "maxBytes": 100_000}},
            {"response": {"status": 203, "body": {"string": "{}"}, "headers": {"content-type": "application/json"}}},
        ]
        kinds += [{"service": {"host": other, "port": {"number": self._ports[other][0]}}} for other in others]
        return {**self._chance.one(kinds), **self._chance.some(onFailure=lambda: True)}

    def _bulkhead(self, name: str, number: int) -> Json:
        one, sides = self._chance.one, self._chance.several(("INBOUND", "OUTBOUND"), least=0)
        target = self._target(name)
        if "INBOUND" not in sides:
            target |= self._chance.some(route=lambda: f"rule-{name}")
        spec = {
            "target": target,
            "enforceAt": sides,
            **self._chance.some(
                maxConcurrent=lambda: one((1, 10, 1_000_000)), sharePercent=lambda: one((0.1, 50, 100)),
                queue=lambda: {"size": 5, "maxWait": one(("1ms", "1s"))}, exportTo=lambda: one((["."], ["*"])),
            ),
        }  # fmt: skip
        return _object(OWN, "Bulkhead", f"bulkhead-{name}-{number}", spec)

    # --- callers

    def _selected(self) -> Json:
        name = self._chance.one(sorted(self._ports))
        return self._chance.one(
            (
                {},
                {"selector": {"matchLabels": {"app": name}}},
                {"selector": {"matchLabels": EDGE}},
                {"targetRefs": [{"kind": "Service", "group": "", "name": name}]},
            )
        )

    def _tokens(self, number: int) -> Json:
        rules: list[Json] = [
            {"issuer": ISSUER, "jwksUri": FETCHED},
            {"issuer": "https://two.example.com", "jwks": KEYS},
            {"issuer": "https://never-fetched.example.com"},
        ]
        chosen = [
            rule | self._chance.some(
                audiences=lambda: ["cart"], forwardOriginalToken=lambda: True, fromParams=lambda: ["jwt"],
                fromHeaders=lambda: [{"name": "x-jwt", "prefix": "JWT "}], fromCookies=lambda: ["session"],
                outputPayloadToHeader=lambda: "x-payload", spaceDelimitedClaims=lambda: ["roles"],
                outputClaimToHeaders=lambda: [{"header": "x-user", "claim": "sub"}],
            )
            for rule in self._chance.several(rules)
        ]  # fmt: skip
        return _object(SECURITY, "RequestAuthentication", f"tokens-{number}", {**self._selected(), "jwtRules": chosen})

    def _authorization(self, number: int) -> Json:
        action = self._chance.one(("ALLOW", "DENY", "AUDIT", "CUSTOM"))
        rules = [self._rule(action) for _ in range(self._chance.rng.randint(0 if action == "ALLOW" else 1, 2))]
        spec: Json = {**self._selected(), "action": action, "rules": rules}
        if action == "CUSTOM":
            spec["provider"] = {"name": self._chance.one(("asker", "absent"))}
        made = _object(SECURITY, "AuthorizationPolicy", f"who-{number}", spec)
        if action in ("ALLOW", "DENY") and self._chance.likely(0.2):
            made["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
        return made

    def _rule(self, action: str) -> Json:
        some, asks = self._chance.some, action == "CUSTOM"
        source: Json = some(ipBlocks=lambda: ["10.0.0.0/8", "2001:db8::1"], remoteIpBlocks=lambda: ["192.0.2.0/24"])
        operation: Json = some(
            hosts=lambda: ["*.example.com"], methods=lambda: ["GET"], ports=lambda: ["80", "83"],
            paths=lambda: ["/a", "/b/*", "*/c", "/t/{*}/{**}"], notPaths=lambda: ["/b/x"],
        )  # fmt: skip
        when: list[Json] = [
            {"key": "request.headers[x-a]", "values": ["*"], "notValues": ["b"]},
            {"key": "destination.port", "values": ["80"]},
            {"key": "source.ip", "notValues": ["10.0.0.1"]},
        ]
        if not asks:  # it is asked before who calls is established
            source |= some(
                namespaces=lambda: ["default", "shop-*"], notNamespaces=lambda: ["other"],
                principals=lambda: ["cluster.local/ns/default/sa/*"], requestPrincipals=lambda: [f"{ISSUER}/*"],
            )  # fmt: skip
            when.append({"key": "request.auth.claims[groups]", "values": ["admin"]})
        found: Json = some(when=lambda: self._chance.several(when))
        found |= {"from": [{"source": source}]} if source else {}
        return found | ({"to": [{"operation": operation}]} if operation else {})

    # --- the edge

    def _edge(self) -> list[Json]:
        """A Gateway, the Secret that it shows, and the routes of one service there."""
        servers: list[Json] = [
            {"port": _port(80, "HTTP"), "hosts": ["*"], **self._chance.some(tls=lambda: {"httpsRedirect": True})},
            {"port": _port(443, "HTTPS"), "hosts": ["*.example.com"], "tls": self._server_tls()},
            {"port": _port(444, "TLS"), "hosts": ["*.through.example.com"], "tls": {"mode": "PASSTHROUGH"}},
            {"port": _port(9000, "TCP"), "hosts": ["*"]},
        ]
        name = self._chance.one(sorted(self._ports))
        to = [{"destination": {"host": name, "port": {"number": self._ports[name][0]}}}]
        spec: Json = {
            "hosts": ["www.example.com", "a.through.example.com"],
            "gateways": self._chance.one((["edge"], ["edge", "mesh"])),
            "http": [{"match": [{"uri": {"prefix": "/x"}, "port": 80}], "route": to}, {"route": to}],
            "tls": [{"match": [{"sniHosts": ["a.through.example.com"]}], "route": to}],
            "tcp": [{"match": [{"port": 9000}], "route": to}],
        }
        secret = {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "edge"}, "type": "kubernetes.io/tls",
            "data": {"tls.crt": encoded(CERTIFICATE), "tls.key": encoded(KEY), "ca.crt": encoded(CERTIFICATE)},
        }  # fmt: skip
        gateway = {"selector": EDGE, "servers": self._chance.several(servers)}
        return [
            _object("networking.istio.io/v1", "Gateway", "edge", gateway),
            _object("networking.istio.io/v1", "VirtualService", "at-the-edge", spec),
            *([secret] if self._chance.likely(0.8) else []),
        ]

    def _server_tls(self) -> Json:
        mode = self._chance.one(("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL"))
        if mode == "ISTIO_MUTUAL":
            return {"mode": mode}
        more = self._chance.some(minProtocolVersion=lambda: "TLSV1_3", maxProtocolVersion=lambda: "TLSV1_3")
        return {"mode": mode, "credentialName": "edge", **more}


def _port(number: int, protocol: str) -> Json:
    return {"number": number, "name": f"{protocol.lower()}-{number}", "protocol": protocol}


def _object(api_version: str, kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
