"""The rate limit filters as they are decoded, and what of them is refused."""

from typing import Any

import pytest

from agent.model.fault import NO_GRPC
from agent.model.http_filters import HttpFilter
from agent.model.listener import HttpConnectionManager
from agent.model.matchers import MatchKind
from agent.model.rate_limit import (
    Action,
    ActionKind,
    DescriptorBucket,
    DescriptorRule,
    GlobalRateLimit,
    LocalRateLimit,
    TokenBucket,
)
from mesh.xds import type_url
from tests.support import decoding
from tests.support.decoding import ROUTER, Json, typed

BUCKET: Json = {"max_tokens": 5, "tokens_per_fill": 2, "fill_interval": "1s"}
ALL: Json = {"default_value": {"numerator": 100}}
LITERAL: Json = {"generic_key": {"descriptor_key": "limit", "descriptor_value": "a"}}
RULES: list[Json] = [{"actions": [LITERAL]}]
SERVICE: Json = {"grpc_service": {"envoy_grpc": {"cluster_name": "gossamer_xds"}}, "transport_api_version": "V3"}
PATH = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config"


def local(**fields: Any) -> Json:
    return typed("filters.http.local_ratelimit.v3.LocalRateLimit", **{"stat_prefix": "s", **fields})


def shared(**fields: Any) -> Json:
    made: Json = {"domain": "gossamer", "rate_limit_service": SERVICE, "rate_limits": RULES, **fields}
    return typed("filters.http.ratelimit.v3.RateLimit", **{key: value for key, value in made.items() if value})


def listener(config: Json) -> Json:
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="h", http_filters=[{"name": "limit", "typed_config": config}, ROUTER],
        rds={"route_config_name": "r", "config_source": decoding.ADS},
    )  # fmt: skip
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    return {"name": "l", "address": decoding.address("127.0.0.1", 80), "filter_chains": [chain]}


def decoded(config: Json) -> Any:
    made = decoding.value(type_url.LISTENER, listener(config))
    manager = made.filter_chains[0].network
    assert isinstance(manager, HttpConnectionManager)
    (found,) = manager.filters
    assert found == HttpFilter(name="limit", config=found.config)
    return found.config


def action(message: Json) -> Action:
    (rule,) = decoded(local(rate_limits=[{"actions": [message]}])).rules
    return rule.actions[0]  # type: ignore[no-any-return]


def test_local() -> None:
    assert decoded(local()) == LocalRateLimit(stat_prefix="s")
    found = decoded(
        local(
            token_bucket=BUCKET, filter_enabled=ALL, filter_enforced={"default_value": {"numerator": 5}},
            descriptors=[{"entries": [{"key": "limit", "value": "a"}, {"key": "b"}], "token_bucket": BUCKET}],
            rate_limits=RULES, status={"code": 503}, rate_limited_as_resource_exhausted=True,
            always_consume_default_token_bucket=False, enable_x_ratelimit_headers="DRAFT_VERSION_03",
            max_dynamic_descriptors=7,
        )
    )  # fmt: skip
    bucket = TokenBucket(max_tokens=5, tokens_per_fill=2, fill_interval_s=1.0)
    assert found == LocalRateLimit(
        stat_prefix="s", status=503, grpc_status=8, bucket=bucket, enabled_per_million=1_000_000,
        enforced_per_million=50_000, always_default=False, shown=True,
        rules=(DescriptorRule((Action(kind=ActionKind.LITERAL, key="limit", value="a"),)),),
        buckets=(DescriptorBucket(entries=(("limit", "a"), ("b", "")), bucket=bucket),),
    )  # fmt: skip


def test_global() -> None:
    rules = (DescriptorRule((Action(kind=ActionKind.LITERAL, key="limit", value="a"),)),)
    assert decoded(shared()) == GlobalRateLimit(domain="gossamer", rules=rules)
    found = decoded(
        shared(
            timeout="0.5s", failure_mode_deny=True, rate_limited_status={"code": 409}, status_on_error={"code": 503},
            enable_x_ratelimit_headers="DRAFT_VERSION_03", disable_x_envoy_ratelimited_header=True,
            rate_limited_as_resource_exhausted=True,
        )
    )  # fmt: skip
    assert found == GlobalRateLimit(
        domain="gossamer", timeout_s=0.5, deny=True, status=409, error_status=503, grpc_status=8, rules=rules,
        shown=True, marked=False,
    )  # fmt: skip


@pytest.mark.parametrize("code", [200, 302, 308])
def test_a_status_that_is_no_error_is_not_believed(code: int) -> None:
    assert decoded(local(status={"code": code})).status == 429
    assert decoded(shared(status_on_error={"code": code})).error_status == 500
    assert decoded(local()).grpc_status == NO_GRPC


