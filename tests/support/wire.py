"""What clients can put on the wire, and what has to come of it. Source: RFC 9112; data-plane.md 2.1 and 2.2.

A Case says which requests the origin sees, in order, with which bodies, and which answers the client gets. REFUSED: the
origin sees nothing of it. SERVED: it may look odd, but has one meaning.
"""

import random
from dataclasses import dataclass

from tests.support import malformed
from tests.support.malformed import get, post
from tests.support.smuggling import AMBIGUOUS

OPEN, CLOSED, WAITS = "open", "closed", "waits"
Seen = tuple[bytes, bytes, bytes, bytes]  # method, path, Host, body


@dataclass(frozen=True, kw_only=True)
class Case:
    """`then`: what is left of the connection: OPEN serves the next request, CLOSED, or WAITS for the rest of one.

    `early`: the first request is answered before its body; unless that is there already, the connection ends with it.
    """

    raw: bytes
    seen: tuple[Seen, ...] = ()
    statuses: tuple[int, ...] = ()
    then: str = OPEN
    early: bool = False

    @property
    def methods(self) -> list[bytes]:
        """Of the request that each final answer is for; what the origin has not seen counts as a GET."""
        seen = iter(self.seen)
        return [next(seen)[0] if status == 200 else b"GET" for status in self.statuses if status >= 200]


CHUNKED = b"Transfer-Encoding: chunked\r\n"
BEHIND = b"GET /ok/behind HTTP/1.1\r\nHost: b\r\n\r\n"
AFTER: Seen = (b"GET", b"/ok/behind", b"b", b"")
BODY = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"
_GET: Seen = (b"GET", b"/ok", b"a", b"")


def _posted(body: bytes) -> Seen:
    return (b"POST", b"/ok", b"a", body)


def _one(raw: bytes, seen: Seen = _GET, then: str = OPEN) -> Case:
    """One request, then another behind it unless the connection ends."""
    if then == OPEN:
        return Case(raw=raw + BEHIND, seen=(seen, AFTER), statuses=(200, 200))
    return Case(raw=raw, seen=(seen,), statuses=(200,), then=then)


def _target(target: bytes, path: bytes, host: bytes = b"a") -> Case:
    return _one(get(line=b"GET " + target + b" HTTP/1.1\r\n"), (b"GET", path, host, b""))


