"""%OPERATORS%, and the lines made of them."""

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from agent.codec.head import Headers, RequestHead, ResponseHead
from agent.filters.formats import constant_of, text_format, value_format
from agent.filters.subject import FormatError
from agent.model.listener import AccessLog
from controlplane.compiler.access_log import FIELDS
from tests.support.log_lines import line_of


def headers(**fields: str) -> Headers:
    made = Headers()
    for name, value in fields.items():
        made.append(name.replace("_", "-").encode(), value.encode())
    return made


def subject(**changes: Any) -> Any:
    """A request that was answered by a host."""
    response = ResponseHead(200, b"OK", headers(x_envoy_upstream_service_time="7", grpc_status="14"))
    values: dict[str, Any] = {
        "head": RequestHead(
            b"GET",
            b"/new?q=1&e=",
            b"a:80",
            headers(user_agent="curl", x_request_id="id-1", content_type="application/grpc"),
        ),
        "response": response,
        "status": 200,
        "flags": "",
        "details": "via_upstream",
        "received_bytes": 3,
        "sent_bytes": 5,
        "started": 1000.25,
        "request_done_at": 1000.5,
        "response_at": 1001.0,
        "ended": 1001.125,
        "attempts": 2,
        "tried": [SimpleNamespace(key="10.0.0.1:80")],
        "host": SimpleNamespace(key="10.0.0.2:80"),
        "match": SimpleNamespace(route=SimpleNamespace(name="r"), virtual_host=SimpleNamespace(name="v")),
        "choice": SimpleNamespace(cluster="c"),
        "carrier": SimpleNamespace(local_address="10.0.0.3:5000", peer="spiffe://td/b"),
        "transport_failure": "",
        "connection": SimpleNamespace(
            peer_address="10.9.9.9:4000", local_address="[::1]:15001", peer_uris=frozenset({"spiffe://td/a"})
        ),
        "chain": SimpleNamespace(trusted_hops=0, wall_offset_s=1_790_000_000.0, own_id="spiffe://td/own", node="n1"),
    }
    return SimpleNamespace(**{**values, **changes})


def unread(**changes: Any) -> Any:
    """What came was no request."""
    nothing = {"response": None, "status": 400, "details": "", "match": None, "choice": None, "host": None}
    empty = {"carrier": None, "attempts": 0, "tried": [], "response_at": 0.0, "request_done_at": 0.0}
    return subject(head=RequestHead(b"", b"", b"", Headers()), **{**nothing, **empty, **changes})


