"""SPIFFE identities: parse, print, and match against what a peer's certificate says.

Source: SPIFFE-ID specification sections 2.1-2.4. Identities of workloads are `spiffe://TD/ns/NS/sa/SA`
(Istio's form), of nodes `spiffe://TD/node/NAME` (decision 1).
"""

import re
from dataclasses import dataclass

# SPIFFE-ID 2.1: the trust domain is lower-case letters, digits, dot, dash, underscore; at most 255 bytes.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
# SPIFFE-ID 2.2: a path segment is letters, digits, dot, dash, underscore, and is neither "." nor "..".
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_MAX_ID_BYTES = 2048


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A parsed SPIFFE id. `path` starts with a slash, or is empty for a trust domain's own id."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"

    @classmethod
    def parse(cls, uri: str) -> "SpiffeId":
        """Parse a URI. Raises ValueError that says what was found and expected."""
        if len(uri) > _MAX_ID_BYTES or not uri.startswith("spiffe://"):
            raise ValueError(f"found {uri[:80]!r}, expected spiffe://TRUST-DOMAIN/PATH")
        trust_domain, slash, rest = uri[len("spiffe://") :].partition("/")
        if not _TRUST_DOMAIN.fullmatch(trust_domain):
            raise ValueError(
                f"found trust domain {trust_domain[:80]!r}, expected lower-case letters, digits, '.', '-' or '_'"
            )
        if slash:
            for segment in rest.split("/"):
                _check_segment(segment)
        return cls(trust_domain, f"/{rest}" if slash else "")

    @property
    def workload(self) -> tuple[str, str] | None:
        """`(namespace, service account)` of a workload's identity, else None."""
        parts = self.path.split("/")
        if len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa":
            return parts[2], parts[4]
        return None

    @property
    def node(self) -> str | None:
        """The node's name of a node's identity, else None."""
        parts = self.path.split("/")
        return parts[2] if len(parts) == 3 and parts[1] == "node" else None


def workload_id(trust_domain: str, namespace: str, service_account: str) -> SpiffeId:
    """`spiffe://TD/ns/NS/sa/SA`. Raises ValueError when a part cannot stand in a SPIFFE id."""
    return _made(trust_domain, "ns", namespace, "sa", service_account)


def node_id(trust_domain: str, node: str) -> SpiffeId:
    """`spiffe://TD/node/NAME`. Raises ValueError when a part cannot stand in a SPIFFE id."""
    return _made(trust_domain, "node", node)


def _made(trust_domain: str, *segments: str) -> SpiffeId:
    # Each by itself: a slash within a part would make another id of it.
    for segment in segments:
        _check_segment(segment)
    if "/" in trust_domain:
        raise ValueError(f"found trust domain {trust_domain[:80]!r}, expected no '/'")
    return SpiffeId.parse("/".join((f"spiffe://{trust_domain}", *segments)))


def _check_segment(segment: str) -> None:
    if segment in (".", "..") or not _SEGMENT.fullmatch(segment):
        raise ValueError(f"found path segment {segment[:80]!r}, expected letters, digits, '.', '-' or '_'")
