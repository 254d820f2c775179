"""What a route does."""

from typing import Any

import pytest

from agent.model.route import DirectResponse, Forward, HashKind, HashPolicy, Redirect, WeightedCluster
from tests.support.decoding import action_refusal, action_value, host_refusal, host_value

MATCH = {"prefix": "/old"}


def test_forward_defaults_are_envoys() -> None:
    assert action_value() == Forward(clusters=(WeightedCluster(cluster="c", weight=1),), total_weight=1, timeout_s=15.0)


def test_forward_with_everything() -> None:
    found = action_value(
        prefix_rewrite="/new",
        host_rewrite_literal="example.com",
        append_x_forwarded_host=True,
        timeout="0s",
        idle_timeout="0s",
        priority="HIGH",
        upgrade_configs=[{"upgrade_type": "WebSocket"}],
        max_stream_duration={"max_stream_duration": "9s", "grpc_timeout_header_max": "0s"},
        hash_policy=[
            {"header": {"header_name": "X-User"}, "terminal": True},
            {"cookie": {"name": "c", "ttl": "10.9s", "path": "/p", "attributes": [{"name": "SameSite", "value": "a"}]}},
            {"cookie": {"name": "d"}},
            {"query_parameter": {"name": "q"}},
            {"connection_properties": {"source_ip": True}},
            {"connection_properties": {}},
        ],
        # no effect
        rate_limits=[{"actions": [{"remote_address": {}}]}],
        auto_host_rewrite=None,
    )
    assert found == Forward(
        clusters=(WeightedCluster(cluster="c", weight=1),),
        total_weight=1,
        timeout_s=0.0,
        idle_timeout_s=0.0,
        max_stream_duration_s=9.0,
        prefix_rewrite="/new",
        host_rewrite="example.com",
        append_x_forwarded_host=True,
        priority_high=True,
        upgrades=frozenset({"websocket"}),
        hash_policies=(
            HashPolicy(kind=HashKind.HEADER, name="x-user", terminal=True),
            HashPolicy(kind=HashKind.COOKIE, name="c", ttl_s=10, path="/p", attributes=(("SameSite", "a"),)),
            HashPolicy(kind=HashKind.COOKIE, name="d"),
            HashPolicy(kind=HashKind.QUERY_PARAMETER, name="q"),
            HashPolicy(kind=HashKind.SOURCE_IP),
        ),
    )


def test_weighted_clusters() -> None:
    entries = [{"name": "a", "weight": 90, "host_rewrite_literal": "h"}, {"name": "b", "weight": 0}]
    found = host_value(
        {"match": MATCH, "route": {"weighted_clusters": {"clusters": entries, "runtime_key_prefix": "k"}}}
    )
    assert found.routes[0].action.clusters == (
        WeightedCluster(cluster="a", weight=90, host_rewrite="h"),
        WeightedCluster(cluster="b", weight=0),
    )
    assert found.routes[0].action.total_weight == 90


def test_regex_rewrite() -> None:
    found = action_value(regex_rewrite={"pattern": {"regex": "/(.*)"}, "substitution": r"/v/\1"})
    assert found.regex_rewrite == ("/(.*)", r"/v/\1")


@pytest.mark.parametrize(
    ("redirect", "expected"),
    [
        ({}, Redirect(status=301)),
        (
            {"scheme_redirect": "https", "host_redirect": "h", "port_redirect": 8443, "path_redirect": "/p"},
            Redirect(status=301, scheme="https", host="h", port=8443, path="/p"),
        ),
        ({"https_redirect": True, "response_code": "FOUND"}, Redirect(status=302, https=True)),
        ({"response_code": "SEE_OTHER", "strip_query": True}, Redirect(status=303, strip_query=True)),
        ({"response_code": "TEMPORARY_REDIRECT", "prefix_rewrite": "/n"}, Redirect(status=307, prefix_rewrite="/n")),
        ({"response_code": "PERMANENT_REDIRECT"}, Redirect(status=308)),
    ],
    ids=str,
)
def test_redirects(redirect: dict[str, Any], expected: Redirect) -> None:
    assert host_value({"match": MATCH, "redirect": redirect}).routes[0].action == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"status": 204}, DirectResponse(status=204)),
        ({"status": 200, "body": {"inline_string": "é"}}, DirectResponse(status=200, body="é".encode())),
        ({"status": 200, "body": {"inline_bytes": "AAE="}}, DirectResponse(status=200, body=b"\x00\x01")),
    ],
    ids=str,
)
def test_direct_responses(answer: dict[str, Any], expected: DirectResponse) -> None:
    assert host_value({"match": MATCH, "direct_response": answer}).routes[0].action == expected


