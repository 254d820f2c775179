"""What is no request is refused by the connection, and no origin ever sees it. Source: data-plane.md 2.1."""

from pathlib import Path

import pytest

from tests.support.malformed import REFUSED, get, post
from tests.support.proxying import cluster, forward, http_proxy, masked, raw_origin, route, virtual_host

# Beside what the parser refuses: what the connection manager does.
HEADS = {
    "asterisk": (get(line=b"OPTIONS * HTTP/1.1\r\n"), 404),
    "encoded NUL": (get(line=b"GET /ok%00 HTTP/1.1\r\n"), 400),
    "backslash": (get(line=b"GET /ok\\..\\x HTTP/1.1\r\n"), 400),
    "ten nominated fields": (get(b"Host: a\r\nConnection: a,b,c,d,e,f,g,h,i,j\r\n"), 400),
    "x-forwarded-for nominated": (get(b"Host: a\r\nConnection: x-forwarded-for\r\n"), 400),
    "pseudo header nominated": (get(b"Host: a\r\nConnection: :path\r\n"), 400),
    "out of the route by dots": (get(line=b"GET /ok/../x HTTP/1.1\r\n"), 404),
    "out of the route by encoded dots": (get(line=b"GET /ok/%2e%2e/x HTTP/1.1\r\n"), 404),
    "upgrade to what nobody serves": (get(b"Host: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n"), 403),
    "smuggled behind a length": (
        post(b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", get(line=b"GET /ok/2 HTTP/1.1\r\n")),
        400,
    ),
    "smuggled behind a bad coding": (post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + get()), 501),
}
# Well-formed, so the connection may go on.
KEPT = {name for name in HEADS if "dots" in name} | {"asterisk", "encoded NUL", "backslash"}
ALL = REFUSED | HEADS
ROUTES = virtual_host(route("/ok", forward("ok")))


def test_there_are_enough() -> None:
    assert len(ALL) >= 60


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", ALL)
async def test_refused_before_any_origin(tmp_path: Path, name: str, step: int) -> None:
    raw, status = ALL[name]
    size = len(raw) // 50 + 1 if step else len(raw)
    async with raw_origin() as origin, http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy:
        client = await proxy.client()
        for start in range(0, len(raw), size):
            client.writer.write(raw[start : start + size])
            await client.writer.drain()
        answer = await client.until(b"\r\n\r\n") if name in KEPT else await client.rest()
        client.writer.close()
        (line,) = await proxy.logged(1)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert answer.count(b"HTTP/1.1") == 1
    assert line["code"] == status
    assert origin.seen == []
    if not step:
        assert origin.raw == b""


async def test_a_refusal_says_what_envoy_says(tmp_path: Path) -> None:
    async with raw_origin() as origin, http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy:
        bad = await proxy.say(REFUSED["CL and TE"][0])
        no_host = await proxy.say(REFUSED["no host"][0])
        large = await proxy.say(REFUSED["101 fields"][0])
        lines = await proxy.logged(3)
    assert sorted(masked(bad)) == sorted(
        [
            b"HTTP/1.1 400 Bad Request",
            b"content-length: 11",
            b"content-type: text/plain",
            b"server: envoy",
            b"connection: close",
            b"Bad Request",
        ]
    )
    assert sorted(masked(no_host)) == sorted(
        [b"HTTP/1.1 400 Bad Request", b"content-length: 0", b"server: envoy", b"connection: close", b""]
    )
    assert masked(large)[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert [(line["flags"], line["details"], line["protocol"]) for line in lines] == [
        ("DPE", "http1.content_length_and_chunked_not_allowed", "HTTP/1.1"),
        ("-", "missing_host_header", "HTTP/1.1"),
        ("DPE", "http1.too_many_headers", "HTTP/1.1"),
    ]


async def test_a_good_request_before_a_bad_one_is_answered_first(tmp_path: Path) -> None:
    """As Envoy does. The bad one ends the connection; what it carries is never taken for a request."""
    async with raw_origin() as origin, http_proxy(tmp_path, ROUTES, [cluster("ok", origin.port)]) as proxy:
        answer = await proxy.say(get() + REFUSED["CL and TE"][0])
    assert len(origin.seen) == 1
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]
