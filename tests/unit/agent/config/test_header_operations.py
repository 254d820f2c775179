"""Header operations at every level."""

from typing import Any

import pytest

from agent.model.route import NO_HEADER_OPS, HeaderAction, HeaderOps
from mesh.xds import type_url
from tests.support.decoding import configuration, host, host_refusal, host_value, route, value


def added(**option: Any) -> dict[str, Any]:
    return {"header": {"key": "x-a", "value": "v"}, **option}


@pytest.mark.parametrize(
    ("option", "action"),
    [
        ({}, HeaderAction.APPEND),
        ({"append_action": "ADD_IF_ABSENT"}, HeaderAction.ADD_IF_ABSENT),
        ({"append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}, HeaderAction.OVERWRITE),
        ({"append_action": "OVERWRITE_IF_EXISTS"}, HeaderAction.OVERWRITE_IF_EXISTS),
        ({"append": True}, HeaderAction.APPEND),
        ({"append": False}, HeaderAction.OVERWRITE),
        ({"keep_empty_value": True}, HeaderAction.APPEND),
    ],
    ids=str,
)
def test_actions(option: dict[str, Any], action: HeaderAction) -> None:
    found = host_value(request_headers_to_add=[added(**option)])
    kept = frozenset({0} if option.get("keep_empty_value") else ())
    assert found.request_headers == HeaderOps(add=(("x-a", "v", action),), keep_empty=kept)


def test_every_level_has_its_own() -> None:
    """RouteConfiguration, virtual host, route, weighted cluster; requests and responses."""

    def ops(name: str) -> dict[str, Any]:
        return {
            "request_headers_to_add": [{"header": {"key": f"{name}-in", "value": "%PROTOCOL%"}}],
            "response_headers_to_remove": [f"{name.upper()}-OUT"],
        }

    entry = {"name": "c", "weight": 1, **ops("cluster")}
    made = configuration(
        host(route({"weighted_clusters": {"clusters": [entry]}}, **ops("route")), **ops("host")), **ops("config")
    )
    config = value(type_url.ROUTE_CONFIGURATION, made)
    (own_host,) = config.virtual_hosts
    (own_route,) = own_host.routes
    (own_cluster,) = own_route.action.clusters
    for name, level in (("config", config), ("host", own_host), ("route", own_route), ("cluster", own_cluster)):
        assert level.request_headers == HeaderOps(add=((f"{name}-in", "%PROTOCOL%", HeaderAction.APPEND),))
        assert level.response_headers == HeaderOps(remove=(f"{name}-out",))


def test_nothing_to_do_is_one_object() -> None:
    assert host_value().request_headers is NO_HEADER_OPS


@pytest.mark.parametrize("name", ["connection", "Content-Length"])
def test_removing_what_the_codec_writes_anyway(name: str) -> None:
    assert host_value(request_headers_to_remove=[name]).request_headers.remove == (name.lower(),)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"request_headers_to_add": [{"header": {"key": "Host", "value": "h"}}]},
            "request_headers_to_add[0].header.key: found 'Host', expected neither Host nor a pseudo header",
        ),
        (
            {"request_headers_to_remove": ["x", ":path"]},
            "request_headers_to_remove[1]: found ':path', expected neither Host nor a pseudo header",
        ),
        (
            {"response_headers_to_add": [{"header": {"key": "x", "value": "%NOPE%"}}]},
            "response_headers_to_add[0].header.value: found %NOPE%, expected one of ACCESS_LOG_TYPE, ",
        ),
        (
            {"response_headers_to_add": [{"header": {"key": "x", "value": "5%"}}]},
            "response_headers_to_add[0].header.value: found '5%' in '5%', expected %NAME%, %NAME(ARGUMENT)% or %%",
        ),
        (
            {"request_headers_to_add": [added(append=True, append_action="ADD_IF_ABSENT")]},
            "request_headers_to_add[0].append: found True, expected it unset beside append_action",
        ),
        (
            {"request_headers_to_add": [{"header": {"key": "x", "raw_value": "YQ=="}}]},
            "request_headers_to_add[0].header.raw_value: found b'a', expected it unset: the agent does not enforce it",
        ),
        (
            {"request_headers_to_add": [{"header": {"key": "a b", "value": "v"}}]},
            "request_headers_to_add[0].header.key: found 'a b', expected a header name",
        ),
        (
            {"request_headers_to_add": [{"header": {"key": "Transfer-Encoding", "value": "v"}}]},
            "request_headers_to_add[0].header.key: found Transfer-Encoding, "
            "expected no field of the connection or of framing: the agent does not enforce it",
        ),
        (
            {"request_headers_to_add": [{"header": {"key": "x", "value": "a\x01"}}]},
            "request_headers_to_add[0].header.value: found 'a\\x01', expected no control characters",
        ),
        (
            {"request_headers_to_add": [added(append_action=99)]},
            "request_headers_to_add[0].append_action: found 99, expected a HeaderAppendAction",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(fields: dict[str, Any], expected: str) -> None:
    text = host_refusal(**fields)
    assert text == expected or (expected.endswith(", ") and text.startswith(expected))
