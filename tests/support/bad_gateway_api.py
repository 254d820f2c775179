"""Invalid objects of the Kubernetes Gateway API: rows for tests.support.bad_policies, (name, spec, field, part of the
message)."""

_LISTENER = "name: http, port: 80, protocol: HTTP"
_TO_A = "backendRefs: [{name: a, port: 80}]"


def _gateway(*listeners: str, more: str = "") -> str:
    listed = ", ".join(f"{{{own}}}" for own in listeners)
    return f"{{gatewayClassName: gossamer, listeners: [{listed}], {more}}}"


def _https(tls: str) -> str:
    return _gateway(f"name: a, port: 443, protocol: HTTPS, tls: {{{tls}}}")


def _routes(allowed: str) -> str:
    return _gateway(f"{_LISTENER}, allowedRoutes: {{{allowed}}}")


def _parents(*parents: str) -> str:
    return f"{{parentRefs: [{', '.join(f'{{{own}}}' for own in parents)}]}}"


def _rule(rule: str) -> str:
    return f"{{parentRefs: [{{name: a}}], rules: [{{{rule}}}]}}"


def _match(match: str) -> str:
    return _rule(f"matches: [{{{match}}}], {_TO_A}")


def _filter(settings: str) -> str:
    return _rule(f"filters: [{{{settings}}}]")


def _redirect(settings: str) -> str:
    return _filter(f"type: RequestRedirect, requestRedirect: {{{settings}}}")


def _mirror(settings: str) -> str:
    return _filter(f"type: RequestMirror, requestMirror: {{{settings}}}")


def _headers(settings: str) -> str:
    return _filter(f"type: RequestHeaderModifier, requestHeaderModifier: {{{settings}}}")


_REWRITE = "{type: URLRewrite, urlRewrite: {}}"
_MANY = f"{{matches: [{', '.join(['{}'] * 43)}]}}"
_CERTIFICATE = "certificateRefs: [{name: a}]"
_PREFIX = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"

