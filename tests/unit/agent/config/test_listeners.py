"""Listeners and filter chains."""

from typing import Any

import pytest

from agent.config.decode import Meaning
from agent.model.listener import Direction, Listener, TcpProxy
from mesh.xds import type_url
from tests.support.decoding import (
    SOME_ID,
    address,
    configuration,
    downstream_socket,
    host,
    listener,
    manager,
    meaning,
    refusal,
    tcp,
    typed,
    value,
)

BEYOND = "expected it unset: the agent does not enforce it"
INSPECTOR = {"name": "i", "typed_config": typed("filters.listener.tls_inspector.v3.TlsInspector")}


def chain(transport: str | None = None, **fields: Any) -> dict[str, Any]:
    match = {} if transport is None else {"filter_chain_match": {"transport_protocol": transport}}
    return {"filters": [tcp()], **match, **fields}


def test_a_listener() -> None:
    made = listener(
        chain(name="n"),
        address=address("::1", 65535),
        traffic_direction="OUTBOUND",
        per_connection_buffer_limit_bytes=7,
        metadata={"filter_metadata": {"gossamer": {"identity": SOME_ID}, "other": {"a": 1}}},
        # no effect
        stat_prefix="s",
        listener_filters=[INSPECTOR],
        enable_reuse_port=True,
        use_original_dst=False,
        bind_to_port=True,
    )
    found = value(type_url.LISTENER, made)
    assert isinstance(found, Listener)
    assert (found.name, found.address, found.port) == ("l", "::1", 65535)
    assert found.direction is Direction.OUTBOUND
    assert found.identity == SOME_ID
    assert found.per_connection_buffer_limit_bytes == 7
    assert [one.name for one in found.filter_chains] == ["n"]
    assert isinstance(found.filter_chains[0].network, TcpProxy)


def test_defaults() -> None:
    found = value(type_url.LISTENER, listener())
    assert found.direction is Direction.UNSPECIFIED
    assert found.identity == ""
    assert found.per_connection_buffer_limit_bytes == 1024 * 1024


def test_filter_chains_are_asked_in_envoys_order() -> None:
    """Those that name a transport first, the default chain last."""
    made = listener(
        chain(name="any"),
        chain("raw_buffer", name="raw"),
        chain("tls", name="tls", transport_socket=downstream_socket()),
        default_filter_chain=chain(name="default"),
    )
    found = value(type_url.LISTENER, made).filter_chains
    assert [(one.name, one.transport, one.tls is not None) for one in found] == [
        ("raw", "raw_buffer", False),
        ("tls", "tls", True),
        ("any", "", False),
        ("default", "", False),
    ]


def test_only_a_default_chain() -> None:
    made = {"name": "l", "address": address(), "default_filter_chain": chain(name="default")}
    assert [one.name for one in value(type_url.LISTENER, made).filter_chains] == ["default"]


