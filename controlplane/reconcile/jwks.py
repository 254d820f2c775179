"""Fetches the keys that RequestAuthentications point to, again and again, and keeps the last good ones in the store.

Owns:   when what is fetched, what an answer may look like, what is written.
Not:    which keys are usable (controlplane.policy.jwks); reading them back, which every replica does by its watch.
Source: istio pilot/pkg/model jwks_resolver.go (refresh every 20 minutes, OpenID discovery when a rule has no URL);
        RFC 8414, OpenID Connect Discovery 1.0 section 4: the issuer in the document must be the rule's.
Differs: no redirect is followed; keys are kept over restarts and are the same for all replicas; those of a URL that
        no rule needs any longer are forgotten.
Invariants: an answer that cannot be used changes nothing but the condition of its policies: the last good keys stay.
        One look fetches at most AT_ONCE at a time, each within its time-out and MAX_BYTES; what is sent packed is no
        answer, so that nothing small becomes large here.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import aiohttp

from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import MeshState
from controlplane.policy.jwks import MAX_BYTES, public_part
from controlplane.policy.kinds import REQUEST_AUTHENTICATION
from controlplane.policy.request_authentication import DISCOVERY_PATH, RequestAuthentication
from controlplane.policy.rules.request_authentication import is_url
from controlplane.store.keys import JWKS
from controlplane.store.protocol import ConfigStore, Delete, Op, Put
from mesh.clock import Clock
from mesh.errors import MeshError
from mesh.logs import get_logger
from mesh.resilience.backoff import Rng

_log = get_logger(__name__)

REFRESH_S = 1200.0
RETRY_S = 10.0
MAX_RETRY_S = 300.0
LOOK_S = 0.5  # for new URLs
AT_ONCE = 8
_MAX_REASON = 200  # of what is shown
_ASKED = {"accept": "application/json", "accept-encoding": "identity"}
Fetch = Callable[[str, float], Awaitable[str]]  # (URL, seconds) -> text; raises OSError or ValueError


class HasMesh(Protocol):
    """Where the URLs stand; in `jwks_problems` stays why the latest fetch of each has failed."""

    jwks_problems: dict[str, str]

    @property
    def mesh(self) -> MeshState: ...


class JwksKeeper:
    """`fetch`: how a document is got; `rng` spreads the refreshes of replicas, about `refresh_s` apart."""

    def __init__(
        self, store: ConfigStore, source: HasMesh, clock: Clock, rng: Rng, fetch: Fetch | None = None,
        *, refresh_s: float = REFRESH_S,
    ) -> None:  # fmt: skip
        self._store = store
        self._source = source
        self._clock = clock
        self._rng = rng
        self._fetch = fetch or fetch_text
        self._refresh_s = refresh_s
        self._due: dict[str, float] = {}  # when a URL is fetched next, in monotonic seconds
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Fetch what is due, forget what nobody needs."""
        mesh = self._source.mesh
        wanted = dict(mesh.security.jwks_sources())
        now = self._clock.monotonic()
        due = [url for url in sorted(wanted) if self._due.get(url, 0.0) <= now]
        gone = [url for url in sorted(mesh.jwks) if url not in wanted]
        for url in self._due.keys() - wanted.keys():
            del self._due[url]
            self._succeeded(url)
        for start in range(0, len(due), AT_ONCE):
            urls = due[start : start + AT_ONCE]
            found = await asyncio.gather(*(self._renew(url, wanted[url]) for url in urls))
            fresh = {url: value for url, value in found if value is not None}
            await self._write([Put(jwks_key(url), value) for url, value in fresh.items()], fresh)
        for start in range(0, len(gone), AT_ONCE):
            await self._write([Delete(jwks_key(url)) for url in gone[start : start + AT_ONCE]])

    async def _renew(self, url: str, timeout_s: float) -> tuple[str, bytes | None]:
        """(URL, what is to be stored), None when that is nothing new."""
        try:
            keys = public_part(await self._document(url, timeout_s))
        except (OSError, ValueError, RecursionError, aiohttp.ClientError) as error:
            self._failed(url, str(error) or type(error).__name__)
            return url, None
        self._succeeded(url)
        self._due[url] = self._clock.monotonic() + self._refresh_s * (0.75 + self._rng() / 2)
        if self._source.mesh.jwks.get(url) == keys:
            return url, None
        return url, encode_jwks(url, keys)

    async def _document(self, url: str, timeout_s: float) -> str:
        if not url.endswith(DISCOVERY_PATH):
            return await self._fetch(url, timeout_s)
        return await self._fetch(_keys_url(url, await self._fetch(url, timeout_s)), timeout_s)

    def _succeeded(self, url: str) -> None:
        self._failures.pop(url, None)
        self._source.jwks_problems.pop(url, None)

    def _failed(self, url: str, reason: str) -> None:
        reason = reason[:_MAX_REASON]
        count = self._failures[url] = self._failures.get(url, 0) + 1
        most_s = min(MAX_RETRY_S, self._refresh_s)
        delay_s = min(RETRY_S * 2 ** min(count - 1, 10), most_s) * (0.75 + self._rng() / 2)
        self._due[url] = self._clock.monotonic() + delay_s
        self._source.jwks_problems[url] = reason
        kept = _kept(url, self._source.mesh)
        _log.warning("cannot fetch keys", url=url, reason=reason, effect=kept)

    async def _write(self, ops: list[Op], fetched: Iterable[str] = ()) -> None:
        """`fetched`: whose keys they store; deletions are due as long as the keys are there."""
        if not ops:
            return
        try:
            await self._store.transact([], ops)
        except MeshError as error:
            _log.warning("cannot store fetched keys; trying again", reason=str(error))
            for url in fetched:
                self._due[url] = self._clock.monotonic() + RETRY_S


