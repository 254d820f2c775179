"""The certificate authority as the rest of the control plane uses it: join, renew, tokens, the server's certificate.

Owns:   the order of the checks; which rules hold for a node that joins and for one that renews; using other roots.
Not:    gRPC (api/identity_service.py), the profile of certificates (authority.py).

Invariants:
  At join everything is checked before a use of the token is spent, and the secret before anything costly.
  A node renews only what its stored grant allows; without a grant (revoked) it renews nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.ca import roots, sealing
from controlplane.ca.authority import DEFAULT_LEAF_TTL_S, Authority
from controlplane.ca.grants import NodeGrant, grant_of
from controlplane.ca.rotation import Rotations
from controlplane.ca.sealing import SealingKey
from controlplane.ca.server_identity import ServerIdentity
from controlplane.ca.signing import CertificateRequest, SignedIdentity, check_requests, sign_all
from controlplane.ca.tokens import TokenStore, check_node_name
from controlplane.store.protocol import ConfigStore
from mesh.clock import Clock, SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.secret import Secret

_log = get_logger(__name__)

KEY_FILE = "ca-encryption.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The certificates in the order of the requests, and the roots that peers may chain to."""

    certificates: tuple[SignedIdentity, ...]
    trust_bundle_pem: bytes
    trust_domain: str


class CertificateAuthority:
    """Make it with `open_authority`. `tokens` creates, lists and revokes join tokens."""

    def __init__(self, store: ConfigStore, authority: Authority, sealing: SealingKey, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._sealing = sealing
        self._clock = clock
        self.rotations = Rotations(store, sealing, clock, trust_domain=authority.trust_domain)
        self.tokens = TokenStore(store, clock, fingerprint=authority.root.fingerprint)

    @property
    def trust_domain(self) -> str:
        return self._authority.trust_domain

    @property
    def trust_bundle_pem(self) -> bytes:
        return self._authority.bundle_pem

    @property
    def root_fingerprint(self) -> str:
        """sha256 of the signing root's DER form, in hex."""
        return self._authority.root.fingerprint

    @property
    def leaf_ttl_s(self) -> int:
        """How long certificates live."""
        return self._authority.leaf_ttl_s

    def trusts(self, root_id: str) -> bool:
        """Is a root of that id in the bundle?"""
        return any(fingerprint.startswith(root_id) for fingerprint in self._authority.fingerprints)

    async def reload(self) -> bool:
        """Use the roots that are in the store now. Are they others? A store that has lost its roots gets none here:
        that is for a start, with a reader of its log.
        """
        loaded = await roots.load(self._store, self._sealing, trust_domain=self.trust_domain)
        following = Authority(
            loaded.signer, loaded.bundle, trust_domain=self.trust_domain, leaf_ttl_s=self._authority.leaf_ttl_s
        )
        if following.fingerprints == self._authority.fingerprints:
            return False
        self._authority = following
        self.tokens.pin(following.root.fingerprint)
        return True

    def server_identity(self, names: Sequence[str] = ()) -> ServerIdentity:
        """The control plane's own certificate, for its local names and `names`."""
        return ServerIdentity(lambda: self._authority, self._clock, names=names)

    async def join(self, token_id: str, secret: Secret, node: str, requests: Sequence[CertificateRequest]) -> Signed:
        """Spend a token's use and sign. Raises UNAUTHENTICATED, PERMISSION_DENIED, INVALID."""
        check_node_name(node)
        grant = await self.tokens.verify(token_id, secret, node)
        checked = check_requests(requests, grant, self.trust_domain)
        await self.tokens.spend(token_id, secret, node, _hash(requests))
        _log.info("node joined", node=node, token=token_id, identities=len(checked))
        return self._signed(sign_all(self._authority, checked, self._clock.wall()))

    async def renew(self, node: str, requests: Sequence[CertificateRequest]) -> Signed:
        """Sign for a node that holds a valid node certificate. Raises PERMISSION_DENIED, INVALID."""
        grant = await self.grant_of(node)
        if grant is None:
            raise MeshError(
                ErrorCode.PERMISSION_DENIED,
                "the node's grant was revoked, or it never joined this mesh",
                subject=f"node {node}",
                hint="join again with a new token",
            )
        checked = check_requests(requests, grant, self.trust_domain)
        return self._signed(sign_all(self._authority, checked, self._clock.wall()))

    async def grant_of(self, node: str) -> NodeGrant | None:
        """What the node may claim; None when it has not joined or was revoked."""
        return await grant_of(self._store, node)

    def _signed(self, certificates: tuple[SignedIdentity, ...]) -> Signed:
        return Signed(certificates=certificates, trust_bundle_pem=self.trust_bundle_pem, trust_domain=self.trust_domain)


async def open_authority(
    store: ConfigStore,
    *,
    state_dir: Path,
    trust_domain: str,
    clock: Clock | None = None,
    leaf_ttl_s: int = DEFAULT_LEAF_TTL_S,
) -> CertificateAuthority:
    """The mesh's CA; its first root is made here when the store has none. `state_dir` holds the key file."""
    clock = clock or SystemClock()
    key = sealing.load_or_create(state_dir / KEY_FILE)
    loaded = await roots.load_or_create(store, key, trust_domain=trust_domain, now_s=clock.wall())
    authority = Authority(loaded.signer, loaded.bundle, trust_domain=trust_domain, leaf_ttl_s=leaf_ttl_s)
    return CertificateAuthority(store, authority, key, clock)


def _hash(requests: Sequence[CertificateRequest]) -> str:
    """One hash for the whole request: the same CSRs repeated are the same join."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update(hashlib.sha256(request.spiffe_id.encode()).digest() + hashlib.sha256(request.csr_der).digest())
    return digest.hexdigest()
