"""Rewrites of paths, and where redirects lead. What Envoy 1.40 answered for the same is in the expectations."""

import pytest

from agent.codec.head import Headers, RequestHead
from agent.model.route import Forward, PathKind, Redirect, RouteMatch, WeightedCluster
from agent.router.rewrites import PathRewrite, path_rewrite, redirect_location


def rewrite(kind: PathKind, path: str, prefix: str = "", regex: tuple[str, str] | None = None) -> PathRewrite:
    action = Forward(
        clusters=(WeightedCluster(cluster="c", weight=1),), total_weight=1, prefix_rewrite=prefix, regex_rewrite=regex
    )
    made = path_rewrite(RouteMatch(path_kind=kind, path=path), action)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("kind", "path", "prefix", "target", "expected"),
    [
        (PathKind.PREFIX, "/old", "/new", b"/old/x?y", b"/new/x?y"),
        (PathKind.PREFIX, "/old", "/new", b"/older", b"/newer"),
        (PathKind.PREFIX, "/old/", "/", b"/old/x", b"/x"),
        (PathKind.PREFIX, "/", "/v1/", b"/x", b"/v1/x"),
        (PathKind.SEPARATED_PREFIX, "/old", "/", b"/old/x", b"//x"),
        (PathKind.SEPARATED_PREFIX, "/old", "/", b"/old?q", b"/?q"),
        (PathKind.EXACT, "/old", "/new", b"/old?y=/old", b"/new?y=/old"),
        (PathKind.REGEX, "/o.*", "/new", b"/old/x?y", b"/new?y"),
    ],
)
def test_prefix_rewrite(kind: PathKind, path: str, prefix: str, target: bytes, expected: bytes) -> None:
    assert rewrite(kind, path, prefix).apply(target) == expected


@pytest.mark.parametrize(
    ("regex", "substitution", "target", "expected"),
    [
        ("^/u/([^/]+)(/.*)$", r"\2/of/\1", b"/u/7/orders?x=/u/8", b"/orders/of/7?x=/u/8"),
        ("/(r)w", r"/\1x\0", b"/rw/rw?q", b"/rx/rw/rx/rw?q"),
        ("a", r"\\", b"/a", b"/\\"),
        ("(x)?b", r"\1c", b"/b", b"/c"),
        ("nothing", "x", b"/b", b"/b"),
        ("^/b", "c", b"/b", b"/c"),  # a path begins with a slash, whatever the substitution says
    ],
)
def test_regex_rewrite(regex: str, substitution: str, target: bytes, expected: bytes) -> None:
    assert rewrite(PathKind.PREFIX, "/", regex=(regex, substitution)).apply(target) == expected


@pytest.mark.parametrize("regex", [("(a)", r"\2"), ("a", r"\x"), ("a", "b\\"), ("a", "b c"), ("a", "b\r\n")])
def test_unusable_substitutions_are_refused(regex: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="found"):
        rewrite(PathKind.PREFIX, "/", regex=regex)


def test_no_rewrite() -> None:
    action = Forward(clusters=(WeightedCluster(cluster="c", weight=1),), total_weight=1)
    assert path_rewrite(RouteMatch(path_kind=PathKind.PREFIX, path="/"), action) is None


@pytest.mark.parametrize(
    ("action", "authority", "target", "expected"),
    [
        (Redirect(https=True), b"a", b"/x?y", b"https://a/x?y"),
        (Redirect(https=True), b"a:80", b"/x", b"https://a/x"),
        (Redirect(https=True), b"a:8080", b"/x", b"https://a:8080/x"),
        (Redirect(port=81), b"a:80", b"/x", b"http://a:81/x"),
        (Redirect(path="/a?b=c", port=81), b"a:80", b"/redp?z", b"http://a:81/a?b=c"),
        (Redirect(path="/a", strip_query=True, scheme="https"), b"a:80", b"/r?z", b"https://a/a"),
        (Redirect(path="/a"), b"a", b"/r?z", b"http://a/a?z"),
        (Redirect(host="b", port=81), b"a:80", b"/r", b"http://b:81/r"),
        (Redirect(host="b"), b"a:80", b"/r", b"http://b/r"),
        (Redirect(prefix_rewrite="/to", https=True), b"a", b"/redir/x?y", b"https://a/to/x?y"),
        (Redirect(https=True), b"[::1]:80", b"/", b"https://[::1]/"),
    ],
)
def test_redirects(action: Redirect, authority: bytes, target: bytes, expected: bytes) -> None:
    match = RouteMatch(path_kind=PathKind.PREFIX, path="/redir")
    head = RequestHead(b"GET", target, authority, Headers())
    head.scheme = b"http"
    assert redirect_location(action, path_rewrite(match, action), head) == expected
