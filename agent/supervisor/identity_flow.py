"""From certificates, roots and the user's secrets to those who show and check them.

Owns:   which of the vault's identities and of the session's secrets are in use; telling them when they are others.
Not:    getting and renewing certificates (agent.identity.renewal), files (agent.identity.vault), whether a secret can
        be used at all (agent.identity.user_secrets), who is told (data_path).
Source: decisions 13, 14, 35.

    vault: own certificates ------------------+
    session: the mesh's roots --> the vault --+--> Identities --> tell
    session: the user's certificates, roots --+

Invariants: the roots of the control plane replace those of the vault whenever it says other certificates; a disk that
        refuses them does not keep them from being used; the user's secrets go on in memory alone.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from agent.identity.vault import Vault
from agent.ipc.messages import Identities
from agent.model.tls import KeyPair
from agent.xds.resources import Held
from mesh.errors import MeshError
from mesh.logs import get_logger
from mesh.xds import type_url
from mesh.xds.names import TRUST_SECRET

_log = get_logger(__name__)


class Secrets(Protocol):
    """Who holds what was accepted: the session."""

    def held(self, url: str) -> Mapping[str, Held]: ...


class IdentityFlow:
    """Call `accepted` after every change of the session, before its listeners are served, and `renewed` after every
    change of the vault."""

    def __init__(self, vault: Vault, secrets: Secrets, tell: Callable[[Identities], None]) -> None:
        self._vault = vault
        self._secrets = secrets
        self._tell = tell
        self._user_pairs: tuple[KeyPair, ...] = ()
        self._user_roots: tuple[tuple[str, bytes], ...] = ()

    def accepted(self) -> None:
        """The session holds something else."""
        if self._take_trust() | self._take_secrets():
            self._push()

    def renewed(self) -> None:
        """The vault holds something else. Roots that came with a certificate are older than the session's."""
        self._take_trust()
        self._push()

    def _take_secrets(self) -> bool:
        """Of the user's, those that the session holds now. Are they others?"""
        held = [item for name, item in self._secrets.held(type_url.SECRET).items() if name != TRUST_SECRET]
        pairs = tuple(item.decoded.pair for item in held if item.decoded.pair is not None)
        roots = tuple((item.name, item.decoded.trust_pem) for item in held if item.decoded.pair is None)
        changed = (pairs, roots) != (self._user_pairs, self._user_roots)
        self._user_pairs, self._user_roots = pairs, roots
        return changed

    def _take_trust(self) -> bool:
        """Trust what the control plane says now. Is it another set?"""
        held = self._secrets.held(type_url.SECRET).get(TRUST_SECRET)
        if held is None or _certificates(held.decoded.trust_pem) == _certificates(self._vault.trust_pem):
            return False
        _log.info("the mesh's roots have changed", certificates=held.decoded.trust_pem.count(b"BEGIN CERTIFICATE"))
        try:
            self._vault.store((), held.decoded.trust_pem)
        except MeshError as error:  # what is in memory is used
            _log.error("the mesh's roots cannot be stored", reason=str(error))
        return True

    def _push(self) -> None:
        pairs = tuple(item.key_pair for item in self._vault.identities.values())
        self._tell(Identities((*pairs, *self._user_pairs), self._vault.trust_pem, self._user_roots))


def _certificates(bundle_pem: bytes) -> frozenset[bytes]:
    return frozenset(part.strip() for part in bundle_pem.split(b"-----END CERTIFICATE-----"))
