"""What is hashed of a request. That Envoy hashes the same is shown in tests/differential/test_hashing.py."""

from types import SimpleNamespace
from typing import Any

import pytest

from agent.codec.head import Headers, RequestHead
from agent.filters.hash_policy import HashPolicies, cookie_value
from agent.model.route import HashKind, HashPolicy
from agent.router.xxhash64 import xxh64


def request(*fields: tuple[str, str], path: str = "/p?a=1&b=2", hops: int = -1) -> Any:
    """Of a client at 10.1.1.1, through a listener at 10.2.2.2."""
    headers = Headers()
    for name, value in fields:
        headers.append(name.encode(), value.encode())
    return SimpleNamespace(
        head=RequestHead(b"GET", path.encode(), b"example.com", headers),
        connection=SimpleNamespace(peer_address="10.1.1.1:5000", local_address="10.2.2.2:80"),
        chain=SimpleNamespace(trusted_hops=hops),
    )


def header(name: str, **more: bool) -> HashPolicy:
    return HashPolicy(kind=HashKind.HEADER, name=name, **more)


QUERY = HashPolicy(kind=HashKind.QUERY_PARAMETER, name="b")
SOURCE = HashPolicy(kind=HashKind.SOURCE_IP)
COOKIE = HashPolicy(kind=HashKind.COOKIE, name="c")


def made(ttl_s: int = 10, **more: Any) -> HashPolicy:
    return HashPolicy(kind=HashKind.COOKIE, name="c", ttl_s=ttl_s, **more)


@pytest.mark.parametrize(
    ("policy", "subject", "expected"),
    [
        (header("x-user"), request(("X-User", "me")), b"me"),
        (header("x-user"), request(("x-user", "a, b")), b"a, b"),
        (header("x-user"), request(("x-user", "")), b""),
        (header(":path"), request(), b"/p?a=1&b=2"),
        (header(":authority"), request(), b"example.com"),
        (QUERY, request(), b"2"),
        (QUERY, request(path="/?b=%20x&b=3"), b"%20x"),
        (QUERY, request(path="/?b"), b""),
        (COOKIE, request(("cookie", "a=b; c=d")), b"d"),
        (COOKIE, request(("cookie", "a=b"), ("Cookie", 'c="d"')), b"d"),
        (SOURCE, request(), b"10.1.1.1"),
        (SOURCE, request(("x-forwarded-for", "1.1.1.1, 2.2.2.2"), hops=0), b"2.2.2.2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_hashed(policy: HashPolicy, subject: Any, expected: bytes) -> None:
    assert HashPolicies([policy]).hash_of(subject) == xxh64(expected)


@pytest.mark.parametrize(
    ("policy", "subject"),
    [
        (header("x-user"), request()),
        (QUERY, request(path="/?bb=1")),
        (QUERY, request(path="/")),
        (COOKIE, request()),
        (COOKIE, request(("cookie", "c; cc=1"))),
        (COOKIE, request(("cookie", "c="))),
    ],
    ids=lambda value: str(value)[:40],
)
def test_nothing_to_hash(policy: HashPolicy, subject: Any) -> None:
    assert HashPolicies([policy]).hash_of(subject) is None


def test_lines_of_a_field_are_hashed_in_one_order() -> None:
    first = HashPolicies([header("x")]).hash_of(request(("x", "b"), ("X", "a")))
    assert first == HashPolicies([header("x")]).hash_of(request(("x", "a"), ("x", "b")))
    assert first == xxh64(b"b", xxh64(b"a"))
    cookies = HashPolicies([header("cookie")]).hash_of(request(("cookie", "d=2"), ("Cookie", "c=1; b=3")))
    assert cookies == xxh64(b"d=2", xxh64(b"c=1; b=3")), "lines that are joined in another way"


def test_several_policies_make_one_hash() -> None:
    """The hash so far is turned by one bit, so that twice the same does not come to nothing."""
    subject = request(("x-user", "me"))
    me, two = xxh64(b"me"), xxh64(b"2")
    turned = (me << 1 | me >> 63) & (2**64 - 1)
    assert HashPolicies([header("x-user"), QUERY]).hash_of(subject) == turned ^ two
    assert HashPolicies([header("x-user"), header("x-user")]).hash_of(subject) == turned ^ me
    assert HashPolicies([header("other"), QUERY]).hash_of(subject) == two


def test_a_terminal_policy_ends_it_once_there_is_a_hash() -> None:
    assert HashPolicies([header("x", terminal=True), QUERY]).hash_of(request(("x", "1"))) == xxh64(b"1")
    assert HashPolicies([header("x", terminal=True), QUERY]).hash_of(request()) == xxh64(b"2")


def test_a_missing_cookie_is_made_of_the_connection() -> None:
    """Its hash already counts for the request that lacks it."""
    policies = HashPolicies([made(path="/p", attributes=(("SameSite", "Lax"), ("Secure", "")))])
    value = b"%016x" % xxh64(b"10.1.1.1:500010.2.2.2:80")
    assert policies.gives_cookies
    assert policies.hash_of(request()) == xxh64(value)
    assert policies.cookie_for(request()) == b'c="%b"; Max-Age=10; Path=/p; SameSite=Lax; Secure; HttpOnly' % value
    back = request(("cookie", f'c="{value.decode()}"'))
    assert policies.hash_of(back) == xxh64(value)
    assert policies.cookie_for(back) == b""


def test_a_cookie_of_a_session_has_no_age() -> None:
    assert b"Max-Age" not in HashPolicies([made(0)]).cookie_for(request())


def test_without_a_ttl_no_cookie_is_given() -> None:
    assert not HashPolicies([COOKIE, QUERY]).gives_cookies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c=1", b"1"), ("a=2;c=1", b"1"), ("a=2;  c=1", b"1"), ("c=1; c=2", b"1"), ('c="1"', b"1"), ('c="', b'"'),
        ("C=1", b""), ("c =1", b""), ("", b""), (";;=;c=1=2", b"1=2"),
    ],
)  # fmt: skip
def test_cookies(text: str, expected: bytes) -> None:
    headers = Headers()
    headers.append(b"cookie", text.encode())
    assert cookie_value(headers, b"c") == expected
