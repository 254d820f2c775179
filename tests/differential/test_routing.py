"""Which route takes a request: paths, fields, query parameters, authorities."""

from dataclasses import replace

import pytest

from tests.differential.case import Case, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, World
from tests.support import decoding
from tests.support.decoding import Json

TO = {"cluster": "origin"}


def _route(name: str, **match: object) -> Json:
    return decoding.route(TO, match=dict(match), name=name)


def _field(name: str, **how: object) -> list[Json]:
    return [{"name": name, **how}]


def _text(**how: object) -> Json:
    return {"string_match": how}


_PATHS = decoding.host(
    _route("exact", path="/exact"),
    _route("exact-any-case", path="/ExactCase", case_sensitive=False),
    _route("separated", path_separated_prefix="/sep"),
    _route("regex", safe_regex={"regex": "/re/[0-9]+"}),
    _route("prefix-any-case", prefix="/PreFix", case_sensitive=False),
    _route("prefix", prefix="/p"),
    name="paths",
    domains=["paths"],
)
_FIELDS = decoding.host(
    _route("exact", prefix="/h", headers=_field("x-a", **_text(exact="one"))),
    _route("exact-any-case", prefix="/h", headers=_field("x-a", **_text(exact="TWO", ignore_case=True))),
    _route("prefix", prefix="/h", headers=_field("x-a", **_text(prefix="pre"))),
    _route("suffix", prefix="/h", headers=_field("x-a", **_text(suffix="suf"))),
    _route("contains", prefix="/h", headers=_field("x-a", **_text(contains="mid"))),
    _route("regex", prefix="/h", headers=_field("x-a", **_text(safe_regex={"regex": "r[0-9]+"}))),
    _route("range", prefix="/h", headers=_field("x-n", range_match={"start": 10, "end": 20})),
    _route("present", prefix="/h", headers=_field("x-p", present_match=True)),
    _route("method", prefix="/h", headers=_field(":method", **_text(exact="DELETE"))),
    _route("authority", prefix="/h", headers=_field(":authority", **_text(suffix="s:81"))),
    _route("path-field", prefix="/h", headers=_field(":path", **_text(exact="/h/path?x"))),
    _route("scheme", prefix="/h", headers=_field(":scheme", **_text(exact="https"))),
    _route("not-exact", prefix="/inv", headers=_field("x-a", invert_match=True, **_text(exact="one"))),
    _route("absent", prefix="/abs", headers=_field("x-a", present_match=False)),
    _route("missing-empty", prefix="/miss",
           headers=_field("x-a", treat_missing_header_as_empty=True, **_text(exact=""))),
    _route("not-present", prefix="/np", headers=_field("x-a", present_match=True, invert_match=True)),
    _route("two", prefix="/two", headers=_field("x-a", present_match=True) + _field("x-b", present_match=True)),
    name="fields", domains=["fields", "fields:81"],
)  # fmt: skip
_QUERY = decoding.host(
    _route("exact", prefix="/", query_parameters=_field("k", string_match={"exact": "v"})),
    _route("regex", prefix="/", query_parameters=_field("k", string_match={"safe_regex": {"regex": "[0-9]+"}})),
    _route("prefix", prefix="/", query_parameters=_field("k", string_match={"prefix": "pre"})),
    _route("present", prefix="/", query_parameters=_field("p", present_match=True)),
    _route("other", path="/only"),
    name="query",
    domains=["query"],
)
_DOMAINS = [
    decoding.host(_route("exact", prefix="/"), name="exact", domains=["web.local"]),
    decoding.host(_route("with-port", prefix="/"), name="port", domains=["web.local:81"]),
    decoding.host(_route("suffix", prefix="/"), name="suffix", domains=["*.web.local"]),
    decoding.host(_route("long-suffix", prefix="/"), name="long", domains=["*.deep.web.local"]),
    decoding.host(_route("prefix", prefix="/"), name="prefix", domains=["web.*"]),
]
WORLD = World(
    routes={"r": decoding.configuration(_PATHS, _FIELDS, _QUERY, *_DOMAINS)},
    clusters=(ORIGIN,),
)

