"""Invalid policies of our own group: rows for tests.support.bad_policies, (name, spec, field, part of the message)."""

_TARGET = "target: {host: a}"


def _cb(more: str) -> str:
    return f"{{{_TARGET}, {more}}}"


def _fallback(more: str) -> str:
    return _cb(f"fallback: {{{more}}}")


# fmt: off
CIRCUIT_BREAKERS = (
    ("no-target", "{}", "spec.target", "found nothing, expected a target with a host"),
    ("host-missing", "{target: {}}", "spec.target.host", "found nothing, expected a domain name"),
    ("host-wildcard", "{target: {host: '*.example.com'}}", "spec.target.host", "expected a domain name"),
    ("subset", "{target: {host: a, subset: v_1}}", "spec.target.subset", "a DNS label"),
    ("port", "{target: {host: a, port: {number: 70000}}}", "spec.target.port.number", "a port from 1 to 65535"),
    ("route", f"{{target: {{host: a, route: {'r' * 254}}}}}", "spec.target.route", "at most 253 characters"),
    ("per", _cb("per: HOST"), "spec.per", "one of TARGET, CALLER"),
    ("status", _cb("failures: {statuses: [99]}"), "spec.failures.statuses[0]", "a status such as 503"),
    ("status-class", _cb("failures: {statuses: [6xx]}"), "spec.failures.statuses[0]", "from 100 to 599"),
    ("status-order", _cb("failures: {statuses: [504-500]}"), "spec.failures.statuses[0]", '"504-500"'),
    ("status-kind", _cb("failures: {statuses: [true]}"), "spec.failures.statuses[0]", "a status such as 503"),
    ("flag", _cb("failures: {flags: [XX]}"), "spec.failures.flags[0]", 'found "XX", expected one of DC'),
    ("slow", _cb("failures: {slowCallDuration: 0s}"), "spec.failures.slowCallDuration", "at least 1ms"),
    ("slow-percent", _cb("failures: {slowCallDuration: 1s, slowCallPercent: 101}"), "spec.failures.slowCallPercent",
     "a percentage above 0, at most 100"),
    ("slow-alone", _cb("failures: {slowCallPercent: 50}"), "spec.failures.slowCallDuration", "beside slowCallPercent"),
    ("window-type", _cb("window: {type: SLIDING}"), "spec.window.type", "one of TIME, COUNT"),
    ("window-size", _cb("window: {size: 10}"), "spec.window.size", "it unset: a window of type TIME has a duration"),
    ("window-time", _cb("window: {type: COUNT, duration: 1s}"), "spec.window.duration", "of type COUNT has a size"),
    ("buckets", _cb("window: {buckets: 1001}"), "spec.window.buckets", "a number from 1 to 1000"),
    ("volume", _cb("window: {type: COUNT, size: 10}, requestVolume: 11"), "spec.requestVolume", "would never open"),
    ("percent", _cb("errorPercent: 0"), "spec.errorPercent", "a percentage above 0, at most 100"),
    ("sleep", _cb("sleepWindow: 0s"), "spec.sleepWindow", "at least 1ms"),
    ("probes", _cb("halfOpen: {probes: 100001}"), "spec.halfOpen.probes", "a number from 1 to 100000"),
    ("verdict", _cb("halfOpen: {verdict: SOME}"), "spec.halfOpen.verdict", "one of EVERY, PERCENTAGES"),
    ("wait", _cb("halfOpen: {maxWait: 5}"), "spec.halfOpen.maxWait", "a duration with its unit"),
    ("forced", _cb("forced: CLOSED"), "spec.forced", "one of OPEN, DISABLED"),
    ("fallback-none", _fallback("onFailure: true"), "spec.fallback", "found none of them, expected exactly one of"),
    ("fallback-two", _fallback("response: {}, cached: {}"), "spec.fallback", "found response and cached"),
    ("answer-status", _fallback("response: {status: 199}"), "spec.fallback.response.status", "a status from 200"),
    ("answer-body", _fallback("response: {body: {string: a, bytes: YQ==}}"), "spec.fallback.response.body",
     "only one of string and bytes"),
    ("answer-size", _fallback(f"response: {{body: {{string: {'x' * 65537}}}}}"), "spec.fallback.response.body",
     "found 65537 bytes, expected at most 65536"),
    ("answer-header", _fallback('response: {headers: {"a b": c}}'), "spec.fallback.response.headers[a b]",
     "a header's name"),
    ("answer-framing", _fallback("response: {headers: {Content-Length: '1'}}"),
     "spec.fallback.response.headers[Content-Length]", "that does not frame the answer"),
    ("answer-value", _fallback('response: {headers: {a: "b\\nc"}}'), "spec.fallback.response.headers[a]",
     "without control characters"),
    ("service", _fallback("service: {host: '*.example.com'}"), "spec.fallback.service.host", "a domain name"),
    ("service-itself", _fallback("service: {host: a}"), "spec.fallback.service", "other than the target"),
    ("cache-age", _fallback("cached: {maxAge: 0s}"), "spec.fallback.cached.maxAge", "at least 1ms"),
    ("cache-entries", _fallback("cached: {maxEntries: 100001}"), "spec.fallback.cached.maxEntries", "1 to 100000"),
    ("cache-bytes", _fallback("cached: {maxBytes: 2000000000}"), "spec.fallback.cached.maxBytes", "1 to 1073741824"),
    ("export", _cb("exportTo: ['*', a]"), "spec.exportTo[0]", "to stand alone"),
    ("unknown", _cb("sleepwindow: 1s"), "spec.sleepwindow", "did you mean sleepWindow?"),
)
# fmt: on

