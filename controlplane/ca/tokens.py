"""Join tokens: `id.secret.fingerprint`, of which the store holds only a hash and the limits.

Owns:   the token's form, minting, listing, revoking, and spending a use so that no use is spent twice.
Not:    what is signed after it (service.py).
Source: decision 13. The secret has 256 random bits, so a plain SHA-256 of it cannot be searched.

Invariants:
  A use is spent by a transaction that compares the token's revision and writes the node's grant with it.
  The same node that repeats the same request (the answer was lost) within REPEAT_MS spends nothing more.
  The secret is compared in constant time and never stored, logged or put into an error.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane.ca.grants import NodeGrant
from controlplane.store.keys import TOKENS, grant_key, token_key
from controlplane.store.protocol import ConfigStore, Delete, Entry, ModRevisionIs, Put
from controlplane.store.readable import readable
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.secret import Secret

DEFAULT_TTL_S = 3600
MAX_TTL_S = 365 * 24 * 3600
REPEAT_MS = 10 * 60 * 1000
# How many redemptions a token remembers to recognise repetitions.
_REMEMBERED = 64
# A spent or expired token stays visible for a day, then its lease removes it.
_VISIBLE_AFTER_S = 24 * 3600
_SPEND_TRIES = 20
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_NODE_PATTERN = re.compile(r"[a-z0-9.-]{0,62}\*")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|\*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """Who spent a use, for what request, when."""

    node: str
    request_hash: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A token as stored. `node` is a name or a prefix with `*` behind it; times in milliseconds since the epoch."""

    id: str
    secret_hash: str
    node: str
    namespaces: tuple[str, ...]
    service_accounts: tuple[str, ...]
    expires_ms: int
    uses_left: int
    created_ms: int
    created_by: str
    redemptions: tuple[Redemption, ...] = ()

    def admits_node(self, node: str) -> bool:
        """Is the node's name the token's, or one with its prefix?"""
        return node.startswith(self.node[:-1]) if self.node.endswith("*") else node == self.node

    def repeats(self, redemption: Redemption) -> bool:
        """Has this very request been granted a short while ago?"""
        return any(
            past.node == redemption.node
            and past.request_hash == redemption.request_hash
            and redemption.at_ms - past.at_ms <= REPEAT_MS
            for past in self.redemptions
        )

    def spent_by(self, redemption: Redemption) -> "JoinToken":
        """With one use less."""
        remembered = (*self.redemptions, redemption)[-_REMEMBERED:]
        return replace(self, uses_left=self.uses_left - 1, redemptions=remembered)

    def encode(self) -> bytes:
        """Canonical JSON."""
        value = {
            "createdBy": self.created_by,
            "createdMs": self.created_ms,
            "expiresMs": self.expires_ms,
            "id": self.id,
            "namespaces": self.namespaces,
            "node": self.node,
            "redemptions": [[past.node, past.request_hash, past.at_ms] for past in self.redemptions],
            "secretHash": self.secret_hash,
            "serviceAccounts": self.service_accounts,
            "usesLeft": self.uses_left,
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class MintedToken:
    """A new token and its text, which is shown once."""

    token: JoinToken
    text: Secret


def decode_token(entry: Entry) -> JoinToken:
    """From the stored form. Raises UNREADABLE."""
    try:
        value = json.loads(entry.value)
        return JoinToken(
            id=str(value["id"]),
            secret_hash=str(value["secretHash"]),
            node=str(value["node"]),
            namespaces=tuple(map(str, value["namespaces"])),
            service_accounts=tuple(map(str, value["serviceAccounts"])),
            expires_ms=int(value["expiresMs"]),
            uses_left=int(value["usesLeft"]),
            created_ms=int(value["createdMs"]),
            created_by=str(value["createdBy"]),
            redemptions=tuple(
                Redemption(node=str(node), request_hash=str(digest), at_ms=int(at_ms))
                for node, digest, at_ms in value["redemptions"]
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MeshError(ErrorCode.UNREADABLE, f"found {error!r}, expected a join token", subject=entry.key) from error


class TokenStore:
    """Join tokens in the store. `fingerprint` of the root goes into each token's text."""

    def __init__(self, store: ConfigStore, clock: Clock, *, fingerprint: str) -> None:
        self._store = store
        self._clock = clock
        self._fingerprint = fingerprint
        # Joins of this replica wait for each other here; between replicas the transaction decides.
        self._spending = asyncio.Lock()

    def pin(self, fingerprint: str) -> None:
        """From now on tokens are for this root."""
        self._fingerprint = fingerprint

    async def create(
        self,
        *,
        node: str,
        namespaces: Sequence[str] = ("default",),
        service_accounts: Sequence[str] = ("*",),
        ttl_s: int = DEFAULT_TTL_S,
        uses: int = 1,
        author: str = "",
    ) -> MintedToken:
        """Mint and store a token. Raises INVALID naming the field that is wrong."""
        _check_limits(node, namespaces, service_accounts, ttl_s, uses)
        secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        now_ms = int(self._clock.wall() * 1000)
        token = JoinToken(
            id=secrets.token_hex(8),
            secret_hash=_hash(secret),
            node=node,
            namespaces=tuple(namespaces),
            service_accounts=tuple(service_accounts),
            expires_ms=now_ms + ttl_s * 1000,
            uses_left=uses,
            created_ms=now_ms,
            created_by=author,
        )
        lease = await self._store.grant(ttl_s + _VISIBLE_AFTER_S)
        key = token_key(token.id)
        result = await self._store.transact([ModRevisionIs(key, 0)], [Put(key, token.encode(), lease.id)])
        if not result.succeeded:
            raise MeshError(ErrorCode.CONFLICT, "a token with this random id exists already", subject=token.id)
        return MintedToken(token=token, text=Secret(f"{token.id}.{secret}.{self._fingerprint}"))

    async def list(self) -> tuple[JoinToken, ...]:
        """All tokens, also spent and expired ones of the last day, oldest first."""
        tokens = readable((await self._store.list(TOKENS)).entries, decode_token)
        return tuple(sorted(tokens, key=lambda token: (token.created_ms, token.id)))

    async def revoke(self, token_id: str) -> None:
        """Delete a token. Nodes that joined with it keep their grants. Raises NOT_FOUND."""
        entry = await self._store.get(token_key(token_id)) if _is_token_id(token_id) else None
        if entry is None:
            raise MeshError(ErrorCode.NOT_FOUND, "there is no such join token", subject=f"token {token_id[:64]}")
        await self._store.transact([], [Delete(entry.key)])

    async def verify(self, token_id: str, secret: Secret, node: str) -> NodeGrant:
        """What the token would grant the node, without spending it. Raises UNAUTHENTICATED, PERMISSION_DENIED."""
        token, _ = await self._authentic(token_id, secret)
        return self._grant(token, node)

    async def spend(self, token_id: str, secret: Secret, node: str, request_hash: str) -> NodeGrant:
        """Spend one use and store the node's grant in the same transaction.

        Raises UNAUTHENTICATED (unknown, wrong, expired, revoked or spent), PERMISSION_DENIED (another node's token).
        """
        async with self._spending:
            for _ in range(_SPEND_TRIES):
                grant = await self._try_to_spend(token_id, secret, node, request_hash)
                if grant is not None:
                    return grant
        raise MeshError(ErrorCode.UNAVAILABLE, "too many nodes spend this token at once", hint="try again")

    async def _try_to_spend(self, token_id: str, secret: Secret, node: str, request_hash: str) -> NodeGrant | None:
        """None when another replica changed the token meanwhile."""
        token, entry = await self._authentic(token_id, secret)
        grant = self._grant(token, node)
        redemption = Redemption(node=node, request_hash=request_hash, at_ms=grant.joined_ms)
        if token.repeats(redemption):
            return grant
        if token.uses_left <= 0:
            raise _refused("the join token has no uses left")
        result = await self._store.transact(
            [ModRevisionIs(entry.key, entry.mod_revision)],
            [
                Put(entry.key, token.spent_by(redemption).encode(), entry.lease),
                Put(grant_key(node), grant.encode()),
            ],
        )
        return grant if result.succeeded else None

    async def _authentic(self, token_id: str, secret: Secret) -> tuple[JoinToken, Entry]:
        entry = await self._store.get(token_key(token_id)) if _is_token_id(token_id) else None
        token = decode_token(entry) if entry is not None else None
        # The comparison is made for unknown ids too, so that the time taken does not tell which ids exist.
        expected = token.secret_hash if token is not None else _hash("")
        matches = hmac.compare_digest(expected, _hash(secret.reveal()))
        if token is None or entry is None or not matches:
            raise _refused("the join token is unknown or its secret is wrong")
        if self._clock.wall() * 1000 >= token.expires_ms:
            raise _refused("the join token has expired")
        return token, entry

    def _grant(self, token: JoinToken, node: str) -> NodeGrant:
        check_node_name(node)
        if not token.admits_node(node):
            raise MeshError(
                ErrorCode.PERMISSION_DENIED,
                f"the join token is for node {token.node}, found {node}",
                subject=f"node {node}",
                hint="create a token for this node",
            )
        return NodeGrant(
            node=node,
            namespaces=token.namespaces,
            service_accounts=token.service_accounts,
            token_id=token.id,
            joined_ms=int(self._clock.wall() * 1000),
        )


def check_node_name(node: str) -> None:
    """Raise INVALID unless it is 1 to 63 of a-z, 0-9, '.', '-', with a letter or digit at both ends."""
    if not _NODE.fullmatch(node):
        raise MeshError(
            ErrorCode.INVALID, f"found {node[:80]!r}, expected 1 to 63 of a-z, 0-9, '.' and '-'", subject="node"
        )


def _check_limits(node: str, namespaces: Sequence[str], service_accounts: Sequence[str], ttl_s: int, uses: int) -> None:
    if not _NODE_PATTERN.fullmatch(node):
        check_node_name(node)
    for subject, names in (("namespaces", namespaces), ("service_accounts", service_accounts)):
        if not names or not all(_NAME.fullmatch(name) for name in names):
            raise MeshError(ErrorCode.INVALID, f"found {list(names)!r}, expected names or '*'", subject=subject)
    if not 0 < ttl_s <= MAX_TTL_S:
        raise MeshError(ErrorCode.INVALID, f"found {ttl_s}, expected 1 to {MAX_TTL_S} seconds", subject="ttl_s")
    if not 0 < uses <= 100_000:
        raise MeshError(ErrorCode.INVALID, f"found {uses}, expected 1 to 100000", subject="uses")


def _is_token_id(text: str) -> bool:
    return len(text) == 16 and all(c in "0123456789abcdef" for c in text)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _refused(message: str) -> MeshError:
    return MeshError(ErrorCode.UNAUTHENTICATED, message, hint="create a new one with meshctl token create")
