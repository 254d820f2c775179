"""JSON Web Tokens: good and bad ones of every sort, in every place, with what becomes of the request."""

import asyncio
import base64
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.differential.case import Case, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, Pair, World
from tests.support import decoding
from tests.support.decoding import ROUTER, Json, typed
from tests.support.tokens import (
    Signer,
    b64,
    ec_signer,
    ed25519_signer,
    jwks,
    rsa_pem,
    rsa_signer,
    secret_signer,
)

NOW = int(time.time())
ISSUER, OTHER = "https://one.example.com", "https://two.example.com"
ONE, TWO, STRANGER = rsa_signer("one"), ec_signer("two"), rsa_signer("stranger", kid="one")
SECRET = secret_signer("secret", b"s" * 32)
ALGORITHMS: dict[str, Signer] = {
    **{name: rsa_signer(f"a-{name}", name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")},
    **{name: ec_signer(f"a-{name}", name) for name in ("ES256", "ES384", "ES512")},
    "EdDSA": ed25519_signer("a-EdDSA"),
}
SECRETS = {name: secret_signer(name, name.encode() * 13, name) for name in ("HS256", "HS384", "HS512")}


def provider(issuer: str, keys: str, **fields: Any) -> Json:
    return {"issuer": issuer, "local_jwks": {"inline_string": keys}, **fields}


def filter_of(providers: Json, requires: Json | None = None, **fields: Any) -> Json:
    first = next(iter(providers))
    rules = [{"match": {"prefix": "/"}, "requires": requires or {"provider_name": first}}]
    config = {"providers": providers, "rules": rules, **fields}
    return {"name": "envoy.filters.http.jwt_authn", "typed_config": typed(
        "filters.http.jwt_authn.v3.JwtAuthentication", **config
    )}  # fmt: skip


P1 = provider(ISSUER, jwks(ONE), audiences=["cart", "https://other/"])
P2 = provider(OTHER, jwks(TWO))
TOLD = {
    "forward_payload_header": "x-payload",
    "claim_to_headers": [
        {"header_name": "x-sub", "claim_name": "sub"},
        {"header_name": "x-nested", "claim_name": "a.b"},
        {"header_name": "x-number", "claim_name": "n"},
        {"header_name": "x-bool", "claim_name": "t"},
        {"header_name": "x-list", "claim_name": "l"},
        {"header_name": "x-absent", "claim_name": "nothing"},
    ],
    "payload_in_metadata": "payload",
    "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
}
MAY_MISS: Json = {"requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing": {}}]}}
ISTIO: Json = {
    "requires_any": {
        "requirements": [
            {"provider_name": "p"},
            {"provider_name": "q"},
            {
                "requires_all": {
                    "requirements": [
                        {"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}}
                        for name in ("p", "q")
                    ]
                }
            },
        ]
    }
}


def claimed(path: list[str], value: Json) -> Json:
    """Lets in who has the claim."""
    keys = [{"key": name} for name in ("payload", *path)]
    matcher = {"filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value}
    rules = {
        "action": "ALLOW",
        "policies": {"p": {"permissions": [{"any": True}], "principals": [{"metadata": matcher}]}},
    }
    return {"name": "envoy.filters.http.rbac", "typed_config": typed("filters.http.rbac.v3.RBAC", rules=rules)}


LISTENERS: dict[str, list[Json]] = {
    "one": [filter_of({"p": P1})],
    "optional": [filter_of({"p": P1}, MAY_MISS)],
    "istio": [filter_of({"p": P1, "q": P2}, ISTIO, bypass_cors_preflight=True)],
    "any": [filter_of({"p": P1, "q": P2}, {"requires_any": {"requirements": [
        {"provider_name": "p"}, {"provider_name": "q"}]}})],
    "all": [filter_of({"p": P1, "q": {**P2, "from_headers": [{"name": "x-two"}]}}, {"requires_all": {"requirements": [
        {"provider_name": "p"}, {"provider_name": "q"}]}})],
    "failed": [filter_of({"p": P1}, {"requires_any": {"requirements": [
        {"provider_name": "p"}, {"allow_missing_or_failed": {}}]}})],
    "missing": [filter_of({"p": P1}, {"allow_missing": {}})],
    "missing-or-failed": [filter_of({"p": P1}, {"allow_missing_or_failed": {}})],
    "audiences": [filter_of({"p": P1}, {"provider_and_audiences": {"provider_name": "p", "audiences": ["special"]}})],
    "any-issuer": [filter_of({"p": {"local_jwks": {"inline_string": jwks(ONE)}}})],
    "forward": [filter_of({"p": {**P1, "forward": True, **TOLD}})],
    "told": [filter_of({"p": {**P1, **TOLD}}, MAY_MISS)],
    "padded": [filter_of({"p": {**P1, "forward_payload_header": "x-payload", "pad_forward_payload_header": True}})],
    "places": [filter_of({"p": {**P1, "from_headers": [{"name": "x-jwt"}, {"name": "x-pre", "value_prefix": "JWT "}],
                                "from_params": ["tok"], "from_cookies": ["session", "other"]}})],
    "skew": [filter_of({"p": {**P1, "clock_skew_seconds": 1000}})],
    "expiration": [filter_of({"p": {**P1, "require_expiration": True}})],
    "algorithms": [filter_of({"p": provider(ISSUER, jwks(*ALGORITHMS.values()))})],
    "secrets": [filter_of({"p": provider(ISSUER, jwks(*SECRETS.values()))})],
    "unnamed": [filter_of({"p": provider(ISSUER, jwks(rsa_signer("one", kid=None), rsa_signer("three", kid=None)))})],
    "stripped": [filter_of({"p": P1}, strip_failure_response=True)],
    "preflights": [filter_of({"p": P1}, bypass_cors_preflight=True)],
    "rules": [{"name": "envoy.filters.http.jwt_authn", "typed_config": typed(
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"p": P1},
        rules=[
            {"match": {"path": "/open"}},
            {"match": {"prefix": "/h", "headers": [{"name": "x-open", "present_match": True}]}},
            {"match": {"safe_regex": {"regex": "/r[0-9]+"}}},
            {"match": {"path_separated_prefix": "/sep"}},
            {"match": {"prefix": "/closed"}, "requires": {"provider_name": "p"}},
        ],
    )}],
    "sub": [filter_of({"p": {**P1, **TOLD}}, MAY_MISS), claimed(["sub"], {"string_match": {"exact": "me"}})],
    "scope": [filter_of({"p": {**P1, **TOLD}}, MAY_MISS),
              claimed(["scope"], {"list_match": {"one_of": {"string_match": {"exact": "read"}}}})],
    "either": [filter_of({"p": {**P1, **TOLD}}, MAY_MISS), claimed(["groups"], {"or_match": {"value_matchers": [
        {"string_match": {"exact": "admin"}}, {"list_match": {"one_of": {"string_match": {"exact": "admin"}}}}]}})],
    "nested": [filter_of({"p": {**P1, **TOLD}}, MAY_MISS), claimed(["a", "b"], {"present_match": True})],
    "bool": [filter_of({"p": {**P1, **TOLD}}, MAY_MISS), claimed(["t"], {"bool_match": True})],
    "null": [filter_of({"p": {**P1, **TOLD}}, MAY_MISS), claimed(["nil"], {"null_match": {}})],
}  # fmt: skip
WORLD = World(
    routes={"r": decoding.configuration(decoding.host(decoding.route({"cluster": "origin"}), domains=["*"]))},
    clusters=(ORIGIN,),
    listeners={name: {"http_filters": [*filters, ROUTER]} for name, filters in LISTENERS.items()}
    | {"tallied": {"http_filters": [*LISTENERS["optional"], ROUTER]}},
)


def claims(**fields: Any) -> Json:
    found = {"iss": ISSUER, "aud": "cart", "sub": "me", "exp": NOW + 3600, **fields}
    return {name: value for name, value in found.items() if value is not ...}


GOOD = ONE.token(claims())
TOKENS: dict[str, bytes] = {
    "good": GOOD,
    "no kid": ONE.token(claims(), kid=None),
    "unknown kid": ONE.token(claims(), kid="nobody"),
    "kid is a number": ONE.token(claims(), kid=7),
    "expired": ONE.token(claims(exp=NOW - 3600)),
    "expired within the skew": ONE.token(claims(exp=NOW - 20)),
    "expired beyond the skew": ONE.token(claims(exp=NOW - 200)),
    "not yet": ONE.token(claims(nbf=NOW + 3600)),
    "not yet within the skew": ONE.token(claims(nbf=NOW + 40)),
    "no expiration": ONE.token(claims(exp=...)),
    "fraction": ONE.token(claims(exp=NOW + 3600.5)),
    "exp is zero": ONE.token(claims(exp=0)),
    "nbf is zero": ONE.token(claims(nbf=0)),
    "negative": ONE.token(claims(exp=-5)),
    "exp is text": ONE.token(claims(exp=str(NOW + 3600))),
    "exp is a list": ONE.token(claims(exp=[NOW])),
    "nbf is text": ONE.token(claims(nbf="x")),
    "iat is text": ONE.token(claims(iat="x")),
    "iat in the future": ONE.token(claims(iat=NOW + 86400)),
    "exp is huge": ONE.token(claims(exp=10**18)),
    "other issuer": ONE.token(claims(iss="https://evil.example.com")),
    "issuer with a slash": ONE.token(claims(iss=ISSUER + "/")),
    "no issuer": ONE.token(claims(iss=...)),
    "issuer is a number": ONE.token(claims(iss=7)),
    "sub is a list": ONE.token(claims(sub=["me"])),
    "other audience": ONE.token(claims(aud="orders")),
    "no audience": ONE.token(claims(aud=...)),
    "several audiences": ONE.token(claims(aud=["orders", "cart"])),
    "audience by scheme": ONE.token(claims(aud="http://other")),
    "audience with a slash": ONE.token(claims(aud="cart/")),
    "audience in capitals": ONE.token(claims(aud="CART")),
    "audience is a number": ONE.token(claims(aud=7)),
    "audiences with a number": ONE.token(claims(aud=["cart", 7])),
    "stranger's signature": STRANGER.token(claims()),
    "changed payload": GOOD.replace(GOOD.split(b".")[1], b64(json.dumps(claims(sub="you")).encode()).encode()),
    "no signature": GOOD.rpartition(b".")[0] + b".",
    "cut signature": GOOD[:-8],
    "two parts": GOOD.rpartition(b".")[0],
    "four parts": GOOD + b".AA",
    "nonsense": b"nonsense",
    "dots": b"..",
    "bad base64 in the header": b"a!b" + GOOD,
    "bad base64 in the payload": b".".join((GOOD.split(b".")[0], b"e30*", GOOD.split(b".")[2])),
    "length of base64": b".".join((GOOD.split(b".")[0], b"e30ab", GOOD.split(b".")[2])),
    "header is no json": b"bm8." + GOOD.partition(b".")[2],
    "header is a list": b"W10." + GOOD.partition(b".")[2],
    "payload is no json": ONE.token(b"no json"),
    "payload is a list": ONE.token(b"[]"),
    "empty payload": ONE.token(b""),
    "no algorithm": ONE.token(claims(), alg=None),
    "none": b".".join((b64(b'{"alg":"none"}').encode(), GOOD.split(b".")[1], b"")),
    "None": b".".join((b64(b'{"alg":"None"}').encode(), GOOD.split(b".")[1], b"AA")),
    "alg is a number": ONE.token(claims(), alg=7),
    "unknown algorithm": ONE.token(claims(), alg="XX256"),
    "other algorithm of the key": rsa_signer("one", "RS512").token(claims()),
    "said to be PS256": ONE.token(claims(), alg="PS256"),
    "said to be ES256": ONE.token(claims(), alg="ES256"),
    "said to be HS256": ONE.token(claims(), alg="HS256"),
    "public key as a secret": secret_signer("one", rsa_pem("one")).token(claims()),
    "modulus as a secret": secret_signer("one", base64.urlsafe_b64decode(ONE.jwk["n"] + "==")).token(claims()),
    "own key in the header": STRANGER.token(claims(), jwk=STRANGER.jwk),
    "key by URL": STRANGER.token(claims(), jku="http://127.0.0.1:1/keys"),
    "large": ONE.token(claims(more="x" * 6000)),
    "of the other": TWO.token({"iss": OTHER, "sub": "two", "exp": NOW + 3600}),
    "of the other, expired": TWO.token({"iss": OTHER, "exp": NOW - 3600}),
    "of the other, bad": ec_signer("two").token({"iss": OTHER, "exp": NOW + 3600}),
}


def bearer(token: bytes) -> bytes:
    return b"Authorization: Bearer " + token


def case(listener: str, name: str, *fields: bytes, path: bytes = b"/", **more: Any) -> Case:
    return Case(name=f"{listener}: {name}", listener=listener, send=(get(path, *fields),), **more)


def nested(depth: int, *, lists: bool = False) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value


FULL = claims(a={"b": "deep"}, n=7, t=True, l=["x", 1], scope="read write", groups=["admin", "dev"], nil=None, f=1.5)
TOKEN = ONE.token(FULL)
SPOOFED = tuple(f"{name}: spoofed".encode() for name in ("X-Payload", "x-sub", "x-nested", "x-absent", "X-List"))
MANY = ("good", "expired", "of the other", "of the other, expired", "of the other, bad", "other issuer", "nonsense")

CASES = [
    *(case("one", name, bearer(token)) for name, token in TOKENS.items()),
    *(
        case(listener, name, bearer(TOKENS[name]))
        for listener in (
            "optional", "istio", "any", "failed", "missing", "missing-or-failed", "audiences", "any-issuer",
        )
        for name in MANY
    ),
    *(case(listener, "none") for listener in LISTENERS if listener not in ("rules",)),
    *(case("skew", name, bearer(TOKENS[name])) for name in ("expired beyond the skew", "not yet", "expired")),
    *(case("expiration", name, bearer(TOKENS[name])) for name in ("good", "no expiration", "exp is zero")),
    *(case("algorithms", name, bearer(own.token(claims()))) for name, own in ALGORITHMS.items()),
    *(case("algorithms", f"{name}, no kid", bearer(own.token(claims(), kid=None))) for name, own in ALGORITHMS.items()),
    *(case("secrets", name, bearer(own.token(claims()))) for name, own in SECRETS.items()),
    case("secrets", "another secret", bearer(secret_signer("HS256", b"x" * 32).token(claims()))),
    case("unnamed", "a kid", bearer(ONE.token(claims(), kid="whatever"))),
    case("unnamed", "no kid", bearer(ONE.token(claims(), kid=None))),
    case("unnamed", "the second key", bearer(rsa_signer("three", kid=None).token(claims()))),
    case("unnamed", "a stranger", bearer(STRANGER.token(claims(), kid=None))),
    *(case("stripped", name, bearer(TOKENS[name])) for name in ("good", "expired", "other audience")),
    # where tokens stand
    case("one", "in lower case", b"authorization: bearer " + GOOD),
    case("one", "no prefix", b"Authorization: " + GOOD),
    case("one", "blanks", b"Authorization: Bearer   " + GOOD),
    case("one", "nothing behind", b"Authorization: Bearer "),
    case("one", "basic", b"Authorization: Basic " + GOOD),
    case("one", "comma behind", b"Authorization: Bearer " + GOOD + b",x"),
    case("one", "in the middle", b"Authorization: x Bearer " + GOOD),
    case("one", "parameter", path=b"/p?x=1&access_token=" + GOOD + b"&y=2"),
    case("one", "only the parameter", path=b"/p?access_token=" + GOOD),
    case("one", "bad header, good parameter", bearer(TOKENS["expired"]), path=b"/p?access_token=" + GOOD),
    case("one", "good header, bad parameter", bearer(GOOD), path=b"/p?access_token=" + TOKENS["expired"]),
    case("one", "both bad", bearer(TOKENS["expired"]), path=b"/p?access_token=" + TOKENS["nonsense"]),
    case("places", "header", b"X-Jwt: " + GOOD),
    case("places", "prefix", b"x-pre: JWT " + GOOD),
    case("places", "other prefix", b"x-pre: Bearer " + GOOD),
    case("places", "parameter", path=b"/p?tok=" + GOOD + b"&x=1"),
    case("places", "cookie", b"Cookie: a=b; session=" + GOOD),
    case("places", "second cookie", b"Cookie: other=" + GOOD + b"; a=b"),
    case("places", "quoted cookie", b'Cookie: session="' + GOOD + b'"'),
    case("places", "two cookie headers", b"Cookie: a=b", b"Cookie: session=" + GOOD),
    case("places", "bad cookie, good header", b"Cookie: session=" + TOKENS["expired"], b"X-Jwt: " + GOOD),
    case("places", "not where it is by default", bearer(GOOD)),
    case("all", "both", bearer(GOOD), b"x-two: " + TOKENS["of the other"]),
    case("all", "one bad", bearer(GOOD), b"x-two: " + TOKENS["of the other, expired"]),
    case("all", "one missing", bearer(GOOD)),
    # what becomes of the request
    *(
        case(listener, name, *fields, bearer(TOKEN))
        for listener in ("forward", "told", "padded", "one")
        for name, fields in (("full", ()), ("spoofed", SPOOFED))
    ),
    case("told", "spoofed without a token", *SPOOFED),
    case("told", "spoofed with a bad token", *SPOOFED, bearer(TOKENS["expired"])),
    case("told", "empty claim", bearer(ONE.token(claims(sub="")))),
    case("told", "no ascii in a claim", bearer(ONE.token(claims(sub="zoë")))),
    case("told", "a number that is none", bearer(ONE.token(claims(n=1.5, t=False)))),
    case("told", "a line break", bearer(ONE.token(claims(sub="me\r\nx-admin: 1")))),
    case("told", "a bare line feed", bearer(ONE.token(claims(sub="me\nx-admin: 1")))),
    case("told", "a line break, spoofed", b"x-sub: spoofed", bearer(ONE.token(claims(sub="me\r\nx-admin: 1")))),
    case("told", "a NUL", bearer(ONE.token(claims(sub="me\0you")))),
    case("told", "an object", bearer(ONE.token(claims(l={"k": "v"})))),
    case("told", "a list that base64url writes differently", bearer(ONE.token(claims(l=["?~?"])))),
    *(
        case("one", f"{depth} deep, lists={lists}", bearer(ONE.token(claims(z=nested(depth, lists=lists)))))
        for depth in (99, 100, 700)
        for lists in (False, True)
    ),
    case("one", "many beside each other", bearer(ONE.token(claims(z=[{"a": []}] * 200)))),
    *(
        case(listener, name, bearer(token))
        for listener in ("sub", "scope", "either", "nested", "bool", "null")
        for name, token in (
            ("full", TOKEN),
            ("others", ONE.token(claims(sub="you", scope="write", groups="admin", a={}, t="true"))),
            ("bare", GOOD),
        )
    ),
    # rules
    *(
        case("rules", path.decode().replace("/", "|"), path=path)
        for path in (b"/open", b"/open/x", b"/openx", b"/h", b"/r12", b"/rx", b"/sep", b"/sep/x", b"/septic",
                     b"/closed", b"/closed?x", b"/other")
    ),
    case("rules", "header", b"x-open: 1", path=b"/h"),
    case("rules", "token", bearer(GOOD), path=b"/closed"),
    # answers
    Case(name="preflight", listener="preflights", send=(
        get(b"/", b"Origin: http://a", b"Access-Control-Request-Method: PUT", method=b"OPTIONS"),)),
    Case(name="no preflight", listener="preflights", send=(get(b"/", b"Origin: http://a", method=b"OPTIONS"),)),
    Case(name="realm with a query", listener="one", send=(get(b"/p?q=1", host=b"h:80"),)),
    Case(name="grpc", listener="one", send=(get(b"/p", b"content-type: application/grpc"),)),
    Case(name="a body", listener="one", send=(post(b"/p"),), differs="answered-before-the-body"),
    Case(name="a body, good", listener="one", send=(post(b"/p", b"body", bearer(GOOD)),)),
]  # fmt: skip

_DIFFER = {
    "one: exp is zero": "exp-zero",
    "expiration: exp is zero": "exp-zero",
    "told: a line break": "claim-unfit-for-a-field",
    "told: a bare line feed": "claim-unfit-for-a-field",
    "told: a NUL": "claim-unfit-for-a-field",
    "told: a line break, spoofed": "claim-unfit-for-a-field",
}


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same(case: Case, check: Check) -> None:
    check(replace(case, differs=_DIFFER.get(case.name, case.differs)))


@pytest.mark.envoy
def test_the_same_is_counted(pair: Pair, runner: asyncio.Runner) -> None:
    async def run() -> tuple[dict[str, int], dict[str, int]]:
        for fields in ((), (bearer(GOOD),), (bearer(GOOD),), (bearer(TOKENS["expired"]),)):
            await pair.run(Case(name="one", listener="tallied", send=(get(b"/", *fields),)))
        return await pair.counted("http.tallied.jwt_authn.", Case(name="last", listener="one", send=(get(),)))

    envoy, agent = runner.run(run())
    assert (envoy["http.tallied.jwt_authn.allowed"], envoy["http.tallied.jwt_authn.denied"]) == (3, 1)
    assert (agent["http.tallied.jwt_authn.allowed"], agent["http.tallied.jwt_authn.denied"]) == (3, 1)
    assert agent["http.tallied.jwt_authn.jwt_cache_hit"] == 1
