"""Tokens through a whole chain: what is remembered and for how long, what a request becomes, which modules it takes."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.filters.jwt import MAX_DEPTH, NO_KEY, PAYLOAD_JSON, SIGNATURE, BadToken, claim_text, parsed
from agent.model.http_filters import HttpFilter
from agent.model.jwt import JwtAuthentication, JwtProvider, JwtRule, NeedsToken
from agent.model.matchers import MatchKind, StringMatcher
from agent.model.rbac import Action, ListValue, MetadataIs, Rbac, RbacPolicy, RbacRules, TextValue
from agent.proxy.authentication import FILTER, MEMORY, GoodTokens
from agent.stats import names
from agent.stats.names import jwt_group
from agent.upstream.signatures import Keys
from tests.support.proxying import Proxy, RawOrigin, cluster, forward, http_proxy, raw_origin, route, virtual_host
from tests.support.tokens import Signer, b64, ec_signer, jwks, rsa_pem, rsa_signer, secret_signer

NOW = 1_790_000_000.0
ONE = ec_signer("one")
PROVIDER = JwtProvider(
    name="p",
    issuer="https://i",
    jwks=jwks(ONE),
    claim_headers=(("x-sub", ("sub",)), ("x-deep", ("a", "b"))),
    payload_header="x-payload",
)


def claims(**fields: Any) -> dict[str, Any]:
    return {"iss": "https://i", "sub": "me", "exp": NOW + 100, **fields}


def bearer(token: bytes) -> bytes:
    return b"Authorization: Bearer " + token + b"\r\n"


class Clock:
    wall = NOW


@asynccontextmanager
async def guarded(tmp_path: Path, provider: JwtProvider = PROVIDER) -> AsyncIterator[tuple[Proxy, RawOrigin]]:
    """A proxy that demands a token."""
    rule = JwtRule(path=StringMatcher(kind=MatchKind.PREFIX, value="/"), requires=NeedsToken(provider="p"))
    config = JwtAuthentication(providers=(provider,), rules=(rule,))
    filters = (HttpFilter(name="jwt", config=config),)
    async with (
        raw_origin() as origin,
        http_proxy(
            tmp_path, virtual_host(route("/", forward("c"))), [cluster("c", origin.port)], filters=filters
        ) as proxy,
    ):
        proxy.runtime.wall = lambda: Clock.wall  # type: ignore[method-assign]
        Clock.wall = NOW
        yield proxy, origin


def counted(proxy: Proxy) -> list[int]:
    return proxy.runtime.stats.get("http.s.jwt_authn", lambda: jwt_group("s")).counts


async def test_a_remembered_token_is_still_looked_at_for_its_time(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (proxy, _):
        token = ONE.token(claims())
        assert b" 200 " in await proxy.get("/", bearer(token))
        assert b" 200 " in await proxy.get("/", bearer(token))
        assert counted(proxy)[names.JWT_CACHE_HIT] == 1
        Clock.wall = NOW + 159
        assert b" 200 " in await proxy.get("/", bearer(token))
        Clock.wall = NOW + 162
        assert b"Jwt is expired" in await proxy.get("/", bearer(token))
        assert b"Jwt is expired" in await proxy.get("/", bearer(token))
        assert counted(proxy)[names.JWT_CACHE_HIT] == 3, "what has expired is forgotten"


async def test_a_remembered_token_tells_filters_behind_the_same_as_before(tmp_path: Path) -> None:
    """A claim of several words is a list for them, and so it stays."""
    provider = replace(PROVIDER, audiences=("https://a/",), metadata_key="payload", space_delimited=("scope",))
    rule = JwtRule(path=StringMatcher(kind=MatchKind.PREFIX, value="/"), requires=NeedsToken(provider="p"))
    reads = ListValue(one_of=TextValue(matcher=StringMatcher(kind=MatchKind.EXACT, value="read")))
    allowed = MetadataIs(filter=FILTER, path=("payload", "scope"), value=reads)
    rules = RbacRules(action=Action.ALLOW, policies=(RbacPolicy(name="readers", condition=allowed),))
    filters = (
        HttpFilter(name="jwt", config=JwtAuthentication(providers=(provider,), rules=(rule,))),
        HttpFilter(name="rbac", config=Rbac(rules=rules)),
    )
    routes = virtual_host(route("/", forward("c")))
    async with (
        raw_origin() as origin,
        http_proxy(tmp_path, routes, [cluster("c", origin.port)], filters=filters) as proxy,
    ):
        proxy.runtime.wall = lambda: NOW  # type: ignore[method-assign]
        for _ in range(2):
            good = bearer(ONE.token(claims(aud=["http://a", "b"], scope="write read")))
            assert b" 200 " in await proxy.get("/", good)
            assert b" 200 " in await proxy.get("/", good)
            assert b" 403 " in await proxy.get("/", bearer(ONE.token(claims(aud="a", scope="reader"))))
            assert b"Audiences in Jwt are not allowed" in await proxy.get("/", bearer(ONE.token(claims(aud="a/b"))))


async def test_what_a_bad_token_leaves_behind(tmp_path: Path) -> None:
    """Nothing: the same one is checked again, and a good one of the same beginning is its own."""
    async with guarded(tmp_path) as (proxy, _):
        bad = ec_signer("one").token(claims())
        for _ in range(2):
            assert b"Jwt verification fails" in await proxy.get("/", bearer(bad))
        assert counted(proxy)[names.JWT_CACHE_HIT] == 0


async def test_claims_that_are_no_header_values_are_left_out(tmp_path: Path) -> None:
    """And a client's own stay out too."""
    async with guarded(tmp_path) as (proxy, origin):
        token = ONE.token(claims(sub="a\r\nx-evil: 1", a={"b": "deep"}))
        answer = await proxy.get("/", b"X-Sub: spoofed\r\nx-payload: spoofed\r\n" + bearer(token))
        assert b" 200 " in answer
        request = origin.seen[0].lower()
        assert b"x-evil" not in request
        assert b"spoofed" not in request
        assert b"x-deep: deep" in request
        assert b"authorization" not in request