@pytest.mark.parametrize(
    ("text", "expected", "without"),
    [
        ("%REQ(:METHOD)%", "GET", None),
        ("%REQ(:AUTHORITY)%", "a:80", None),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/new?q=1&e=", None),
        ("%REQ(User-Agent)%", "curl", None),
        ("%REQ(x-none?user-agent)%", "curl", None),
        ("%REQ(USER-AGENT):2%", "cu", None),
        ("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "7", None),
        ("%RESP(none?grpc-status)%", "14", None),
        ("%QUERY_PARAM(q)%", "1", None),
        ("%QUERY_PARAM(e)%", "", None),
        ("%GRPC_STATUS%", "Unavailable", None),
        ("%GRPC_STATUS(NUMBER)%", 14, None),
        ("%GRPC_STATUS(SNAKE_STRING)%", "UNAVAILABLE", None),
        ("%START_TIME%", "2026-09-21T14:30:00.250Z", "2026-09-21T14:30:00.250Z"),
        ("%START_TIME(%Y/%m/%d %H:%M:%S.%3f %s)%", "2026/09/21 14:30:00.250 1790001000", None),
        ("%DURATION%", 875, 875),
        ("%REQUEST_DURATION%", 250, None),
        ("%RESPONSE_DURATION%", 750, None),
        ("%RESPONSE_TX_DURATION%", 125, None),
        ("%BYTES_RECEIVED%", 3, 3),
        ("%BYTES_SENT%", 5, 5),
        ("%PROTOCOL%", "HTTP/1.1", "HTTP/1.1"),
        ("%RESPONSE_CODE%", 200, 400),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream", None),
        ("%RESPONSE_FLAGS%", "-", "-"),
        ("%ROUTE_NAME%", "r", None),
        ("%VIRTUAL_HOST_NAME%", "v", None),
        ("%UPSTREAM_CLUSTER%", "c", None),
        ("%UPSTREAM_HOST%", "10.0.0.2:80", None),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.2", None),
        ("%UPSTREAM_HOSTS_ATTEMPTED%", "10.0.0.1:80,10.0.0.2:80", None),
        ("%UPSTREAM_LOCAL_ADDRESS%", "10.0.0.3:5000", None),
        ("%UPSTREAM_PEER_URI_SAN%", "spiffe://td/b", None),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", 2, 0),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", None, None),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.9.9.9:4000", "10.9.9.9:4000"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.9.9.9", "10.9.9.9"),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.9.9.9:4000", "10.9.9.9:4000"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "[::1]:15001", "[::1]:15001"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "::1", "::1"),
        ("%DOWNSTREAM_LOCAL_PORT%", 15001, 15001),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://td/a", "spiffe://td/a"),
        ("%DOWNSTREAM_LOCAL_URI_SAN%", "spiffe://td/own", "spiffe://td/own"),
        ("%STREAM_ID%", "id-1", None),
        ("%TRACE_ID%", None, None),
        ("%HOSTNAME%", "n1", "n1"),
        ("%REQUESTED_SERVER_NAME%", None, None),
        ("%CONNECTION_TERMINATION_DETAILS%", None, None),
        ("%ACCESS_LOG_TYPE%", "DownstreamEnd", "DownstreamEnd"),
        ("%TRAILER(x)%", None, None),
        ("%DYNAMIC_METADATA(a:b)%", None, None),
        ("%FILTER_STATE(a)%", None, None),
        ("%EMIT_TIME(%s)%", "1790001001", "1790001001"),
        ("%GRPC_STATUS_NUMBER%", 14, None),
        ("%PATH%", "/new?q=1&e=", None),
        ("%PATH(NQ)%", "/new", None),
        ("%PATH(NQ:PATH)%", "/new", None),
        ("%PATH(WQ:ORIG)%", None, None),
        ("%QUERY_PARAMS%", "q=1&e=", None),
        ("%REQUEST_TX_DURATION%", 250, None),
        ("%ROUNDTRIP_DURATION%", None, None),
        ("%RESPONSE_FLAGS_LONG%", "-", "-"),
        ("%SPAN_ID%", None, None),
        ("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "10.0.0.3", None),
        ("%UPSTREAM_LOCAL_PORT%", 5000, None),
        ("%UPSTREAM_PROTOCOL%", "HTTP/1.1", None),
        ("%UPSTREAM_REMOTE_PORT%", 80, None),
        ("%DOWNSTREAM_REMOTE_PORT%", 4000, 4000),
        ("%DOWNSTREAM_DIRECT_LOCAL_PORT%", 15001, 15001),
        ("%VIRTUAL_CLUSTER_NAME%", None, None),
        ("100%% of %REQ(X-NONE)%!", "100% of -!", "100% of -!"),
    ],
)
def test_operators(text: str, expected: object, without: object) -> None:
    """Of a request that a host has answered, and of one that could not be read."""
    if text.startswith("%START_TIME("):
        without = expected
    assert value_format(text)(subject()) == expected
    assert value_format(text)(unread()) == without


def test_every_flag_has_its_long_name() -> None:
    assert value_format("%RESPONSE_FLAGS_LONG%")(subject(flags="UF,URX")) == (
        "UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
    )


def test_text_has_a_dash_for_what_is_missing() -> None:
    assert text_format('"%REQ(X-NONE)%" %BYTES_SENT%')(subject()) == '"-" 5'
    assert text_format("%REQ(X-NONE)%", "")(subject()) == ""
    assert text_format("%BYTES_SENT%")(subject()) == "5"
    assert constant_of("100%%") == "100%"
    assert constant_of("%DURATION%") is None


