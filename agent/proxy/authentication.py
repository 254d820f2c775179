"""JSON Web Tokens of requests: looked for, judged, told to the application and to the filters behind.

Owns:   the memory of good tokens, what a request's head becomes, the answers.
Not:    tokens (agent.filters.jwt), requirements (agent.filters.jwt_requirements), signatures
        (agent.upstream.signatures).
Source: data-plane.md 1.10; Envoy's jwt_authn filter.
Differs: every good token is remembered until it expires, whatever the configuration says.
Invariants: what a client says where we say a claim or a payload is taken out before any token is looked at, also when
        no token comes; at most MEMORY tokens are remembered per provider, by their SHA-256.
"""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from agent.codec.head import RequestHead
from agent.filters.cors import ORIGIN, is_preflight
from agent.filters.jwt import (
    AUDIENCE,
    MISSING,
    BadToken,
    Token,
    claim_text,
    normalised,
    parsed,
    problem,
)
from agent.filters.jwt_locations import Found
from agent.filters.jwt_requirements import GOOD, CompiledRule, compiled_rules
from agent.model.jwt import JwtAuthentication, JwtProvider
from agent.proxy import answers
from agent.proxy.stages import Stage
from agent.stats import names
from agent.stats.names import jwt_group
from agent.upstream.signatures import Keys

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

FILTER: Final = "envoy.filters.http.jwt_authn"
MEMORY: Final = 1000
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_MAX_REMEMBERED_BYTES: Final = 4096
_MAX_REALM_BYTES: Final = 256  # of the path


class GoodTokens:
    """Tokens whose signature was good, the latest used last."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: OrderedDict[bytes, Token] = OrderedDict()

    def get(self, digest: bytes) -> Token | None:
        """The token, if it is remembered."""
        found = self._tokens.get(digest)
        if found is not None:
            self._tokens.move_to_end(digest)
        return found

    def put(self, digest: bytes, token: Token) -> None:
        """Remember one; the one that was not used for longest makes room."""
        self._tokens[digest] = token
        if len(self._tokens) > MEMORY:
            self._tokens.popitem(last=False)

    def forget(self, digest: bytes) -> None:
        """It is not good any longer."""
        self._tokens.pop(digest, None)

    def __len__(self) -> int:
        return len(self._tokens)


class _Provider:
    """A provider with its keys and its memory."""

    __slots__ = ("claim_headers", "config", "keys", "payload_header", "tokens")

    def __init__(self, config: JwtProvider) -> None:
        self.config = config
        self.keys = Keys(config.jwks)
        self.tokens = GoodTokens()
        self.payload_header = config.payload_header.encode()
        self.claim_headers = tuple((name.encode(), path) for name, path in config.claim_headers)


class JwtStage(Stage):
    """One filter."""

    __slots__ = ("_bypass", "_own_headers", "_providers", "_rules", "_strip")

    def __init__(self, config: JwtAuthentication) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self._rules = compiled_rules(config)
        self._providers = {own.name: _Provider(own) for own in config.providers}
        self._bypass = config.bypass_cors_preflight
        self._strip = config.strip_failure_response
        self._own_headers = frozenset(
            name
            for own in self._providers.values()
            for name in (own.payload_header, *(header for header, _ in own.claim_headers))
            if name
        )

    def begin(self, exchange: "Exchange", resume: Callable[[], None]) -> bool:
        head = exchange.head
        counts = exchange.chain.filters.group("jwt_authn", jwt_group).counts
        if not self._own_headers.isdisjoint(head.headers.index):
            head.headers.remove_all(self._own_headers)
        if self._bypass and ORIGIN in head.headers.index and is_preflight(head):
            counts[names.JWT_BYPASSED] += 1
            return True
        rule = self._rule_for(head)
        if rule is None or rule.verify is None:
            counts[names.JWT_ALLOWED] += 1
            return True
        target = head.path  # before tokens are taken out of it
        work = _Work(self._providers, exchange, counts)
        reason = rule.verify(head, work.judge)
        if reason != GOOD:
            counts[names.JWT_DENIED] += 1
            self._refuse(exchange, reason, target)
            return False
        counts[names.JWT_ALLOWED] += 1
        return True

    def _rule_for(self, head: RequestHead) -> CompiledRule | None:
        for rule in self._rules:
            if rule.matches(head):
                return rule
        return None

    def _refuse(self, exchange: "Exchange", reason: str, target: bytes) -> None:
        details = f"jwt_authn_access_denied{{{'_'.join(reason.split())}}}"
        status = _FORBIDDEN if reason == AUDIENCE else _UNAUTHORIZED
        if self._strip:
            answers.own(exchange, status, b"", "", details, ())
            return
        challenge = b'Bearer realm="%b"' % _realm(exchange.head, target)
        if reason != MISSING:
            challenge += b', error="invalid_token"'
        answers.own(exchange, status, reason.encode(), "", details, ((b"www-authenticate", challenge),))


def _realm(head: RequestHead, target: bytes) -> bytes:
    """The request's own URL, fit for a quoted string."""
    text = b"%b://%b%b" % (head.scheme, head.authority, target[:_MAX_REALM_BYTES])
    return text.replace(b"\\", b"%5C").replace(b'"', b"%22")


class _Work:
    """Judging the tokens of one request."""

    __slots__ = ("_counts", "_exchange", "_providers")

    def __init__(self, providers: dict[str, _Provider], exchange: "Exchange", counts: list[int]) -> None:
        self._providers = providers
        self._exchange = exchange
        self._counts = counts

    def judge(self, config: JwtProvider, found: Found, audiences: tuple[str, ...] | None) -> str:
        """GOOD, and the request's head is changed; or why not."""
        own = self._providers[config.name]
        now_s = self._exchange.chain.runtime.wall()
        digest = sha256(found.text).digest()
        token = own.tokens.get(digest)
        known = token is not None
        self._counts[names.JWT_CACHE_HIT if known else names.JWT_CACHE_MISS] += 1
        if token is None:
            try:
                token = parsed(found.text)
            except BadToken as error:
                return error.reason
        reason = problem(token, config, audiences, now_s)
        if reason:
            if known:
                own.tokens.forget(digest)
            return reason
        if not known:
            reason = own.keys.verify(token.algorithm, token.key_id, token.signed, token.signature)
            if reason:
                return reason
            if len(found.text) <= _MAX_REMEMBERED_BYTES:
                own.tokens.put(digest, token)
        self._accept(own, found, token)
        return GOOD

    def _accept(self, own: _Provider, found: Found, token: Token) -> None:
        config, head = own.config, self._exchange.head
        if not config.forward:
            found.remove(head)
        if own.payload_header:
            payload = token.payload + b"=" * (-len(token.payload) % 4) if config.pads_payload else token.payload
            head.headers.set(own.payload_header, payload)
        for name, path in own.claim_headers:
            text = claim_text(token.claims, path)
            value = text.encode("utf-8", "replace") if text is not None else b""
            if value and not set(value) & _UNFIT:
                head.headers.set(name, value)
        if config.metadata_key:
            passage = self._exchange.passage
            assert passage is not None
            if token.told is None:
                token.told = normalised(token.claims, config.space_delimited)
            passage.metadata.setdefault(FILTER, {})[config.metadata_key] = token.told


_UNFIT: Final = frozenset(range(0x20)) - {0x09} | {0x7F}