def test_inline_routes_have_names_of_their_own() -> None:
    """Two chains with routes of one name, and a default chain."""
    inline = [manager(route_config=configuration(host(name=name))) for name in ("first", "second", "third")]
    made = listener(
        {"filters": [inline[0]]},
        {"filters": [inline[1]], "filter_chain_match": {"transport_protocol": "raw_buffer"}},
        default_filter_chain={"filters": [inline[2]]},
    )
    found = meaning(type_url.LISTENER, made)
    assert isinstance(found, Meaning)
    by_name = {routes.name: routes.virtual_hosts[0].name for routes in found.inline}
    assert by_name == {"l/1/r": "second", "l/0/r": "first", "l/default/r": "third"}
    assert isinstance(found.value, Listener)
    asked = [getattr(one.network, "route_config", "") for one in found.value.filter_chains]
    assert asked == ["l/1/r", "l/0/r", "l/default/r"]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (listener(address=address(port=0)), "address.socket_address.port_value: found 0, expected 1 to 65535"),
        (listener(address=address(port=70000)), "address.socket_address.port_value: found 70000, expected at most "),
        (listener(address=address("localhost")), "address.socket_address.address: found 'localhost', expected an IP "),
        (listener(address={"pipe": {"path": "/x"}}), f"address.pipe: found a value, {BEYOND}"),
        (listener(address=address(protocol="UDP")), f"address.socket_address.protocol: found UDP, {BEYOND}"),
        (
            listener(address={"socket_address": {"address": "1.2.3.4", "named_port": "http"}}),
            f"address.socket_address.named_port: found 'http', {BEYOND}",
        ),
        (listener(use_original_dst=True), f"use_original_dst: found True, {BEYOND}"),
        (listener(bind_to_port=False), "bind_to_port: found False, expected True: the agent does not enforce it"),
        (listener(additional_addresses=[{"address": address()}]), f"additional_addresses: found an entry, {BEYOND}"),
        (listener(api_listener={}), f"api_listener: found a value, {BEYOND}"),
        (
            listener(continue_on_listener_filters_timeout=True),
            f"continue_on_listener_filters_timeout: found True, {BEYOND}",
        ),
        (
            listener(listener_filters=[{"name": "x", "typed_config": typed("filters.http.router.v3.Router")}]),
            "listener_filters[0].typed_config: found envoy.extensions.filters.http.router.v3.Router, expected ",
        ),
        (
            listener(metadata={"filter_metadata": {"gossamer": {"identity": "me"}}}),
            "metadata.filter_metadata[\"gossamer\"].identity: found 'me', expected a SPIFFE id",
        ),
        ({"name": "l", "address": address()}, "filter_chains: found none, expected at least one"),
        (
            listener(chain("tls"), chain("tls")),
            "filter_chains[1].filter_chain_match: found 'tls', expected a match that no other filter chain has",
        ),
        (
            listener(chain("quic")),
            "filter_chains[0].filter_chain_match.transport_protocol: found quic, expected tls or raw_buffer: ",
        ),
        (
            listener(chain(filter_chain_match={"server_names": ["a", "*a.example.com"]})),
            "filter_chains[0].filter_chain_match.server_names[1]: found '*a.example.com', "
            "expected a name, or *. and a name",
        ),
        (
            listener(
                chain(filter_chain_match={"server_names": ["a", "B"]}),
                chain(filter_chain_match={"server_names": ["*.a", "b"]}),
            ),
            "filter_chains[1].filter_chain_match: found 'b', expected a match that no other filter chain has",
        ),
        (
            listener(chain(filter_chain_match={"destination_port": 80})),
            f"filter_chains[0].filter_chain_match.destination_port: found 80, {BEYOND}",
        ),
        (
            listener(chain(filters=[])),
            "filter_chains[0].filters: found 0 filters, expected one: the agent does not enforce it",
        ),
        (
            listener(chain(filters=[tcp(), tcp()])),
            "filter_chains[0].filters[0].typed_config: found envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, "
            "expected envoy.extensions.filters.network.rbac.v3.RBAC, or HttpConnectionManager or TcpProxy at the end: "
            "the agent does not enforce it",
        ),
        (
            listener(chain(filters=[{"name": "x", "typed_config": typed("filters.http.router.v3.Router")}])),
            "filter_chains[0].filters[0].typed_config: found envoy.extensions.filters.http.router.v3.Router, "
            "expected HttpConnectionManager or TcpProxy: the agent does not enforce it",
        ),
        (
            listener(chain(filters=[{"name": "x"}])),
            "filter_chains[0].filters[0].typed_config: found no filter, expected HttpConnectionManager or TcpProxy: ",
        ),
        (listener(chain(use_proxy_proto=True)), f"filter_chains[0].use_proxy_proto: found True, {BEYOND}"),
        (
            listener(default_filter_chain=chain("nope")),
            "default_filter_chain.filter_chain_match.transport_protocol: found nope, expected tls or raw_buffer: ",
        ),
    ],
    ids=lambda value: str(value)[:80],
)  # fmt: skip
def test_refused(made: dict[str, Any], expected: str) -> None:
    text = refusal(type_url.LISTENER, made)
    assert text == expected or (expected.endswith(" ") and text.startswith(expected))
