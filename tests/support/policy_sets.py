"""Generated meshes that a user could have written: services, instances and policies of every kind that fit together.

`policy_set(number)` is always the same text. Destinations exist, subsets are defined: whatever a route names must be
there. Every field of the enforced kinds turns up in some of a few hundred sets.
"""

import json
from random import Random
from typing import Any

from tests.support.chance import Chance
from tests.support.policy_set_guards import Guards

Json = dict[str, Any]
SUBSETS = ("v1", "v2")
_NAMES = ("a", "b", "c", "d")
_PORTS = (("http", 80), ("grpc", 81), ("http2", 82), ("tcp", 83), ("", 84))


def policy_set(number: int) -> str:
    """Documents as tests.support.compiling reads them."""
    return _Maker(Random(number)).text()


class _Maker(Chance):
    """One set."""

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._services = _NAMES[: rng.randint(1, len(_NAMES))]
        self._ports = {name: rng.sample(_PORTS, rng.randint(1, 3)) for name in self._services}

    def text(self) -> str:
        made: list[Json] = []
        for name in self._services:
            made += [self._service(name), self._rule(name), *self._instances(name)]
            if self.likely(0.8):
                made.append(self._virtual_service(name))
        made += [self._entry("STATIC")] if self.likely(0.3) else []
        made += [self._entry("DNS")] if self.likely(0.3) else []
        made += [self._peers()] if self.likely(0.6) else []
        made += [self._rate_limit(number) for number in range(self.rng.randint(0, 2))]
        ports = {name: [number for _, number in own] for name, own in self._ports.items()}
        made += Guards(self, ports, SUBSETS).made()
        return "---\n".join(json.dumps(item) + "\n" for item in made)

    # --- what is there

    def _service(self, name: str) -> Json:
        ports = [{"name": kind or f"p{number}", "port": number} for kind, number in self._ports[name]]
        return _object("v1", "Service", name, {"selector": {"app": name}, "ports": ports})

    def _instances(self, name: str) -> list[Json]:
        places = ("", "r1/z1/s1", "r1/z2", "r2/z1")
        return [
            {
                "kind": "Instance", "id": f"{name}-{index}", "node": self.one(("proxy", "far")),
                "namespace": "default", "service": name, "service_account": name,
                "labels": {"app": name, "version": self.one(SUBSETS)},
                "address": f"10.0.{_NAMES.index(name)}.{index + 1}", "locality": self.one(places),
                "ports": [
                    {"name": kind or f"p{number}", "port": number, "protocol": kind.upper(),
                     "inbound_port": 20000 + 100 * _NAMES.index(name) + 10 * index + at}
                    for at, (kind, number) in enumerate(self._ports[name])
                ],
            }
            for index in range(self.rng.randint(0, 3))
        ]  # fmt: skip

    def _entry(self, resolution: str) -> Json:
        host = f"{resolution.lower()}.example.com"
        spec: Json = {
            "hosts": [host, f"www.{host}"],
            "ports": [
                {"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 443, "name": "tls", "protocol": "TLS"}
            ],
            "resolution": resolution,
            "location": self.one(("MESH_EXTERNAL", "MESH_INTERNAL")),
        }  # fmt: skip
        if resolution == "STATIC":
            spec["endpoints"] = [{"address": "10.9.0.1", "weight": 2}, {"address": "10.9.0.2", "ports": {"http": 8080}}]
        return _object("networking.istio.io/v1", "ServiceEntry", resolution.lower(), spec)

    def _peers(self) -> Json:
        modes = ("STRICT", "PERMISSIVE", "DISABLE")
        spec: Json = {"mtls": {"mode": self.one(modes)}}
        name = "default"
        if self.likely(0.4):
            name, port = "some", self.one(self._ports[self._services[0]])[1]
            spec |= {
                "selector": {"matchLabels": {"app": self._services[0]}},
                "portLevelMtls": {str(port): {"mode": self.one(modes)}},
            }
        return _object("security.istio.io/v1", "PeerAuthentication", name, spec)

    def _rate_limit(self, number: int) -> Json:
        reach = self.one(("LOCAL", "GLOBAL"))
        match = {
            "methods": ["GET", "POST"],
            "path": {self.one(("exact", "prefix", "regex")): "/a.b"},
            "headers": {"x-a": {"prefix": "b"}, "x-b": {}},
        }
        keys = [{"attribute": own} for own in ("PATH", "METHOD", "PRINCIPAL", "REMOTE_ADDRESS")]
        keys += [{"header": "X-User"}, {"claim": "sub"}]
        limits = [
            {
                "name": f"l{index}",
                "rates": [{"requests": index + 1, "per": self.one(("SECOND", "DAY"))}],
                "keys": self.rng.sample(keys, self.rng.randint(0, 3)),
                **self.some(match=lambda: match),
            }
            for index in range(self.rng.randint(1, 3))
        ]
        spec = {
            "limits": limits,
            "scope": reach,
            "shadow": self.likely(0.2),
            **self.some(selector=lambda: {"matchLabels": {"app": self._services[0]}}),
        }
        if reach == "GLOBAL":
            spec |= self.some(failureMode=lambda: "DENY", headers=lambda: "RATELIMIT", timeout=lambda: "50ms")
        if not any(key.get("attribute") == "PRINCIPAL" for limit in limits for key in limit["keys"]):
            spec |= self.some(enforceAt=lambda: ["INBOUND", "OUTBOUND"])
        return _object("gossamer.mesh/v1", "RateLimit", f"limits-{number}", spec)

    # --- DestinationRule

    def _rule(self, name: str) -> Json:
        port = self.one(self._ports[name])[1]
        policy = self._traffic_policy()
        if self.likely(0.4):
            policy["portLevelSettings"] = [{"port": {"number": port}, **self._port_policy(), "outlierDetection": {}}]
        subsets = [
            {"name": own, "labels": {"version": own}, **self.some(trafficPolicy=self._traffic_policy)}
            for own in SUBSETS
        ]
        spec = {"host": name, "trafficPolicy": policy, "subsets": subsets}
        return _object("networking.istio.io/v1", "DestinationRule", name, spec)

    def _traffic_policy(self) -> Json:
        found = self._port_policy() | self.some(
            retryBudget=lambda: {"percent": self.one((0, 20.5, 100)), "minRetryConcurrency": self.one((0, 3))}
        )
        return found or {"outlierDetection": {}}

    def _port_policy(self) -> Json:
        return self.some(
            loadBalancer=self._load_balancer, connectionPool=self._pool, outlierDetection=self._outlier, tls=self._tls
        )

    def _load_balancer(self) -> Json:
        simple = {"simple": self.one(("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PASSTHROUGH", "LEAST_CONN"))}
        key = self.one(
            (
                {"httpHeaderName": "x-user"}, {"useSourceIp": True}, {"httpQueryParameterName": "u"},
                {"httpCookie": {"name": "c", "ttl": "60s", "path": "/"}}, {"httpCookie": {"name": "c", "ttl": "0s"}},
            )
        )  # fmt: skip
        table = self.one(({}, {"ringHash": {"minimumRingSize": 64}}, {"maglev": {"tableSize": 251}}))
        found = self.one((simple, {"consistentHash": {**key, **table}}))
        if "simple" in found and found["simple"] in ("ROUND_ROBIN", "LEAST_REQUEST") and self.likely(0.4):
            found["warmup"] = {"duration": "30s", "minimumPercent": 10, "aggression": 1.5}
        setting = self.one(
            (
                {}, {"enabled": False}, {"failover": [{"from": "r1", "to": "r2"}]},
                {"failoverPriority": ["topology.kubernetes.io/region"]},
                {"distribute": [{"from": "r1/z1/*", "to": {"r1/z1/*": 70, "r2/*": 30}}]},
            )
        )  # fmt: skip
        return {**found, **({"localityLbSetting": setting} if setting else {})}

    def _pool(self) -> Json:
        tcp = self.some(
            maxConnections=lambda: self.one((1, 100, 2**31 - 1)), connectTimeout=lambda: self.one(("30ms", "10s")),
            tcpKeepalive=lambda: {"probes": 3, "time": "7200s", "interval": "75s"},
            maxConnectionDuration=lambda: "1h", idleTimeout=lambda: self.one(("0s", "5s")),
        )  # fmt: skip
        http = self.some(
            http1MaxPendingRequests=lambda: 5, http2MaxRequests=lambda: 9, maxRequestsPerConnection=lambda: 10,
            maxRetries=lambda: 3, idleTimeout=lambda: "5m", maxConcurrentStreams=lambda: 100,
            http2KeepAlive=lambda: {"interval": "30s", "timeout": "5s"},
        )  # fmt: skip
        return {"tcp": tcp, "http": http}

    def _outlier(self) -> Json:
        return self.some(
            consecutive5xxErrors=lambda: self.one((0, 1, 7)), consecutiveGatewayErrors=lambda: self.one((0, 5)),
            interval=lambda: self.one(("1s", "5m")), baseEjectionTime=lambda: "15m",
            maxEjectionPercent=lambda: self.one((1, 50, 100)), minHealthPercent=lambda: self.one((1, 40, 100)),
            splitExternalLocalOriginErrors=lambda: True,
        )  # fmt: skip

    def _tls(self) -> Json:
        return self.one(
            (
                {"mode": "DISABLE"}, {"mode": "ISTIO_MUTUAL"}, {"mode": "SIMPLE"},
                {"mode": "SIMPLE", "sni": "db.example.com", "subjectAltNames": ["db.example.com", "spiffe://a/b"]},
                {"mode": "SIMPLE", "insecureSkipVerify": True},
                {"mode": "MUTUAL", "clientCertificate": "/gossamer-tls/cert.pem", "privateKey": "/gossamer-tls/key.pem",
                 "caCertificates": "/gossamer-tls/cert.pem"},
            )
        )  # fmt: skip

    # --- VirtualService

    def _virtual_service(self, name: str) -> Json:
        hosts = [name, *(["*.wild.example.com"] if name == self._services[0] and self.likely(0.3) else [])]
        rules = [self._http(name, last=False) for _ in range(self.rng.randint(0, 4))]
        return _object(
            "networking.istio.io/v1",
            "VirtualService",
            name,
            {"hosts": hosts, "http": [*rules, self._http(name, last=True)]},
        )

    def _http(self, name: str, *, last: bool) -> Json:
        rule: Json = {} if last else {"match": [self._match() for _ in range(self.rng.randint(1, 2))]}
        kind = self.rng.random()
        if kind < 0.15:
            redirect = self._redirect()
            if "prefixRewrite" in redirect and not last:
                rule["match"] = [{"uri": {"prefix": "/old/"}}]
            return rule | {"redirect": redirect}
        if kind < 0.3:
            body = self.one(({}, {"body": {"string": "no"}}, {"body": {"bytes": "aGVsbG8="}}))
            return rule | {"directResponse": {"status": self.one((200, 403, 503)), **body}}
        found = rule | self._targets() | self.some(
            timeout=lambda: self.one(("0s", "2.5s")), retries=self._retries, rewrite=self._rewrite,
            fault=self._fault, corsPolicy=self._cors, headers=self._headers, name=lambda: f"rule-{name}",
            mirrors=lambda: [{"destination": self._destination(), "percentage": {"value": self.one((0.1, 100))}}],
        )  # fmt: skip
        if "rewrite" not in found and self.likely(0.2):
            found["headers"] = {"request": {"set": {"Host": "other.example.com"}}}
        return found

    def _targets(self) -> Json:
        first = {"destination": self._destination(), **self.some(headers=self._headers)}
        if self.likely(0.5):
            return {"route": [first]}
        share = self.one((1, 50, 99))
        second = {"destination": self._destination(), "weight": 100 - share}
        return {"route": [{**first, "weight": share}, second]}

    def _destination(self) -> Json:
        name = self.one(self._services)
        port = self.one(self._ports[name])[1]
        return {"host": name, "port": {"number": port}, **self.some(subset=lambda: self.one(SUBSETS))}

    def _text(self) -> Json:
        return self.one(({"exact": "/a"}, {"prefix": "/a/"}, {"regex": "/[a-z]{1,20}/(x|y)+"}, {"prefix": "/"}))

    def _value(self) -> Json:
        return self.one(({"exact": "v"}, {"prefix": "v"}, {"regex": "^v(1|2).*$"}))

    def _match(self) -> Json:
        return self.some(
            uri=self._text, method=lambda: self.one(({"exact": "GET"}, {"regex": "GET|HEAD"})),
            scheme=lambda: {"exact": "http"}, authority=self._value, headers=lambda: {"x-a": self._value(), "x-b": {}},
            withoutHeaders=lambda: {"x-c": self._value()},
            queryParams=lambda: {"q": self.one(({"exact": "1"}, {"regex": "\\d+"}))},
            ignoreUriCase=lambda: True, name=lambda: "match",
        ) or {"uri": {"prefix": "/any"}}  # fmt: skip

    def _redirect(self) -> Json:
        where = self.one(({"uri": "/new"}, {"prefixRewrite": "/new/"}, {"authority": "other.example.com"}))
        more = self.one(
            ({}, {"redirectCode": 308}, {"scheme": "https", "port": 8443}, {"derivePort": "FROM_REQUEST_PORT"})
        )
        return {**where, **more}

    def _retries(self) -> Json:
        attempts = self.one((0, 1, 5))
        if not attempts:
            return {"attempts": 0}
        return {"attempts": attempts} | self.some(
            perTryTimeout=lambda: "1s", retryOn=lambda: self.one(("5xx", "connect-failure,503,reset", "unavailable")),
            backoff=lambda: "50ms", retryRemoteLocalities=lambda: True, retryIgnorePreviousHosts=lambda: False,
        )  # fmt: skip

    def _rewrite(self) -> Json:
        return self.one(
            (
                {"uri": "/v2"}, {"authority": "other"}, {"uri": "/v2", "authority": "other"},
                {"uriRegexRewrite": {"match": "^/service/([^/]+)(/.*)$", "rewrite": "\\2/instance/\\1"}},
            )
        )  # fmt: skip

    def _fault(self) -> Json:
        abort = self.one(({"httpStatus": 503}, {"grpcStatus": "UNAVAILABLE"}))
        return self.some(
            delay=lambda: {"percentage": {"value": 0.1}, "fixedDelay": "2s"},
            abort=lambda: {"percentage": {"value": 50}, **abort},
        ) or {"abort": {"percentage": {"value": 1}, "httpStatus": 400}}  # fmt: skip

    def _cors(self) -> Json:
        return {"allowOrigins": [self.one(({"exact": "https://a"}, {"regex": "https://.*"}))]} | self.some(
            allowMethods=lambda: ["GET", "POST"], allowHeaders=lambda: ["x-a"], exposeHeaders=lambda: ["*"],
            maxAge=lambda: "24h", allowCredentials=lambda: False,
        )  # fmt: skip

    def _headers(self) -> Json:
        def operations() -> Json:
            return self.some(
                set=lambda: {"x-set": self.one(("v", "%START_TIME(%Y)%", "100%%"))},
                add=lambda: {"x-add": "v"}, remove=lambda: ["x-gone"],
            )  # fmt: skip

        return {"request": operations(), "response": operations()}


def _object(api_version: str, kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
