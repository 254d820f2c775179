"""Keys of token issuers: fetched, refreshed, kept when their server fails or lies, forgotten when nobody needs them."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from controlplane.policy.jwks import MAX_BYTES, NOBODYS_JWKS, problems, public_part
from controlplane.reconcile.jwks import REFRESH_S, RETRY_S, JwksKeeper, fetch_text, jwks_key
from controlplane.store.protocol import Delete
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn
from tests.support.bad_security_policies import OCT, P256, RSA
from tests.support.clock import ManualClock
from tests.support.plane import Plane, plane, until

KEYS = json.dumps({"keys": [RSA]})
OTHERS = json.dumps({"keys": [P256]})
URL = "https://issuer.example.com/keys"


def policy(**rule: Any) -> str:
    rules = json.dumps([{"issuer": "https://issuer.example.com", **rule}])
    return (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\n"
        f"spec: {{jwtRules: {rules}}}\n"
    )


class Server:
    """Answers by URL; what is an exception is raised."""

    def __init__(self, **documents: Any) -> None:
        self.documents: dict[str, Any] = dict(documents)
        self.asked: list[tuple[str, float]] = []

    async def fetch(self, url: str, timeout_s: float) -> str:
        self.asked.append((url, timeout_s))
        found = self.documents[url]
        if isinstance(found, Exception):
            raise found
        return str(found)


class Fixture:
    def __init__(self, plane: Plane, server: Server) -> None:
        self.plane = plane
        self.server = server
        self.clock = ManualClock()
        self.keeper = JwksKeeper(plane.store, plane.reconciler, self.clock, lambda: 0.5, server.fetch)

    @property
    def keys(self) -> dict[str, str]:
        return dict(self.plane.reconciler.mesh.jwks)

    @property
    def told(self) -> list[str]:
        return [item.message for item in self.plane.reconciler.conditions() if item.type == "KeyFetchFailed"]

    async def look(self) -> None:
        before = (await self.plane.store.list("/")).revision
        await self.keeper.look()
        after = (await self.plane.store.list("/")).revision
        if after > before:
            await self.plane.published(after)


@asynccontextmanager
async def fixture(**documents: Any) -> AsyncIterator[Fixture]:
    async with plane() as made:
        yield Fixture(made, Server(**documents))


async def test_fetched_once_and_again_when_it_is_time() -> None:
    async with fixture(**{URL: KEYS}) as own:
        await own.plane.put(policy(jwksUri=URL, timeout="2s"))
        await own.look()
        await own.look()
        assert own.server.asked == [(URL, 2.0)]
        assert own.keys == {URL: public_part(KEYS)}
        own.server.documents[URL] = OTHERS
        own.clock.advance(REFRESH_S - 1)
        await own.look()
        assert own.keys == {URL: public_part(KEYS)}
        own.clock.advance(2)
        await own.look()
        assert own.keys == {URL: public_part(OTHERS)}


@pytest.mark.parametrize(
    "answer",
    [
        OSError("refused"), TimeoutError(), ValueError("status 500"), "no json", "[]", '{"keys": []}',
        json.dumps({"keys": [OCT]}), json.dumps({"keys": [{"kty": "RSA"}]}), "x" * (MAX_BYTES + 1), "[" * 100_000,
    ],
    ids=lambda answer: str(answer)[:20],
)  # fmt: skip
async def test_a_server_that_fails_or_lies_changes_nothing(answer: Any) -> None:
    async with fixture(**{URL: KEYS}) as own:
        await own.plane.put(policy(jwksUri=URL))
        await own.look()
        assert own.told == []
        own.server.documents[URL] = answer
        own.clock.advance(REFRESH_S + 1)
        await own.look()
        assert own.keys == {URL: public_part(KEYS)}
        [told] = own.told
        assert told.startswith(f"spec.jwtRules[0].jwksUri: cannot fetch keys from {URL}: ")
        assert told.endswith("; the last good ones stay")
        assert len(told) < 400
        own.server.documents[URL] = OTHERS
        own.clock.advance(RETRY_S + 1)
        await own.look()
        assert own.keys == {URL: public_part(OTHERS)}
        assert own.told == []


async def test_why_there_are_no_keys_is_told_until_nobody_needs_them() -> None:
    async with fixture(**{URL: OSError("refused")}) as own:
        await own.plane.put(policy(jwksUri=URL))
        await own.look()
        assert own.told == [f"spec.jwtRules[0].jwksUri: cannot fetch keys from {URL}: refused; no token of it passes"]
        await own.plane.put(policy(jwks=KEYS))
        await own.look()
        assert own.told == []
        assert own.plane.reconciler.jwks_problems == {}


async def test_who_refreshes_often_retries_as_often() -> None:
    async with fixture(**{URL: OSError("refused")}) as own:
        own.keeper = JwksKeeper(
            own.plane.store, own.plane.reconciler, own.clock, lambda: 0.5, own.server.fetch, refresh_s=2.0
        )
        await own.plane.put(policy(jwksUri=URL))
        for _ in range(5):
            await own.look()
            own.clock.advance(2.1)
        assert len(own.server.asked) == 5


async def test_new_keys_that_could_not_be_stored_are_fetched_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fixture(**{URL: KEYS}) as own:
        await own.plane.put(policy(jwksUri=URL))
        await own.look()
        own.server.documents[URL] = OTHERS
        own.clock.advance(REFRESH_S + 1)

        async def unavailable(*_: object) -> None:
            raise MeshError(ErrorCode.UNAVAILABLE, "etcd is away")

        with monkeypatch.context() as away:
            away.setattr(own.plane.store, "transact", unavailable)
            await own.look()
        own.clock.advance(RETRY_S + 1)
        await own.look()
        assert own.keys == {URL: public_part(OTHERS)}


async def test_keys_of_a_rule_that_is_gone_are_forgotten() -> None:
    async with fixture(**{URL: KEYS}) as own:
        await own.plane.put(policy(jwksUri=URL))
        await own.look()
        assert own.keys
        await own.plane.put(policy(jwks=KEYS))
        await own.look()
        assert own.keys == {}
        assert await own.plane.store.get(jwks_key(URL)) is None


async def test_an_issuer_tells_where_its_keys_are() -> None:
    discovery = "https://issuer.example.com/.well-known/openid-configuration"
    told = {"issuer": "https://issuer.example.com", "jwks_uri": URL}
    async with fixture(**{URL: KEYS, discovery: json.dumps(told)}) as own:
        await own.plane.put(policy())
        await own.look()
        assert own.keys == {discovery: public_part(KEYS)}


@pytest.mark.parametrize(
    "told",
    [{"issuer": "https://other.example.com", "jwks_uri": URL}, {"jwks_uri": URL}, {"issuer": "x"}, [],
     {"issuer": "https://issuer.example.com", "jwks_uri": "file:///etc/passwd"}],
)  # fmt: skip
async def test_another_issuers_configuration_is_not_believed(told: Any) -> None:
    discovery = "https://issuer.example.com/.well-known/openid-configuration"
    async with fixture(**{URL: KEYS, discovery: json.dumps(told)}) as own:
        await own.plane.put(policy())
        await own.look()
        assert own.keys == {}


async def test_what_is_stored_is_read_by_every_replica() -> None:
    async with fixture(**{URL: KEYS}) as own:
        await own.plane.put(policy(jwksUri=URL))
        await own.look()
        async with plane(own.plane.store) as other:
            assert dict(other.reconciler.mesh.jwks) == own.keys
            done = await own.plane.store.transact([], [Delete(jwks_key(URL))])
            await other.published(done.revision)
            assert dict(other.reconciler.mesh.jwks) == {}


def test_only_what_verifies_is_kept() -> None:
    """Private parts, keys for encryption and shared secrets never get to a proxy."""
    document = {"keys": [{**RSA, "kid": "a", "x5c": ["b"]}, {**RSA, "d": "c"}, {**P256, "use": "enc"}, OCT, "nonsense"]}
    assert json.loads(public_part(json.dumps(document))) == {"keys": [{**RSA, "kid": "a"}]}


def test_nobodys_key_is_one() -> None:
    """A point of the curve, so that every proxy takes the set; made of a hash, so that nobody can sign with it."""
    import base64
    import hashlib

    (key,) = json.loads(NOBODYS_JWKS)["keys"]
    x, y = (int.from_bytes(base64.urlsafe_b64decode(key[name] + "=")) for name in ("x", "y"))
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    assert (y * y - (x**3 - 3 * x + b)) % prime == 0
    assert x == int.from_bytes(hashlib.sha256(b"nobody has this key 4").digest())
    assert list(problems(NOBODYS_JWKS)) == []


class Web:
    """A real server that hangs, lies, or answers."""

    def __init__(self) -> None:
        self.url = ""
        self._app = web.Application()
        self._app.router.add_get("/{name}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        match request.match_info["name"]:
            case "good":
                return web.Response(text=KEYS)
            case "moved":
                return web.Response(status=302, headers={"location": "/good"})
            case "large":
                return web.Response(body=b"x" * (MAX_BYTES + 1))
            case "packed":
                return web.Response(body=gzip.compress(KEYS.encode()), headers={"content-encoding": "gzip"})
            case "asked":
                return web.json_response({name.lower(): value for name, value in request.headers.items()})
            case "binary":
                return web.Response(body=b"\xff\xfe")
        await asyncio.sleep(30)
        return web.Response()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Web"]:
        runner = web.AppRunner(self._app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


async def test_over_http() -> None:
    async with Web().running() as server:
        assert await fetch_text(f"{server.url}/good", 5.0) == KEYS
        for name, reason in (("moved", "302"), ("large", "more than"), ("binary", "utf-8"), ("packed", "utf-8")):
            with pytest.raises(ValueError, match=reason):
                await fetch_text(f"{server.url}/{name}", 5.0)
        asked = json.loads(await fetch_text(f"{server.url}/asked", 5.0))
        assert (asked["accept"], asked["accept-encoding"]) == ("application/json", "identity")
        with pytest.raises(TimeoutError):
            await fetch_text(f"{server.url}/hangs", 0.1)
        with pytest.raises(OSError, match="Cannot connect"):
            await fetch_text("http://127.0.0.1:1/", 5.0)


async def test_new_urls_are_found_by_themselves() -> None:
    async with fixture(**{URL: KEYS}) as own:
        running = spawn("keeper", own.keeper.run())
        try:
            await own.plane.put(policy(jwksUri=URL))
            await until(lambda: own.keys == {URL: public_part(KEYS)})
        finally:
            await cancel_and_wait(running)


async def test_what_a_server_says_is_told_in_short(caplog: pytest.LogCaptureFixture) -> None:
    """An answer may be a megabyte of nonsense."""
    discovery = "https://issuer.example.com/.well-known/openid-configuration"
    async with fixture(**{discovery: json.dumps({"issuer": "x" * 100_000})}) as own:
        await own.plane.put(policy())
        await own.look()
        (told,) = own.told
        assert "found issuer 'xxx" in told
        assert len(told) < 500
        (record,) = [one for one in caplog.records if "cannot fetch keys" in one.getMessage()]
        assert len(str(vars(record))) < 2000
