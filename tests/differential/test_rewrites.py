"""What a route does to a request: rewrites, redirects, answers of its own."""

from dataclasses import replace

import pytest

from tests.differential.case import Case, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, World
from tests.support import decoding
from tests.support.decoding import Json


def _to(match: Json, **action: object) -> Json:
    return decoding.route({"cluster": "origin", **action}, match)


def _redirect(prefix: str, **action: object) -> Json:
    return {"match": {"prefix": prefix}, "redirect": action}


def _direct(prefix: str, status: int, body: str | None = None, **fields: object) -> Json:
    action = {"status": status, **({"body": {"inline_string": body}} if body is not None else {})}
    return {"match": {"prefix": prefix}, "direct_response": action, **fields}


def _regex(pattern: str, substitution: str) -> Json:
    return {"pattern": {"regex": pattern}, "substitution": substitution}


_REWRITES = decoding.host(
    _to({"prefix": "/prefix"}, prefix_rewrite="/new"),
    _to({"prefix": "/slash/"}, prefix_rewrite="/"),
    _to({"prefix": "/root"}, prefix_rewrite="/"),
    _to({"path": "/exact"}, prefix_rewrite="/other"),
    _to({"path_separated_prefix": "/sep"}, prefix_rewrite="/parted"),
    _to({"prefix": "/Case", "case_sensitive": False}, prefix_rewrite="/lower"),
    _to({"prefix": "/re/"}, regex_rewrite=_regex("^/re/([^/]+)/(.*)$", r"/\2/of/\1")),
    _to({"prefix": "/all"}, regex_rewrite=_regex("a", "b")),
    _to({"safe_regex": {"regex": "/by/[a-z]+"}}, regex_rewrite=_regex("/by/", "/")),
    _to({"prefix": "/host"}, host_rewrite_literal="new.host"),
    _to({"prefix": "/forwarded-host"}, host_rewrite_literal="new.host", append_x_forwarded_host=True),
    _to({"prefix": "/both"}, host_rewrite_literal="new.host", prefix_rewrite="/x"),
    name="rewrites",
    domains=["*"],
)
_REDIRECTS = decoding.host(
    _redirect("/https", https_redirect=True),
    _redirect("/scheme", scheme_redirect="https"),
    _redirect("/host", host_redirect="other.host"),
    _redirect("/port", port_redirect=8443),
    _redirect("/full", https_redirect=True, host_redirect="h", port_redirect=443, path_redirect="/p"),
    _redirect("/path", path_redirect="/p"),
    _redirect("/query", path_redirect="/p?own=1"),
    _redirect("/strip", path_redirect="/p", strip_query=True),
    _redirect("/keep", host_redirect="h", strip_query=True),
    _redirect("/prefix", prefix_rewrite="/new"),
    *(_redirect(f"/code-{code}", host_redirect="h", response_code=code)
      for code in ("FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT")),
    name="redirects", domains=["redirects", "redirects:80", "redirects:8080", "redirects:443"],
)  # fmt: skip
_DIRECTS = decoding.host(
    _direct("/hi", 200, "hi"),
    _direct("/empty", 200),
    _direct("/404", 404, "gone"),
    _direct("/204", 204),
    _direct("/503", 503, "later"),
    _direct("/299", 299, "odd"),
    _direct(
        "/typed", 200, "{}",
        response_headers_to_add=[{"header": {"key": "content-type", "value": "application/json"},
                                  "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    ),
    name="directs", domains=["directs"],
)  # fmt: skip
WORLD = World(routes={"r": decoding.configuration(_REWRITES, _REDIRECTS, _DIRECTS)}, clusters=(ORIGIN,))

_PATHS = [
    "/prefix", "/prefix/x?y", "/prefixes", "/slash/", "/slash/x", "/slash//x", "/root", "/root/x", "/rootx", "/exact",
    "/exact?a=b", "/sep", "/sep/x", "/sep?x", "/case/x", "/CASE", "/re/one/two?x=/re/a/b", "/re/one", "/all/aaa?a=a",
    "/by/abc?by", "/host", "/host?x", "/forwarded-host", "/both/y",
]  # fmt: skip
_PLACES = [
    "/https/x?y", "/scheme", "/host/a?b", "/port", "/full?x", "/path?x=1", "/path", "/query?x=1", "/query", "/strip?x",
    "/keep?x", "/prefix/x?y", "/code-FOUND", "/code-SEE_OTHER", "/code-TEMPORARY_REDIRECT", "/code-PERMANENT_REDIRECT",
]  # fmt: skip
_DIFFER = {
    "redirect of a post": "answered-before-the-body", "direct of a post": "answered-before-the-body",
}  # fmt: skip
_GRPC = b"Content-Type: application/grpc"

CASES = [
    *(Case(name=path, send=(get(path.encode(), host=b"some.host"),)) for path in _PATHS),
    Case(name="claims an original path", send=(get(b"/prefix", b"X-Envoy-Original-Path: /x"),)),
    Case(name="claims an original host", send=(get(b"/host", b"X-Envoy-Original-Host: x"),)),
    Case(name="claims a forwarded host", send=(get(b"/forwarded-host", b"X-Forwarded-Host: x"),)),
    *(Case(name=f"redirect {path}", send=(get(path.encode(), host=b"redirects"),)) for path in _PLACES),
    *(
        Case(name=f"redirect {path} from port {port}", send=(get(path.encode(), host=b"redirects:%d" % port),))
        for path in ("/https", "/port", "/host", "/path", "/full")
        for port in (80, 8080, 443)
    ),
    Case(name="redirect of https", send=(get(b"/path", b"X-Forwarded-Proto: https", host=b"redirects"),)),
    Case(name="redirect https of https", send=(get(b"/https", b"X-Forwarded-Proto: https", host=b"redirects"),)),
    Case(name="redirect of a post", send=(post(b"/path", host=b"redirects"),)),
    Case(name="redirect of HEAD", send=(get(b"/path", host=b"redirects", method=b"HEAD"),)),
    *(
        Case(name=f"direct {path}", send=(get(path.encode(), host=b"directs"),))
        for path in ("/hi", "/empty", "/404", "/204", "/503", "/299", "/typed", "/none")
    ),
    *(
        Case(name=f"direct {path} of HEAD", send=(get(path.encode(), host=b"directs", method=b"HEAD"),))
        for path in ("/hi", "/empty", "/204", "/none")
    ),
    Case(name="direct of a post", send=(post(b"/hi", host=b"directs"),)),
    *(
        Case(name=f"direct {path} of gRPC", send=(get(path.encode(), _GRPC, host=b"directs", method=b"POST"),))
        for path in ("/hi", "/404", "/503", "/none", "/empty")
    ),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same(case: Case, check: Check) -> None:
    check(replace(case, differs=_DIFFER.get(case.name, "")))
