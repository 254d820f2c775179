"""What is a request: well-formed and malformed heads and bodies, and how they go on to the origin."""

import pytest

from tests.differential.case import Case, Do, answer, get, post, raw_answer
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, World
from tests.support import decoding
from tests.support.malformed import REFUSED

OPEN = decoding.host(decoding.route({"cluster": "origin"}, name="all"))
WORLD = World(
    routes={"r": decoding.configuration(OPEN)},
    clusters=(ORIGIN,),
    listeners={"http": {}, "old": {"http_protocol_options": {"accept_http_10": True}}},
)

CHUNKED = b"Transfer-Encoding: chunked"


def chunked(body: bytes, *fields: bytes, path: bytes = b"/") -> bytes:
    """A request in chunks; `body` is what follows the head."""
    return get(path, CHUNKED, *fields, method=b"POST") + body


_MALFORMED_DIFFERS = {
    "TE folded": "obs-fold", "folded field": "obs-fold", "bare LF": "bare-lf", "bare CR in value": "bare-cr",
    "two hosts": "two-hosts", "two equal hosts": "two-hosts", "empty host": "empty-host",
    "host with userinfo": "authority-form", "host with long port": "authority-form",
    "absolute form with userinfo": "authority-form", "chunk longer than its size": "chunk-overrun",
    "chunk 0x2": "chunk-before-forwarding", "chunk -1": "chunk-before-forwarding",
    "chunk overflow": "chunk-before-forwarding", "chunk LF only": "chunk-before-forwarding",
    "HTTP/0.9 line": "http-versions", "HTTP/0.9": "http-versions", "HTTP/1.2": "http-versions",
    "HTTP/2.0": "http-versions", "TE on HTTP/1.0": "http-10-chunked", "CONNECT": "connect",
}  # fmt: skip
_FORMS = {
    "CL 02": post(b"/", b"ab").replace(b": 2", b": 02"),
    "chunks": chunked(b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
    "chunks, other case": chunked(b"2\r\nab\r\n0\r\n\r\n").replace(b"chunked", b"cHuNkEd"),
    "chunks with extension": chunked(b"2;x=y\r\nab\r\n0;z\r\n\r\n"),
    "chunk size with zeros": chunked(b"0002\r\nab\r\n000\r\n\r\n"),
    "chunk size in capitals": chunked(b"A\r\n0123456789\r\n0\r\n\r\n"),
    "no chunk but the last": chunked(b"0\r\n\r\n"),
    "trailers": chunked(b"2\r\nab\r\n0\r\nX-T: 1\r\n\r\n"),
    "latin-1 value": get(b"/", b"X-A: caf\xe9"),
    "underscore": get(b"/", b"X_A: b"),
    "tabs around a value": get(b"/", b"X-A:\t b \t"),
    "tab in a value": get(b"/", b"X-A: a\tb"),
    "empty value": get(b"/", b"X-A:"),
    "absolute form": get(b"http://b.com/x?y"),
    "absolute form of https": get(b"https://b.com/x"),
    "absolute form, no path": get(b"http://b.com"),
    "absolute form, query only": get(b"http://b.com?x"),
    "dots": get(b"/a/../b"),
    "escaped dots": get(b"/a/%2e%2e/b"),
    "NUL escaped": get(b"/a%00"),
    "backslash": get(b"/a\\..\\b"),
    "many slashes": get(b"//a///b"),
    "TRACE": get(method=b"TRACE"),
    "OPTIONS": get(method=b"OPTIONS"),
    "PUT": post(b"/", b"x").replace(b"POST", b"PUT"),
    "PATCH": post(b"/", b"x").replace(b"POST", b"PATCH"),
    "DELETE": get(method=b"DELETE"),
    "DELETE with a body": post(b"/", b"x").replace(b"POST", b"DELETE"),
    "PROPFIND": get(method=b"PROPFIND"),
    "HEAD": get(method=b"HEAD"),
    "empty line first": b"\r\n" + get(),
    "GET with a body": post(b"/", b"ab").replace(b"POST", b"GET"),
    "POST of nothing": post(b"/", b""),
    "POST without length": get(method=b"POST"),
    "hop by hop": get(b"/", b"Connection: x-hop, keep-alive", b"X-Hop: 1", b"Keep-Alive: 5", b"Proxy-Connection: x"),
    "te: trailers": get(b"/", b"TE: trailers"),
    "te: other": get(b"/", b"TE: gzip"),
    "te nominated": get(b"/", b"Connection: te", b"TE: trailers"),
    "te nominated, two values": get(b"/", b"Connection: te", b"TE: trailers, gzip"),
    "trailer field": get(b"/", b"Trailer: x"),
    "proxy-authorization": get(b"/", b"Proxy-Authorization: Basic x"),
    "length nominated": post(b"/", b"ab", b"Connection: content-length"),
    "host nominated": get(b"/", b"Connection: host"),
    "forwarded-for nominated": get(b"/", b"Connection: x-forwarded-for", b"X-Forwarded-For: 1.1.1.1"),
    "forwarded-proto nominated": get(b"/", b"Connection: x-forwarded-proto"),
    "ten nominated": get(b"/", b"Connection: a,b,c,d,e,f,g,h,i,j"),
    "nine nominated": get(b"/", b"Connection: a,b,c,d,e,f,g,h,i", b"A: 1", b"I: 2", b"J: 3"),
    "connection twice": get(b"/", b"Connection: x-a", b"Connection: x-b", b"X-A: 1", b"X-B: 2"),
    "connection: close": get(b"/", b"Connection: close"),
    "connection: Close": get(b"/", b"Connection: Close"),
    "connection: keep-alive": get(b"/", b"Connection: keep-alive"),
    "proxy-connection: close": get(b"/", b"Proxy-Connection: close"),
    "cookies": get(b"/", b"Cookie: a=1", b"Cookie: b=2"),
    "same name twice": get(b"/", b"X-A: 1", b"X-B: 2", b"X-A: 3"),
    "referer": get(b"/", b"Referer: http://x/y?z"),
    "referer, no URL": get(b"/", b"Referer: nonsense"),
    "referer with fragment": get(b"/", b"Referer: http://x/y#z"),
    "user agent": get(b"/", b"User-Agent: curl/8"),
    "h2c": get(b"/", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAA"),
    "upgrade not allowed": get(b"/", b"Connection: Upgrade", b"Upgrade: websocket"),
    "upgrade without connection": get(b"/", b"Upgrade: websocket"),
    "empty host": get().replace(b"Host: a", b"Host:"),
    "host with port": get(host=b"a:99"),
    "host with large port": get(host=b"a:99999"),
    "host in capitals": get(host=b"A.Com"),
    "IPv6 host": get(host=b"[::1]:80"),
    "host with underscore": get(host=b"a_b"),
    "host with escape": get(host=b"a%20b"),
    "QUERY": get(method=b"QUERY"),
    "QUERY without a route": get(b"/none", host=b"none", method=b"QUERY"),
    "QUERY with a type": post(b"/", b"x", b"Content-Type: text/plain").replace(b"POST", b"QUERY"),
    "MKCOL": get(method=b"MKCOL"),
    "path of one dot": get(b"/."),
    "query with odd characters": get(b'/?a=[]{}|^`"<>'),
    "path with odd characters": get(b'/a=[]{}|^`"<>'),
    "star": get(b"*", method=b"OPTIONS"),
    "star of GET": get(b"*"),
    "long path": get(b"/" + b"x" * 8000),
    "100 fields": get(b"/", *(b"x-%d: y" % number for number in range(99))),
    "big fields": get(b"/", *(b"x-%d: %b" % (number, b"y" * 2000) for number in range(20))),
}
_FORMS_DIFFER = {
    "CL 02": "content-length-form", "absolute form, query only": "absolute-form-query",
    "host nominated": "host-nominated", "referer with fragment": "referer",
    "empty host": "empty-host", "forwarded-for nominated": "refusals-name-the-request",
    "forwarded-proto nominated": "refusals-name-the-request", "ten nominated": "refusals-name-the-request",
    "expect, body at once": "continue-when-needed", "expect without body": "continue-when-needed",
    "HTTP/1.0": "http-10", "HTTP/1.0 keep-alive": "http-10",
}  # fmt: skip
_FORMS["HTTP/1.0"] = get().replace(b"1.1", b"1.0")
_FORMS["HTTP/1.0 keep-alive"] = get(b"/", b"Connection: keep-alive").replace(b"1.1", b"1.0")
_CONTINUE = {
    "expect": (post(b"/", b"", b"Expect: 100-continue").replace(b": 0", b": 2"), Do.AWAIT, b"ab"),
    "expect, body at once": (post(b"/", b"ab", b"Expect: 100-continue"),),
    "expect in capitals": (post(b"/", b"", b"Expect: 100-CONTINUE").replace(b": 0", b": 2"), 0.1, b"ab"),
    "expect without body": (get(b"/", b"Expect: 100-continue"),),
    "expect something else": (post(b"/", b"ab", b"Expect: 200-ok"),),
}
_PIECES = {
    "head in two": (get()[:20], 0.02, get()[20:]),
    "head byte by byte": tuple(get()[place : place + 1] for place in range(len(get()))),
    "body later": (post(b"/", b"")[:-4].replace(b": 0", b": 4") + b"\r\n\r\n", 0.02, b"ab", 0.02, b"cd"),
    "chunks later": (chunked(b""), 0.02, b"2\r\nab", 0.02, b"\r\n3\r\n", 0.02, b"cde\r\n0\r", 0.02, b"\n\r\n"),
}

CASES = [
    *(
        Case(name=f"refused: {name}", send=(request,), differs=_MALFORMED_DIFFERS.get(name, ""))
        for name, (request, _) in REFUSED.items()
        if name not in ("TLS hello", "HTTP/2 preface")  # answered as HTTP/2 or not at all
    ),
    *(Case(name=name, send=(request,), differs=_FORMS_DIFFER.get(name, "")) for name, request in _FORMS.items()),
    *(
        Case(name=name, send=steps, differs=_FORMS_DIFFER.get(name, ""))
        for name, steps in {**_CONTINUE, **_PIECES}.items()
    ),
    Case(name="pipelined", send=(get(b"/1") + get(b"/2") + get(b"/3"),), answers=3, logs=3),
    Case(
        name="pipelined, first is slow",
        send=(get(b"/1") + post(b"/2") + get(b"/3"),),
        origin=((0.1, *answer(body=b"1")), answer(body=b"2")),
        answers=3,
        logs=3,
    ),
    Case(name="pipelined behind close", send=(get(b"/1", b"Connection: close") + get(b"/2"),)),
    Case(
        name="pipelined, second malformed",
        send=(get(b"/1") + b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n",),
        answers=2,
        logs=2,
    ),
    Case(name="one after the other", send=(get(b"/1"), Do.AWAIT, get(b"/2")), answers=2, logs=2),
    Case(name="half closed", send=(get(), 0.05, Do.HALF_CLOSE), origin=((0.1, *answer()),), answers=0),
]


def _old(request: bytes) -> bytes:
    return request.replace(b"HTTP/1.1", b"HTTP/1.0")


_ENDLESS = raw_answer(b"HTTP/1.1 200 OK", body=b"to the end")
_CHUNKED_ANSWER = raw_answer(b"HTTP/1.1 200 OK", CHUNKED, body=b"2\r\nab\r\n0\r\n\r\n")
CASES += [
    Case(name="1.0", send=(_old(get()),), listener="old", differs="http-10-answers"),
    Case(
        name="1.0 keep-alive",
        send=(_old(get(b"/", b"Connection: keep-alive")),),
        listener="old",
        differs="http-10-answers",
    ),
    Case(name="1.0 close", send=(_old(get(b"/", b"Connection: close")),), listener="old", differs="http-10-answers"),
    Case(name="1.0 post", send=(_old(post()),), listener="old", differs="http-10-answers"),
    Case(name="1.0 HEAD", send=(_old(get(method=b"HEAD")),), listener="old", differs="http-10-answers"),
    Case(
        name="1.0, answer in chunks",
        send=(_old(get()),),
        origin=(_CHUNKED_ANSWER,),
        listener="old",
        differs="http-10-answers",
    ),
    Case(
        name="1.0 keep-alive, answer in chunks",
        send=(_old(get(b"/", b"Connection: keep-alive")),),
        origin=(_CHUNKED_ANSWER,),
        listener="old",
        differs="http-10-answers",
    ),
    Case(
        name="1.0, endless answer", send=(_old(get()),), origin=(_ENDLESS,), listener="old", differs="http-10-answers"
    ),
    Case(
        name="1.0, expects",
        send=(_old(post(b"/", b"ab", b"Expect: 100-continue")),),
        listener="old",
        differs="http-10-expect",
    ),
    Case(name="1.0 without host", send=(b"GET / HTTP/1.0\r\n\r\n",), listener="old", differs="http-10-host"),
    Case(name="1.0 absolute form", send=(_old(get(b"http://b.com/x")),), listener="old", differs="http-10-answers"),
    Case(name="1.0 in chunks", send=(_old(chunked(b"0\r\n\r\n")),), listener="old", differs="http-10-chunked"),
    Case(name="1.0 twice", send=(_old(get(b"/1") + get(b"/2")),), listener="old", differs="http-10-answers"),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same(case: Case, check: Check) -> None:
    check(case)
