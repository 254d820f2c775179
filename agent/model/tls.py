"""TLS as the worker enforces it. Source: envoy/extensions/transport_sockets/tls/v3/{tls,common}.proto."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """How to connect to a host.

    `identity`: which certificate to show: "caller" = that of the workload the request came from (decision 10),
    "" = none (simple TLS), else a SPIFFE id held by the agent. `trust`: "mesh" = the mesh's own roots, else PEM text,
    "system" = the machine's roots. `peer_ids`: the URI SANs of which the peer must show one; empty = any that chains.
    """

    identity: str = "caller"
    trust: str = "mesh"
    peer_ids: frozenset[str] = frozenset()
    peer_dns: frozenset[str] = frozenset()
    sni: str = ""
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DownstreamTls:
    """How to accept. `identity`: the SPIFFE id whose certificate is shown. `require_client_certificate`: mTLS."""

    identity: str
    trust: str = "mesh"
    require_client_certificate: bool = True
    peer_ids: frozenset[str] = frozenset()
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyPair:
    """A certificate chain and its key, PEM, leaf first. Never printed."""

    identity: str
    chain_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return f"KeyPair(identity={self.identity!r}, key_pem=[redacted])"