BEYOND = "expected it unset: the agent does not enforce it"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"timeout": "-1s"}, "timeout: found -1s, expected at least 0s"),
        ({"metadata_match": {}}, f"metadata_match: found a value, {BEYOND}"),
        ({"auto_host_rewrite": True}, f"auto_host_rewrite: found True, {BEYOND}"),
        ({"host_rewrite_header": "x"}, f"host_rewrite_header: found 'x', {BEYOND}"),
        ({"cors": {}}, f"cors: found a value, {BEYOND}"),
        ({"hedge_policy": {"initial_requests": 2}}, f"hedge_policy.initial_requests: found 2, {BEYOND}"),
        (
            {
                "hash_policy": [
                    {"header": {"header_name": "x", "regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "b"}}}
                ]
            },
            f"hash_policy[0].header.regex_rewrite: found a value, {BEYOND}",
        ),
        (
            {"hash_policy": [{"filter_state": {"key": "k"}}]},
            "hash_policy[0].filter_state: found a value, expected header, cookie, query_parameter or "
            "connection_properties: the agent does not enforce it",
        ),
        ({"internal_redirect_policy": {}}, f"internal_redirect_policy: found a value, {BEYOND}"),
        (
            {"prefix_rewrite": "/a", "regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "b"}},
            "regex_rewrite: found it beside prefix_rewrite, expected one of them",
        ),
        (
            {"regex_rewrite": {"pattern": {"regex": "(a"}, "substitution": "b"}},
            "regex_rewrite.pattern.regex: found '(a', expected an RE2 pattern (missing ): (a)",
        ),
        (
            {"regex_rewrite": {"pattern": {"regex": "/(a)"}, "substitution": r"/\2"}},
            r"regex_rewrite.substitution: found '\\2' in the substitution '/\\2', expected \0 to \1",
        ),
        (
            {"prefix_rewrite": "/a b"},
            "prefix_rewrite: found '/a b', expected the text of a path, without spaces and control characters",
        ),
        (
            {"cluster_not_found_response_code": "NOT_FOUND"},
            f"cluster_not_found_response_code: found NOT_FOUND, {BEYOND}",
        ),
        (
            {"upgrade_configs": [{"upgrade_type": "CONNECT"}]},
            "upgrade_configs[0].upgrade_type: found CONNECT, expected another protocol: the agent does not enforce it",
        ),
        (
            {"upgrade_configs": [{"upgrade_type": "websocket", "enabled": False}]},
            "upgrade_configs[0].enabled: found False, expected True: the agent does not enforce it",
        ),
        ({"priority": 99}, "priority: found 99, expected a RoutingPriority"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_forwards(fields: dict[str, Any], expected: str) -> None:
    assert action_refusal(**fields) == expected


@pytest.mark.parametrize(
    ("weighted", "expected"),
    [
        ([{"name": "a"}], "clusters[0].weight: found unset, expected a value"),
        ([{"name": "", "weight": 1}], "clusters[0].name: found '', expected the name of a cluster"),
        (
            [{"cluster_header": "x", "weight": 1}],
            f"clusters[0].cluster_header: found 'x', {BEYOND}",
        ),
        ([{"name": "a", "weight": 0}], "clusters: found a sum of weights of 0, expected 1 to 4294967295"),
        (
            [{"name": "a", "weight": 2**32 - 1}, {"name": "b", "weight": 1}],
            "clusters: found a sum of weights of 4294967296, expected 1 to 4294967295",
        ),
        ([], "clusters: found 0 entries, expected at least 1"),
        ([{"name": "a", "weight": 1, "metadata_match": {}}], f"clusters[0].metadata_match: found a value, {BEYOND}"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_weights(weighted: list[Any], expected: str) -> None:
    text = host_refusal({"match": MATCH, "route": {"weighted_clusters": {"clusters": weighted}}})
    assert text == f"routes[0].route.weighted_clusters.{expected}"


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ({"route": {}}, "route.cluster_specifier: found none, expected one of cluster, cluster_header, "),
        ({"route": {"cluster_header": "x"}}, f"route.cluster_header: found 'x', {BEYOND}"),
        ({"redirect": {"port_redirect": 70000}}, "redirect.port_redirect: found 70000, expected at most 65535"),
        ({"redirect": {"response_code": 99}}, "redirect.response_code: found 99, expected a RedirectResponseCode"),
        (
            {"redirect": {"regex_rewrite": {"pattern": {"regex": "a"}}}},
            f"redirect.regex_rewrite: found a value, {BEYOND}",
        ),
        ({"direct_response": {"status": 199}}, "direct_response.status: found 199, expected at least 200"),
        (
            {"direct_response": {"status": 200, "body": {"filename": "/etc/passwd"}}},
            "direct_response.body.filename: found a value, expected inline_string or inline_bytes: "
            "the agent does not enforce it",
        ),
        (
            {"direct_response": {"status": 200, "body_format": {"text_format": "x"}}},
            f"direct_response.body_format: found a value, {BEYOND}",
        ),
        (
            {"non_forwarding_action": {}},
            f"non_forwarding_action: found a value, {BEYOND}",
        ),
        ({}, "action: found none, expected one of route, redirect, direct_response, "),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_actions(route: dict[str, Any], expected: str) -> None:
    text = host_refusal({"match": MATCH, **route}).removeprefix("routes[0].")
    assert text == expected or (expected.endswith(", ") and text.startswith(expected))