def key_conditions(mesh: MeshState, problems: Mapping[str, str]) -> Iterator[Condition]:
    """What the policies are told whose keys could not be fetched. `problems`: by URL."""
    if not problems:
        return
    for item in mesh.objects.values():
        rules = item.spec_as(RequestAuthentication).jwt_rules if item.kind is REQUEST_AUTHENTICATION else ()
        for index, rule in enumerate(rules):
            url = rule.jwks_source
            if url in problems:
                path = f"spec.jwtRules[{index}].{'jwksUri' if rule.jwks_uri else 'issuer'}"
                message = f"{path}: cannot fetch keys from {url}: {problems[url]}; {_kept(url, mesh)}"
                yield Condition(item.ref, "KeyFetchFailed", "True", "KeysNotRenewed", message, path=path)


def _kept(url: str, mesh: MeshState) -> str:
    return "the last good ones stay" if url in mesh.jwks else "no token of it passes"


def jwks_key(url: str) -> str:
    """Where the keys of a URL are stored."""
    return JWKS + hashlib.sha256(url.encode()).hexdigest()


def encode_jwks(url: str, keys: str) -> bytes:
    """The stored form."""
    return json.dumps({"keys": json.loads(keys)["keys"], "url": url}, sort_keys=True, separators=(",", ":")).encode()


def _keys_url(url: str, text: str) -> str:
    """The URL of the keys in an OpenID configuration. Raises ValueError when it is not that of the issuer."""
    found: Any = json.loads(text)
    issuer, keys = (found.get("issuer"), found.get("jwks_uri")) if isinstance(found, dict) else (None, None)
    expected = url.removesuffix(DISCOVERY_PATH)
    if not isinstance(issuer, str) or issuer.rstrip("/") != expected:
        raise ValueError(f"found issuer {issuer!r} in {url}, expected {expected}")
    if not isinstance(keys, str) or not is_url(keys):
        raise ValueError(f"found jwks_uri {keys!r} in {url}, expected an http or https URL")
    return keys


async def fetch_text(url: str, timeout_s: float) -> str:
    """GET a document. Raises OSError (a time-out too), ClientError, or ValueError for another answer than expected."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with (
        aiohttp.ClientSession(
            timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, headers=_ASKED
        ) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        if answer.status != 200:
            raise ValueError(f"found status {answer.status}, expected 200 (redirects are not followed)")
        body = await _bounded(answer)
    return body.decode()


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for part in answer.content.iter_chunked(64 * 1024):
        body += part
        if len(body) > MAX_BYTES:
            raise ValueError(f"found more than {MAX_BYTES} bytes, expected a set of keys")
    return body