_LIMIT = "{name: a, rates: [{requests: 1, per: SECOND}]}"


def _limit(**fields: str) -> str:
    """A RateLimit whose one limit has these fields beside its name and a rate."""
    more = "".join(f", {name}: {text}" for name, text in {"rates": "[{requests: 1, per: SECOND}]", **fields}.items())
    return f"{{limits: [{{name: a{more}}}]}}"


RATE_LIMITS: tuple[tuple[str, str, str, str], ...] = (
    ("no-limits", "{}", "spec.limits", "found 0 limits, expected 1 to 32 limits"),
    (
        "place",
        f"{{enforceAt: [EVERYWHERE], limits: [{_LIMIT}]}}",
        "spec.enforceAt[0]",
        "one of INBOUND, OUTBOUND, GATEWAY",
    ),
    (
        "place-twice",
        f"{{enforceAt: [INBOUND, INBOUND], limits: [{_LIMIT}]}}",
        "spec.enforceAt[1]",
        "a place that is used once",
    ),
    ("scope", f"{{scope: WORLD, limits: [{_LIMIT}]}}", "spec.scope", "one of LOCAL, GLOBAL"),
    (
        "failure-mode-local",
        f"{{failureMode: OPEN, limits: [{_LIMIT}]}}",
        "spec.failureMode",
        "it only beside scope: GLOBAL",
    ),
    ("timeout-local", f"{{timeout: 1s, limits: [{_LIMIT}]}}", "spec.timeout", "it only beside scope: GLOBAL"),
    ("timeout-long", f"{{scope: GLOBAL, timeout: 6s, limits: [{_LIMIT}]}}", "spec.timeout", "at most 5s"),
    (
        "timeout-zero",
        f"{{scope: GLOBAL, timeout: 0s, limits: [{_LIMIT}]}}",
        "spec.timeout",
        "a duration of at least 1ms",
    ),
    ("fields-local", f"{{headers: RATELIMIT, limits: [{_LIMIT}]}}", "spec.headers", "NONE or X_RATELIMIT"),
    ("name", "{limits: [{name: 'a/b', rates: [{requests: 1, per: SECOND}]}]}", "spec.limits[0].name", "a DNS label"),
    ("name-twice", f"{{limits: [{_LIMIT}, {_LIMIT}]}}", "spec.limits[1].name", "a name that is used once"),
    ("no-rates", _limit(rates="[]"), "spec.limits[0].rates", "found 0 rates, expected 1 to 4 rates"),
    ("requests", _limit(rates="[{per: SECOND}]"), "spec.limits[0].rates[0].requests", "a number from 1 to 100000000"),
    ("per", _limit(rates="[{requests: 1}]"), "spec.limits[0].rates[0].per", "one of SECOND, MINUTE, HOUR, DAY"),
    ("per-other", _limit(rates="[{requests: 1, per: WEEK}]"), "spec.limits[0].rates[0].per", 'found "WEEK"'),
    (
        "per-twice",
        _limit(rates="[{requests: 1, per: DAY}, {requests: 2, per: DAY}]"),
        "spec.limits[0].rates[1].per",
        "a window that is used once",
    ),
    (
        "burst-zero",
        _limit(rates="[{requests: 1, per: DAY, burst: 0}]"),
        "spec.limits[0].rates[0].burst",
        "a number from 1",
    ),
    (
        "burst-global",
        "{scope: GLOBAL, limits: [{name: a, rates: [{requests: 1, per: DAY, burst: 2}]}]}",
        "spec.limits[0].rates[0].burst",
        "it only beside scope: LOCAL",
    ),
    ("method", _limit(match="{methods: [get]}"), "spec.limits[0].match.methods[0]", "an HTTP method in upper case"),
    (
        "path-two",
        _limit(match="{path: {exact: /a, prefix: /b}}"),
        "spec.limits[0].match.path",
        "only one of exact, prefix and regex",
    ),
    ("path-none", _limit(match="{path: {}}"), "spec.limits[0].match.path", "one of exact, prefix and regex"),
    ("path-regex", _limit(match="{path: {regex: '('}}"), "spec.limits[0].match.path.regex", "RE2"),
    (
        "header-name",
        _limit(match="{headers: {':path': {exact: a}}}"),
        "spec.limits[0].match.headers[:path]",
        "a header's name",
    ),
    ("key-none", _limit(keys="[{}]"), "spec.limits[0].keys[0]", "exactly one of attribute, header and claim"),
    ("key-two", _limit(keys="[{header: a, claim: b}]"), "spec.limits[0].keys[0]", "found header and claim"),
    ("key-header", _limit(keys="[{header: 'a b'}]"), "spec.limits[0].keys[0].header", "a header's name"),
    ("key-claim", _limit(keys="[{claim: ''}]"), "spec.limits[0].keys[0].claim", "the name of a claim"),
    (
        "key-attribute",
        _limit(keys="[{attribute: HOST}]"),
        "spec.limits[0].keys[0].attribute",
        "one of PATH, METHOD, PRINCIPAL, REMOTE_ADDRESS",
    ),
    (
        "key-twice",
        _limit(keys="[{header: X-User}, {header: x-user}]"),
        "spec.limits[0].keys[1]",
        "a key that is used once",
    ),
    (
        "keys-many",
        _limit(keys=f"[{', '.join(f'{{header: x-{n}}}' for n in range(9))}]"),
        "spec.limits[0].keys",
        "found 9 keys, expected at most 8 keys",
    ),
    (
        "principal-outbound",
        "{enforceAt: [OUTBOUND], limits: [{name: a, keys: [{attribute: PRINCIPAL}], rates: [{requests: 1, per: DAY}]}"
        "]}",
        "spec.limits[0].keys[0].attribute",
        "another key beside enforceAt: OUTBOUND",
    ),
    (
        "selector",
        f"{{selector: {{matchLabels: {{app: '*'}}}}, limits: [{_LIMIT}]}}",
        "spec.selector.matchLabels[app]",
        "wildcards are not supported here",
    ),
    ("unknown", f"{{limit: [{_LIMIT}], limits: [{_LIMIT}]}}", "spec.limit", "did you mean limits?"),
)

