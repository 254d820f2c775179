"""The rules on Envoy's messages: every kind of rule that can be met is known, and each is kept."""

from collections.abc import Iterator

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import HeaderValue, Metadata
from envoy.config.core.v3.protocol_pb2 import UpstreamHttpProtocolOptions
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from validate import validate_pb2

from agent.config import rules
from agent.config.fields import Refused

READ = (
    Listener, Cluster, ClusterLoadAssignment, RouteConfiguration, HttpConnectionManager, TcpProxy, UpstreamTlsContext,
    DownstreamTlsContext, HttpProtocolOptions, FileAccessLog, Router,
)  # fmt: skip
KNOWN = {
    **{kind: rules.BOUNDS for kind in (*rules.NUMBERS, "bool")},
    "string": rules.STRINGS,
    "bytes": rules.BYTES,
    "enum": frozenset({"defined_only", "not_in"}),
    "repeated": frozenset({"min_items", "max_items", "items"}),
    "map": frozenset({"min_pairs", "keys", "values"}),
    "message": frozenset({"required", "skip"}),
    "any": frozenset({"required"}),
    "duration": frozenset({"required", "gt", "gte", "lt", "lte"}),
}
# internal_redirect_policy is refused as a whole.
UNREAD = frozenset({"envoy.config.route.v3.InternalRedirectPolicy.response_headers_to_copy"})


def descriptors(found: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    """It and all below it."""
    if found.full_name not in seen:
        seen.add(found.full_name)
        yield found
        for field in found.fields:
            if field.message_type is not None:
                yield from descriptors(field.message_type, seen)


def unknown(written: validate_pb2.FieldRules) -> Iterator[str]:
    """Rules of one field that this agent would pass over."""
    for kind, own in written.ListFields():
        for rule, inner in own.ListFields():
            if rule.name not in KNOWN[kind.name]:
                yield f"{kind.name}.{rule.name}"
            if rule.name in ("items", "keys", "values"):
                yield from unknown(inner)


def test_every_rule_that_can_be_met_is_known() -> None:
    seen: set[str] = set()
    fields = [field for kind in READ for found in descriptors(kind.DESCRIPTOR, seen) for field in found.fields]
    missing = {
        field.full_name: sorted(unknown(rules.rules_of(field))) for field in fields if field.full_name not in UNREAD
    }
    assert {name: kinds for name, kinds in missing.items() if kinds} == {}
    assert sum(bool(rules.rules_of(field).ListFields()) for field in fields) > 200


def found(message: Message) -> str:
    """The violation, with its path."""
    with pytest.raises(Refused) as caught:
        rules.check(message)
    return f"{caught.value.path}: {caught.value.reason}"


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (DirectResponseAction, {}, "status: found 0, expected at least 200"),
        (DirectResponseAction, {"status": 600}, "status: found 600, expected less than 600"),
        (Percent, {"value": 101}, "value: found 101.0, expected at most 100.0"),
        (Percent, {"value": "NaN"}, "value: found nan, expected at most 100.0"),
        (Cluster, {}, "name: found '', expected at least 1 characters"),
        (Cluster, {"name": "c", "type": 99}, "type: found 99, expected a DiscoveryType"),
        (Cluster, {"name": "c", "connect_timeout": "0s"}, "connect_timeout: found 0s, expected more than 0s"),
        (
            Cluster,
            {"name": "c", "dns_refresh_rate": "0.001s"},
            "dns_refresh_rate: found 0.001s, expected more than 0.001s",
        ),
        (
            Cluster,
            {"name": "c", "least_request_lb_config": {"choice_count": 1}},
            "least_request_lb_config.choice_count: found 1, expected at least 2",
        ),
        (Listener, {"address": {}}, "address.address: found none, expected one of socket_address, pipe, "),
        (HeaderValue, {"key": "a\nb"}, "key: found 'a\\nb', expected a header name"),
        (RouteMatch, {}, "path_specifier: found none, expected one of prefix, path, safe_regex, "),
        (
            RouteMatch,
            {"path_separated_prefix": "/a/"},
            "path_separated_prefix: found '/a/', expected a match of ^[^?#]+[^?#/]$",
        ),
        (RouteMatch, {"safe_regex": {}}, "safe_regex.regex: found '', expected at least 1 characters"),
        (Route, {"route": {"cluster": "c"}}, "match: found unset, expected a value"),
        (VirtualHost, {"name": "v"}, "domains: found 0 entries, expected at least 1"),
        (
            VirtualHost,
            {"name": "v", "domains": ["a", "b\n"]},
            "domains[1]: found 'b\\n', expected a header value",
        ),
        (
            VirtualHost,
            {"name": "v", "domains": ["a"], "request_headers_to_remove": [""]},
            "request_headers_to_remove[0]: found '', expected at least 1 characters",
        ),
        (
            VirtualHost,
            {"name": "v", "domains": ["a"], "request_headers_to_add": [{}]},
            "request_headers_to_add[0].header: found unset, expected a value",
        ),
        (
            VirtualHost,
            {"name": "v", "domains": ["a"], "request_headers_to_add": [{"header": {"key": "x"}}] * 1001},
            "request_headers_to_add: found 1001 entries, expected at most 1000",
        ),
        (
            VirtualHost,
            {"name": "v", "domains": ["a"], "retry_policy": {"retry_back_off": {}}},
            "retry_policy.retry_back_off.base_interval: found unset, expected a value",
        ),
        (Metadata, {"filter_metadata": {"": {}}}, "filter_metadata: found '', expected at least 1 characters"),
        (
            UpstreamHttpProtocolOptions,
            {"override_auto_sni_header": "a\tb"},
            "override_auto_sni_header: found 'a\\tb', expected a header name",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_violations(kind: type[Message], fields: dict[str, object], expected: str) -> None:
    text = found(ParseDict(fields, kind()))
    assert text == expected or (expected.endswith(", ") and text.startswith(expected))


@pytest.mark.parametrize(
    "message",
    [
        HeaderMatcher(name=":method", present_match=True),
        UpstreamHttpProtocolOptions(),
        RouteMatch(prefix=""),
        Cluster(name="c"),
        Percent(value=100),
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_what_is_good(message: Message) -> None:
    rules.check(message)


def test_a_negative_duration() -> None:
    cluster = Cluster(name="c")
    cluster.connect_timeout.seconds = -1
    assert found(cluster) == "connect_timeout: found -1s, expected at least 0s"
