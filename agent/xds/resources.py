"""A resource that the agent has accepted, and what it refers to.

Owns:   Held and Decoded, the resource types that the agent subscribes to.
Not:    decoding (agent.xds.decoding), streams.
Invariant: a Held can be served: it decoded without a complaint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.ipc.messages import CLUSTER, LISTENER, LOAD_ASSIGNMENT, ROUTE_CONFIGURATION, VIRTUAL_HOST, Config
from agent.model.tls import KeyPair
from mesh.xds import type_url

KIND_OF: Mapping[str, str] = {
    type_url.CLUSTER: CLUSTER,
    type_url.CLUSTER_LOAD_ASSIGNMENT: LOAD_ASSIGNMENT,
    type_url.LISTENER: LISTENER,
    type_url.ROUTE_CONFIGURATION: ROUTE_CONFIGURATION,
    type_url.VIRTUAL_HOST: VIRTUAL_HOST,
}
WILDCARD = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a resource brings to the workers' tables, as (kind, name, value), and the resources that it names.

    `needs`: (type URL, name); the name is WILDCARD where everything of the type is wanted. Of a secret `trust_pem`, its
    roots, or `pair`, a certificate of the user's.
    """

    values: tuple[tuple[str, str, Config], ...]
    needs: frozenset[tuple[str, str]] = frozenset()
    trust_pem: bytes = b""
    pair: KeyPair | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One accepted resource: its wire form (kept for the last known good, unless it `has_ttl`) and what it means."""

    type_url: str
    name: str
    version: str
    body: bytes = field(repr=False)  # of a secret it holds a key
    decoded: Decoded
    has_ttl: bool = False


Decode = Callable[[str, str, bytes], "Decoded | str"]  # (type URL, name, body) -> meaning, or why it is refused