BULKHEADS = (
    ("no-target", "{}", "spec.target", "found nothing, expected a target with a host"),
    ("host", "{target: {host: '*.example.com'}}", "spec.target.host", "expected a domain name"),
    ("concurrent", _cb("maxConcurrent: 1000001"), "spec.maxConcurrent", "a number from 1 to 1000000"),
    ("share", _cb("sharePercent: 0"), "spec.sharePercent", "a percentage above 0, at most 100"),
    ("queue", _cb("queue: {size: 10001}"), "spec.queue.size", "a number from 1 to 10000"),
    ("wait", _cb("queue: {size: 1, maxWait: 0s}"), "spec.queue.maxWait", "at least 1ms"),
    ("wait-alone", _cb("queue: {maxWait: 1s}"), "spec.queue.size", "a size beside maxWait"),
    ("export", _cb("exportTo: ['*', a]"), "spec.exportTo[0]", "to stand alone"),
    ("side", _cb("enforceAt: [GATEWAY]"), "spec.enforceAt[0]", "expected one of INBOUND, OUTBOUND"),
    ("side-twice", _cb("enforceAt: [INBOUND, INBOUND]"), "spec.enforceAt[1]", "a place that is used once"),
    (
        "route-inbound",
        "{target: {host: reviews, route: slow}, enforceAt: [OUTBOUND, INBOUND]}",
        "spec.target.route",
        "no route beside enforceAt INBOUND",
    ),
    ("unknown", _cb("maxconcurrent: 5"), "spec.maxconcurrent", "did you mean maxConcurrent?"),
)