def test_actions() -> None:
    assert action({"generic_key": {"descriptor_value": "v"}}) == Action(
        kind=ActionKind.LITERAL, key="generic_key", value="v"
    )
    assert action({"request_headers": {"header_name": "X-User", "descriptor_key": "k"}}) == Action(
        kind=ActionKind.HEADER, key="k", name="x-user"
    )
    assert action({"remote_address": {}}) == Action(kind=ActionKind.REMOTE_ADDRESS, key="remote_address")
    metadata = {"key": "jwt", "path": [{"key": "payload"}, {"key": "sub"}]}
    assert action({"metadata": {"descriptor_key": "k", "metadata_key": metadata}}) == Action(
        kind=ActionKind.METADATA, key="k", name="jwt", path=("payload", "sub")
    )
    matching = {"headers": [{"name": ":path", "string_match": {"prefix": "/a"}}], "descriptor_value": "v"}
    found = action({"header_value_match": {**matching, "expect_match": False}})
    assert (found.kind, found.key, found.value, found.expected) == (ActionKind.HEADER_MATCH, "header_match", "v", False)
    assert found.headers[0].matcher.kind is MatchKind.PREFIX


@pytest.mark.parametrize(
    ("text", "kind"),
    [("request.url_path", ActionKind.URL_PATH), ("connection.uri_san_peer_certificate", ActionKind.PRINCIPAL)],
)
def test_expressions(text: str, kind: ActionKind) -> None:
    assert action(expression(text)) == Action(kind=kind, key="k")


def expression(text: str, **fields: Any) -> Json:
    config = {"descriptor_key": "k", "text": text, **fields}
    return {"extension": {"name": "e", "typed_config": typed("rate_limit_descriptors.expr.v3.Descriptor", **config)}}


_ACTION = ".rate_limits[0].actions[0]"
_WITH = {"rate_limits": RULES}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (local(token_bucket={**BUCKET, "fill_interval": "0.049s"}),
         ".token_bucket.fill_interval: found '0.049s', expected at least 0.05s"),
        (local(token_bucket={**BUCKET, "max_tokens": 0}), ".token_bucket.max_tokens: found 0, expected more than 0"),
        (local(stage=1), ".stage: found 1, expected it unset"),
        (local(local_rate_limit_per_downstream_connection=True), ".local_rate_limit_per_downstream_connection"),
        (local(local_cluster_rate_limit={}), ".local_cluster_rate_limit"),
        (local(response_headers_to_add=[{"header": {"key": "a", "value": "b"}}]), ".response_headers_to_add"),
        (local(descriptors=[{"entries": [{"key": "a", "value": "b"}], "token_bucket": BUCKET}]),
         ".rate_limits: found none beside descriptors"),
        (local(descriptors=[{"entries": [{"key": "a", "value": "b"}], "token_bucket": BUCKET}] * 2, **_WITH),
         ".descriptors: found a descriptor twice"),
        (local(rate_limits=[{"actions": [LITERAL], "disable_key": "x"}]), ".rate_limits[0].disable_key"),
        (local(rate_limits=[{"actions": [{"source_cluster": {}}]}]), f"{_ACTION}.source_cluster: found a value"),
        (local(rate_limits=[{"actions": [expression("request.host")]}]),
         f"{_ACTION}.extension.typed_config.text: found 'request.host', expected request.url_path or"),
        (local(rate_limits=[{"actions": [{"request_headers": {
            "header_name": "a", "descriptor_key": "b", "skip_if_absent": True}}]}]),
         f"{_ACTION}.request_headers.skip_if_absent"),
        (local(rate_limits=[{"actions": [{"metadata": {
            "descriptor_key": "b", "metadata_key": {"key": "a", "path": [{"key": "b"}]}, "default_value": "x"}}]}]),
         f"{_ACTION}.metadata.default_value"),
        (shared(rate_limit_service={**SERVICE, "grpc_service": {"envoy_grpc": {"cluster_name": "other"}}}),
         ".rate_limit_service.grpc_service.envoy_grpc.cluster_name: found 'other', expected gossamer_xds"),
        (shared(rate_limits=None), ".rate_limits: found none, expected those of the filter itself"),
        (shared(stage=1), ".stage"),
        (shared(request_type="internal"), ".request_type"),
        (shared(filter_enforced=ALL), ".filter_enforced"),
    ],
)  # fmt: skip
def test_refusals(config: Json, reason: str) -> None:
    found = decoding.refusal(type_url.LISTENER, listener(config))
    assert found.startswith(PATH), found
    assert reason in found.removeprefix(PATH)
