"""What a joined node may claim: which workloads' identities and instances.

Owns:   NodeGrant, its stored form, its check. It is written at join, from the token, and outlives it.
Not:    the node's address and state (registry), the token itself (tokens.py).
Source: decision 13: Sign and Register enforce what the token said.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.store.keys import GRANTS, grant_key
from controlplane.store.protocol import ConfigStore, Delete, Entry
from controlplane.store.readable import readable
from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import SpiffeId, node_id

ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGrant:
    """`namespaces` and `service_accounts`: names, or `*` for any. A workload needs both to match."""

    node: str
    namespaces: tuple[str, ...]
    service_accounts: tuple[str, ...]
    token_id: str = ""
    joined_ms: int = 0

    def permits_workload(self, namespace: str, service_account: str) -> bool:
        """May this node run a workload with this identity?"""
        return _listed(namespace, self.namespaces) and _listed(service_account, self.service_accounts)

    def permits(self, identity: SpiffeId, trust_domain: str) -> bool:
        """May this node hold a certificate of this identity: its own, or one of a workload that it may run?"""
        if identity.trust_domain != trust_domain:
            return False
        workload = identity.workload
        return self.permits_workload(*workload) if workload else identity == node_id(trust_domain, self.node)

    def encode(self) -> bytes:
        """Canonical JSON."""
        value = {
            "joinedMs": self.joined_ms,
            "namespaces": self.namespaces,
            "node": self.node,
            "serviceAccounts": self.service_accounts,
            "tokenId": self.token_id,
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def decode_grant(entry: Entry) -> NodeGrant:
    """From the stored form. Raises UNREADABLE."""
    try:
        value = json.loads(entry.value)
        return NodeGrant(
            node=str(value["node"]),
            namespaces=tuple(map(str, value["namespaces"])),
            service_accounts=tuple(map(str, value["serviceAccounts"])),
            token_id=str(value["tokenId"]),
            joined_ms=int(value["joinedMs"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MeshError(ErrorCode.UNREADABLE, f"found {error!r}, expected a node grant", subject=entry.key) from error


async def grant_of(store: ConfigStore, node: str) -> NodeGrant | None:
    """The node's grant; None when it has not joined or was revoked."""
    entry = await store.get(grant_key(node))
    return decode_grant(entry) if entry is not None else None


async def grants(store: ConfigStore) -> tuple[NodeGrant, ...]:
    """The grants of all joined nodes, by name."""
    return tuple(readable((await store.list(GRANTS)).entries, decode_grant))


async def revoke_node(store: ConfigStore, node: str) -> None:
    """Forget the grant: the node can neither renew nor register until it joins again."""
    await store.transact([], [Delete(grant_key(node))])


def require_workload(grant: NodeGrant | None, node: str, namespace: str, service_account: str) -> None:
    """Raise PERMISSION_DENIED unless the node may run the workload."""
    if grant is None or not grant.permits_workload(namespace, service_account):
        found = "no grant" if grant is None else f"{_words(grant.namespaces)} / {_words(grant.service_accounts)}"
        raise MeshError(
            ErrorCode.PERMISSION_DENIED,
            f"node {node} may not run namespace {namespace}, service account {service_account} (granted: {found})",
            subject=f"node {node}",
            hint="create a join token that names them and let the node join again",
        )


def _listed(value: str, allowed: Sequence[str]) -> bool:
    return ANY in allowed or value in allowed


def _words(allowed: Sequence[str]) -> str:
    return ",".join(allowed) or "none"
