"""Invalid policies of all kinds, each with the one violation that it must cause.

Owns:   the table. tests/unit/controlplane/policy checks admission with it, tests/e2e posts it through REST.
Not:    texts that cannot be read at all (tests/unit/controlplane/policy/test_manifests.py).

`field` is the exact path, `message` a part of the message. A case breaks one rule and no other.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.bad_gateway_api import GATEWAY_CLASSES, GATEWAYS, GRPC_ROUTES, HTTP_ROUTES, REFERENCE_GRANTS
from tests.support.bad_own_policies import BULKHEADS, CIRCUIT_BREAKERS, RATE_LIMITS
from tests.support.bad_security_policies import AUTHORIZATION_POLICIES, REQUEST_AUTHENTICATIONS
from tests.support.certificates import made_pair
from tests.support.secrets import CERTIFICATE, KEY

VS, DR, SE, WE = "VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry"
PA, SVC, SECRET = "PeerAuthentication", "Service", "Secret"
RA, AP = "RequestAuthentication", "AuthorizationPolicy"
GW = "Gateway"
CB, BH, RL = "CircuitBreaker", "Bulkhead", "RateLimit"
_API_VERSIONS = {
    **dict.fromkeys((VS, DR, SE, WE, GW), "networking.istio.io/v1"),
    **dict.fromkeys((PA, RA, AP), "security.istio.io/v1"),
    **dict.fromkeys((CB, BH, RL), "gossamer.mesh/v1"),
    SVC: "v1",
}


@dataclass(frozen=True)
class BadPolicy:
    """`text` is one YAML document."""

    name: str
    kind: str
    text: str
    field: str
    message: str


def manifest(kind: str, spec: str, metadata: str = "{name: bad}", api_version: str = "") -> str:
    """A document of that kind; `spec` and `metadata` are YAML on one line."""
    return f"apiVersion: {api_version or _API_VERSIONS[kind]}\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"


_TO_A = "route: [{destination: {host: a}}]"


def _http(rule: str) -> str:
    return f"{{hosts: [a], http: [{{{rule}}}]}}"


def _routed(more: str) -> str:
    return _http(f"{_TO_A}, {more}")


def _match(match: str) -> str:
    return _routed(f"match: [{match}]")


def _policy(block: str) -> str:
    return f"{{host: a, trafficPolicy: {{{block}}}}}"


def _balancer(settings: str) -> str:
    return _policy(f"loadBalancer: {{{settings}}}")


def _locality(setting: str) -> str:
    return _policy(f"outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{{setting}}}}}")


_HTTP_PORT = "{number: 80, name: http, protocol: HTTP}"
_HTTPS_PORT = "{number: 443, name: https, protocol: HTTPS}"


def _server(more: str = "", port: str = _HTTP_PORT, hosts: str = "[a.example.com]") -> str:
    return f"{{selector: {{istio: gateway}}, servers: [{{port: {port}, hosts: {hosts}, {more}}}]}}"


def _tls(settings: str) -> str:
    return _server(f"tls: {{{settings}}}", _HTTPS_PORT)


def _entry(more: str, port: str = "{number: 80, name: http, protocol: HTTP}") -> str:
    return f"{{hosts: [a.example.com], resolution: STATIC, ports: [{port}], {more}}}"


# (name, spec, field, part of the message)
_Row = tuple[str, str, str, str]

# fmt: off
_GATEWAYS: tuple[_Row, ...] = (
    ("no-servers", "{selector: {istio: gateway}}", "spec.servers", "at least one server"),
    ("selector-star", "{selector: {istio: '*'}, servers: [{port: {number: 1, name: a, protocol: TCP}, hosts: [a]}]}",
     "spec.selector[istio]", "wildcards are not supported here"),
    ("no-port", "{selector: {istio: gateway}, servers: [{hosts: [a]}]}", "spec.servers[0].port",
     "a port with number, name and protocol"),
    ("port-number", _server(port="{number: 0, name: http, protocol: HTTP}"), "spec.servers[0].port.number",
     "found 0, expected a port"),
    ("port-nameless", _server(port="{number: 80, protocol: HTTP}"), "spec.servers[0].port.name", "the port's name"),
    ("port-protocol", _server(port="{number: 80, name: a, protocol: SPDY}"), "spec.servers[0].port.protocol",
     'found "SPDY", expected one of HTTP'),
    ("port-name-twice", "{selector: {a: b}, servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: [a]}, "
     "{port: {number: 81, name: a, protocol: HTTP}, hosts: [a]}]}", "spec.servers[1].port.name",
     "a port name that is used once"),
    ("bind", _server("bind: everywhere"), "spec.servers[0].bind", "an IP address"),
    ("no-hosts", _server(hosts="[]"), "spec.servers[0].hosts", "at least one host"),
    ("host", _server(hosts="['a b']"), "spec.servers[0].hosts[0]", "a domain name, '*', or a wildcard"),
    ("host-namespace", _server(hosts="[a/b/c.example.com]"), "spec.servers[0].hosts[0]", "host or namespace/host"),
    ("server-name", _server("tls: {mode: PASSTHROUGH}", _HTTPS_PORT, "['*-a.example.com']"), "spec.servers[0].hosts[0]",
     "TLS clients' names are matched by whole labels"),
    ("https-without-tls", _server(port=_HTTPS_PORT), "spec.servers[0].tls", "the TLS settings of a server"),
    ("http-with-tls", _server("tls: {mode: SIMPLE, credentialName: a}"), "spec.servers[0].tls",
     "nothing but httpsRedirect beside a plain HTTP protocol"),
    ("redirect-of-https", _tls("mode: SIMPLE, credentialName: a, httpsRedirect: true"),
     "spec.servers[0].tls.httpsRedirect", "a server whose protocol is HTTP"),
    ("mode", _tls("mode: OPEN"), "spec.servers[0].tls.mode", 'found "OPEN", expected one of PASSTHROUGH, SIMPLE'),
    ("no-key", _tls("mode: SIMPLE, serverCertificate: /a.pem"), "spec.servers[0].tls.privateKey",
     "a file: SIMPLE needs one, or credentialName"),
    ("no-roots", _tls("mode: MUTUAL, serverCertificate: /a.pem, privateKey: /b.pem"),
     "spec.servers[0].tls.caCertificates", "roots: MUTUAL verifies clients"),
    ("own-certificate", _tls("mode: ISTIO_MUTUAL, credentialName: a"), "spec.servers[0].tls.credentialName",
     "none: ISTIO_MUTUAL uses the mesh's own certificates"),
    ("file-and-secret", _tls("mode: SIMPLE, credentialName: a, privateKey: /b.pem"), "spec.servers[0].tls.privateKey",
     "none beside credentialName"),
    ("two-ways", _tls("mode: SIMPLE, credentialName: a, credentialNames: [b]"), "spec.servers[0].tls.credentialNames",
     "only one of credentialName and credentialNames"),
    ("secret-elsewhere", _tls("mode: SIMPLE, credentialName: kubernetes://b/a"), "spec.servers[0].tls.credentialName",
     "the name of a Secret of the gateway's namespace"),
    ("three-certificates", _tls("mode: SIMPLE, credentialNames: [a, b, c]"), "spec.servers[0].tls.credentialNames",
     "found 3 names, expected at most two"),
    ("versions", _tls("mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2"),
     "spec.servers[0].tls.minProtocolVersion", "a version up to maxProtocolVersion (TLSV1_2)"),
    ("cipher-twice", _tls("mode: SIMPLE, credentialName: a, cipherSuites: [AES128-SHA, AES128-SHA]"),
     "spec.servers[0].tls.cipherSuites[1]", "a cipher that is used once"),
    ("unknown-field", _tls("mode: SIMPLE, credentialNam: a, serverCertificate: a, privateKey: b"),
     "spec.servers[0].tls.credentialNam", "did you mean credentialName?"),
)

_VIRTUAL_SERVICES: tuple[_Row, ...] = (
    # shape
    ("spec-missing", "", "spec", "found nothing, expected the spec of a VirtualService"),
    ("spec-list", "[1]", "spec", "found a list, expected an object"),
    ("unknown-field", "{hosts: [a], http: [{route: [{destination: {host: a}}]}], colour: red}", "spec.colour",
     'found the unknown field "colour", expected one of exportTo, gateways, hosts, http, tcp, tls'),
    ("misspelt-field", _http("routes: [{destination: {host: a}}]"), "spec.http[0].routes", "did you mean route?"),
    ("snake-case", _routed("direct_response: {status: 200}"), "spec.http[0].direct_response",
     "did you mean directResponse?"),
    ("nested-unknown", _http("route: [{destination: {host: a, subsett: v1}}]"),
     "spec.http[0].route[0].destination.subsett", "did you mean subset?"),
    ("hosts-string", "{hosts: a, http: [{route: [{destination: {host: a}}]}]}", "spec.hosts",
     'found "a", expected a list'),
    ("host-number", "{hosts: [1], http: [{route: [{destination: {host: a}}]}]}", "spec.hosts[0]",
     "found 1, expected a string"),
    ("http-object", "{hosts: [a], http: {route: []}}", "spec.http", "found an object, expected a list"),
    ("null-in-list", "{hosts: [a], http: [null]}", "spec.http[0]", "found nothing, expected an object"),
    ("weight-text", _http("route: [{destination: {host: a}, weight: many}]"), "spec.http[0].route[0].weight",
     'found "many", expected an integer from -2147483648 to 2147483647'),
    ("weight-fraction", _http("route: [{destination: {host: a}, weight: 1.5}]"), "spec.http[0].route[0].weight",
     "found 1.5, expected an integer"),
    ("weight-boolean", _http("route: [{destination: {host: a}, weight: true}]"), "spec.http[0].route[0].weight",
     "found true, expected an integer"),
    # hosts and gateways
    ("bare-star", "{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}", "spec.hosts[0]", "a narrower host"),
    ("bad-host", "{hosts: [a_b], http: [{route: [{destination: {host: a}}]}]}", "spec.hosts[0]",
     'found "a_b", expected a domain name'),
    ("star-inside", "{hosts: [a.*.com], http: [{route: [{destination: {host: a}}]}]}", "spec.hosts[0]", "a.*.com"),
    ("host-twice", "{hosts: [a, a.default.svc.cluster.local], http: [{route: [{destination: {host: a}}]}]}",
     "spec.hosts[1]", "hosts that do not overlap (spec.hosts[0] covers it)"),
    ("bad-gateway", "{hosts: [a], gateways: [x/y/z], http: [{route: [{destination: {host: a}}]}]}",
     "spec.gateways[0]", "mesh, the name of a gateway, or namespace/name"),
    ("export-to", "{hosts: [a], exportTo: [no_ns], http: [{route: [{destination: {host: a}}]}]}", "spec.exportTo[0]",
     "'.', '*' or a namespace"),
    ("export-to-twice", "{hosts: [a], exportTo: [., default], http: [{route: [{destination: {host: a}}]}]}",
     "spec.exportTo[1]", "each namespace once (it stands at spec.exportTo[0] too)"),
    ("export-to-star", "{hosts: [a], exportTo: ['*', b], http: [{route: [{destination: {host: a}}]}]}",
     "spec.exportTo[0]", "'*' to stand alone"),
    ("no-routes", "{hosts: [a]}", "spec.http", "at least one of http, tls and tcp"),
    ("delegate-with-gateways", "{gateways: [mesh], http: [{route: [{destination: {host: a}}]}]}", "spec.hosts",
     "a delegate has no gateways"),
    # one rule: what excludes what
    ("no-action", _http("timeout: 1s"), "spec.http[0].route", "one of route, redirect, directResponse and delegate"),
    ("two-actions", _routed("redirect: {uri: /b}"), "spec.http[0].redirect", "found route and redirect"),
    ("nested-delegate", "{http: [{delegate: {name: b}}]}", "spec.http[0].delegate", "delegation has one level"),
    ("fault-with-redirect", _http("redirect: {uri: /b}, fault: {abort: {httpStatus: 500}}"), "spec.http[0].fault",
     "no fault beside redirect"),
    ("rewrite-with-answer", _http("directResponse: {status: 200}, rewrite: {uri: /}"), "spec.http[0].rewrite",
     "no rewrite beside directResponse"),
    # destinations and weights
    ("no-destination", _http("route: [{weight: 1}]"), "spec.http[0].route[0].destination",
     "found nothing, expected a destination with a host"),
    ("no-destination-host", _http("route: [{destination: {subset: v1}}]"), "spec.http[0].route[0].destination.host",
     'found nothing, expected a domain name or a short service name'),
    ("bad-subset", _http("route: [{destination: {host: a, subset: v_1}}]"),
     "spec.http[0].route[0].destination.subset", "a DNS label"),
    ("port-zero", _http("route: [{destination: {host: a, port: {number: 0}}}]"),
     "spec.http[0].route[0].destination.port.number", "found 0, expected a port from 1 to 65535"),
    ("port-large", _http("route: [{destination: {host: a, port: {number: 65536}}}]"),
     "spec.http[0].route[0].destination.port.number", "found 65536, expected a port"),
    ("port-name", _http("route: [{destination: {host: a, port: {number: http}}}]"),
     "spec.http[0].route[0].destination.port.number", 'found "http", expected an integer from 0'),
    ("weight-negative", _http("route: [{destination: {host: a}, weight: -1}, {destination: {host: b}, weight: 2}]"),
     "spec.http[0].route[0].weight", "found -1, expected a weight of at least 0"),
    ("weights-zero", _http("route: [{destination: {host: a}}, {destination: {host: b}}]"), "spec.http[0].route",
     "found 2 destinations of weight 0, expected weights with a sum above 0"),
    ("weights-too-large", _http("route: [{destination: {host: a}, weight: 2147483647}, {destination: {host: b}, "
     "weight: 2147483647}, {destination: {host: c}, weight: 2}]"), "spec.http[0].route",
     "found a sum of 4294967296, expected weights with a sum of at most 4294967295"),
    # matches
    ("regex-lookahead", _match("{uri: {regex: '(?=a)'}}"), "spec.http[0].match[0].uri.regex",
     "an RE2 regular expression (invalid perl operator"),
    ("regex-backreference", _match("{headers: {x-a: {regex: '(a)\\1'}}}"),
     "spec.http[0].match[0].headers[x-a].regex", "an RE2 regular expression (invalid escape sequence"),
    ("regex-open", _match("{method: {regex: '('}}"), "spec.http[0].match[0].method.regex", "missing )"),
    ("regex-long", _match("{uri: {regex: '" + "a" * 1025 + "'}}"), "spec.http[0].match[0].uri.regex",
     "at most 1024 characters"),
    ("two-ways", _match("{uri: {exact: /a, prefix: /b}}"), "spec.http[0].match[0].uri",
     "found exact and prefix, expected only one of exact, prefix and regex"),
    ("empty-prefix", _match("{headers: {x-a: {prefix: ''}}}"), "spec.http[0].match[0].headers[x-a].prefix",
     "a prefix that is not empty"),
    ("header-name", _match("{headers: {'x a': {exact: b}}}"), "spec.http[0].match[0].headers[x a]",
     'found "x a", expected a header\'s name'),
    ("header-text", _match("{headers: {x-a: b}}"), "spec.http[0].match[0].headers[x-a]",
     'found "b", expected an object'),
    ("claims-in-mesh", _match("{headers: {'@request.auth.claims.sub': {exact: b}}}"),
     "spec.http[0].match[0].headers[@request.auth.claims.sub]", "bound to a gateway"),
    ("match-port", _match("{port: 70000}"), "spec.http[0].match[0].port", "found 70000, expected a port"),
    ("source-labels", _match("{sourceLabels: {'a b': c}}"), "spec.http[0].match[0].sourceLabels[a b]",
     "a label's key"),
    ("source-namespace", _match("{sourceNamespace: a.b}"), "spec.http[0].match[0].sourceNamespace", "a DNS label"),
    ("query-regex", _match("{queryParams: {q: {regex: '['}}}"), "spec.http[0].match[0].queryParams[q].regex",
     "missing ]"),
    ("ignore-case-text", _match("{ignoreUriCase: 'yes'}"), "spec.http[0].match[0].ignoreUriCase",
     'found "yes", expected true or false'),
    # times, retries, faults
    ("timeout-without-unit", _routed("timeout: 5"), "spec.http[0].timeout",
     'found 5, expected a duration with its unit, such as "5s"'),
    ("timeout-day", _routed("timeout: 1d"), "spec.http[0].timeout", 'found "1d", expected a duration'),
    ("timeout-short", _routed("timeout: 10us"), "spec.http[0].timeout", "at least 1ms in whole milliseconds"),
    ("timeout-negative", _routed("timeout: -1s"), "spec.http[0].timeout", 'found "-1s", expected a duration of'),
    ("timeout-centuries", _routed("timeout: 1000000000000s"), "spec.http[0].timeout", "expected a duration"),
    ("attempts-negative", _routed("retries: {attempts: -1}"), "spec.http[0].retries.attempts",
     "found -1, expected a number of at least 0"),
    ("attempts-large", _routed("retries: {attempts: 99999999999}"), "spec.http[0].retries.attempts",
     "expected an integer from -2147483648 to 2147483647"),
    ("retries-off-with-condition", _routed("retries: {attempts: 0, retryOn: 5xx}"), "spec.http[0].retries.retryOn",
     "0 switches retries off"),
    ("retry-on", _routed("retries: {attempts: 1, retryOn: '5xx,sometimes'}"), "spec.http[0].retries.retryOn",
     'found "sometimes", expected status codes and any of 5xx'),
    ("per-try-timeout", _routed("retries: {attempts: 1, perTryTimeout: 1.5ms}"),
     "spec.http[0].retries.perTryTimeout", "whole milliseconds"),
    ("fault-empty", _routed("fault: {}"), "spec.http[0].fault", "a delay, an abort, or both"),
    ("delay-percent", _routed("fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}"),
     "spec.http[0].fault.delay.percentage.value", "found 101, expected a percentage from 0 to 100"),
    ("abort-status", _routed("fault: {abort: {httpStatus: 99, percentage: {value: 1}}}"),
     "spec.http[0].fault.abort.httpStatus", "a status from 200 to 599"),
    ("abort-both", _routed("fault: {abort: {httpStatus: 500, grpcStatus: OK}}"),
     "spec.http[0].fault.abort.grpcStatus", "only one of httpStatus and grpcStatus"),
    ("abort-grpc", _routed("fault: {abort: {grpcStatus: BROKEN}}"), "spec.http[0].fault.abort.grpcStatus",
     'found "BROKEN", expected one of OK, CANCELLED'),
    # redirects, answers, rewrites, mirrors, CORS, headers
    ("redirect-code", _http("redirect: {uri: /b, redirectCode: 304}"), "spec.http[0].redirect.redirectCode",
     "found 304, expected one of 301, 302, 303, 307, 308"),
    ("redirect-empty", _http("redirect: {}"), "spec.http[0].redirect", "a uri, prefixRewrite, authority, scheme"),
    ("redirect-two-paths", _http("redirect: {uri: /b, prefixRewrite: /c}"), "spec.http[0].redirect.prefixRewrite",
     "only one of uri and prefixRewrite"),
    ("redirect-prefix-of-exact", _http("match: [{uri: {exact: /a}}], redirect: {prefixRewrite: /c}"),
     "spec.http[0].redirect.prefixRewrite", "every match of the uri to be a prefix"),
    ("redirect-port", _http("redirect: {port: 8080, derivePort: FROM_REQUEST_PORT}"),
     "spec.http[0].redirect.derivePort", "only one of port and derivePort"),
    ("derive-port", _http("redirect: {uri: /, derivePort: FROM_NOWHERE}"), "spec.http[0].redirect.derivePort",
     "one of FROM_PROTOCOL_DEFAULT, FROM_REQUEST_PORT"),
    ("answer-status", _http("directResponse: {status: 600}"), "spec.http[0].directResponse.status",
     "found 600, expected a status from 200 to 599"),
    ("answer-bytes", _http("directResponse: {status: 200, body: {bytes: '%%%'}}"),
     "spec.http[0].directResponse.body.bytes", "base64"),
    ("rewrite-empty", _routed("rewrite: {}"), "spec.http[0].rewrite", "a uri, uriRegexRewrite or authority"),
    ("rewrite-regex", _routed("rewrite: {uriRegexRewrite: {match: '(', rewrite: /}}"),
     "spec.http[0].rewrite.uriRegexRewrite.match", "missing )"),
    ("authority-twice", _routed("rewrite: {authority: a.b}, headers: {request: {set: {Host: b.c}}}"),
     "spec.http[0].headers.request.set[Host]", "the authority to be set once"),
    ("mirror-twice", _routed("mirror: {host: b}, mirrors: [{destination: {host: b}}]"), "spec.http[0].mirrors",
     "only one of mirror and mirrors"),
    ("cors-origin", _routed("corsPolicy: {allowOrigins: [{exact: ''}]}"), "spec.http[0].corsPolicy.allowOrigins[0]",
     "an exact, prefix or regex that is not empty"),
    ("cors-method", _routed("corsPolicy: {allowMethods: [get]}"), "spec.http[0].corsPolicy.allowMethods[0]",
     'found "get", expected one of GET'),
    ("header-value", _routed("headers: {request: {add: {x-a: '100%'}}}"), "spec.http[0].headers.request.add[x-a]",
     "with % written as %%"),
    ("header-pseudo", _routed("headers: {response: {remove: [':status']}}"),
     "spec.http[0].headers.response.remove[0]", "a header that HTTP itself does not use"),
    # TLS and TCP
    ("sni-outside", "{hosts: [a.com], tls: [{match: [{sniHosts: [b.com]}], route: [{destination: {host: a}}]}]}",
     "spec.tls[0].match[0].sniHosts[0]", "a name within spec.hosts (a.com)"),
    ("tls-without-match", "{hosts: [a.com], tls: [{route: [{destination: {host: a}}]}]}", "spec.tls[0].match",
     "at least one match with sniHosts"),
    ("tcp-subnet", "{hosts: [a], tcp: [{match: [{destinationSubnets: [10.0.0.0/40]}], "
     "route: [{destination: {host: a}}]}]}", "spec.tcp[0].match[0].destinationSubnets[0]", "an IP address or a block"),
    ("tcp-without-route", "{hosts: [a], tcp: [{match: [{port: 1}]}]}", "spec.tcp[0].route",
     "at least one destination"),
)

_DESTINATION_RULES: tuple[_Row, ...] = (
    ("no-host", "{subsets: []}", "spec.host", "found nothing, expected a domain name"),
    ("bad-host", "{host: 'a b'}", "spec.host", 'found "a b", expected a domain name'),
    ("subset-twice", "{host: a, subsets: [{name: v1, labels: {v: a}}, {name: v1, labels: {v: b}}]}",
     "spec.subsets[1].name", "a name that is used once (it stands at spec.subsets[0].name too)"),
    ("subset-nameless", "{host: a, subsets: [{labels: {v: a}}]}", "spec.subsets[0].name",
     "found nothing, expected a DNS label"),
    ("subset-label", "{host: a, subsets: [{name: v1, labels: {v: 'a b'}}]}", "spec.subsets[0].labels[v]",
     "a label's value"),
    ("label-number", "{host: a, subsets: [{name: v1, labels: {v: 1}}]}", "spec.subsets[0].labels[v]",
     'found 1, expected a string (write it in quotes: "1")'),
    ("empty-policy", "{host: a, trafficPolicy: {}}", "spec.trafficPolicy", "at least one setting"),
    ("unknown-block", _policy("outlierDetections: {}"), "spec.trafficPolicy.outlierDetections",
     "did you mean outlierDetection?"),
    ("export-with-selector", "{host: a, workloadSelector: {matchLabels: {app: a}}, exportTo: ['*']}",
     "spec.exportTo[0]", "only '.' beside workloadSelector"),
    # load balancing
    ("algorithm", _balancer("simple: FASTEST"), "spec.trafficPolicy.loadBalancer.simple",
     'found "FASTEST", expected one of UNSPECIFIED, LEAST_CONN, RANDOM'),
    ("simple-and-hash", _balancer("simple: RANDOM, consistentHash: {useSourceIp: true}"),
     "spec.trafficPolicy.loadBalancer.consistentHash", "only one of simple and consistentHash"),
    ("hash-without-key", _balancer("consistentHash: {}"), "spec.trafficPolicy.loadBalancer.consistentHash",
     "found none, expected exactly one of httpHeaderName"),
    ("hash-two-keys", _balancer("consistentHash: {useSourceIp: true, httpHeaderName: x-a}"),
     "spec.trafficPolicy.loadBalancer.consistentHash", "found httpHeaderName and useSourceIp"),
    ("maglev-not-prime", _balancer("consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}"),
     "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize", "found 100, expected a prime below 5000011"),
    ("maglev-large", _balancer("consistentHash: {useSourceIp: true, maglev: {tableSize: 5000011}}"),
     "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize", "a prime below 5000011"),
    ("cookie-nameless", _balancer("consistentHash: {httpCookie: {ttl: 1s}}"),
     "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name", "the cookie's name"),
    ("distribute-sum", _locality("distribute: [{from: eu/*, to: {'eu/*': 80, 'us/*': 10}}]"),
     "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
     "found a sum of 90, expected shares that add up to 100"),
    ("failover-to-itself", _locality("failover: [{from: eu, to: eu}]"),
     "spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].to", "a region other than from"),
    ("distribute-and-failover",
     _locality("distribute: [{from: eu/*, to: {'eu/*': 100}}], failover: [{from: a, to: b}]"),
     "spec.trafficPolicy.loadBalancer.localityLbSetting.failover", "only one of distribute and failover"),
    ("warmup", _balancer("warmup: {minimumPercent: 10}"), "spec.trafficPolicy.loadBalancer.warmup.duration",
     "how long the warm-up takes"),
    # pools
    ("pool-empty", _policy("connectionPool: {}"), "spec.trafficPolicy.connectionPool", "at least one of tcp and http"),
    ("pool-negative", _policy("connectionPool: {tcp: {maxConnections: -1}}"),
     "spec.trafficPolicy.connectionPool.tcp.maxConnections", "found -1, expected a number of at least 0"),
    ("pool-pending", _policy("connectionPool: {http: {http1MaxPendingRequests: '1e3'}}"),
     "spec.trafficPolicy.connectionPool.http.http1MaxPendingRequests", 'found "1e3", expected an integer'),
    ("connect-timeout", _policy("connectionPool: {tcp: {connectTimeout: soon}}"),
     "spec.trafficPolicy.connectionPool.tcp.connectTimeout", 'found "soon", expected a duration'),
    ("connect-timeout-zero", _policy("connectionPool: {tcp: {connectTimeout: 0s}}"),
     "spec.trafficPolicy.connectionPool.tcp.connectTimeout", "at least 1ms"),
    # outlier detection
    ("ejection-percent", _policy("outlierDetection: {maxEjectionPercent: 101}"),
     "spec.trafficPolicy.outlierDetection.maxEjectionPercent", "found 101, expected a percentage from 0 to 100"),
    ("errors-negative", _policy("outlierDetection: {consecutive5xxErrors: -1}"),
     "spec.trafficPolicy.outlierDetection.consecutive5xxErrors", "found -1, expected an integer from 0 to 4294967295"),
    ("interval-zero", _policy("outlierDetection: {interval: 0s}"),
     "spec.trafficPolicy.outlierDetection.interval", "at least 1ms"),
    ("base-time", _policy("outlierDetection: {baseEjectionTime: 30}"),
     "spec.trafficPolicy.outlierDetection.baseEjectionTime", "found 30, expected a duration with its unit"),
    ("local-origin-without-split", _policy("outlierDetection: {consecutiveLocalOriginFailures: 3}"),
     "spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures", "splitExternalLocalOriginErrors: true"),
    # TLS
    ("tls-mode", _policy("tls: {mode: STRICT}"), "spec.trafficPolicy.tls.mode",
     'found "STRICT", expected one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL'),
    ("own-certificate", _policy("tls: {mode: ISTIO_MUTUAL, caCertificates: /ca.pem}"),
     "spec.trafficPolicy.tls.caCertificates", "ISTIO_MUTUAL uses the mesh's own certificates"),
    ("mutual-without-key", _policy("tls: {mode: MUTUAL, clientCertificate: /c.pem}"),
     "spec.trafficPolicy.tls.privateKey", "MUTUAL needs one"),
    # ports
    ("port-level-twice", _policy("portLevelSettings: [{port: {number: 80}, tls: {}}, {port: {number: 80}, tls: {}}]"),
     "spec.trafficPolicy.portLevelSettings[1].port.number", "a port that is used once"),
    ("port-level-empty", _policy("portLevelSettings: [{port: {number: 80}}]"),
     "spec.trafficPolicy.portLevelSettings[0]", "at least one of loadBalancer, connectionPool"),
    ("retry-budget", _policy("retryBudget: {percent: 100.5}"), "spec.trafficPolicy.retryBudget.percent",
     "found 100.5, expected a percentage"),
    ("subset-policy", "{host: a, subsets: [{name: v1, labels: {v: a}, trafficPolicy: {tls: {mode: 1}}}]}",
     "spec.subsets[0].trafficPolicy.tls.mode", "found 1, expected one of DISABLE"),
)

_SERVICE_ENTRIES: tuple[_Row, ...] = (
    ("no-hosts", "{ports: [{number: 80, name: http}]}", "spec.hosts", "at least one host"),
    ("bare-star", "{hosts: ['*'], ports: [{number: 80, name: http}]}", "spec.hosts[0]", "found \"*\""),
    ("location", _entry("location: OUTSIDE"), "spec.location", "one of MESH_EXTERNAL, MESH_INTERNAL"),
    ("resolution", "{hosts: [a.example.com], resolution: MAGIC}", "spec.resolution",
     "one of NONE, STATIC, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS"),
    ("port-number", _entry("", "{number: 0, name: http}"), "spec.ports[0].number", "found 0, expected a port"),
    ("port-name", _entry("", "{number: 80}"), "spec.ports[0].name", "a DNS label"),
    ("port-protocol", _entry("", "{number: 80, name: http, protocol: SPDY}"), "spec.ports[0].protocol",
     'found "SPDY", expected one of HTTP'),
    ("port-twice", _entry("", "{number: 80, name: a}, {number: 80, name: b}"), "spec.ports[1].number",
     "a port that is used once"),
    ("target-port", _entry("", "{number: 80, name: http, targetPort: 70000}"), "spec.ports[0].targetPort",
     "found 70000, expected a port"),
    ("address", _entry("addresses: [10.0.0.300]"), "spec.addresses[0]", "an IP address or a block"),
    ("endpoints-and-selector", _entry("endpoints: [{address: 10.0.0.1}], workloadSelector: {labels: {app: a}}"),
     "spec.endpoints", "only one of endpoints and workloadSelector"),
    ("endpoints-of-none",
     "{hosts: [a.example.com], ports: [{number: 80, name: http}], endpoints: [{address: 10.0.0.1}]}",
     "spec.endpoints", "no endpoints with resolution NONE"),
    ("static-name", _entry("endpoints: [{address: b.example.com}]"), "spec.endpoints[0].address",
     "resolution STATIC looks no names up"),
    ("endpoint-port", _entry("endpoints: [{address: 10.0.0.1, ports: {https: 443}}]"), "spec.endpoints[0].ports[https]",
     "a port of the entry: http"),
    ("dns-wildcard", "{hosts: ['*.example.com'], resolution: DNS, ports: [{number: 80, name: http}]}", "spec.hosts[0]",
     "a name that DNS can look up"),
    ("unknown-field", _entry("endpoint: []"), "spec.endpoint", "did you mean endpoints?"),
)

_WORKLOAD_ENTRIES: tuple[_Row, ...] = (
    ("no-address", "{labels: {app: a}}", "spec.address", "an IP address, a domain name or unix:///path"),
    ("bad-address", "{address: 'not an address'}", "spec.address", "an IP address, a domain name"),
    ("port-number", "{address: 10.0.0.1, ports: {http: 0}}", "spec.ports[http]", "found 0, expected a port"),
    ("port-text", "{address: 10.0.0.1, ports: {http: web}}", "spec.ports[http]", 'found "web", expected an integer'),
    ("port-name", "{address: 10.0.0.1, ports: {a_b: 80}}", "spec.ports[a_b]", 'found "a_b", expected a DNS label'),
    ("unix-relative", "{address: 'unix://run/sock'}", "spec.address", "unix:// with an absolute path"),
    ("weight", "{address: 10.0.0.1, weight: -1}", "spec.weight", "found -1, expected an integer from 0"),
    ("locality", "{address: 10.0.0.1, locality: a/b/c/d}", "spec.locality", "region[/zone[/subzone]]"),
    ("service-account", "{address: 10.0.0.1, serviceAccount: No_Caps}", "spec.serviceAccount", "a DNS subdomain"),
    ("label-value", "{address: 10.0.0.1, labels: {app: -a}}", "spec.labels[app]", "a label's value"),
)

_PEER_AUTHENTICATIONS: tuple[_Row, ...] = (
    ("mode", "{mtls: {mode: MAYBE}}", "spec.mtls.mode",
     'found "MAYBE", expected one of UNSET, DISABLE, PERMISSIVE, STRICT'),
    ("mode-lower-case", "{mtls: {mode: strict}}", "spec.mtls.mode", 'found "strict"'),
    ("mtls-text", "{mtls: STRICT}", "spec.mtls", 'found "STRICT", expected an object'),
    ("ports-without-selector", "{portLevelMtls: {8080: {mode: STRICT}}}", "spec.portLevelMtls",
     "a selector beside it"),
    ("port-large", "{selector: {matchLabels: {app: a}}, portLevelMtls: {70000: {mode: STRICT}}}",
     "spec.portLevelMtls[70000]", "a port from 1 to 65535"),
    ("port-name", "{selector: {matchLabels: {app: a}}, portLevelMtls: {http: {mode: STRICT}}}",
     "spec.portLevelMtls[http]", 'found "http", expected an integer'),
    ("ports-empty", "{selector: {matchLabels: {app: a}}, portLevelMtls: {}}", "spec.portLevelMtls",
     "at least one port"),
    ("selector-wildcard", "{selector: {matchLabels: {app: '*'}}}", "spec.selector.matchLabels[app]",
     "wildcards are not supported here"),
    ("selector-labels", "{selector: {labels: {app: a}}}", "spec.selector.labels", "did you mean matchLabels?"),
)

_SERVICES: tuple[_Row, ...] = (
    ("no-ports", "{selector: {app: a}}", "spec.ports", "at least one port"),
    ("port-zero", "{ports: [{port: 0}]}", "spec.ports[0].port", "found 0, expected a port from 1 to 65535"),
    ("port-missing", "{ports: [{name: http}]}", "spec.ports[0].port", "a port from 1 to 65535"),
    ("port-text", "{ports: [{port: http}]}", "spec.ports[0].port", 'found "http", expected an integer'),
    ("port-twice", "{ports: [{name: a, port: 80}, {name: b, port: 80}]}", "spec.ports[1].port",
     "a port that is used once"),
    ("name-twice", "{ports: [{name: a, port: 80}, {name: a, port: 81}]}", "spec.ports[1].name",
     "a name that is used once"),
    ("nameless", "{ports: [{name: a, port: 80}, {port: 81}]}", "spec.ports[1].name", "a DNS label: lower-case"),
    ("target-port", "{ports: [{port: 80, targetPort: 99999}]}", "spec.ports[0].targetPort",
     "found 99999, expected an integer from 1 to 65535"),
    ("target-port-name", "{ports: [{port: 80, targetPort: much-too-long-name}]}", "spec.ports[0].targetPort",
     "a port's name of at most 15 characters"),
    ("protocol", "{ports: [{port: 80, protocol: HTTP}]}", "spec.ports[0].protocol",
     'found "HTTP", expected one of TCP, UDP, SCTP'),
    ("type", "{type: Internal, ports: [{port: 80}]}", "spec.type", "one of ClusterIP, NodePort"),
    ("external-name", "{type: ExternalName, externalName: 'a b'}", "spec.externalName", "a domain name"),
    ("selector", "{selector: {'': a}, ports: [{port: 80}]}", "spec.selector[]", "a label's key"),
    ("unknown-field", "{selectors: {app: a}, ports: [{port: 80}]}", "spec.selectors", "did you mean selector?"),
)
# fmt: on

_BY_KIND = {
    VS: _VIRTUAL_SERVICES,
    DR: _DESTINATION_RULES,
    SE: _SERVICE_ENTRIES,
    WE: _WORKLOAD_ENTRIES,
    GW: _GATEWAYS,
    PA: _PEER_AUTHENTICATIONS,
    RA: REQUEST_AUTHENTICATIONS,
    AP: AUTHORIZATION_POLICIES,
    CB: CIRCUIT_BREAKERS,
    BH: BULKHEADS,
    RL: RATE_LIMITS,
    SVC: _SERVICES,
}

_GOOD = {
    VS: _http(_TO_A),
    DR: "{host: a}",
    SE: _entry(""),
    WE: "{address: 10.0.0.1}",
    GW: _server(),
    PA: "{}",
    RA: "{}",
    AP: "{}",
    CB: "{target: {host: a}}",
    BH: "{target: {host: a}}",
    RL: "{limits: [{name: a, rates: [{requests: 1, per: SECOND}]}]}",
    SVC: "{ports: [{port: 80}]}",
}


def _of_metadata() -> tuple[BadPolicy, ...]:
    rows = (
        ("name-missing", VS, "{}", "metadata.name", "found nothing, expected a DNS subdomain"),
        ("name-upper-case", DR, "{name: Bad}", "metadata.name", "a DNS subdomain: lower-case"),
        ("name-number", SE, "{name: 7}", "metadata.name", "found 7"),
        ("service-name", SVC, "{name: a.b}", "metadata.name", "a DNS label: lower-case"),
        ("namespace", WE, "{name: bad, namespace: no_ns}", "metadata.namespace", "a DNS label: lower-case"),
        ("namespace-dotted", PA, "{name: bad, namespace: a.b}", "metadata.namespace", "a DNS label: lower-case"),
        ("label-number", VS, "{name: bad, labels: {a: 1}}", "metadata.labels[a]", "a string (write it in quotes)"),
        ("label-key", DR, "{name: bad, labels: {a b: c}}", "metadata.labels[a b]", "a label's key"),
        ("labels-list", SE, "{name: bad, labels: [a]}", "metadata.labels", "found a list, expected an object"),
        ("ttl", SVC, "{name: bad, annotations: {gossamer.mesh/ttl: 1s}}",
         "metadata.annotations[gossamer.mesh/ttl]", 'found "1s", expected a duration from "3s" to "24h"'),
        ("annotation", SVC, "{name: bad, annotations: {gossamer.mesh/compat: kuma}}",
         "metadata.annotations[gossamer.mesh/compat]", 'found "kuma", expected one of istio'),
        ("generate-name", PA, "{generateName: bad-}", "metadata.generateName", "names are not generated"),
        ("unknown-field", WE, "{name: bad, nmae: x}", "metadata.nmae", 'found the unknown field "nmae"'),
        ("text", VS, "bad", "metadata", 'found "bad", expected an object with the object\'s name'),
    )  # fmt: skip
    return tuple(
        BadPolicy(f"metadata-{name}", kind, manifest(kind, _GOOD[kind], metadata), field, message)
        for name, kind, metadata, field, message in rows
    )


def _of_envelope() -> tuple[BadPolicy, ...]:
    rows = (
        ("version", VS, manifest(VS, _GOOD[VS], api_version="networking.istio.io/v2"), "apiVersion",
         "one of networking.istio.io/v1, networking.istio.io/v1beta1, networking.istio.io/v1alpha3"),
        ("group", DR, manifest(DR, _GOOD[DR], api_version="gateway.networking.k8s.io/v1"), "apiVersion",
         'found "gateway.networking.k8s.io/v1"'),
        ("no-version", SE, manifest(SE, _GOOD[SE], api_version="''"), "apiVersion", 'found "", expected one of'),
        ("kind", VS, manifest(VS, _GOOD[VS]).replace("kind: VirtualService", "kind: VirtualServices"), "kind",
         "did you mean VirtualService?"),
        ("no-kind", SVC, manifest(SVC, _GOOD[SVC]).replace("kind: Service\n", ""), "kind",
         "found nothing, expected one of"),
        ("field", PA, manifest(PA, _GOOD[PA]) + "sepc: {}\n", "sepc", "did you mean spec?"),
        ("deep", VS, manifest(VS, _http(f"{_TO_A}, name: {'[' * 40}{']' * 40}")),
         "spec.http[0].name" + "[0]" * 28, "found more than 32 levels, expected at most that many"),
    )  # fmt: skip
    return tuple(BadPolicy(f"envelope-{name}", *row) for name, *row in rows)


_CERTIFICATE, _KEY = json.dumps(CERTIFICATE), json.dumps(KEY)
_NOT_X509 = json.dumps("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
_NO_KEY = json.dumps("-----BEGIN PRIVATE KEY-----\nMIIBhunter2A\n-----END PRIVATE KEY-----\n")


def _own(kind: str) -> str:
    chain, key = map(json.dumps, made_pair(kind))
    return f"type: kubernetes.io/tls\nstringData: {{tls.crt: {chain}, tls.key: {key}}}"


def _of_secrets() -> tuple[BadPolicy, ...]:
    """Nothing of a value may stand in the message: `hunter2` is in many of them."""
    pair = f"stringData: {{tls.crt: {_CERTIFICATE}, tls.key: {_KEY}}}"
    hidden = "found something else (not shown), expected "
    encrypted = _KEY.replace("PRIVATE", "ENCRYPTED PRIVATE")
    others_key = json.dumps(made_pair("P-256")[1])
    not_der = _NOT_X509.replace("MIIB", "AAAA")
    rows = (
        ("type", f"type: kubernetes.io/basic-auth\n{pair}", "type", 'found "kubernetes.io/basic-auth", expected'),
        ("base64", "data: {token: hunter2!}", "data[token]", f"{hidden}base64"),
        ("number", "stringData: {token: 7}", "stringData[token]", f"{hidden}a string"),
        ("text", "data: hunter2", "data", f"{hidden}an object"),
        ("null", "data: {token: null}", "data[token]", f"{hidden}a string"),
        ("key", 'stringData: {"a/b": hunter2}', "stringData[a/b]", "found another key, expected letters"),
        ("certificate", "stringData: {ca.crt: hunter2}", "stringData[ca.crt]", f"{hidden}certificates in PEM"),
        ("not-a-certificate", f"stringData: {{ca.crt: {_KEY}}}", "stringData[ca.crt]", "certificates in PEM"),
        ("not-der", f"stringData: {{ca.crt: {not_der}}}", "stringData[ca.crt]", hidden),
        ("private-key", f"stringData: {{cert: {_CERTIFICATE}, key: hunter2}}", "stringData[key]", "a private key in"),
        ("encrypted", f"stringData: {{cert: {_CERTIFICATE}, key: {encrypted}}}", "stringData[key]", "not encrypted"),
        ("not-x509", f"stringData: {{ca.crt: {_CERTIFICATE[:-1]}{_NOT_X509[1:]}}}", "stringData[ca.crt]",
         "found certificate 2 that cannot be read (not shown), expected X.509"),
        ("not-a-key", f"stringData: {{tls.crt: {_CERTIFICATE}, tls.key: {_NO_KEY}}}", "stringData[tls.key]",
         "found a private key that cannot be read (not shown)"),
        ("others-key", f"stringData: {{cert: {_CERTIFICATE}, key: {others_key}}}", "stringData[key]",
         "found the key of another certificate (not shown), expected that of the first one in cert"),
        ("small-rsa", _own("RSA-1024"), "stringData[tls.key]", "found an RSA key of 1024 bits, expected at least 2048"),
        ("curve", _own("P-224"), "stringData[tls.key]", "found an ECDSA key on secp224r1, expected one on P-256, P-"),
        ("no-key", f"stringData: {{cert: {_CERTIFICATE}}}", "data[key]", "expected a value: cert and key"),
        ("tls-without", f"type: kubernetes.io/tls\nstringData: {{tls.key: {_KEY}}}", "data[tls.crt]",
         "a Secret of type kubernetes.io/tls holds tls.crt and tls.key"),
        ("large", f"stringData: {{token: {'x' * 524289}}}", "data", "found 524289 bytes, expected at most 524288"),
        ("spec", f"{pair}\nspec: {{}}", "spec", 'found the unknown field "spec"'),
        ("field", f"{pair}\nstringdata: {{}}", "stringdata", "did you mean stringData?"),
    )  # fmt: skip
    return tuple(
        BadPolicy(
            f"{SECRET}-{name}", SECRET, f"apiVersion: v1\nkind: Secret\nmetadata: {{name: bad}}\n{text}\n", field, said
        )
        for name, text, field, said in rows
    )


def _of_gateway_api() -> Iterator[BadPolicy]:
    """Its Gateway has the kind of Istio's."""
    tables = {
        "GatewayClass": GATEWAY_CLASSES,
        "Gateway": GATEWAYS,
        "HTTPRoute": HTTP_ROUTES,
        "GRPCRoute": GRPC_ROUTES,
        "ReferenceGrant": REFERENCE_GRANTS,
    }
    for kind, rows in tables.items():
        for name, spec, field, message in rows:
            text = manifest(kind, spec, api_version="gateway.networking.k8s.io/v1")
            yield BadPolicy(f"{kind}-of-the-api-{name}", kind, text, field, message)


BAD_POLICIES: tuple[BadPolicy, ...] = (
    *(
        BadPolicy(f"{kind}-{name}", kind, manifest(kind, spec), field, message)
        for kind, rows in _BY_KIND.items()
        for name, spec, field, message in rows
    ),
    *_of_metadata(),
    *_of_envelope(),
    *_of_secrets(),
    *_of_gateway_api(),
)
