"""What a request's head looks like after the way in."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from agent.codec.head import CHUNKED, NO_BODY, Headers, RequestHead
from agent.codec.repeats import PlainRequests
from agent.filters.request_headers import RequestHeaders
from agent.model.listener import HttpConnectionManager

UUID4 = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class AClient:
    peer_address: str = "10.9.9.9:4000"
    local_address: str = "10.0.0.1:20000"
    secure: bool = False
    certificate: bytes = b""


def bits() -> Callable[[int], int]:
    return Random(7).getrandbits


def prepared(
    *fields: tuple[str, str], path: str = "/ok", client: AClient | None = None, refusal: str = "", **settings: Any
) -> RequestHead:
    """The head of a request to `a` with these fields, after the filter."""
    headers = Headers()
    for name, value in (("Host", "a"), *fields):
        headers.append(name.encode(), value.encode())
    head = RequestHead(b"GET", path.encode(), b"a", headers)
    hcm = HttpConnectionManager(stat_prefix="s", route_config="r", **settings)
    assert RequestHeaders(hcm, bits()).prepare(head, client or AClient()) == refusal
    assert {name.lower() for name, _ in headers.fields} == set(headers.index)
    return head


def names(head: RequestHead) -> list[bytes]:
    """What goes on, without what every request gets."""
    given = {b"x-forwarded-proto", b"x-request-id", b"traceparent"}
    return [name for name, _ in head.headers.fields if name not in given]


# --- hop by hop -------------------------------------------------------------------------------------------------------


def test_a_plain_request_keeps_all_it_has_in_its_own_case() -> None:
    head = prepared(("X-Mixed-Case", "1"), ("Cookie", "a=1"), ("cookie", "b=2"), ("Proxy-Authorization", "Basic x"))
    assert names(head) == [b"Host", b"X-Mixed-Case", b"Cookie", b"cookie", b"Proxy-Authorization"]


def test_fields_of_the_connection_end_here() -> None:
    head = prepared(
        ("Connection", "keep-alive, X-Hop , close"),
        ("X-Hop", "1"),
        ("X-Stays", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
    )
    assert names(head) == [b"Host", b"X-Stays"]


@pytest.mark.parametrize(
    ("value", "left"),
    [("trailers", b"trailers"), ("gzip, Trailers", b"trailers"), ("gzip", None), ("trailersx", None)],
)
def test_te_is_only_ever_trailers(value: str, left: bytes | None) -> None:
    assert prepared(("TE", value)).headers.get(b"te") == left
    assert prepared(("Connection", "TE"), ("TE", value)).headers.get(b"te") == left


@pytest.mark.parametrize("value", ["x-forwarded-for", "a, X-Forwarded-Proto", ":path", ",".join("abcdefghij")])
def test_nominating_what_must_stay_is_refused(value: str) -> None:
    prepared(("Connection", value), refusal="http1.connection_header_rejected")


def test_a_nominated_host_stays_and_a_nominated_length_becomes_chunks() -> None:
    head = prepared(("Connection", "host, content-length"), ("Content-Length", "2"))
    assert names(head) == [b"Host"]
    assert head.content_length == CHUNKED
    assert prepared(("Connection", "content-length"), ("Content-Length", "0")).content_length == NO_BODY


def test_an_upgrade_keeps_what_asks_for_it() -> None:
    headers = Headers()
    for name, value in (
        (b"Host", b"a"),
        (b"Connection", b"Upgrade, X-Hop"),
        (b"Upgrade", b"WebSocket"),
        (b"X-Hop", b"1"),
    ):
        headers.append(name, value)
    head = RequestHead(b"GET", b"/", b"a", headers)
    head.upgrade = b"websocket"
    RequestHeaders(HttpConnectionManager(stat_prefix="s", route_config="r"), bits()).prepare(head, AClient())
    assert (head.headers.get(b"connection"), head.headers.get(b"upgrade")) == (b"Upgrade", b"websocket")
    assert head.headers.get(b"x-hop") is None


# --- paths ------------------------------------------------------------------------------------------------------------


def test_the_path_is_normalised_for_all_who_come_after() -> None:
    assert prepared(path="/a/../b?x=../y").path == b"/b?x=../y"
    assert prepared(path="/a/../b", normalize_path=False).path == b"/a/../b"
    assert prepared(path="//a", merge_slashes=True).path == b"/a"


def test_refused_paths() -> None:
    prepared(path="/a%00", refusal="path_normalization_failed")
    prepared(path="/a\\b", refusal="path_normalization_failed")
    prepared(path="*", refusal="absolute_path_rejected")


# --- what a client may not say ----------------------------------------------------------------------------------------


def test_control_fields_of_clients_are_dropped_and_others_pass() -> None:
    head = prepared(
        ("x-envoy-internal", "true"),
        ("X-Envoy-Retry-On", "5xx"),
        ("x-envoy-max-retries", "9"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-upstream-alt-stat-name", "a"),
        ("x-envoy-foo", "1"),
        ("x-envoy-original-dst-host", "1.1.1.1:1"),
        ("x-envoy-decorator-operation", "o"),
        ("x-envoy-downstream-service-cluster", "s"),
        ("x-forwarded-host", "z"),
        ("x-client-trace-id", "q"),
    )
    assert names(head) == [
        b"Host",
        b"x-envoy-foo",
        b"x-envoy-original-dst-host",
        b"x-envoy-decorator-operation",
        b"x-envoy-downstream-service-cluster",
        b"x-forwarded-host",
        b"x-client-trace-id",
    ]


def test_an_edge_drops_more() -> None:
    head = prepared(
        ("x-envoy-decorator-operation", "o"), ("x-envoy-downstream-service-node", "s"), use_remote_address=True
    )
    assert names(head) == [b"Host", b"x-forwarded-for", b"x-envoy-external-address"]


# --- where it comes from ----------------------------------------------------------------------------------------------


def test_inside_the_mesh_what_proxies_said_is_believed() -> None:
    head = prepared(("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https"))
    assert head.headers.get(b"x-forwarded-for") == b"10.0.0.1"
    assert head.headers.get(b"x-forwarded-proto") == b"https"
    assert head.scheme == b"https"


@pytest.mark.parametrize(("secure", "scheme"), [(False, b"http"), (True, b"https")])
def test_the_scheme_is_that_of_the_connection(secure: bool, scheme: bytes) -> None:
    head = prepared(client=AClient(secure=secure))
    assert head.headers.get(b"x-forwarded-proto") == head.scheme == scheme
    assert head.headers.get(b"x-forwarded-for") is None


def test_an_edge_adds_its_peer_and_believes_only_what_it_sees() -> None:
    head = prepared(("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-proto", "https"), use_remote_address=True)
    assert head.headers.get(b"x-forwarded-for") == b"1.1.1.1,2.2.2.2,10.9.9.9"
    assert head.headers.get(b"x-envoy-external-address") == b"10.9.9.9"
    assert head.headers.get(b"x-forwarded-proto") == b"http"


def test_an_edge_behind_a_trusted_proxy() -> None:
    head = prepared(
        ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
        ("x-forwarded-proto", "https"),
        use_remote_address=True,
        xff_num_trusted_hops=1,
    )
    assert head.headers.get(b"x-envoy-external-address") == b"2.2.2.2"
    assert head.headers.get(b"x-forwarded-proto") == b"https"
    few = prepared(use_remote_address=True, xff_num_trusted_hops=3, client=AClient(peer_address="[fe80::1]:1"))
    assert few.headers.get(b"x-envoy-external-address") == few.headers.get(b"x-forwarded-for") == b"fe80::1"


def test_a_request_without_host_gets_one() -> None:
    head = RequestHead(b"GET", b"/", b"", Headers(), 0)
    RequestHeaders(HttpConnectionManager(stat_prefix="s", route_config="r"), bits()).prepare(head, AClient())
    assert head.authority == head.headers.get(b"host") == b"10.0.0.1:20000"


# --- request id -------------------------------------------------------------------------------------------------------


def test_every_request_has_an_id() -> None:
    made = prepared().headers.get(b"x-request-id")
    assert made is not None
    assert UUID4.fullmatch(made)
    assert prepared(("X-Request-Id", "mine")).headers.get(b"x-request-id") == b"mine"
    assert prepared(generate_request_id=False).headers.get(b"x-request-id") is None


def test_an_edge_gives_its_own_id_unless_told_otherwise() -> None:
    anew = prepared(("X-Request-Id", "mine"), use_remote_address=True).headers.get(b"x-request-id")
    assert anew is not None
    assert UUID4.fullmatch(anew)
    kept = prepared(("X-Request-Id", "mine"), use_remote_address=True, preserve_external_request_id=True)
    assert kept.headers.get(b"x-request-id") == b"mine"


# --- trace context ----------------------------------------------------------------------------------------------------


def test_a_valid_trace_goes_on_with_its_state() -> None:
    head = prepared(("traceparent", PARENT.decode()), ("tracestate", "a=1"), ("tracestate", "b=2"))
    assert head.headers.get(b"traceparent") == PARENT
    assert head.headers.get(b"tracestate") == b"a=1, b=2"
    future = "01-" + PARENT.decode()[3:] + "-more"
    assert prepared(("traceparent", future)).headers.get(b"traceparent") == future.encode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00-zz-zz-01",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        PARENT.decode() + "-more",
        PARENT.decode() + ", " + PARENT.decode(),
        PARENT.decode()[:-1],
        "01" + PARENT.decode()[2:] + "x",
    ],
)
def test_an_invalid_trace_is_begun_anew_without_state(value: str) -> None:
    """W3C Trace Context 4.3."""
    head = prepared(("Traceparent", value), ("Tracestate", "a=1"))
    made = head.headers.get(b"traceparent")
    assert made is not None
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", made)
    assert made != PARENT
    assert head.headers.get(b"tracestate") is None
    assert [name for name, _ in head.headers.fields].count(b"traceparent") == 1


def test_two_requests_are_two_traces() -> None:
    source = bits()
    filters = RequestHeaders(HttpConnectionManager(stat_prefix="s", route_config="r"), source)
    seen = set()
    for _ in range(100):
        head = RequestHead(b"GET", b"/", b"a", Headers())
        filters.prepare(head, AClient())
        seen |= {head.headers.get(b"traceparent"), head.headers.get(b"x-request-id")}
    assert len(seen) == 200


# --- client certificates ----------------------------------------------------------------------------------------------

OWN = b"By=spiffe://td/b;Hash=ab;URI=spiffe://td/a"
CLAIMED = "By=x;URI=spiffe://td/admin"


@pytest.mark.parametrize(
    ("mode", "certificate", "expected"),
    [
        ("SANITIZE", OWN, None),
        ("FORWARD_ONLY", OWN, CLAIMED.encode()),
        ("APPEND_FORWARD", OWN, CLAIMED.encode() + b"," + OWN),
        ("SANITIZE_SET", OWN, OWN),
        ("ALWAYS_FORWARD_ONLY", OWN, CLAIMED.encode()),
        ("SANITIZE", b"", None),
        ("FORWARD_ONLY", b"", None),
        ("APPEND_FORWARD", b"", None),
        ("SANITIZE_SET", b"", None),
        ("ALWAYS_FORWARD_ONLY", b"", CLAIMED.encode()),
    ],
)
def test_what_is_said_of_the_client(mode: str, certificate: bytes, expected: bytes | None) -> None:
    client = AClient(secure=bool(certificate), certificate=certificate)
    head = prepared(("X-Forwarded-Client-Cert", CLAIMED), client=client, forward_client_cert=mode)
    assert head.headers.get(b"x-forwarded-client-cert") == expected
    alone = prepared(client=client, forward_client_cert=mode)
    adds = certificate and mode in ("APPEND_FORWARD", "SANITIZE_SET")
    assert alone.headers.get(b"x-forwarded-client-cert") == (OWN if adds else None)


def test_fields_that_come_again_are_looked_through_by_each_chain() -> None:
    """What one chain has found to be harmless is not so for another, nor is another head of the same connection."""
    manager = HttpConnectionManager(stat_prefix="s", route_config="r")
    inner, edge = RequestHeaders(manager, bits()), RequestHeaders(replace(manager, use_remote_address=True), bits())
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Envoy-Decorator-Operation: x\r\n\r\n"
    bad = raw.replace(b"Decorator-Operation", b"Retry-On")
    client = PlainRequests(8192, 100)
    for message, chain, kept in [(raw, inner, True), (raw, edge, False), (bad, inner, False), (bad, edge, False)] * 2:
        for _ in range(4):
            head = client.read(message)
            assert head is not None
            assert chain.prepare(head, AClient()) == ""
            assert any(name.startswith(b"x-envoy-d") for name in head.headers.index) == kept
            assert not any(name.startswith(b"x-envoy-r") for name in head.headers.index)