_PATH_CASES = [
    "/exact",
    "/exact?q",
    "/exact/",
    "/Exact",
    "/exactcase",
    "/EXACTCASE?x",
    "/sep",
    "/sep/",
    "/sep/x",
    "/sepx",
    "/sep?x",
    "/re/12",
    "/re/12?x",
    "/re/12x",
    "/re/",
    "/prefix",
    "/PREFIX/x",
    "/p",
    "/px",
    "/P",
    "/",
    "/none",
    "//exact",
    "/exact//",
    "/%65xact",
    "/exact%2F",
    "/exact;x",
    "/p?a=/exact",
    "/ex%61ct?x=1&y=2",
]
_FIELD_CASES = {
    "exact": (b"X-A: one",), "exact case": (b"X-A: One",), "any case": (b"x-a: two",), "prefix": (b"X-A: prefix",),
    "suffix": (b"X-A: a-suf",), "contains": (b"X-A: a-mid-b",), "regex": (b"X-A: r12",), "no regex": (b"X-A: r12x",),
    "in range": (b"X-N: 10",), "end of range": (b"X-N: 20",), "negative": (b"X-N: -15",), "no number": (b"X-N: 1x",),
    "number with plus": (b"X-N: +15",), "number with space": (b"X-N:  15 ",),
    "present": (b"X-P: ",), "twice": (b"X-A: one", b"X-A: two"), "scheme": (b"X-Forwarded-Proto: https",), "none": (),
    "same value twice": (b"X-A: one", b"X-A: one"),
}  # fmt: skip
_ON_PATHS = {"/inv": "/inv", "/abs": "/abs", "/miss": "/miss", "/np": "/np"}
_QUERIES = [
    "?k=v",
    "?k=V",
    "?k=",
    "?k",
    "?k=12",
    "?k=prefix",
    "?p",
    "?p=",
    "?p=1",
    "?x&k=v",
    "?k=w&k=v",
    "?k=v&k=w",
    "?K=v",
    "?k%3Dv",
    "?k=%76",
    "?k=v;x",
    "?",
    "",
    "?=v",
    "?k=v#",
    "?k==v",
    "?&&k=v&&",
    "?k=1+2",
]
_AUTHORITIES = [
    "web.local",
    "WEB.local",
    "web.local:81",
    "web.local:80",
    "a.web.local",
    "A.B.web.local",
    "a.deep.web.local",
    "deep.web.local",
    ".web.local",
    "web.other",
    "web.",
    "web",
    "other",
    "web.local.",
    "web.other:99",
    "[::1]:80",
    "127.0.0.1",
]
_DIFFER: dict[str, str] = {}

CASES = [
    *(Case(name=f"path {path}", send=(get(path.encode(), host=b"paths"),)) for path in _PATH_CASES),
    *(Case(name=f"field {name}", send=(get(b"/h", *lines, host=b"fields"),)) for name, lines in _FIELD_CASES.items()),
    *(
        Case(name=f"field {path} {name}", send=(get(path.encode(), *lines, host=b"fields"),))
        for path in _ON_PATHS
        for name, lines in {"none": (), "one": (b"X-A: one",), "other": (b"X-A: x",), "empty": (b"X-A:",)}.items()
    ),
    Case(name="field method", send=(get(b"/h", host=b"fields", method=b"DELETE"),)),
    Case(name="field authority", send=(get(b"/h", host=b"fields:81"),)),
    Case(name="field path", send=(get(b"/h/path?x", host=b"fields"),)),
    Case(name="two fields, one there", send=(get(b"/two", b"X-A: x", host=b"fields"),)),
    Case(name="two fields", send=(get(b"/two", b"X-A: x", b"X-B: y", host=b"fields"),)),
    Case(name="post", send=(post(b"/h", b"abc", b"X-P: y", host=b"fields"),)),
    *(Case(name=f"query {query}", send=(get(b"/" + query.encode(), host=b"query"),)) for query in _QUERIES),
    *(Case(name=f"host {host}", send=(get(host=host.encode()),)) for host in _AUTHORITIES),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same(case: Case, check: Check) -> None:
    check(replace(case, differs=_DIFFER.get(case.name, "")))