async def test_a_secret_is_no_public_key(tmp_path: Path) -> None:
    """Algorithm confusion, at both ends: the sort of the key decides."""
    public = rsa_signer("public")
    for secret in (rsa_pem("public"), json.dumps(public.jwk).encode(), b""):
        async with guarded(tmp_path, replace(PROVIDER, jwks=jwks(public))) as (proxy, _):
            answer = await proxy.get("/", bearer(secret_signer("public", secret).token(claims())))
            assert b" 401 " in answer


def test_the_memory_is_bounded() -> None:
    tokens = GoodTokens()
    token = parsed(ONE.token(claims()))
    for number in range(MEMORY + 10):
        tokens.put(b"%d" % number, token)
        assert tokens.get(b"0") is not None, "what is used stays"
    assert len(tokens) == MEMORY
    assert tokens.get(b"1") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (True, "true"), (False, "false"), (7, "7"), (1.5, "1.500000"), (None, None), ([], "W10="),
     ({"k": "é"}, "eyJrIjoiw6kifQ==")],
)  # fmt: skip
def test_claims_as_headers(value: Any, text: str | None) -> None:
    assert claim_text({"a": {"b": value}}, ("a", "b")) == text
    assert claim_text({"a": value}, ("a", "b", "c")) is None


def verify(signer: Signer, keys: Keys, **header: Any) -> str:
    token = parsed(signer.token(claims(), **header))
    return keys.verify(token.algorithm, token.key_id, token.signed, token.signature)


def test_which_key_may_verify() -> None:
    two = ec_signer("two")
    keys = Keys(jwks(ONE, two))
    assert verify(ONE, keys) == verify(two, keys) == ""
    assert verify(ONE, keys, kid=None) == "", "without a name every key of the sort is tried"
    assert verify(ONE, keys, kid="two") == SIGNATURE
    assert verify(ONE, keys, kid="three") == NO_KEY
    assert verify(ec_signer("one", "ES384"), keys) == NO_KEY
    assert verify(rsa_signer("one"), keys) == NO_KEY


@pytest.mark.parametrize(
    "key",
    [{}, {"kty": "RSA"}, {"kty": "RSA", "n": "AQ", "e": 3}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
     {"kty": "EC", "crv": "P-999"}, {"kty": "OKP", "crv": "Ed25519", "x": "AA"}, {"kty": "oct"},
     {"kty": "oct", "k": ""}, {"kty": ["RSA"]}, 7, None],
    ids=str,
)  # fmt: skip
def test_a_key_that_cannot_be_read_is_left_out(key: Any) -> None:
    keys = Keys(json.dumps({"keys": [key, ONE.jwk]}))
    assert verify(ONE, keys) == ""
    assert verify(secret_signer("one", b""), keys) == NO_KEY


def test_a_signature_of_another_length_is_none() -> None:
    keys = Keys(jwks(ONE))
    token = parsed(ONE.token(claims()))
    for signature in (b"", token.signature[:-1], token.signature + b"\0", b"\0" * 64):
        assert keys.verify("ES256", "one", token.signed, signature) == SIGNATURE


def test_the_modules_of_a_worker_load_no_cryptography() -> None:
    """Until keys are made."""
    code = "import sys, agent.worker; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_an_unknown_critical_extension_is_not_passed_over() -> None:
    with pytest.raises(BadToken):
        parsed(ONE.token(claims(), crit=["b64"], b64=False))
    assert b64(b"x") == "eA"


@pytest.mark.parametrize("lists", [False, True])
def test_claims_are_not_nested_without_end(lists: bool) -> None:
    """Whoever is told of them must be able to pass them on; said by a good signature or not."""
    value: Any = {}
    for depth in range(1, 500):
        text = ONE.token({"z": value})
        if depth < MAX_DEPTH:
            assert parsed(text).claims == {"z": value}
        else:
            with pytest.raises(BadToken) as refused:
                parsed(text)
            assert refused.value.reason == PAYLOAD_JSON
        value = [value] if lists else {"a": value}