def test_the_believed_address_is_that_of_the_forwarding_chain() -> None:
    head = RequestHead(b"GET", b"/", b"a", headers(x_forwarded_for="1.1.1.1, 2.2.2.2"))
    address = value_format("%DOWNSTREAM_REMOTE_ADDRESS%")
    assert address(subject(head=head)) == "2.2.2.2:0"
    chain = SimpleNamespace(trusted_hops=1)
    assert address(subject(head=head, chain=chain)) == "1.1.1.1:0"
    assert address(subject(head=head, chain=SimpleNamespace(trusted_hops=2))) == "10.9.9.9:4000"
    assert address(subject(head=head, chain=SimpleNamespace(trusted_hops=-1))) == "10.9.9.9:4000"
    head.headers.set(b"x-forwarded-for", b"fe80::1")
    assert address(subject(head=head)) == "[fe80::1]:0"


@pytest.mark.parametrize(
    "text",
    [
        "%NOBODY%",
        "%DURATION(x)%",
        "50%",
        "%REQ()%",
        "%REQ(a?)%",
        "%REQ%",
        "%GRPC_STATUS(X)%",
        "%lower%",
        "%REQ(a%",
        "%PATH(X)%",
        "%PATH(WQ:X)%",
    ],
)
def test_a_format_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="found"):
        text_format(text)


def test_a_json_line_keeps_types_and_order() -> None:
    config = AccessLog(path="f", json_fields=(("z", "%RESPONSE_CODE%"), ("a", "%REQ(X-NONE)%"), ("m", "é%BYTES_SENT%")))
    assert line_of(config)(subject()) == '{"z":200,"a":null,"m":"é5"}\n'.encode()


def test_bytes_that_are_no_text_stay_in_text_and_are_latin_1_in_json() -> None:
    head = RequestHead(b"GET", b"/", b"a", headers())
    head.headers.append(b"x", b'\xc3\xa9caf\xe9\t"')
    json_line = line_of(AccessLog(path="f", json_fields=(("x", "%REQ(X)%"), ("y", "<%REQ(X):2%>"))))
    assert orjson.loads(json_line(subject(head=head))) == {"x": 'Ã©café\t"', "y": "<é>"}
    assert line_of(AccessLog(path="f", text_format="%REQ(X)%!"))(subject(head=head)) == b'\xc3\xa9caf\xe9\t"!'
    assert text_format("%REQ(X):1%")(subject(head=head)).encode("utf-8", "surrogateescape") == b"\xc3"


def test_of_repeated_fields_the_first_counts_but_known_ones_are_joined() -> None:
    head = RequestHead(b"GET", b"/", b"a", headers())
    for name, value in ((b"X", b"1, 2"), (b"x", b"3"), (b"Accept", b"a"), (b"accept", b"b"), (b"y", b"4, 5")):
        head.headers.append(name, value)
    config = AccessLog(path="f", json_fields=tuple((name, f"%REQ({name})%") for name in ("x", "accept", "y")))
    assert orjson.loads(line_of(config)(subject(head=head))) == {"x": "1, 2", "accept": "a,b", "y": "4, 5"}
    answer = ResponseHead(200, b"", headers())
    for name in (b"vary", b"accept"):
        answer.headers.append(name, b"1")
        answer.headers.append(name, b"2")
    told = AccessLog(path="f", json_fields=(("vary", "%RESP(vary)%"), ("accept", "%RESP(accept)%")))
    assert orjson.loads(line_of(told)(subject(response=answer))) == {"vary": "1,2", "accept": "1"}


def test_the_fields_of_our_compiler() -> None:
    """Every operator that the control plane uses is known; every key is there, of a request that failed too."""
    line = line_of(AccessLog(path="f", json_fields=tuple(FIELDS.items())))
    assert orjson.loads(line(subject())).keys() == FIELDS.keys()
    assert orjson.loads(line(unread())).keys() == FIELDS.keys()


def test_the_default_line_is_envoys() -> None:
    line = line_of(AccessLog(path="f"))(subject()).decode()
    assert line == (
        '[2026-09-21T14:30:00.250Z] "GET /new?q=1&e= HTTP/1.1" 200 - 3 5 875 7 "-" "curl" "id-1" "a:80" "10.0.0.2:80"\n'
    )