def _framed() -> dict[str, Case]:
    """Bodies: however they are framed, what stands in them is no request."""
    size = b"%x\r\n" % len(BODY)
    chunks = {
        "one chunk": size + BODY + b"\r\n0\r\n\r\n",
        "chunks of one byte": b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        "a size with zeros before it": b"00000" + size + BODY + b"\r\n000\r\n\r\n",
        "a size in capitals": size.upper() + BODY + b"\r\n0\r\n\r\n",
        "extensions": b'%x;a=b;c="d;e"\r\n' % len(BODY) + BODY + b"\r\n0;last\r\n\r\n",
        "trailers": size + BODY + b"\r\n0\r\nX-T: 1\r\nHost: evil\r\nContent-Type: a\r\n\r\n",
    }
    found = {f"chunked, {name}": _one(post(CHUNKED, raw), _posted(BODY)) for name, raw in chunks.items()}
    found |= {
        f"coding {coding!r}": _one(post(b"Transfer-Encoding:" + coding + b"\r\n", b"0\r\n\r\n"), _posted(b""))
        for coding in (b"chunked", b" CHUNKED ", b"\tchunked", b"   cHuNkEd  ")
    }
    found |= {
        f"length {value!r}": _one(post(b"Content-Length:" + value % len(BODY) + b"\r\n", BODY), _posted(BODY))
        for value in (b"%d", b" %d", b"\t %d \t", b"00%d", b"0000000000%d")
    }
    found |= {
        f"{method.decode()} with a body": _one(
            b"%b /ok HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (method, len(BODY)) + BODY,
            (method, b"/ok", b"a", BODY),
        )
        for method in (b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD", b"TRACE", b"PROPFIND", b"REPORT")
    }
    return found


def _named() -> dict[str, Case]:
    """Fields that look like framing and are none, and fields that Connection takes out."""
    length = b"Content-Length: 38\r\n"
    assert len(BODY) == 38
    fields = {
        "an underscore in the length": b"Content_Length: 5\r\n",
        "an underscore in the coding": b"Transfer_Encoding: chunked\r\n",
        "a prefix": b"X-Content-Length: 5\r\nX-Transfer-Encoding: chunked\r\n",
        "a suffix": b"Content-Lengths: 5\r\nTransfer-Encodings: chunked\r\n",
        "a length within a value": b"X: y, Content-Length: 5\r\n",
        "a coding within a cookie": b"Cookie: a=Transfer-Encoding: chunked\r\n",
        "TE": b"TE: chunked, trailers\r\n",
        "TE for this connection": b"TE: trailers\r\nConnection: TE\r\n",
        "keep-alive of old": b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n",
        "the method in a field": b"X-HTTP-Method-Override: DELETE\r\n",
        "a path in a field": b"X-Original-URL: /smuggled\r\nX-Rewrite-URL: /smuggled\r\n",
        "Host nominated": b"Connection: host\r\n",
        "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "no value": b"X:\r\nY: \r\nZ:\t\r\n",
        "bytes above 127": b"X: caf\xc3\xa9 \xff\r\n",
        "a trailer announced": b"Trailer: Content-Length\r\n",
        "Upgrade without Connection": b"Upgrade: h2c\r\n",
    }
    found = {f"named: {name}": _one(get(b"Host: a\r\n" + lines)) for name, lines in fields.items()}
    found |= {
        "length nominated": _one(post(b"Connection: content-length\r\n" + length, BODY), _posted(BODY)),
        "coding nominated": _one(post(b"Connection: Transfer-Encoding\r\n" + CHUNKED, b"0\r\n\r\n"), _posted(b"")),
        "length nominated, no body": _one(post(b"Connection: Content-Length\r\nContent-Length: 0\r\n"), _posted(b"")),
        "h2c with a body": _one(post(b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + length, BODY), _posted(BODY)),
        "h2c with chunks": _one(
            post(b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + CHUNKED, b"2\r\nab\r\n0\r\n\r\n"), _posted(b"ab")
        ),
        "websocket with a body": _one(
            post(b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + length, BODY), _posted(BODY)
        ),
        "expects and has not sent": Case(raw=post(b"Expect: 100-continue\r\n" + length), statuses=(100,), then=WAITS),
        "expects and has sent": _one(post(b"Expect: 100-continue\r\n" + length, BODY), _posted(BODY)),
        "expects something else": _one(post(b"Expect: the-worst\r\n" + length, BODY), _posted(BODY)),
    }
    return found


def _targets() -> dict[str, Case]:
    """One spelling goes up, and it is the one that was logged."""
    return {
        "absolute form": _target(b"http://b/ok/1?x", b"/ok/1?x", b"b"),
        "absolute form, other scheme": _target(b"HTTPS://b:1/ok", b"/ok", b"b:1"),
        "a target in the query": _target(b"/ok?http://b/smuggled", b"/ok?http://b/smuggled"),
        "line ends in the target": _target(b"/ok%0d%0aHost:%20evil", b"/ok%0d%0aHost:%20evil"),
        "encoded slash": _target(b"/ok/..%2fsmuggled", b"/ok/..%2fsmuggled"),
        "dots": _target(b"/x/../ok/./1", b"/ok/1"),
        "encoded dots": _target(b"/x/%2e%2E/ok", b"/ok"),
        "two slashes": _target(b"/ok//smuggled", b"/ok//smuggled"),
        "two slashes first": Case(raw=get(line=b"GET //ok HTTP/1.1\r\n") + BEHIND, seen=(AFTER,), statuses=(404, 200)),
        "needless encoding": _target(b"/%6fk", b"/ok"),
        "a question mark only": _target(b"/ok?", b"/ok?"),
        "an encoded question mark": _target(b"/ok%3fx", b"/ok%3fx"),
        "IPv6 host": _one(get(b"Host: [::1]:80\r\n"), (b"GET", b"/ok", b"[::1]:80", b"")),
    }


def _sequences() -> dict[str, Case]:
    """Pipelines, and where they end."""
    closes = get(b"Host: a\r\nConnection: close\r\n")
    old = b"POST /ok HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n%b\r\nab"
    mixed = post(b"Content-Length: 3\r\n", b"abc") + get() + post(CHUNKED, b"1\r\nx\r\n0\r\n\r\n") + get()
    found = {
        f"{count} pipelined": Case(raw=get() * count, seen=(_GET,) * count, statuses=(200,) * count)
        for count in (2, 3, 10, 50)
    }
    found |= {
        "pipelined with bodies": Case(
            raw=mixed * 3, seen=(_posted(b"abc"), _GET, _posted(b"x"), _GET) * 3, statuses=(200,) * 12
        ),
        "line ends between": Case(raw=(b"\r\n" + get()) * 3, seen=(_GET,) * 3, statuses=(200,) * 3),
        "behind the last": Case(raw=closes + BEHIND, seen=(_GET,), statuses=(200,), then=CLOSED),
        "behind the last, with a body": Case(
            raw=post(b"Connection: close\r\nContent-Length: 1\r\n", b"x") + BEHIND,
            seen=(_posted(b"x"),), statuses=(200,), then=CLOSED,
        ),
        "the last with chunks": Case(
            raw=post(b"Connection: close\r\n" + CHUNKED, b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n") + BEHIND,
            seen=(_posted(b"ab"),), statuses=(200,), then=CLOSED,
        ),
        "junk behind the last": Case(raw=closes + b"\x00\r\njunk", seen=(_GET,), statuses=(200,), then=CLOSED),
        "HTTP/1.0": Case(raw=old % b"" + BEHIND, seen=(_posted(b"ab"),), statuses=(200,), then=CLOSED),
        "HTTP/1.0 kept alive": _one(old % b"Connection: keep-alive\r\n", _posted(b"ab")),
        "a refused upgrade": Case(
            raw=get(b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n") + BEHIND, statuses=(403,), then=CLOSED
        ),
        "HEAD among others": Case(
            raw=b"HEAD /ok HTTP/1.1\r\nHost: a\r\n\r\n" + BEHIND,
            seen=((b"HEAD", b"/ok", b"a", b""), AFTER), statuses=(200, 200),
        ),
        "no route among others": Case(
            raw=get() + get(line=b"GET /x HTTP/1.1\r\n") + BEHIND, seen=(_GET, AFTER), statuses=(200, 404, 200)
        ),
        "no route, with a body": Case(
            raw=post(b"Content-Length: 38\r\n", BODY).replace(b"/ok", b"/x", 1) + BEHIND,
            seen=(AFTER,), statuses=(404, 200), early=True,
        ),
    }  # fmt: skip
    found |= {
        f"unfinished: {name}": Case(raw=raw, then=WAITS)
        for name, raw in {
            "length": post(b"Content-Length: 1000\r\n", BODY),
            "chunk": post(CHUNKED, b"100\r\n" + BODY),
            "no last chunk": post(CHUNKED, b"26\r\n" + BODY + b"\r\n"),
            "trailers": post(CHUNKED, b"0\r\nX: y\r\n"),
        }.items()
    }
    return found


SERVED = _framed() | _named() | _targets() | _sequences()
REFUSED = {
    name: Case(raw=raw, statuses=(status,), then=CLOSED)
    for name, (raw, status) in (AMBIGUOUS | malformed.REFUSED).items()
}


def pipelines(count: int) -> dict[str, Case]:
    """So many sequences of cases on one connection, always the same ones."""
    rng = random.Random(7)
    open_ones = sorted(name for name, case in SERVED.items() if case.then == OPEN and not case.early)
    last_ones = sorted(name for name, case in (SERVED | REFUSED).items() if not case.early)
    found = {}
    for number in range(count):
        names = [*rng.choices(open_ones, k=rng.randint(1, 5)), rng.choice(last_ones)]
        cases = [(SERVED | REFUSED)[name] for name in names]
        found[f"pipeline {number}: {' + '.join(names)}"] = Case(
            raw=b"".join(case.raw for case in cases),
            seen=tuple(seen for case in cases for seen in case.seen),
            statuses=tuple(status for case in cases for status in case.statuses),
            then=cases[-1].then,
        )
    return found
