"""What an origin can answer, well-formed and not, and what the client gets of it."""

from dataclasses import replace
from http import HTTPStatus

import pytest

from tests.differential.case import Case, Do, answer, get, post, raw_answer
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, World
from tests.support import decoding

WORLD = World(
    routes={
        "r": decoding.configuration(
            decoding.host(
                decoding.route(
                    {"cluster": "origin", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}]},
                    {"prefix": "/ws"},
                    name="ws",
                ),
                decoding.route({"cluster": "origin"}, name="all"),
            )
        )
    },
    clusters=(ORIGIN,),
)
_200 = b"HTTP/1.1 200 OK"
_CHUNKED = b"transfer-encoding: chunked"
_BODILESS = (204, 205, 304)
_STATUSES = sorted(
    {299, 499, 520, 599, *(status for status in HTTPStatus if status >= 200 and status not in _BODILESS)}
)
_ANSWERS = {
    "plain": answer(),
    "kept alive": answer(keep=True),
    "empty": answer(200, b""),
    **{f"status {status}": answer(status) for status in _STATUSES},
    "own reason": answer(reason=b"Fine With Me"),
    "no reason": raw_answer(b"HTTP/1.1 200", b"content-length: 2", body=b"ok"),
    "no reason, space": raw_answer(b"HTTP/1.1 200 ", b"content-length: 2", body=b"ok"),
    "unknown status": answer(299, reason=b"Odd"),
    "status of four digits": raw_answer(b"HTTP/1.1 2000 OK", b"content-length: 0"),
    "204": raw_answer(b"HTTP/1.1 204 No Content"),
    "204 with length 0": raw_answer(b"HTTP/1.1 204 No Content", b"content-length: 0"),
    "204 with length": raw_answer(b"HTTP/1.1 204 No Content", b"content-length: 2", body=b"ok"),
    "204 in chunks": raw_answer(b"HTTP/1.1 204 No Content", _CHUNKED, body=b"0\r\n\r\n"),
    "205": raw_answer(b"HTTP/1.1 205 Reset", b"content-length: 0"),
    "304": raw_answer(b"HTTP/1.1 304 Not Modified"),
    "304 with length": raw_answer(b"HTTP/1.1 304 Not Modified", b"content-length: 9"),
    "chunks": raw_answer(_200, _CHUNKED, body=b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"),
    "chunks with extensions": raw_answer(_200, _CHUNKED, body=b"3;x=y\r\nabc\r\n0\r\n\r\n"),
    "trailers": raw_answer(_200, _CHUNKED, b"trailer: x-t", body=b"3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"),
    "until its end": raw_answer(_200, body=b"to the end"),
    "until its end, empty": raw_answer(_200),
    "HTTP/1.0": raw_answer(b"HTTP/1.0 200 OK", body=b"old"),
    "HTTP/1.0 with length": raw_answer(b"HTTP/1.0 200 OK", b"content-length: 3", body=b"old"),
    "103 first": (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", *answer()),
    "102 first": (b"HTTP/1.1 102 Processing\r\n\r\n", 0.02, *answer()),
    "100 first": (b"HTTP/1.1 100 Continue\r\n\r\n", *answer()),
    "hop by hop": answer(200, b"ok", b"keep-alive: timeout=5", b"proxy-connection: x", b"te: x", b"upgrade: x"),
    "authenticate": answer(401, b"", b"proxy-authenticate: x", b"www-authenticate: y"),
    "trailer field": answer(200, b"ok", b"trailer: x"),
    "server and date": answer(200, b"ok", b"server: own", b"date: Tue, 01 Jan 2030 00:00:00 GMT"),
    "via and age": answer(200, b"ok", b"via: 1.1 x", b"age: 5"),
    "service time": answer(200, b"ok", b"x-envoy-upstream-service-time: 999"),
    "envoy fields": answer(200, b"ok", b"x-envoy-immediate-health-check-fail: x", b"x-envoy-degraded: 1",
                           b"x-envoy-overloaded: 1", b"x-envoy-ratelimited: 1", b"x-request-id: own"),
    "set-cookie": answer(200, b"ok", b"set-cookie: a=1", b"set-cookie: b=2"),
    "same name twice": answer(200, b"ok", b"x-a: 1", b"x-b: 2", b"x-a: 3"),
    "names in capitals": answer(200, b"ok", b"X-Capital: 1"),
    "latin-1 value": answer(200, b"ok", b"x-a: caf\xe9"),
    "empty value": answer(200, b"ok", b"x-a:"),
    "nominated": raw_answer(_200, b"content-length: 0", b"connection: x-a, x-b", b"x-a: 1", b"x-c: 3"),
    "nominated length": raw_answer(_200, b"content-length: 2", b"connection: content-length", body=b"ok"),
    "half a head, reset": (b"HTTP/1.1 200 OK\r\ncontent-le", 0.03, Do.RESET),
    "until its end, reset": (b"HTTP/1.1 200 OK\r\n\r\nabc", 0.03, Do.RESET),
    "length and chunks": raw_answer(_200, b"content-length: 5", _CHUNKED, body=b"0\r\n\r\n"),
    "two lengths": raw_answer(_200, b"content-length: 2", b"content-length: 3", body=b"okk"),
    "length +2": raw_answer(_200, b"content-length: +2", body=b"ok"),
    "length of letters": raw_answer(_200, b"content-length: x", body=b"ok"),
    "coding gzip": raw_answer(_200, b"transfer-encoding: gzip", body=b"ok"),
    "coding gzip, chunked": raw_answer(_200, b"transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "garbage": (b"garbage\r\n\r\n", Do.CLOSE),
    "HTTP/2.0": raw_answer(b"HTTP/2.0 200 OK", b"content-length: 2", body=b"ok"),
    "large field": answer(200, b"ok", b"x-a: " + b"y" * 90_000),
    "20 large fields": answer(200, b"ok", *(b"x-%d: " % number + b"y" * 2000 for number in range(20))),
    "150 fields": answer(200, b"ok", *(b"x-%d: y" % number for number in range(150))),
    "bad name": answer(200, b"ok", b"x(a: 1"),
    "no colon": answer(200, b"ok", b"nonsense"),
    "control in value": answer(200, b"ok", b"x-a: a\x01b"),
    "closes": (Do.CLOSE,),
    "resets": (Do.RESET,),
    "half a head": (b"HTTP/1.1 200 OK\r\ncontent-le", Do.CLOSE),
    "less than its length": (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", 0.03, Do.CLOSE),
    "reset in the body": (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", 0.03, Do.RESET),
    "chunks cut": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", 0.03, Do.CLOSE),
    "bad chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", 0.03, Do.CLOSE),
    "more than its length": (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokay", 0.03, Do.CLOSE),
    "in pieces": (b"HTTP/1.1 200 O", 0.02, b"K\r\ncontent-length: 4\r\n\r", 0.02, b"\nab", 0.02, b"cd", Do.CLOSE),
    "large body": answer(200, b"x" * 300_000),
    "early": (Do.EARLY, *answer(413, b"no")),
}  # fmt: skip
_HEAD = {
    "plain": raw_answer(_200, b"content-length: 1234"),
    "no length": raw_answer(_200),
    "chunks": raw_answer(_200, _CHUNKED),
    "204": raw_answer(b"HTTP/1.1 204 No Content"),
    "304": raw_answer(b"HTTP/1.1 304 Not Modified", b"content-length: 5"),
    "404": raw_answer(b"HTTP/1.1 404 Not Found", b"content-length: 5"),
    "closes": (Do.CLOSE,),
}
_UPGRADE = get(b"/ws", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x")
_101 = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
_DIFFER = {
    "own reason": "reason-phrase", "no reason": "reason-phrase", "no reason, space": "reason-phrase",
    "unknown status": "reason-phrase", "205": "reason-phrase", "status of four digits": "answer-form",
    "HTTP/2.0": "answer-form", "bad chunk": "answer-broken-at-once", "101 that nobody asked for": "unasked-101",
    "nominated": "nominated-in-answers", "until its end, reset": "reset-is-no-end",
}  # fmt: skip

CASES = [
    *(Case(name=name, send=(get(),), origin=(script,)) for name, script in _ANSWERS.items()),
    *(Case(name=f"HEAD {name}", send=(get(method=b"HEAD"),), origin=(script,)) for name, script in _HEAD.items()),
    Case(name="post, plain", send=(post(b"/", b"x" * 1000),)),
    Case(name="post, large", send=(post(b"/", b"x" * 300_000),)),
    Case(name="post, closes", send=(post(),), origin=((Do.CLOSE,),)),
    Case(
        name="two on one connection",
        send=(get(b"/1"), Do.AWAIT, get(b"/2")),
        origin=(answer(keep=True),),
        answers=2,
        logs=2,
        kept=True,
    ),
    Case(name="upgrade", send=(_UPGRADE, Do.AWAIT, b"hello"), origin=((_101 + b"\r\n", Do.ECHO),), until=b"hello"),
    Case(name="upgrade refused by the origin", send=(_UPGRADE,), origin=(answer(200, b"no"),)),
    *(
        Case(name=f"upgrade, {status}", send=(_UPGRADE,), origin=(answer(status, b"no"),))
        for status in (201, 302, 400, 401, 403, 404, 426, 500, 503)
    ),
    Case(name="101 that nobody asked for", send=(get(),), origin=((_101 + b"\r\n", 0.05, Do.CLOSE),)),
    Case(name="client leaves", send=(get(), 0.1, Do.CLOSE), origin=((Do.HANG,),), answers=0),
    Case(name="client resets", send=(get(), 0.1, Do.RESET), origin=((Do.HANG,),), answers=0),
    Case(
        name="client leaves in its body", send=(post(b"/", b"abc")[:-1], 0.1, Do.CLOSE), origin=((Do.HANG,),), answers=0
    ),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same(case: Case, check: Check) -> None:
    check(replace(case, differs=_DIFFER.get(case.name, "")))