# fmt: off
GATEWAY_CLASSES = (
    ("controller", "{controllerName: gossamer}", "spec.controllerName", "a domain and a path"),
    ("controller-missing", "{}", "spec.controllerName", "found nothing, expected a domain and a path"),
)
GATEWAYS = (
    ("class", f"{{listeners: [{{{_LISTENER}}}]}}", "spec.gatewayClassName", "the name of a GatewayClass"),
    ("listeners", _gateway(), "spec.listeners", "at least one listener"),
    ("servers", _gateway(_LISTENER, more="servers: []"), "spec.servers", 'found the unknown field "servers"'),
    ("name", _gateway("port: 80, protocol: HTTP"), "spec.listeners[0].name", "a listener's name"),
    ("name-twice", _gateway(_LISTENER, "name: http, port: 81, protocol: HTTP"), "spec.listeners[1].name", "used once"),
    ("port", _gateway("name: a, port: 0, protocol: HTTP"), "spec.listeners[0].port", "a port from 1 to 65535"),
    ("protocol", _gateway("name: a, port: 80"), "spec.listeners[0].protocol", "HTTP, HTTPS, TLS, TCP, UDP"),
    ("hostname", _gateway(f"{_LISTENER}, hostname: A.org"), "spec.listeners[0].hostname", "a lower-case host name"),
    ("hostname-star", _gateway(f"{_LISTENER}, hostname: '*'"), "spec.listeners[0].hostname", "a lower-case host name"),
    ("hostname-address", _gateway(f"{_LISTENER}, hostname: 10.0.0.1"), "spec.listeners[0].hostname", "host name"),
    ("hostname-tcp", _gateway("name: a, port: 80, protocol: TCP, hostname: a.org"), "spec.listeners[0].hostname",
     "none beside protocol TCP"),
    ("indistinct", _gateway(_LISTENER, "name: b, port: 80, protocol: HTTP"), "spec.listeners[1]",
     "port, protocol and hostname that is used once"),
    ("tls-missing", _gateway("name: a, port: 443, protocol: HTTPS"), "spec.listeners[0].tls", "the TLS settings"),
    ("tls-http", _gateway(f"{_LISTENER}, tls: {{{_CERTIFICATE}}}"), "spec.listeners[0].tls", "none beside protocol"),
    ("tls-mode", _https(f"mode: SIMPLE, {_CERTIFICATE}"), "spec.listeners[0].tls.mode", "one of Terminate, Pass"),
    ("tls-passthrough", _https("mode: Passthrough"), "spec.listeners[0].tls.mode", "Terminate beside protocol HTTPS"),
    ("certificates", _https("mode: Terminate"), "spec.listeners[0].tls.certificateRefs", "at least one certificate"),
    ("certificate", _https("certificateRefs: [{}]"), "spec.listeners[0].tls.certificateRefs[0].name", "a Secret"),
    ("certificate-ns", _https("certificateRefs: [{name: a, namespace: A}]"),
     "spec.listeners[0].tls.certificateRefs[0].namespace", "a DNS label"),
    ("frontend", _https(f"{_CERTIFICATE}, frontendValidation: {{}}"), "spec.listeners[0].tls.frontendValidation",
     "the unknown field"),
    ("from", _routes("namespaces: {from: Any}"), "spec.listeners[0].allowedRoutes.namespaces.from", "one of All, Same"),
    ("selector", _routes("namespaces: {from: Selector}"), "spec.listeners[0].allowedRoutes.namespaces.selector",
     "a selector of namespaces"),
    ("operator", _routes("namespaces: {selector: {matchExpressions: [{key: a, operator: Is}]}}"),
     "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].operator", "one of In, NotIn"),
    ("values", _routes("namespaces: {selector: {matchExpressions: [{key: a, operator: In}]}}"),
     "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values", "at least one value"),
    ("no-values", _routes("namespaces: {selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}"),
     "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values", "none beside operator Exists"),
    ("kind", _routes("kinds: [{}]"), "spec.listeners[0].allowedRoutes.kinds[0].kind", "a kind of routes"),
    ("many", _gateway(*(f"name: a{number}, port: {number + 1}, protocol: HTTP" for number in range(65))),
     "spec.listeners", "found 65 entries, expected at most 64"),
)
HTTP_ROUTES = (
    ("parent", _parents(""), "spec.parentRefs[0].name", "the name of a Gateway"),
    ("parent-port", _parents("name: a, port: 0"), "spec.parentRefs[0].port", "a port from 1 to 65535"),
    ("parent-twice", _parents("name: a", "name: a, sectionName: b"), "spec.parentRefs[1]", "a sectionName or port"),
    ("parent-section", _parents("name: a, sectionName: b", "name: a, namespace: default, sectionName: b"),
     "spec.parentRefs[1]", "sectionName and port that is used once"),
    ("hostname", "{hostnames: ['a.*']}", "spec.hostnames[0]", "a lower-case host name"),
    ("rule-field", _rule("match: []"), "spec.rules[0].match", "did you mean matches?"),
    ("rule-name", "{rules: [{name: a}, {name: a}]}", "spec.rules[1].name", "a name that is used once"),
    ("rules", f"{{rules: [{', '.join(['{}'] * 17)}]}}", "spec.rules", "found 17 entries, expected at most 16"),
    ("matches", f"{{rules: [{', '.join([_MANY] * 3)}]}}", "spec.rules",
     "found 129 matches, expected at most 128"),
    ("path", _match("path: {value: a}"), "spec.rules[0].matches[0].path.value", "a path that begins with /"),
    ("path-twice", _match("path: {value: /a//b}"), "spec.rules[0].matches[0].path.value", "without //"),
    ("path-dots", _match("path: {value: /a/..}"), "spec.rules[0].matches[0].path.value", "without //, /./, /../"),
    ("path-encoded", _match("path: {value: /a%2Fb}"), "spec.rules[0].matches[0].path.value", "without //"),
    ("path-regex", _match("path: {type: RegularExpression, value: '('}"), "spec.rules[0].matches[0].path.value", "RE2"),
    ("path-type", _match("path: {type: Prefix}"), "spec.rules[0].matches[0].path.type", "one of Exact, PathPrefix"),
    ("header", _match("headers: [{name: 'a b', value: c}]"), "spec.rules[0].matches[0].headers[0].name", "a header's"),
    ("header-value", _match("headers: [{name: a}]"), "spec.rules[0].matches[0].headers[0].value", "a value of 1 to"),
    ("header-twice", _match("headers: [{name: a, value: b}, {name: A, value: b}]"),
     "spec.rules[0].matches[0].headers[1].name", "a name that is used once"),
    ("query", _match("queryParams: [{type: RegularExpression, name: a, value: '['}]"),
     "spec.rules[0].matches[0].queryParams[0].value", "RE2"),
    ("method", _match("method: get"), "spec.rules[0].matches[0].method", "one of GET, HEAD"),
    ("filter-type", _filter("type: CORS"), "spec.rules[0].filters[0].type", "one of RequestHeaderModifier"),
    ("filter-none", _filter(""), "spec.rules[0].filters[0].type", "the type of the filter"),
    ("filter-empty", _filter("type: URLRewrite"), "spec.rules[0].filters[0].urlRewrite", "the settings of a URL"),
    ("filter-other", _filter("type: URLRewrite, urlRewrite: {}, requestRedirect: {}"),
     "spec.rules[0].filters[0].requestRedirect", "none in a filter whose type is URLRewrite"),
    ("filter-twice", _rule(f"filters: [{_REWRITE}, {_REWRITE}]"),
     "spec.rules[0].filters[1].type", "URLRewrite once"),
    ("filter-both", _rule(f"filters: [{_REWRITE}, {{type: RequestRedirect, requestRedirect: {{}}}}]"),
     "spec.rules[0].filters[1].type", "only one of RequestRedirect and URLRewrite"),
    ("set", _headers("set: [{name: a, value: ''}]"), "spec.rules[0].filters[0].requestHeaderModifier.set[0].value",
     "a header's value"),
    ("set-twice", _headers("add: [{name: a, value: b}, {name: A, value: b}]"),
     "spec.rules[0].filters[0].requestHeaderModifier.add[1].name", "used once"),
    ("set-line", _headers('set: [{name: a, value: "b\\nc"}]'),
     "spec.rules[0].filters[0].requestHeaderModifier.set[0].value", "a header's value"),
    ("remove", _headers("remove: [':path']"), "spec.rules[0].filters[0].requestHeaderModifier.remove[0]", "a header's"),
    ("remove-host", _headers("remove: [Host]"), "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
     "that HTTP itself does not use"),
    ("scheme", _redirect("scheme: ftp"), "spec.rules[0].filters[0].requestRedirect.scheme", "http or https"),
    ("status", _redirect("statusCode: 200"), "spec.rules[0].filters[0].requestRedirect.statusCode", "one of 301, 302"),
    ("to", _redirect("hostname: '*.a'"), "spec.rules[0].filters[0].requestRedirect.hostname", "a lower-case host name"),
    ("modifier", _redirect("path: {replaceFullPath: /}"), "spec.rules[0].filters[0].requestRedirect.path.type",
     "one of ReplaceFullPath"),
    ("modifier-other", _redirect("path: {type: ReplaceFullPath, replaceFullPath: /, replacePrefixMatch: /}"),
     "spec.rules[0].filters[0].requestRedirect.path.replacePrefixMatch", "none beside type ReplaceFullPath"),
    ("modifier-none", _redirect("path: {type: ReplaceFullPath}"),
     "spec.rules[0].filters[0].requestRedirect.path.replaceFullPath", "what replaces it"),
    ("modifier-value", _redirect("path: {type: ReplaceFullPath, replaceFullPath: '/a b'}"),
     "spec.rules[0].filters[0].requestRedirect.path.replaceFullPath", "written as in a URL"),
    ("prefix", _rule(f"matches: [{{path: {{value: /a}}}}, {{path: {{value: /b}}}}], filters: [{{type: "
     f"RequestRedirect, requestRedirect: {{{_PREFIX}}}}}]"),
     "spec.rules[0].filters[0].requestRedirect.path.replacePrefixMatch", "one match"),
    ("prefix-exact", _rule(f"matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{{type: URLRewrite, "
     f"urlRewrite: {{{_PREFIX}}}}}]"), "spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch", "one match"),
    ("redirect-backend", _rule(f"filters: [{{type: RequestRedirect, requestRedirect: {{}}}}], {_TO_A}"),
     "spec.rules[0].backendRefs", "none beside a RequestRedirect"),
    ("mirror", _mirror(""), "spec.rules[0].filters[0].requestMirror.backendRef", "a backend"),
    ("mirror-port", _mirror("backendRef: {name: a}"), "spec.rules[0].filters[0].requestMirror.backendRef.port",
     "the Service's port"),
    ("percent", _mirror("backendRef: {name: a, port: 1}, percent: 101"),
     "spec.rules[0].filters[0].requestMirror.percent", "a percentage from 0 to 100"),
    ("fraction", _mirror("backendRef: {name: a, port: 1}, fraction: {numerator: 101}"),
     "spec.rules[0].filters[0].requestMirror.fraction.numerator", "from 0 to the denominator 100"),
    ("denominator", _mirror("backendRef: {name: a, port: 1}, fraction: {numerator: 0, denominator: 0}"),
     "spec.rules[0].filters[0].requestMirror.fraction.denominator", "at least 1"),
    ("fraction-percent", _mirror("backendRef: {name: a, port: 1}, percent: 1, fraction: {numerator: 1}"),
     "spec.rules[0].filters[0].requestMirror.fraction", "only one of percent and fraction"),
    ("backend", _rule("backendRefs: [{port: 80}]"), "spec.rules[0].backendRefs[0].name", "the name of a Service"),
    ("backend-port", _rule("backendRefs: [{name: a}]"), "spec.rules[0].backendRefs[0].port", "the Service's port"),
    ("weight", _rule("backendRefs: [{name: a, port: 80, weight: 1000001}]"), "spec.rules[0].backendRefs[0].weight",
     "a weight from 0 to 1000000"),
    ("timeout", _rule("timeouts: {request: 1.5s}"), "spec.rules[0].timeouts.request", "h, m, s or ms"),
    ("timeouts", _rule("timeouts: {request: 1s, backendRequest: 2s}"), "spec.rules[0].timeouts.backendRequest",
     "at most the request's own timeout"),
    ("retry-code", _rule("retry: {codes: [200]}"), "spec.rules[0].retry.codes[0]", "a status from 400 to 599"),
    ("retry-attempts", _rule("retry: {attempts: -1}"), "spec.rules[0].retry.attempts", "at least 0"),
    ("retry-backoff", _rule("retry: {backoff: 1us}"), "spec.rules[0].retry.backoff", "h, m, s or ms"),
    ("session", _rule("sessionPersistence: {}"), "spec.rules[0].sessionPersistence", "the unknown field"),
)
GRPC_ROUTES = (
    ("method", _match("method: {}"), "spec.rules[0].matches[0].method", "found neither, expected a service"),
    ("service", _match("method: {service: a/b}"), "spec.rules[0].matches[0].method.service", "the name of a service"),
    ("service-regex", _match("method: {type: RegularExpression, service: '('}"),
     "spec.rules[0].matches[0].method.service", "RE2"),
    ("filter", _filter("type: URLRewrite"), "spec.rules[0].filters[0].type", "one of RequestHeaderModifier"),
    ("timeouts", _rule("timeouts: {}"), "spec.rules[0].timeouts", "the unknown field"),
    ("port", _rule("backendRefs: [{name: a, port: 65536}]"), "spec.rules[0].backendRefs[0].port", "a port from 1"),
)
REFERENCE_GRANTS = (
    ("from", "{to: [{kind: Secret}]}", "spec.from", "at least one entry"),
    ("to", "{from: [{kind: Gateway, namespace: a}]}", "spec.to", "at least one entry"),
    ("namespace", "{from: [{kind: Gateway}], to: [{kind: Secret}]}", "spec.from[0].namespace", "a DNS label"),
    ("kind", "{from: [{namespace: a}], to: [{kind: Secret}]}", "spec.from[0].kind", "a kind"),
    ("name", "{from: [{kind: Gateway, namespace: a}], to: [{kind: Secret, name: A}]}", "spec.to[0].name", "subdomain"),
)
# fmt: on
